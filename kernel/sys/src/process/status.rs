//! How a process ended, in words and numbers. Finding it out is [`super::wait`]'s and [`super::reap`]'s.

use std::fmt;

use super::Signal;

/// How a process ended. It prints as `exit status 3` or `killed by SIGSEGV (core dumped)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It left by itself, with this status (0 to 255; 0 means success).
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// Which.
        signal: Signal,
        /// Whether it left a core.
        core: bool,
    },
}

impl ExitStatus {
    /// Whether it left by itself with status 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Exited(0)
    }

    /// The status with which it left; `None` when a signal ended it. WEXITSTATUS of wait(2).
    pub fn code(self) -> Option<i32> {
        match self {
            ExitStatus::Exited(code) => Some(code),
            ExitStatus::Signaled { .. } => None,
        }
    }

    /// The signal that ended it; `None` when it left by itself. WTERMSIG of wait(2).
    pub fn signal(self) -> Option<Signal> {
        match self {
            ExitStatus::Exited(_) => None,
            ExitStatus::Signaled { signal, .. } => Some(signal),
        }
    }

    /// Whether it left a core. WCOREDUMP of wait(2).
    pub fn core_dumped(self) -> bool {
        matches!(self, ExitStatus::Signaled { core: true, .. })
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Exited(code) => write!(f, "exit status {code}"),
            ExitStatus::Signaled { signal, core: false } => write!(f, "killed by {signal}"),
            ExitStatus::Signaled { signal, core: true } => write!(f, "killed by {signal} (core dumped)"),
        }
    }
}

/// As `Display`: a notebook shows values by their `Debug`.
impl fmt::Debug for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<std::process::ExitStatus> for ExitStatus {
    fn from(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match status.signal() {
            Some(signal) => ExitStatus::Signaled { signal: Signal(signal), core: status.core_dumped() },
            None => ExitStatus::Exited(status.code().expect("a process left by itself or by a signal")),
        }
    }
}
