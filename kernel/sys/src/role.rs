//! What a process is to its relatives, and what they call it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use crate::process::{Pid, Signal};
use crate::ready;

/// Asks for a signal at the death of this process's parent: PR_SET_PDEATHSIG. Children do not
/// inherit the wish. The parent is the *thread* that forked or spawned.
///
/// # Errors
/// `InvalidInput` for a real-time signal.
pub fn receive_when_parent_dies(signal: Signal) -> io::Result<()> {
    let signal = nix::sys::signal::Signal::try_from(signal.as_raw())?;
    Ok(nix::sys::prctl::set_pdeathsig(signal)?)
}

/// Asks for a signal when the other end of a UNIX stream socket closes, whatever this process is
/// doing then: F_SETSIG with O_ASYNC. What PR_SET_PDEATHSIG is between parent and child, this is
/// between any two processes. Nothing may ever be sent through the socket: that would be a signal too.
///
/// The wish belongs to the open socket and not to the process: the last process that asks gets the
/// signal. An end that has closed already is told by `false`.
///
/// # Errors
/// Those of fcntl(2) and poll(2).
pub fn receive_when_peer_closes(line: BorrowedFd<'_>, signal: Signal) -> io::Result<bool> {
    for (command, value) in [(F_SETSIG, signal.as_raw()), (libc::F_SETOWN, Pid::this().as_raw())] {
        // SAFETY: both commands take a number, and what they change is who is told of the socket.
        if unsafe { libc::fcntl(line.as_raw_fd(), command, value) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let flags = OFlag::from_bits_retain(fcntl(line, FcntlArg::F_GETFL)?);
    fcntl(line, FcntlArg::F_SETFL(flags | OFlag::O_ASYNC))?;
    // An end that closed before the wish sends no signal. One that closes after it does, so a look
    // from here on misses nothing.
    Ok(!ready::wait_readable(line, Some(std::time::Duration::ZERO))?)
}

/// Linux's number, which libc does not have for every C library.
const F_SETSIG: libc::c_int = 10;

/// Orphans below this process become its children: PR_SET_CHILD_SUBREAPER.
///
/// # Errors
/// None on Linux 3.4 or newer.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// How many processes this one's user may have: the soft RLIMIT_NPROC.
pub fn most_processes() -> Option<u64> {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NPROC).ok().map(|(soft, _)| soft)
}

/// Whether children of this process live in a pid namespace other than its own: unshare(2) with
/// CLONE_NEWPID.
pub fn children_have_another_pid_namespace() -> bool {
    let namespace = |which| std::fs::read_link(format!("/proc/self/ns/{which}")).ok();
    // Where /proc is not mounted, nothing is known. A namespace without processes has no name yet.
    namespace("pid").is_some_and(|own| namespace("pid_for_children").is_none_or(|childrens| childrens != own))
}

/// Which root directory and which mounts this process has: equal for as long as both are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    root: Option<(u64, u64)>,
    mounts: Option<std::path::PathBuf>,
}

impl View {
    /// This process's own, now.
    pub fn now() -> View {
        let root = std::fs::metadata("/").ok().map(|root| (root.dev(), root.ino()));
        View { root, mounts: std::fs::read_link("/proc/self/ns/mnt").ok() }
    }
}

/// Keeps other processes of the same user away from this one's descriptors and memory, in `/proc` as
/// well as by ptrace(2) and pidfd_getfd(2): PR_SET_DUMPABLE. Only those with CAP_SYS_PTRACE still come
/// in, debuggers among them; a crash leaves no core. Children inherit it, programs do not.
///
/// Who wants to look into a running kernel starts it with FORKLAB_TRACEABLE=1, and nobody is kept out.
pub fn keep_others_out() {
    if std::env::var_os("FORKLAB_TRACEABLE").is_some_and(|value| value == "1") {
        return;
    }
    // The call knows this value since Linux 2.3.
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Undoes [`keep_others_out`].
pub fn let_others_in() {
    // As above.
    let _ = nix::sys::prctl::set_dumpable(true);
}

/// Gives up, for good and for every child, what root has over processes that keep others out:
/// CAP_SYS_PTRACE. Tracing one's own children needs nothing of it.
///
/// # Errors
/// Those of capset(2). Who has not got it has nothing to give up.
pub fn give_up_tracing_everybody() -> io::Result<()> {
    const VERSION: u32 = 0x2008_0522;
    const SYS_PTRACE: libc::c_ulong = 19;
    /// Capabilities 0 to 31, and 32 to 63: effective, permitted, inheritable.
    type Sets = [[u32; 3]; 2];
    let mut header = [VERSION, 0];
    let mut sets: Sets = [[0; 3]; 2];
    // SAFETY: the header names this process and the version whose two structures `sets` has room for.
    if unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if sets[0].iter().all(|set| set & (1 << SYS_PTRACE) == 0) {
        return Ok(());
    }
    // A program of root's gets all that is left in the bounding set. Fails for who is not root in
    // fact; then no program gets it anyway.
    // SAFETY: PR_CAPBSET_DROP takes a number.
    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, SYS_PTRACE, 0, 0, 0) };
    for set in &mut sets[0] {
        *set &= !(1 << SYS_PTRACE);
    }
    // SAFETY: as above; nothing is written. What leaves the permitted set leaves the ambient one.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, ExitStatus, Fork};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_end_of_a_peer_ends_a_process_that_does_not_look() -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: the child makes system calls only, and leaves by _exit(2).
        let child = match unsafe { process::fork() }? {
            Fork::Parent(child) => child,
            Fork::Child => {
                drop(ours);
                match receive_when_peer_closes(theirs.as_fd(), Signal::KILL) {
                    Ok(true) => loop {
                        nix::unistd::pause();
                    },
                    _ => process::exit_now(1),
                }
            }
        };
        drop(theirs);
        assert_eq!(process::peek(child)?, None);
        drop(ours);
        let status = process::wait(child)?;
        process::reap(child)?;
        // By the signal, or it had not asked yet when the end closed.
        assert!(
            matches!(status, ExitStatus::Signaled { signal: Signal::KILL, .. } | ExitStatus::Exited(1)),
            "{status}"
        );
        Ok(())
    }
}
