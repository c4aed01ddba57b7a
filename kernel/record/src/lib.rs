//! What the processes of one run of a cell did: the facts, as plain values.
//!
//! Who watches the processes fills a [`Record`] in; who draws, counts or grades reads it. Nothing
//! here watches or asks the system. The JSON of these types is what `%export` writes.

pub mod builder;
pub mod colour;
pub mod export;
pub mod orders;
pub mod timeline;
pub mod trace;

use std::fmt;

use serde::{Deserialize, Serialize};

/// A process as the kernel numbers it.
pub type Pid = i32;

/// Nanoseconds since the cell's code began, by the monotonic clock.
pub type Nanoseconds = u64;

/// One run of a cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The `n` of `In [n]`; 0 for a cell that is not counted.
    pub execution: u32,
    /// When the run began, in seconds since 1970 by the wall clock, for people.
    pub started: f64,
    /// How long the cell's code ran. Events may come later: of processes that outlived it.
    pub duration: Nanoseconds,
    /// How the run ended.
    pub ending: Ending,
    /// The processes in the order in which they were forked; the first is the cell's own, the parent.
    pub processes: Vec<Process>,
    /// Everything that happened, in the order of time.
    pub events: Vec<Event>,
    /// What the record could not see, for the person. Empty when it saw everything.
    pub gaps: Vec<String>,
}

/// How a run of a cell ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ending {
    /// The code came to its end.
    #[default]
    Finished,
    /// A panic, with its message.
    Panicked(String),
    /// A `?` ended it, with the error's text.
    Failed(String),
    /// The cell's own process left or was killed.
    Died(Status),
    /// It ran for longer than it was allowed to.
    TimedOut,
    /// The person interrupted it.
    Interrupted,
    /// It was ended for another limit, described here.
    OverLimit(String),
}

/// How a process ended, as waitpid(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// It left with this exit status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
}

/// The life of one process. What is not known is `None`: it has not happened yet, or was not seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: Pid,
    /// `P` for the cell's own process, and for the others by order of fork: `C1`, `C2`, …. Runs of the
    /// same cell can be compared by it.
    pub role: String,
    /// Who forked it; `None` for the cell's own process, and where that was not seen.
    pub parent: Option<Pid>,
    /// Who adopted it when its parent had ended: its reaper's pid, which is no process of the cell.
    pub adopted: Option<(Nanoseconds, Pid)>,
    /// When it was forked. For the cell's own process: 0.
    pub forked: Nanoseconds,
    /// The programs that it became, and when.
    pub programs: Vec<(Nanoseconds, String)>,
    /// When and how it ended.
    pub ended: Option<(Nanoseconds, Status)>,
    /// When and by whom it was reaped; from its end to here it was a zombie.
    pub reaped: Option<(Nanoseconds, Pid)>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Nanoseconds,
    /// To whom, or by whom: the process that did it, or that it happened to.
    pub pid: Pid,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// It forked this child.
    Forked(Pid),
    /// It became this program: its path and arguments.
    Execed(String),
    /// It ended.
    Ended(Status),
    /// It reaped this child.
    Reaped(Pid),
    /// Its parent had ended, and this process is its parent from now on.
    Adopted(Pid),
    /// It sent a signal. A negative pid is a process group.
    SignalSent {
        /// The signal's number.
        signal: i32,
        /// To whom.
        to: Pid,
    },
    /// It received a signal, whatever it then did about it.
    SignalReceived {
        /// The signal's number.
        signal: i32,
        /// From whom, where the system tells: not for signals of the system's own.
        from: Option<Pid>,
    },
    /// It was stopped by this signal.
    Stopped(i32),
    /// It went on.
    Continued,
    /// It wrote this to its stdout or stderr, as one reader saw it; the time is the reader's.
    Wrote {
        /// Where.
        stream: Stream,
        /// What.
        text: String,
    },
    /// It sent a message over a `forklab::Pipe`, of so many bytes.
    Sent {
        /// Names the channel and the message: the receiver's event has the same.
        message: u64,
        /// Bytes.
        bytes: u64,
    },
    /// It received that message.
    Received {
        /// As above.
        message: u64,
        /// Bytes.
        bytes: u64,
    },
    /// It began to wait for something: `wait`, `read`, `pipe`, `sleep`, `signal`, `lock`.
    Blocked(String),
    /// It goes on.
    Running,
}

/// One of the two streams that every program has for what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Record {
    /// One line that says what this is a record of: `In [5]: 6 processes, 42 events, 12.3 ms, end of the cell`.
    pub fn summary(&self) -> String {
        use timeline::words;
        let cell = if self.execution == 0 { "a cell".to_owned() } else { format!("In [{}]", self.execution) };
        format!(
            "{cell}: {}, {}, {}, {}",
            words::count(self.processes.len(), "process", "processes"),
            words::count(self.events.len(), "event", "events"),
            words::time(self.duration),
            words::ending(&self.ending)
        )
    }

    /// A process by its pid, if it is of this record.
    pub fn process(&self, pid: Pid) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }

    /// The role of a process: `P`, `C1`, …; `pid 123` for one that is not of this record.
    pub fn role(&self, pid: Pid) -> String {
        self.process(pid).map_or_else(|| format!("pid {pid}"), |process| process.role.clone())
    }

    /// The children that a process forked, in order.
    pub fn children(&self, pid: Pid) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.parent == Some(pid))
    }

    /// The whole text that a process wrote to a stream.
    pub fn output(&self, pid: Pid, stream: Stream) -> String {
        let wrote = |event: &Event| match &event.what {
            What::Wrote { stream: to, text } if event.pid == pid && *to == stream => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(wrote).collect()
    }
}

impl Process {
    /// For how long it lived, where its end is known.
    pub fn lifetime(&self) -> Option<Nanoseconds> {
        self.ended.map(|(at, _)| at.saturating_sub(self.forked))
    }

    /// For how long it was a zombie, where its reaping is known.
    pub fn zombie_time(&self) -> Option<Nanoseconds> {
        Some(self.reaped?.0.saturating_sub(self.ended?.0))
    }

    /// The program that it was last, if it was any but the cell's own.
    pub fn program(&self) -> Option<&str> {
        self.programs.last().map(|(_, program)| program.as_str())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(status) => write!(f, "exit {status}"),
            Status::Killed(signal) => write!(f, "signal {signal}"),
        }
    }
}
