//! Code that the engine has compiled: loading it, calling it, and texts that come from it.
//!
//! The promise that all of this rests on: a shared object given to [`Library::open`] was made by
//! our own engine from a cell (or by one of our tests), with functions and tables of the types
//! given here. A cell is as free as any program to break its own process; it breaks the worker
//! only, and the worker is restored.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::libc;

/// As much of a file as a trial maps. The system makes whole pages of it.
const PAGE: usize = 1;

/// A loaded shared object. It stays loaded for the life of the process, whatever happens to this
/// value: thread-local destructors and values of earlier cells point into it.
#[derive(Debug)]
pub struct Library {
    handle: NonNull<c_void>,
}

/// The variables of all cells, as generated code keeps them; the worker only carries the pointer.
#[derive(Debug, Clone, Copy)]
pub struct Variables(*mut c_void);

/// A cell's function.
#[derive(Clone, Copy)]
pub struct Function(extern "C" fn(*mut c_void) -> *mut c_void);

/// A run of generated source lines that come from one cell:
/// `line, count, execution, cell_line, column_offset`.
pub type Origin = [u32; 5];

/// The start of a text that generated code passes. Only foreign code makes such values.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const u8);

impl Library {
    /// Loads a shared object: dlopen(3) with RTLD_LAZY and RTLD_LOCAL, as evcxr does.
    ///
    /// # Errors
    /// With the loader's words, for the person.
    pub fn open(path: &Path) -> io::Result<Library> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path is a C string. The object's initialisers are the engine's.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        match NonNull::new(handle) {
            Some(handle) => Ok(Library { handle }),
            None => Err(loader_error()),
        }
    }

    /// Finds a function.
    ///
    /// # Errors
    /// With the loader's words, for the person.
    pub fn function(&self, name: &str) -> io::Result<Function> {
        let address = self.symbol(&CString::new(name)?).ok_or_else(loader_error)?;
        // SAFETY: the module's promise: the symbol is a function of this type.
        Ok(Function(unsafe {
            std::mem::transmute::<NonNull<c_void>, extern "C" fn(*mut c_void) -> *mut c_void>(address)
        }))
    }

    /// Tells generated code where the table is through which it talks to us. `false` when the
    /// object has no place for it: it then never calls.
    pub fn set_host<T>(&self, host: &'static T) -> bool {
        let Some(place) = self.symbol(c"FORKLAB_HOST") else { return false };
        // SAFETY: the module's promise: the symbol is a `static AtomicPtr` to the table's type.
        let place = unsafe { place.cast::<AtomicPtr<T>>().as_ref() };
        place.store(ptr::from_ref(host).cast_mut(), Ordering::Release);
        true
    }

    /// Which generated lines come from which cell; empty when the object does not say.
    pub fn origins(&self) -> Vec<Origin> {
        let (Some(table), Some(len)) = (self.symbol(c"FORKLAB_ORIGINS"), self.symbol(c"FORKLAB_ORIGINS_LEN")) else {
            return Vec::new();
        };
        // SAFETY: the module's promise: a `static usize`, and a `static [u32; 5 * n]` with that n.
        let table =
            unsafe { std::slice::from_raw_parts(table.cast::<Origin>().as_ptr(), *len.cast::<usize>().as_ref()) };
        table.to_vec()
    }

    fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: the handle is that of an object which is never unloaded.
        NonNull::new(unsafe { libc::dlsym(self.handle.as_ptr(), name.as_ptr()) })
    }
}

/// Whether this process could load a shared object: opens it and maps a page of it as code.
///
/// # Errors
/// Those of open(2) and mmap(2).
pub fn try_to_load(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    map(PAGE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, Some(&file))
}

/// Whether this process could get that many bytes of memory more.
///
/// # Errors
/// `OutOfMemory` when its limits, or the machine, do not allow it.
pub fn try_to_allocate(bytes: usize) -> io::Result<()> {
    map(bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
}

/// Maps memory, and gives it back.
fn map(bytes: usize, protection: libc::c_int, flags: libc::c_int, file: Option<&File>) -> io::Result<()> {
    let descriptor = file.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: a new mapping, at an address of the system's choice, changes no other.
    let address = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, descriptor, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is the one that was just made, and nobody has its address.
    unsafe { libc::munmap(address, bytes) };
    Ok(())
}

impl Variables {
    /// No variables yet: what the first cell is given.
    pub fn none() -> Variables {
        Variables(ptr::null_mut())
    }
}

impl Function {
    /// Calls the function and returns the variables as it leaves them. It may not return at all,
    /// and it may return in a forked child too.
    pub fn call(self, variables: Variables) -> Variables {
        Variables((self.0)(variables.0))
    }

    /// Whether a text lies in the shared object of this function, and not in another.
    pub fn lies_with(self, text: Text) -> bool {
        let base = |address: *const c_void| image(address).map(|info| info.dli_fbase);
        let own = base(self.0 as *const c_void);
        own.is_some() && own == base(text.0.cast())
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({:p})", self.0 as *const c_void)
    }
}

impl Text {
    /// Copies a text of this many bytes. What is not UTF-8 becomes U+FFFD.
    pub fn copy(self, len: usize) -> String {
        if self.0.is_null() || len == 0 {
            return String::new();
        }
        // SAFETY: the module's promise: a text is passed with its own length and stays in place
        // for the length of the call. Values of this type come from such calls only.
        let bytes = unsafe { std::slice::from_raw_parts(self.0, len) };
        String::from_utf8_lossy(bytes).into_owned()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({:p})", self.0)
    }
}

/// The loaded object that holds an address: dladdr(3).
fn image(address: *const c_void) -> Option<libc::Dl_info> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr(3) looks the address up without reading from it, and writes one structure.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
    // SAFETY: all zeroes is a valid Dl_info, and dladdr(3) has written over it or left it so.
    (found != 0).then(|| unsafe { info.assume_init() })
}

fn loader_error() -> io::Error {
    // SAFETY: dlerror(3) returns null or a C string that lives until the next call of the loader.
    let message = unsafe {
        let message = libc::dlerror();
        if message.is_null() { None } else { Some(CStr::from_ptr(message).to_string_lossy().into_owned()) }
    };
    io::Error::other(message.unwrap_or_else(|| "the symbol is null".to_owned()))
}
