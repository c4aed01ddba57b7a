//! The signals and their names. Sending one is [`super::kill`]'s.

use std::fmt;

use nix::libc;

/// A signal, real-time signals included. It prints as its name: `SIGKILL`, `SIGRTMIN+3`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(pub(super) i32);

impl Signal {
    /// The terminal is gone.
    pub const HUP: Signal = Signal(libc::SIGHUP);
    /// Ctrl-C.
    pub const INT: Signal = Signal(libc::SIGINT);
    /// Ctrl-\.
    pub const QUIT: Signal = Signal(libc::SIGQUIT);
    /// abort(3).
    pub const ABRT: Signal = Signal(libc::SIGABRT);
    /// Ends a process; it can neither be caught nor ignored.
    pub const KILL: Signal = Signal(libc::SIGKILL);
    /// An access to memory that is not there.
    pub const SEGV: Signal = Signal(libc::SIGSEGV);
    /// A write to a pipe that nobody can read.
    pub const PIPE: Signal = Signal(libc::SIGPIPE);
    /// A timer of alarm(2).
    pub const ALRM: Signal = Signal(libc::SIGALRM);
    /// Asks a process to end.
    pub const TERM: Signal = Signal(libc::SIGTERM);
    /// A child has ended, stopped or gone on.
    pub const CHLD: Signal = Signal(libc::SIGCHLD);
    /// Lets a stopped process go on.
    pub const CONT: Signal = Signal(libc::SIGCONT);
    /// Stops a process; it can neither be caught nor ignored.
    pub const STOP: Signal = Signal(libc::SIGSTOP);
    /// Ctrl-Z.
    pub const TSTP: Signal = Signal(libc::SIGTSTP);
    /// For the user's own ends.
    pub const USR1: Signal = Signal(libc::SIGUSR1);
    /// For the user's own ends.
    pub const USR2: Signal = Signal(libc::SIGUSR2);

    /// A signal from its number. `None` for a number that is no signal on this system.
    pub fn from_raw(signal: i32) -> Option<Signal> {
        (1..=libc::SIGRTMAX()).contains(&signal).then_some(Signal(signal))
    }

    /// The number, as `kill -l` counts.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(known) = nix::sys::signal::Signal::try_from(self.0) {
            return f.pad(known.as_str());
        }
        // nix knows no real-time signals, and glibc keeps the first of them for itself.
        match self.0 - libc::SIGRTMIN() {
            0 => f.pad("SIGRTMIN"),
            above if above > 0 => f.pad(&format!("SIGRTMIN+{above}")),
            _ => f.pad(&format!("signal {}", self.0)),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<nix::sys::signal::Signal> for Signal {
    fn from(signal: nix::sys::signal::Signal) -> Self {
        Signal(signal as i32)
    }
}
