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

/// Makes this process deaf to every signal that would end or stop it but SIGTERM, SIGKILL, SIGSTOP
/// and those that a fault of its own raises.
pub fn ignore_strangers() {
    let own = [libc::SIGTERM, libc::SIGCHLD, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT];
    for signal in programs_signals().filter(|signal| !own.contains(signal)) {
        // SAFETY: ignoring is no function; signals that cannot be ignored are refused.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
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
