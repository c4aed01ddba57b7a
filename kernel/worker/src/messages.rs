//! What the server and the supervisor say to each other.
//!
//! One frame of `forklab_sys::channel` carries one value as JSON. Descriptors travel beside it.

use std::path::PathBuf;
use std::time::Duration;

use forklab_record::Event;
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

/// How much a cell, or everything that a notebook runs, may use. `None`: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Living processes that cells have started; the worker and its checkpoint are not counted.
    pub processes: Option<u64>,
    /// Bytes of memory of the worker and of everything below it, the variables of earlier cells
    /// among them; a page that several of them share counts once.
    pub memory: Option<u64>,
    /// Processor time of the worker and of everything below it.
    pub cpu: Option<Duration>,
    /// Time from the beginning of the cell's first task.
    pub time: Option<Duration>,
    /// Open files of one process: `RLIMIT_NOFILE` of getrlimit(2).
    pub files: Option<u64>,
    /// Bytes that are written to stdout and stderr. The server's to watch.
    pub output: Option<u64>,
}

/// Which of the [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Limit {
    /// `processes`
    Processes,
    /// `memory`
    Memory,
    /// `cpu`
    Cpu,
    /// `time`
    Time,
    /// `files`
    Files,
    /// `output`
    Output,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// One cell's.
    Cell,
    /// The notebook's: of all that its cells run, left-over processes of earlier cells included.
    Notebook,
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Which.
    pub limit: Limit,
    /// Whose.
    pub scope: Scope,
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
        /// What the cell may use, over all its tasks.
        limits: Limits,
        /// Whether to record what its processes do. Processes that are recorded cannot be traced by
        /// others, such as `strace` and `gdb`; without it, nobody below is.
        record: bool,
        /// Whether the state goes back to before the task however it ends, so that the next `Run` begins
        /// from the same state as this one. The worker ends with every process that was started since the
        /// task began, those in other sessions, stopped ones and orphans too, and its checkpoint takes
        /// over; what earlier tasks have left behind lives on. `Ended` comes after all that, with the
        /// outcome as it was (a run that returned has `Returned`), and after the new worker's `Worker`.
        /// What is not a process's own stays as the run has left it: files, places in files that were
        /// open before, memory that was shared before.
        ///
        /// Its record ends where the run does: processes that lived then still live in it, and no event
        /// tells of their end by the undoing.
        ///
        /// Needs a checkpoint; without one the task is not run, and `NotRun` says so. Where a run has
        /// ended its own checkpoint, [`FromSupervisor::StateLost`] follows its `Ended`.
        undo: bool,
        /// To how many processors the task is pinned, with every process that it starts: to so many of
        /// those that are allowed, beginning with the one on which the worker runs. `None`: to none.
        cpus: Option<usize>,
        /// A seed, by which the task's processes are delayed by up to 2 ms here and there, so that rare orders
        /// of events show: when they have forked, before they begin, when they have exec'd, before they end, and when
        /// a child's end ends their wait. Not when they write: stopping them there costs more than the rest
        /// of the record, and those delays move their writes as well. Which process (by order of fork)
        /// comes to which point decides about the length of each, so that a seed has the same
        /// delays always. A task that is delayed is recorded, too.
        perturb: Option<u64>,
    },
    /// What the notebook may use, over all its cells. Comes before the first task.
    Limit {
        /// The limits; `files` is not looked at.
        notebook: Limits,
    },
    /// A limit that the server watches was reached. Is the cell's task running, it ends as by
    /// `Interrupt`, and its `Ended` says `OverLimit`. Is it not, the processes end that it has left
    /// behind, and nothing is answered.
    EndCell {
        /// Whose processes.
        cell: CellId,
        /// Which limit.
        reached: Reached,
    },
    /// End these left-over processes, or all. Answered by [`FromSupervisor::Killed`].
    Kill {
        /// Their pids; `None` for all of them.
        pids: Option<Vec<ProcessId>>,
    },
    /// Say when no process lives any more that this cell has started.
    /// Answered by [`FromSupervisor::Gone`].
    Await {
        /// The cell, whose last task has ended.
        cell: CellId,
    },
    /// End the running cell. Every process below gets SIGINT, as by Ctrl-C at a terminal, and what
    /// has not ended half a second later, or when a second `Interrupt` comes, is killed: the
    /// worker, everything below it, left-over processes of earlier cells too. The cell's `Ended`
    /// says `Interrupted`; or how its function returned, if it did so in time. Without a running
    /// cell, the left-over processes end in the same way, and nothing is answered.
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
        /// How many forks the system has refused in it because a limit of processes was reached.
        refused_forks: u64,
    },
    /// What processes that this cell has started have done. Comes now and then while they live, with
    /// everything until a task's end before its `Ended`, and for as long as they are recorded: until a
    /// task without recording begins. Each message is in the order of time; what was seen late may come
    /// with a later one.
    Recorded {
        /// The cell.
        cell: CellId,
        /// In the order of time; the times are those of the monotonic clock, in nanoseconds.
        events: Vec<Event>,
        /// What could not be seen, for the person.
        gaps: Vec<String>,
    },
    /// A process is blocked in a read of the cell's terminal and there is nothing to read.
    /// Sent once for each read that blocks; the answer is `Input` or `EndOfInput`.
    WantsInput {
        /// Who reads.
        pid: ProcessId,
        /// The cell that has started it, where that is known.
        cell: Option<CellId>,
    },
    /// The process that was said to want input no longer does (it died, or a signal ended its read),
    /// or the task in which it was said has ended, or another begins. A process that still waits is
    /// said anew.
    InputCancelled {
        /// Who.
        pid: ProcessId,
    },
    /// The answer to `ListProcesses`: what lives below the supervisor, zombies included, worker and
    /// checkpoint left out.
    Processes {
        /// In the order in which they were started.
        processes: Vec<ProcessInfo>,
    },
    /// The answer to `Kill`.
    Killed {
        /// Which have ended.
        pids: Vec<ProcessId>,
        /// Which of those that were named are no living processes of this notebook's cells.
        strangers: Vec<ProcessId>,
    },
    /// The answer to `Await`.
    Gone {
        /// The cell.
        cell: CellId,
    },
    /// A limit was reached while no task ran, and left-over processes were ended for it.
    LeftoversEnded {
        /// Which limit.
        reached: Reached,
        /// Who was ended, and the cell that had started it.
        processes: Vec<(ProcessId, Option<CellId>)>,
    },
    /// How limits are kept here. Sent once, at the start.
    Limiting {
        /// For the person: "cgroup v1 (pids, memory, cpuacct)".
        how: String,
        /// Directories that the supervisor has made and removes; the server does so after it.
        groups: Vec<PathBuf>,
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

/// A process of a cell, as `%ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its pid.
    pub pid: ProcessId,
    /// Its parent's; the supervisor's for an orphan.
    pub parent: ProcessId,
    /// The letter of proc_pid_stat(5): `R`, `S`, `D`, `T`, `Z`, ….
    pub state: char,
    /// The cell that has started it, where that is known.
    pub cell: Option<CellId>,
    /// The command line; the name in brackets where there is none (a zombie).
    pub command: String,
    /// How long ago it was started.
    pub age: Duration,
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
    /// The function returned, but the process as it has left it cannot run another one. It was ended.
    Stranded {
        /// What is in the way.
        hindrance: Hindrance,
        /// Whether the state before the task is back.
        restored: bool,
    },
    /// It was ended because a limit was reached.
    OverLimit {
        /// Which.
        reached: Reached,
        /// Whether the state before the task is back.
        restored: bool,
    },
}

/// What keeps a worker from running another task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hindrance {
    /// It cannot open the kernel's files: another root directory, other mounts, another user, a
    /// filter of system calls.
    Files {
        /// What open(2) or mmap(2) says.
        errno: i32,
    },
    /// Its limits leave it no memory.
    Memory,
    /// Its limit leaves it no file descriptors.
    Descriptors,
    /// Its limit leaves it no processes, so there is no checkpoint for the next task.
    Processes,
    /// Its children are to live in another pid namespace: the first is that namespace's init, and
    /// nobody can be forked after its end.
    PidNamespace,
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
    /// What the task has used.
    pub used: Option<Used>,
}

/// What a task has used, as its own process has measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// When it began: nanoseconds of the monotonic clock.
    pub began: u64,
    /// Time on the clock.
    pub wall: Duration,
    /// Processor time in user code: of the worker, and of children that were waited for.
    pub user: Duration,
    /// The same in the system.
    pub system: Duration,
}

impl From<forklab_sys::usage::Used> for Used {
    fn from(used: forklab_sys::usage::Used) -> Self {
        Used { began: used.began, wall: used.wall, user: used.user, system: used.system }
    }
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
