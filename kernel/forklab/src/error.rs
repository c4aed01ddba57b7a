//! What can go wrong, in words that say what to do next.

use std::fmt;
use std::io;

use forklab_sys::process::Pid;

/// Why something did not work. Its text is the same under `{}` and `{:?}`, so that `unwrap()` and a
/// `?` at the end of a cell read as well as `println!("{error}")`.
#[non_exhaustive]
pub enum Error {
    /// [`Process::start`](crate::Process::start) or [`run`](crate::Process::run) for the second time.
    AlreadyStarted {
        /// The process's name.
        name: String,
    },
    /// A process that has not been started was joined or signalled.
    NotStarted {
        /// The process's name.
        name: String,
    },
    /// Only the process that started a child can wait for it or signal it by its `Process`.
    NotTheParent {
        /// The process's name.
        name: String,
        /// The child.
        pid: Pid,
        /// Who started it.
        parent: Pid,
    },
    /// Somebody else has reaped the child, so that its status is gone: a bare `waitpid`, or the
    /// kernel itself where SIGCHLD is ignored.
    ReapedElsewhere {
        /// The process's name.
        name: String,
        /// The child.
        pid: Pid,
    },
    /// What was received is not a value of the type that was asked for. It is gone from the pipe,
    /// and the next message can be received..
    WrongType {
        /// The type that was asked for.
        expected: &'static str,
        /// What came, as JSON, cut when it is long.
        received: String,
        /// What does not fit.
        reason: String,
    },
    /// A value that cannot be sent: a map whose keys are not strings, or longer than 4 GiB.
    NotSendable {
        /// Why.
        reason: String,
    },
    /// Nobody can receive any more: every copy of the other end is closed. EPIPE, Python's
    /// `BrokenPipeError`.
    BrokenPipe,
    /// The other end was closed in the middle of a message; its sender was probably killed.
    CutShort {
        /// Bytes of the message that came.
        received: usize,
        /// Bytes that it has.
        length: usize,
    },
    /// This end stayed with the parent when the other end of its pipe was moved into this process.
    LeftToParent,
    /// [`input`](crate::input) found the end of the input. Python's `EOFError`.
    EndOfInput,
    /// What only a forklab notebook has was asked for elsewhere.
    NotInNotebook {
        /// What was asked for: `the record of the last run`.
        wanted: &'static str,
    },
    /// There is no record yet: no cell has run, or none was repeated.
    NothingRecorded {
        /// What has not happened, and how to have it: `no cell has run yet`.
        reason: &'static str,
    },
    /// The system refused.
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: the system's own error and what was tried.
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { doing, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::AlreadyStarted { name } => {
                write!(f, "{name} has been started already; a process starts once, make a new one with Process::new")
            }
            Error::NotStarted { name } => write!(f, "{name} has not been started; call start() first"),
            Error::NotTheParent { name, pid, parent } if is_there(*parent) => {
                write!(f, "{name} (pid {pid}) is a child of process {parent}, which started it, ")?;
                write!(f, "and not of process {}; only its parent can do this", Pid::this())
            }
            Error::NotTheParent { name, pid, parent } => {
                write!(f, "{name} (pid {pid}) was started by process {parent}, which is no more; ")?;
                write!(f, "start a new one here, in process {}", Pid::this())
            }
            Error::ReapedElsewhere { name, pid } => {
                write!(f, "{name} (pid {pid}) has been reaped already, and not through its Process; ")?;
                write!(f, "its exit status is lost")
            }
            Error::WrongType { expected, received, reason } => {
                write!(f, "received {received}, which is no {expected}: {reason}")
            }
            Error::NotSendable { reason } => write!(f, "this value cannot be sent: {reason}"),
            Error::BrokenPipe => write!(f, "broken pipe: every copy of the other end is closed, nobody can receive"),
            Error::CutShort { received, length } => {
                write!(f, "the other end was closed within a message, after {received} of its {length} bytes")
            }
            Error::LeftToParent => {
                write!(f, "this end of the pipe stayed with the parent; move it into the process to use it there")
            }
            Error::EndOfInput => write!(f, "end of input: nobody answers"),
            Error::NotInNotebook { wanted } => {
                write!(f, "{wanted} is there in a forklab notebook only, and this program does not run in one")
            }
            Error::NothingRecorded { reason } => write!(f, "there is no record: {reason}"),
            Error::System { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

/// Whether there is such a process. After a cell that crashed, the notebook goes on in another
/// process than the one that had started the children.
fn is_there(process: Pid) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::System { source, .. } => source.kind(),
            Error::BrokenPipe => io::ErrorKind::BrokenPipe,
            Error::CutShort { .. } | Error::EndOfInput => io::ErrorKind::UnexpectedEof,
            Error::WrongType { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}
