//! Following processes by ptrace(2): the safe part of it that a recorder needs.
//!
//! A tracer is a thread, not a process: what one thread has seized, no other thread hears of or may
//! command. Nothing here reads or writes a tracee's memory or registers, and none is stopped to be
//! followed: they stop at forks, execs and signals, and wait for the tracer's word each time. A
//! tracee whose tracer ends goes on untraced.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::time::{ClockId, clock_gettime};

use crate::process::{ExitStatus, Pid, Signal, open_pidfd};

/// What a tracee, a thread, has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It has ended. Of a process's first thread: all of them have. The real parent can see it from now on.
    Ended(ExitStatus),
    /// It has made this process or thread, which is traced as well and stops before it begins.
    Forked(Pid),
    /// As `Forked`, where it may be a thread.
    Cloned(Pid),
    /// Its process is another program now, with this one as its only thread; the thread that called
    /// execve(2) had this number.
    Execed(Pid),
    /// It is about to end. Only where that was asked for, see [`seize`].
    Ending,
    /// A signal is about to be delivered to it.
    Signal(Received),
    /// It takes part in its process's stop by this signal.
    Stopped(Signal),
    /// It stops for us only: it is new, was interrupted, or its process goes on after a stop.
    Paused,
    /// It stops for something that nobody has asked for.
    Other,
}

/// A signal and what the system tells with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// From where.
    pub origin: Origin,
}

/// Where a signal comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A process has sent it. `None` where the sender has no number in our pid namespace.
    Process(Option<Pid>),
    /// A child has ended.
    ChildEnded(Pid, ExitStatus),
    /// A child was stopped.
    ChildStopped(Pid),
    /// A stopped child goes on.
    ChildContinued(Pid),
    /// The system: the terminal, a timer, a fault, a broken pipe.
    System,
}

/// The signal that ends a tracer's wait, and means nothing else.
const RING: libc::c_int = libc::SIGUSR1;

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    // The clock has been there since Linux 2.6, and is not negative.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Prepares this process to have a tracer thread; the calling thread will not be that. From here on,
/// SIGCHLD comes for ends of children and tracees and not for their stops, which a tracer waits for;
/// and [`ring`]'s signal does not come to this thread.
///
/// # Errors
/// Those of sigaction(2), which are none in practice.
pub fn prepare() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeroes is a valid structure: no flags, an empty mask, the default action.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_flags = libc::SA_NOCLDSTOP;
    // SAFETY: the structure is valid, and the default action is no function.
    check(unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) }.into())?;
    block_ring(libc::SIG_BLOCK);
    action.sa_flags = 0;
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler is a function for ever, and does nothing.
    check(unsafe { libc::sigaction(RING, &raw const action, std::ptr::null_mut()) }.into()).map(drop)
}

/// The calling thread is the tracer from now on: [`ring`] may end its waits.
pub fn become_tracer() -> Pid {
    block_ring(libc::SIG_UNBLOCK);
    Pid::this_thread()
}

fn block_ring(how: libc::c_int) {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is writable, made by sigemptyset(3) before it is used, and the signal is one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), RING);
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Ends the wait of this process's tracer thread. One that is not waiting yet does not notice: ring
/// until it answers.
pub fn ring(tracer: Pid) {
    // SAFETY: tgkill(2) takes three numbers; a thread that is gone is not signalled.
    unsafe { libc::syscall(libc::SYS_tgkill, Pid::this().as_raw(), tracer.as_raw(), RING) };
}

/// Has SIGCHLD come to this process, as if a child had ended: for the thread that looks then.
pub fn alert() {
    // SAFETY: kill(2) takes two numbers.
    unsafe { libc::kill(Pid::this().as_raw(), libc::SIGCHLD) };
}

/// Begins to trace a thread without stopping it. What it forks from now on is traced too. With `endings`,
/// they stop before they end as well.
///
/// # Errors
/// EPERM when it is traced already or the system does not allow it (Yama, a container, another user's
/// process), ESRCH when it is gone.
pub fn seize(thread: Pid, endings: bool) -> io::Result<()> {
    let mut options =
        libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEEXEC;
    if endings {
        options |= libc::PTRACE_O_TRACEEXIT;
    }
    request(libc::PTRACE_SEIZE, thread, options as usize)
}

/// Lets a tracee that has stopped go on, with the signal for which it has stopped or none.
///
/// # Errors
/// ESRCH when it has been killed meanwhile; its end is then what is seen next.
pub fn go_on(thread: Pid, signal: Option<Signal>) -> io::Result<()> {
    request(libc::PTRACE_CONT, thread, signal.map_or(0, |signal| signal.as_raw() as usize))
}

/// Lets a tracee that has stopped go on untraced; in a group's stop, it stays stopped.
///
/// # Errors
/// As [`go_on`].
pub fn detach(thread: Pid, signal: Option<Signal>) -> io::Result<()> {
    request(libc::PTRACE_DETACH, thread, signal.map_or(0, |signal| signal.as_raw() as usize))
}

/// Has a tracee stop, to be seen as `Paused` if nothing else comes first.
///
/// # Errors
/// ESRCH when it is gone.
pub fn interrupt(thread: Pid) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, thread, 0)
}

fn request(request: libc::c_uint, thread: Pid, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests above takes an address, and their data is a number.
    let done = unsafe { libc::ptrace(request, thread.as_raw(), std::ptr::null_mut::<libc::c_void>(), data) };
    check(done).map(drop)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What one of the calling thread's tracees has come to, or the end of a child of this process, whichever
/// thread has forked it; a child that has ended is reaped. Waits for it, or not: then `None` means that
/// nothing has happened.
///
/// No other thread of this process may wait for children while it has a tracer: of a child that is
/// traced, it would be told the stops as well, and the tracer would not.
///
/// # Errors
/// ECHILD when there is neither a tracee nor a child, `Interrupted` after [`ring`].
pub fn next(wait: bool) -> io::Result<Option<(Pid, Seen)>> {
    let flags = libc::__WALL | if wait { 0 } else { libc::WNOHANG };
    let mut status = 0;
    // SAFETY: the status is writable.
    let thread = check(unsafe { libc::waitpid(-1, &raw mut status, flags) }.into())?;
    let Some(thread) = Pid::from_raw(thread as i32) else { return Ok(None) };
    Ok(Some((thread, seen(thread, status))))
}

fn seen(thread: Pid, status: libc::c_int) -> Seen {
    let signal = |number| Signal::from_raw(number).unwrap_or(Signal::KILL);
    if libc::WIFEXITED(status) {
        return Seen::Ended(ExitStatus::Exited(libc::WEXITSTATUS(status)));
    }
    if libc::WIFSIGNALED(status) {
        let core = libc::WCOREDUMP(status);
        return Seen::Ended(ExitStatus::Signaled { signal: signal(libc::WTERMSIG(status)), core });
    }
    let stopped_by = libc::WSTOPSIG(status);
    match status >> 16 {
        0 => Seen::Signal(Received { signal: signal(stopped_by), origin: origin(thread) }),
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => message(thread).map_or(Seen::Other, Seen::Forked),
        libc::PTRACE_EVENT_CLONE => message(thread).map_or(Seen::Other, Seen::Cloned),
        libc::PTRACE_EVENT_EXIT => Seen::Ending,
        libc::PTRACE_EVENT_EXEC => Seen::Execed(message(thread).unwrap_or(thread)),
        libc::PTRACE_EVENT_STOP if stopped_by == libc::SIGTRAP => Seen::Paused,
        libc::PTRACE_EVENT_STOP => Seen::Stopped(signal(stopped_by)),
        _ => Seen::Other,
    }
}

/// The pid that comes with an event.
fn message(thread: Pid) -> Option<Pid> {
    let mut message: libc::c_ulong = 0;
    // SAFETY: PTRACE_GETEVENTMSG writes one unsigned long where its data points to.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_GETEVENTMSG, thread.as_raw(), std::ptr::null_mut::<libc::c_void>(), &raw mut message)
    };
    if done < 0 { None } else { Pid::from_raw(i32::try_from(message).ok()?) }
}

fn origin(thread: Pid) -> Origin {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: PTRACE_GETSIGINFO writes one siginfo_t where its data points to.
    let done = unsafe {
        let nowhere = std::ptr::null_mut::<libc::c_void>();
        libc::ptrace(libc::PTRACE_GETSIGINFO, thread.as_raw(), nowhere, info.as_mut_ptr())
    };
    if done < 0 {
        return Origin::System;
    }
    // SAFETY: all zeroes is a valid siginfo_t, and ptrace(2) has written over it.
    let info = unsafe { info.assume_init() };
    // SAFETY: for the codes below, the system has filled the pid and the status in; read for any other
    // they are plain numbers, and not used.
    let (pid, status) = unsafe { (Pid::from_raw(info.si_pid()), info.si_status()) };
    let child = || pid.filter(|_| info.si_signo == libc::SIGCHLD);
    match info.si_code {
        libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL => Origin::Process(pid),
        libc::CLD_EXITED => child().map_or(Origin::System, |pid| Origin::ChildEnded(pid, ExitStatus::Exited(status))),
        code @ (libc::CLD_KILLED | libc::CLD_DUMPED) => {
            let ended = |pid| {
                let signal = Signal::from_raw(status).unwrap_or(Signal::KILL);
                Origin::ChildEnded(pid, ExitStatus::Signaled { signal, core: code == libc::CLD_DUMPED })
            };
            child().map_or(Origin::System, ended)
        }
        libc::CLD_STOPPED => child().map_or(Origin::System, Origin::ChildStopped),
        libc::CLD_CONTINUED => child().map_or(Origin::System, Origin::ChildContinued),
        _ => Origin::System,
    }
}

/// Whether a pid is anybody's, a zombie's too.
pub fn exists(pid: Pid) -> bool {
    // SAFETY: kill(2) with the signal 0 looks and sends nothing.
    unsafe { libc::kill(pid.as_raw(), 0) == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH) }
}

/// Zombies of whose reaping one wants to hear, as one descriptor that is readable when there is news.
/// Linux tells it since 6.9; before that, nothing is ever heard.
#[derive(Debug)]
pub struct Zombies {
    epoll: OwnedFd,
    waiting: Vec<(Pid, OwnedFd)>,
}

impl Zombies {
    /// None yet.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn none() -> io::Result<Zombies> {
        // SAFETY: epoll_create1(2) takes a number.
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())?;
        // SAFETY: the descriptor has just been made, and nothing else knows it yet.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll as i32) };
        Ok(Zombies { epoll, waiting: Vec::new() })
    }

    /// For how many one waits.
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Whether one waits for this one.
    pub fn waits_for(&self, zombie: Pid) -> bool {
        self.waiting.iter().any(|(pid, _)| *pid == zombie)
    }

    /// Waits for this one too.
    ///
    /// # Errors
    /// ESRCH when it has been reaped already, EMFILE.
    pub fn add(&mut self, zombie: Pid) -> io::Result<()> {
        let descriptor = open_pidfd(zombie)?;
        // POLLIN is there from its end on; POLLHUP, which needs not be asked for, from its reaping on.
        let mut event = libc::epoll_event { events: 0, u64: zombie.as_raw() as u64 };
        let (epoll, number) = (self.epoll.as_raw_fd(), descriptor.as_raw_fd());
        // SAFETY: both descriptors are open, and the event is readable.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, number, &raw mut event) }.into())?;
        self.waiting.push((zombie, descriptor));
        Ok(())
    }

    /// One that has been reaped, without waiting for it.
    pub fn reaped(&mut self) -> Option<Pid> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: the event is writable, and is one.
        let found = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, 0) };
        let pid = Pid::from_raw(event.u64 as i32).filter(|_| found == 1)?;
        self.forget(pid);
        Some(pid)
    }

    /// Waits for this one no longer.
    pub fn forget(&mut self, pid: Pid) {
        self.waiting.retain(|(zombie, _)| *zombie != pid);
    }
}

impl AsFd for Zombies {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
