//! One place in a process that all copies of this crate share.
//!
//! Every cell is a shared object with its own copy of the libraries that it uses, and so with its
//! own copy of their statics: a list kept in a plain static would be another list in the next cell.
//! So the static is exported by name, and each copy uses the one in the object that was loaded first.

use std::any::Any;
use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::{Mutex, OnceLock};

use nix::libc;

/// What is shared: nothing at first, then whatever the first user puts there. Who finds a type that
/// is not its own there belongs to another build, and leaves it alone.
pub type Place = Mutex<Option<Box<dyn Any + Send>>>;

/// The exported static. Its name changes with its type and with the version of the compiler's own
/// layout only in so far as the objects of one process come from one compiler, as evcxr's do.
///
/// Executables do not export it, so that the kernel's own binary, which has another `std`, never
/// takes part.
// SAFETY: no other symbol has this name but the same static in other copies of this crate.
#[unsafe(no_mangle)]
static FORKLAB_PROCESS_WIDE_1: Place = Mutex::new(None);

/// The place that all copies share: the one in the first loaded object that exports it, or this
/// copy's own in a program that is linked as a whole.
pub fn process_wide() -> &'static Place {
    static FOUND: OnceLock<&'static Place> = OnceLock::new();
    FOUND.get_or_init(|| loaded_objects().iter().find_map(|name| place_in(name)).unwrap_or(&FORKLAB_PROCESS_WIDE_1))
}

/// The shared objects of this process, in the order in which they were loaded. Objects that hold
/// cells are never unloaded, so all copies see the same first ones.
fn loaded_objects() -> Vec<CString> {
    extern "C" fn each(info: *mut libc::dl_phdr_info, _size: usize, names: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr(3) passes a valid info and the pointer that it was given, which
        // is the vector below; nobody else uses that while the iteration runs.
        let (info, names) = unsafe { (&*info, &mut *names.cast::<Vec<CString>>()) };
        if !info.dlpi_name.is_null() {
            // SAFETY: the name is a string that lives as long as the object is loaded.
            names.push(unsafe { CStr::from_ptr(info.dlpi_name) }.to_owned());
        }
        0
    }
    let mut names: Vec<CString> = Vec::new();
    // SAFETY: the callback matches the pointer it is given, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut names).cast()) };
    // The executable has no name here.
    names.retain(|name| !name.is_empty());
    names
}

/// The exported static of one object that is loaded already.
fn place_in(object: &CStr) -> Option<&'static Place> {
    // SAFETY: RTLD_NOLOAD only looks the object up; nothing is loaded and no initialiser runs.
    let handle = unsafe { libc::dlopen(object.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle is open, and the name ends with a zero.
    let symbol = unsafe { libc::dlsym(handle, c"FORKLAB_PROCESS_WIDE_1".as_ptr()) };
    // SAFETY: the handle has been opened above. The object stays loaded: this gives back the
    // reference that dlopen(3) has just added.
    unsafe { libc::dlclose(handle) };
    // SAFETY: a symbol of this name is a `Place` (its name says which version of one), static in an
    // object that is never unloaded.
    (!symbol.is_null()).then(|| unsafe { &*symbol.cast::<Place>() })
}
