//! Fork, wait, kill and leave: the life of a process, with types for its pid, its signals and the
//! way it ended.
//!
//! Waiting and reaping are two steps here. A child that has ended is a zombie, and its pid stays
//! its own, until somebody reaps it; so whoever looks first and reaps later can signal a pid in
//! between without hitting a stranger. Terminals, checkpoints and process trees do not live here.

use std::fmt;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

pub use signal::Signal;
pub use status::ExitStatus;

mod signal;
mod status;

/// The number of a process: always positive, so that it can never mean a group or everybody, as
/// 0 and negative numbers do to kill(2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(i32);

impl Pid {
    /// The process that asks: getpid(2). Never cached; after a fork the child gets its own.
    pub fn this() -> Pid {
        // SAFETY: getpid(2) takes nothing, changes nothing and cannot fail.
        Pid(unsafe { libc::getpid() })
    }

    /// The thread that asks: gettid(2). That of the main thread is the process's pid.
    pub fn this_thread() -> Pid {
        // SAFETY: gettid(2) takes nothing, changes nothing and cannot fail.
        Pid(unsafe { libc::gettid() })
    }

    /// The parent of the process that asks: getppid(2). `None` where the parent lives in another
    /// pid namespace and has no number here.
    pub fn parent() -> Option<Pid> {
        // SAFETY: getppid(2) takes nothing, changes nothing and cannot fail.
        Pid::from_raw(unsafe { libc::getppid() })
    }

    /// A pid from a number. `None` for zero and below, which name groups.
    pub const fn from_raw(pid: i32) -> Option<Pid> {
        if pid > 0 { Some(Pid(pid)) } else { None }
    }

    /// The number, for system calls, `/proc` and messages.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Pid> for nix::unistd::Pid {
    fn from(pid: Pid) -> Self {
        nix::unistd::Pid::from_raw(pid.0)
    }
}

impl PartialEq<i32> for Pid {
    fn eq(&self, other: &i32) -> bool {
        self.0 == *other
    }
}

/// Who one is after a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a child that does not know that it is one runs on as a second parent"]
pub enum Fork {
    /// The process that forked, and its new child.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Makes a copy of this process: fork(2). Buffered output is copied too; flush it before.
///
/// # Safety
/// Of all threads only the caller's goes on in the child, and whatever lock another thread held
/// stays locked there for ever. The caller's process has one thread, or the child calls nothing but
/// async-signal-safe functions until it leaves or execs.
///
/// # Errors
/// `WouldBlock` when the user or the machine has too many processes, `OutOfMemory`.
pub unsafe fn fork() -> io::Result<Fork> {
    // SAFETY: the caller vouches for the threads, which is all that fork(2) asks for.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid(pid))),
    }
}

/// Makes a copy of this process of which no output is lost and none is written twice: flushes what
/// is buffered for stdout, by Rust's std and by C's stdio, and forks before anyone can add to it.
///
/// This is a safe function although other threads may run: the lock of std's stdout is held over
/// the fork, glibc's fork keeps its own allocator and stdio usable in the child, and any other lock
/// that another thread held then is still locked there. Who waits for such a lock in the child
/// waits for ever; nobody gets to see what it protects half changed.
///
/// # Errors
/// As [`fork`], or those of the write that flushes (then nothing has been forked).
pub fn fork_flushed() -> io::Result<Fork> {
    let mut stdout = io::stdout().lock();
    stdout.flush()?;
    flush_stdio();
    // SAFETY: the alternatives that `fork` leaves are argued above: locks held elsewhere stay
    // locked, which is a deadlock at worst.
    unsafe { fork() }
}

/// Ends a forked child: writes out what it has buffered for stdout and leaves by [`exit_now`].
/// What fails to be written has no reader any more and is dropped.
pub fn leave(status: i32) -> ! {
    let _ = io::stdout().flush();
    flush_stdio();
    exit_now(status)
}

/// Writes out the buffers of C's stdio, for code that prints through libc.
fn flush_stdio() {
    // SAFETY: fflush(3) of a null pointer flushes every output stream under the stream's own lock.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Ends this process at once: _exit(2). Nothing is flushed, no destructor and no atexit(3) handler
/// runs. Only the low eight bits of the status reach the parent.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) is async-signal-safe, touches no memory and does not return.
    unsafe { libc::_exit(status) }
}

/// Has a function called when this process leaves by exit(3), after all that are registered later:
/// atexit(3). Forked children inherit the wish. Neither _exit(2) nor a signal's death calls it.
///
/// # Errors
/// `OutOfMemory` when the list cannot grow.
pub fn at_exit(function: extern "C" fn()) -> io::Result<()> {
    // SAFETY: atexit(3) keeps the address of a function, and those of a program stay for its life.
    match unsafe { libc::atexit(function) } {
        0 => Ok(()),
        _ => Err(io::ErrorKind::OutOfMemory.into()),
    }
}

/// Waits until a child has ended and leaves it a zombie, to be reaped later.
///
/// # Errors
/// ECHILD when it is no child of this process, has been reaped already, or when SIGCHLD is ignored
/// (children are then reaped by the kernel and their status is lost).
pub fn wait(child: Pid) -> io::Result<ExitStatus> {
    let found = wait_id(libc::P_PID, child.0, libc::WNOWAIT)?;
    Ok(found.expect("waitid(2) without WNOHANG returns with a child").1)
}

/// Whether a child has ended, and how, without waiting for it and without reaping it.
/// `None` while it lives.
///
/// # Errors
/// As [`wait`].
pub fn peek(child: Pid) -> io::Result<Option<ExitStatus>> {
    Ok(wait_id(libc::P_PID, child.0, libc::WNOWAIT | libc::WNOHANG)?.map(|(_, status)| status))
}

/// Reaps a child if it has ended, without waiting for it: its pid is free from then on.
/// `None` while it lives.
///
/// # Errors
/// As [`wait`].
pub fn reap(child: Pid) -> io::Result<Option<ExitStatus>> {
    Ok(wait_id(libc::P_PID, child.0, libc::WNOHANG)?.map(|(_, status)| status))
}

/// Some child that has ended, left a zombie. `None` when there are children and all live.
///
/// # Errors
/// ECHILD when there is no child at all.
pub fn peek_any() -> io::Result<Option<(Pid, ExitStatus)>> {
    wait_id(libc::P_ALL, 0, libc::WNOWAIT | libc::WNOHANG)
}

/// Reaps some child that has ended. `None` when there are children and all live.
///
/// # Errors
/// ECHILD when there is no child at all.
pub fn reap_any() -> io::Result<Option<(Pid, ExitStatus)>> {
    wait_id(libc::P_ALL, 0, libc::WNOHANG)
}

/// waitid(2) for ended children, taken up again after a signal's handler.
///
/// waitid and not waitpid(2): only the first can look without reaping.
fn wait_id(kind: libc::idtype_t, id: i32, flags: i32) -> io::Result<Option<(Pid, ExitStatus)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: `info` is writable and of the right size for the length of the call.
        if unsafe { libc::waitid(kind, id as libc::id_t, info.as_mut_ptr(), libc::WEXITED | flags) } == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: all zeroes is a valid siginfo_t, and waitid(2) has written over it or left it so.
    let info = unsafe { info.assume_init() };
    // SAFETY: si_pid is valid for what waitid(2) writes, and zero where it found nobody.
    let Some(pid) = Pid::from_raw(unsafe { info.si_pid() }) else { return Ok(None) };
    // SAFETY: si_status is valid for what waitid(2) writes.
    let status = unsafe { info.si_status() };
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Exited(status),
        code => ExitStatus::Signaled { signal: Signal(status), core: code == libc::CLD_DUMPED },
    };
    Ok(Some((pid, status)))
}

/// Sends a signal to one process: kill(2). A zombie takes it and nothing happens.
///
/// # Errors
/// ESRCH when there is no such process (any more), `PermissionDenied` when it is another user's.
pub fn kill(process: Pid, signal: Signal) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers, and a `Pid` is positive: one process and no group.
    match unsafe { libc::kill(process.0, signal.0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to every process of a group at once: kill(2) with a negative number. A process that
/// is just being forked in the group gets it too, or its fork is begun anew after the parent has.
///
/// # Errors
/// ESRCH when the group has no process (any more), `PermissionDenied` when none is ours, `InvalidInput`
/// for the groups 0 and 1, which kill(2) would take for others.
pub fn kill_group(group: i32, signal: Signal) -> io::Result<()> {
    if group <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: kill(2) takes two numbers; the first means a group, as it is below -1.
    match unsafe { libc::kill(-group, signal.0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor of a process, which poll(2) finds readable once the process has ended:
/// pidfd_open(2). Close-on-exec. A child stays to be reaped.
///
/// # Errors
/// ESRCH when there is no such process, EMFILE when this process has too many open files.
pub fn open_pidfd(process: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.0, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor has just been made for this process, and nothing else knows it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal to the process of a pidfd: pidfd_send_signal(2). It can meet no other process, also
/// when this one has been reaped and its number given away.
///
/// # Errors
/// ESRCH when the process has been reaped, `PermissionDenied` when it is another user's.
pub fn kill_by_pidfd(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let none = 0usize;
    // SAFETY: a descriptor, a number, no siginfo_t, and no flags.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal.as_raw(), none, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child that does nothing but what is async-signal-safe: the harness has many threads.
    fn child(task: fn() -> !) -> io::Result<Pid> {
        // SAFETY: the tasks below call _exit(2), kill(2), getpid(2) and pause(2) only.
        match unsafe { fork() }? {
            Fork::Parent(pid) => Ok(pid),
            Fork::Child => task(),
        }
    }

    #[test]
    fn a_status_is_seen_before_it_is_reaped() -> io::Result<()> {
        let pid = child(|| exit_now(7))?;
        assert_eq!(wait(pid)?, ExitStatus::Exited(7));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        assert!(stat.contains(") Z "), "a zombie, not reaped: {stat}");
        assert_eq!(peek(pid)?, Some(ExitStatus::Exited(7)));
        assert_eq!(reap(pid)?, Some(ExitStatus::Exited(7)));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(reap(pid).map_err(|e| e.raw_os_error()), Err(Some(libc::ECHILD)));
        Ok(())
    }

    #[test]
    fn signals_real_time_ones_too_are_told() -> io::Result<()> {
        let pid = child(|| {
            let _ = kill(Pid::this(), Signal(libc::SIGRTMIN() + 3));
            exit_now(0)
        })?;
        assert_eq!(wait(pid)?.to_string(), "killed by SIGRTMIN+3");
        reap(pid)?;
        let pid = child(|| {
            loop {
                nix::unistd::pause();
            }
        })?;
        assert_eq!(peek(pid)?, None, "it lives");
        let ended = open_pidfd(pid)?;
        kill(pid, Signal::KILL)?;
        let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&ended), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut fds, 10_000u16), Ok(1));
        assert_eq!(reap(pid)?.map(|s| s.to_string()).as_deref(), Some("killed by SIGKILL"));
        Ok(())
    }

    #[test]
    fn a_pid_is_one_process() {
        assert_eq!(Pid::from_raw(0), None);
        assert_eq!(Pid::from_raw(-1), None);
        assert_eq!(Pid::this().as_raw() as u32, std::process::id());
    }
}
