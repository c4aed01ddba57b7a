//! What a cell looks like to the process that runs it: a shared object with its own copy of the
//! library and of its statics. `tests/cells.rs` loads it twice, under two names.

#![allow(unsafe_code)]

use std::ffi::c_void;

use forklab::Process;

/// A cell that starts a process, says its name, and drops it alive.
// SAFETY: no other symbol of this object has this name.
#[unsafe(no_mangle)]
pub extern "C" fn cell(variables: *mut c_void) -> *mut c_void {
    let mut process = Process::new(|| {
        loop {
            std::thread::park();
        }
    });
    process.start().expect("it starts");
    println!("{}", process.name());
    variables
}
