//! What a process is to its relatives, and what they call it.

use std::ffi::CStr;
use std::io;

use nix::libc;

use crate::process::{Pid, Signal};

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

/// How much rather than others this process is ended when memory is short: `oom_score_adj` of
/// proc(5), from -1000 to 1000. Children inherit it.
pub fn memory_victim_score() -> Option<i32> {
    std::fs::read_to_string(VICTIM_SCORE).ok()?.trim().parse().ok()
}

/// Sets [`memory_victim_score`]. Everybody may raise it, and lower it again to where it was.
///
/// # Errors
/// `PermissionDenied` for a score below that; those of opening a file in `/proc`.
pub fn set_memory_victim_score(score: i32) -> io::Result<()> {
    std::fs::write(VICTIM_SCORE, score.to_string())
}

/// Sets this process's niceness, from -20 (goes before all others) to 19: setpriority(2). Children
/// inherit it.
///
/// # Errors
/// `PermissionDenied` for a niceness below the present one, without the right to it.
pub fn set_niceness(niceness: i32) -> io::Result<()> {
    // SAFETY: three numbers are given, the last of them by value.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const VICTIM_SCORE: &str = "/proc/self/oom_score_adj";

/// Sets how many processes and threads the user of a process may have for that process to make another:
/// the soft RLIMIT_NPROC of prlimit(2), as far as the hard one allows. Its children inherit it; root's
/// processes are not held by it.
///
/// # Errors
/// `PermissionDenied` for another user's process, ESRCH when it is gone.
pub fn limit_processes_of_user(pid: Pid, most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable and of the right size; no new limit is given.
    if unsafe { libc::prlimit(pid.as_raw(), libc::RLIMIT_NPROC, std::ptr::null(), &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = most.min(limit.rlim_max);
    // SAFETY: `limit` is a valid structure for the call, and nothing is written.
    match unsafe { libc::prlimit(pid.as_raw(), libc::RLIMIT_NPROC, &raw const limit, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
