//! Victims in Rust, as cells are: a shared object on a libstd of its own.

use std::ffi::c_void;
use std::hint::black_box;

/// Threads, allocations and buffered output, all of which a copy of a process must get right.
#[unsafe(no_mangle)]
pub extern "C" fn threads(store: *mut c_void) -> *mut c_void {
    let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(move || vec![n; 100_000].iter().sum::<u64>())).collect();
    let sum: u64 = threads.into_iter().map(|thread| thread.join().expect("it adds")).sum();
    println!("{sum}");
    store
}

#[unsafe(no_mangle)]
pub extern "C" fn overflows(store: *mut c_void) -> *mut c_void {
    fn deeper(n: u64) -> u64 {
        let room = black_box([n; 1000]);
        if n == u64::MAX { 0 } else { deeper(n + 1) + room[0] }
    }
    black_box(deeper(0));
    store
}

#[unsafe(no_mangle)]
pub extern "C" fn spawns(store: *mut c_void) -> *mut c_void {
    let status = std::process::Command::new("sh").args(["-c", "echo from sh; exit 5"]).status();
    println!("{}", status.expect("sh is there").code().expect("it exits"));
    store
}
