//! What a process is to its relatives, and what they call it.

use std::ffi::CStr;
use std::io;

use crate::process::Signal;

/// Asks for a signal at the death of this process's parent: PR_SET_PDEATHSIG. Children do not
/// inherit the wish. The parent is the *thread* that forked or spawned.
///
/// # Errors
/// `InvalidInput` for a real-time signal.
pub fn receive_when_parent_dies(signal: Signal) -> io::Result<()> {
    let signal = nix::sys::signal::Signal::try_from(signal.as_raw())?;
    Ok(nix::sys::prctl::set_pdeathsig(signal)?)
}

/// Orphans below this process become its children: PR_SET_CHILD_SUBREAPER.
///
/// # Errors
/// None on Linux 3.4 or newer.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Sets the name that `ps -o comm` shows, of 15 bytes at most: PR_SET_NAME.
pub fn set_name(name: &CStr) {
    // It fails for no name; a longer one is cut.
    let _ = nix::sys::prctl::set_name(name);
}
