//! Signals as events of a loop, and as a fresh program finds them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::process::Signal;

/// Signals that come to a descriptor and to no handler.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks these signals in the calling thread and has them come here. Threads and children made
    /// from now on have them blocked too.
    ///
    /// # Errors
    /// Those of signalfd(2); `InvalidInput` for real-time signals.
    pub fn take(signals: &[Signal]) -> io::Result<Signals> {
        let mut set = SigSet::empty();
        for signal in signals {
            set.add(nix::sys::signal::Signal::try_from(signal.as_raw())?);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        Ok(Signals { descriptor: SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next signal that has come, without waiting.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next(&self) -> io::Result<Option<Signal>> {
        let info = self.descriptor.read_signal()?;
        Ok(info.and_then(|info| Signal::from_raw(info.ssi_signo as i32)))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// SIGINT, held back from this thread and from the children that it forks meanwhile.
#[derive(Debug)]
#[must_use = "SIGINT stays blocked until it is released"]
pub struct HeldInterrupts {
    /// Somebody else had blocked it before.
    blocked_before: bool,
}

/// Holds SIGINT back until it is released.
pub fn hold_interrupts() -> HeldInterrupts {
    let mut before = SigSet::empty();
    // Nothing can fail here: the set is valid, and so is the place for the old one.
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&interrupts()), Some(&mut before));
    HeldInterrupts { blocked_before: before.contains(nix::sys::signal::Signal::SIGINT) }
}

impl HeldInterrupts {
    /// Drops a SIGINT that has come meanwhile.
    pub fn forget(&self) {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set and the time are valid for the call, and nothing is written. It takes a
        // pending signal without its handler's knowledge, or fails when there is none.
        while unsafe { libc::sigtimedwait(interrupts().as_ref(), std::ptr::null_mut(), &raw const now) } > 0 {}
    }

    /// Lets SIGINT through again, if it was let through before; one that has come meanwhile comes now.
    pub fn release(self) {
        if !self.blocked_before {
            // As above.
            let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&interrupts()), None);
        }
    }
}

/// Has a program start with SIGINT let through, whoever holds it back here.
pub fn let_interrupts_through(command: &mut Command) {
    let unblock = || Ok(sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&interrupts()), None)?);
    // SAFETY: between fork and exec only sigprocmask(2) is called, which is safe there.
    unsafe { command.pre_exec(unblock) };
}

fn interrupts() -> SigSet {
    let mut set = SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGINT);
    set
}

/// Makes this process deaf to every signal from others but SIGTERM, SIGCHLD, SIGKILL and SIGSTOP. Those
/// that it has blocked still come to [`Signals`]. Faults of its own still end it: the system then
/// ignores nothing. Programs that it starts inherit most of this; see [`reset_inherited`].
pub fn ignore_strangers() {
    let kept = [libc::SIGTERM, libc::SIGCHLD, libc::SIGSEGV, libc::SIGBUS];
    for signal in programs_signals().filter(|signal| !kept.contains(signal)) {
        // SAFETY: ignoring is no function; signals that cannot be ignored are refused.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    ignore_library_signals();
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all zeroes is a valid structure: no flags, an empty mask.
        let action = unsafe {
            (*action.as_mut_ptr()).sa_sigaction = only_own_faults as *const () as libc::sighandler_t;
            (*action.as_mut_ptr()).sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            action.assume_init()
        };
        // SAFETY: the handler is of the type that SA_SIGINFO asks for and does what a handler may.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// A fault ends the process, at its second attempt; the same signal from somebody else does nothing.
/// A handler and not SIG_IGN, which programs would inherit, and Rust's runtime then tells of no stack's
/// overflow.
extern "C" fn only_own_faults(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system passes a valid structure to a handler with SA_SIGINFO.
    if unsafe { (*info).si_code } > 0 {
        // SAFETY: the default action is no function, and signal(2) is safe in a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// The C library keeps the signals between the programs' two ranges for itself and lets nobody set
/// them by its own functions. As long as it has not set them either, anybody can end this process
/// with them.
fn ignore_library_signals() {
    /// The system's own structure begins so, and has no more than this.
    #[repr(C)]
    struct Action {
        handler: libc::sighandler_t,
        rest: [u64; 8],
    }
    // Of the mask, in bytes.
    let size = size_of::<u64>();
    for signal in libc::SIGSYS + 1..libc::SIGRTMIN() {
        let mut action = Action { handler: libc::SIG_DFL, rest: [0; 8] };
        let none = std::ptr::null::<Action>();
        // SAFETY: the structure has room for the system's own, and nothing is set.
        let asked = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, none, &raw mut action, size) };
        if asked != 0 || action.handler != libc::SIG_DFL {
            continue;
        }
        let ignore = Action { handler: libc::SIG_IGN, rest: [0; 8] };
        // SAFETY: the structure is a valid one; ignoring is no function, and nothing is written.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const ignore, none.cast_mut(), size) };
    }
}

/// Undoes what was inherited: no signal is ignored but SIGPIPE, as in every Rust program, and none is
/// blocked. Handlers are not inherited, so those that stand are the runtime's own, which tell of a
/// stack's overflow, and stay.
pub fn reset_inherited() {
    for signal in programs_signals().filter(|signal| *signal != libc::SIGPIPE) {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: `action` is writable and of the right size; no new action is given.
        if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
            continue;
        }
        // SAFETY: all zeroes is a valid structure, and sigaction(2) has written over it.
        if unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN {
            // SAFETY: the default action is no function.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    // An empty mask is a valid one; nothing else can fail here.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// The signals that are a program's. Those between the two ranges are the C library's own, for
/// ending and addressing threads, and must be left alone.
fn programs_signals() -> impl Iterator<Item = libc::c_int> {
    (1..=libc::SIGSYS).chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}
