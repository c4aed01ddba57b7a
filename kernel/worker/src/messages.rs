//! What the server and the supervisor say to each other.
//!
//! One frame of `forklab_sys::channel` carries one value as JSON. Descriptors travel beside it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Names one run of a cell, for the life of a kernel. Chosen by the server, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CellId(pub u64);

/// A process as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub i32);

/// What the worker is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Load a shared object and call its function with the variable store.
    Call {
        /// The shared object.
        library: PathBuf,
        /// The symbol, `extern "C" fn(*mut c_void) -> *mut c_void`.
        function: String,
    },
    /// Run `sh -c command` as a child on the cell's terminal and wait for it.
    Shell {
        /// The line as the person wrote it, without the `!`.
        command: String,
    },
}

/// From the server to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// Run a task. Two descriptors come with it: the cell's stdout and stderr.
    /// Answered by exactly one [`FromSupervisor::Ended`] with the same cell.
    /// A second `Run` before that answer is an error of the server's.
    Run {
        /// Whose task it is.
        cell: CellId,
        /// What to do.
        task: Task,
        /// Whether the state goes back to before the task when the worker dies in it.
        checkpoint: bool,
    },
    /// End the running cell: the worker and everything that runs below it is killed,
    /// left-over processes of earlier cells too. The cell's `Ended` says `Interrupted`.
    /// Without a running cell, only the left-over processes end, and nothing is answered.
    Interrupt,
    /// Text for a process that waits for input, as typed: with its newline.
    Input {
        /// What the person typed.
        text: String,
    },
    /// End of file for a process that waits for input.
    EndOfInput,
    /// Which processes live below the supervisor? Answered by [`FromSupervisor::Processes`].
    ListProcesses,
    /// End every process and leave. The closing of the channel means the same.
    Shutdown,
}

/// From the supervisor to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSupervisor {
    /// The worker is there. Sent once at the start and after each change of the worker.
    Worker {
        /// Its pid.
        pid: ProcessId,
    },
    /// A task is over. Everything that its worker wrote is in the cell's sockets by now.
    Ended {
        /// Which.
        cell: CellId,
        /// How.
        outcome: Outcome,
    },
    /// A process is blocked in a read of the cell's terminal and there is nothing to read.
    /// Sent once for each read that blocks; the answer is `Input` or `EndOfInput`.
    WantsInput {
        /// Who reads.
        pid: ProcessId,
        /// Whether the running task has started it; if not, it is a left-over of an earlier one.
        of_this_task: bool,
    },
    /// The process that was said to want input no longer does (it died, or a signal ended its read),
    /// or the task in which it was said has ended, or another begins. A process that still waits is
    /// said anew.
    InputCancelled {
        /// Who.
        pid: ProcessId,
    },
    /// The answer to `ListProcesses`: what lives below the supervisor, worker and checkpoint left out.
    Processes {
        /// Their pids.
        pids: Vec<ProcessId>,
    },
    /// The worker died between two tasks and could not be restored: every variable is gone.
    /// A new, empty worker is there. Within a task, `Outcome` says the same by `restored: false`.
    StateLost {
        /// How the worker ended.
        how: Exit,
    },
    /// The far side cannot go on; the kernel must be restarted.
    Failed {
        /// Why, for the person.
        message: String,
    },
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The function returned.
    Returned(Report),
    /// The worker could not load or find the function, or start the shell.
    NotRun {
        /// Why, for the person.
        message: String,
    },
    /// The worker left or was killed in the middle.
    Died {
        /// How.
        how: Exit,
        /// Whether the state before the task is back.
        restored: bool,
    },
    /// `ToSupervisor::Interrupt` ended it.
    Interrupted {
        /// Whether the state before the task is back.
        restored: bool,
    },
}

/// What generated code told the worker while the function ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The panic that ended the user's code, if one did.
    pub panic: Option<Panic>,
    /// The error with which a `?` ended the user's code, formatted by evcxr's `:efmt`.
    pub error: Option<String>,
    /// What is to be shown: MIME type and content, in order.
    pub displays: Vec<(String, String)>,
    /// Variables whose stored type is not the expected one any more.
    pub lost_variables: Vec<String>,
    /// The exit status of a `Task::Shell`.
    pub shell: Option<Exit>,
}

/// A panic in the worker's own process that reached the end of the user's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    /// The payload as text.
    pub message: String,
    /// Where, if a hook of the kernel saw it.
    pub location: Option<Location>,
}

/// A place in the code, as a person can find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The `n` of `In [n]`; `None` for code that no cell holds, such as a crate's.
    pub execution: Option<u32>,
    /// The file as the compiler knows it; of use only without `execution`.
    pub file: String,
    /// Counted from 1; in the cell, where there is one.
    pub line: u32,
    /// Counted from 1.
    pub column: u32,
}

/// How a process ended, as `waitid(2)` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It left with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether it left a core.
        core: bool,
    },
}

impl From<forklab_sys::process::ExitStatus> for Exit {
    fn from(status: forklab_sys::process::ExitStatus) -> Self {
        use forklab_sys::process::ExitStatus;
        match status {
            ExitStatus::Exited(code) => Exit::Exited(code),
            ExitStatus::Signaled { signal, core } => Exit::Signaled { signal: signal.as_raw(), core },
        }
    }
}

impl From<forklab_sys::process::Pid> for ProcessId {
    fn from(pid: forklab_sys::process::Pid) -> Self {
        ProcessId(pid.as_raw())
    }
}
