//! What the server and the engine say to each other.
//!
//! One frame of `forklab_sys::channel` carries one value as JSON. Descriptors travel beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// From the server to the engine. Requests are answered one at a time and in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToEngine {
    /// Compile a cell and have it run. Answered by `Evaluated`; on the way there, any number of
    /// runs are asked for on the runner's channel ([`FromRunner::Run`]).
    Evaluate {
        /// Names the request; comes back in the answer.
        id: u64,
        /// The execution count, for `In [n]` in messages.
        execution: u32,
        /// The cell without magics and `!` lines; those lines are blank, so that lines keep their
        /// numbers.
        code: String,
        /// How often the worker has lost its variables since the server began.
        losses: u64,
    },
    /// The answer to [`FromEngine::Run`].
    Answer(ToRunner),
    /// Complete at a cursor. Answered by `Completed`.
    Complete {
        /// Names the request.
        id: u64,
        /// The text.
        code: String,
        /// A byte offset in it, on a character's border.
        position: usize,
    },
    /// Explain what stands at a cursor. Answered by `Inspected`.
    Inspect {
        /// Names the request.
        id: u64,
        /// The text.
        code: String,
        /// A byte offset in it, on a character's border.
        position: usize,
    },
    /// Be the engine from now on. For a standby, whose engine has [`FromEngine::Rested`]; not answered.
    Wake,
    /// Leave. The closing of the channel means the same.
    Quit,
}

/// From the engine to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromEngine {
    /// The engine can take requests.
    Ready,
    /// The first message of an engine that comes from a zygote, before `Ready`. One descriptor comes with
    /// it, the process's pidfd: its parent is the zygote, so its pid could be another's after its end.
    Forked {
        /// The engine's process.
        pid: i32,
    },
    /// The engine cannot start.
    Failed {
        /// Why, and what to do, for the person.
        message: String,
    },
    /// One descriptor comes with it: the server's end of the channel of a fresh standby, a fork of
    /// the engine as it is now, asleep until something is sent to it. It speaks this protocol from
    /// there on. An older standby leaves when its channel is closed.
    Standby {
        /// The standby's process.
        pid: i32,
    },
    /// There is no standby that knows what the engine knows now; an older one must not take over.
    NoStandby {
        /// Why, for the log.
        why: String,
    },
    /// The engine has had nothing to do for a while and holds memory that its standby does without: unless a
    /// request is on its way, the standby may take over.
    Rested,
    /// The compiler works on a crate that a `:dep` named.
    Building {
        /// The crate.
        name: String,
    },
    /// Run this function, as with [`FromRunner::Run`]. Answered by one [`ToEngine::Answer`].
    Run {
        /// The shared object, which is removed when the answer has come.
        library: PathBuf,
        /// The symbol.
        function: String,
        /// That of the cell's `Evaluate`. Where variables were lost since, it must not run.
        losses: u64,
    },
    /// The answer to `Evaluate`.
    Evaluated {
        /// Which.
        id: u64,
        /// What came of it.
        verdict: Verdict,
    },
    /// The answer to `Complete`.
    Completed {
        /// Which.
        id: u64,
        /// Byte offset at which the replaced text begins.
        start: usize,
        /// Byte offset at which it ends.
        end: usize,
        /// What may stand there, and what kind of thing it is.
        matches: Vec<(String, String)>,
    },
    /// The answer to `Inspect`.
    Inspected {
        /// Which.
        id: u64,
        /// Text by MIME type; empty where nothing is known.
        found: BTreeMap<String, String>,
    },
}

/// What came of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Compiled, run, and its definitions are there. What the worker reported is the server's to show.
    Committed {
        /// What `:` commands want shown, by MIME type.
        display: BTreeMap<String, String>,
    },
    /// Run again. The engine knows what it knew.
    Repeated,
    /// The code did not compile, or a command failed. Nothing has changed.
    Rejected(Rejection),
    /// The run was answered with [`ToRunner::Dropped`]: the definitions are as before the cell.
    RolledBack,
}

/// Why a cell was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// `CompileError`, `CommandError` or `EngineError`.
    pub kind: String,
    /// One line, without colour: `error[E0308]: mismatched types (In [3], line 2, column 9)`.
    pub message: String,
    /// For the person, coloured with ANSI, lines as rustc shows them.
    pub rendered: Vec<String>,
}

/// From the runner (the process that evcxr believes to be its child) to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRunner {
    /// Run this function. Answered by one `ToRunner::Ran` or `ToRunner::Dropped`.
    Run {
        /// The shared object.
        library: PathBuf,
        /// The symbol.
        function: String,
        /// That of the last [`ToRunner::Reset`] which the runner has done; 0 before the first.
        epoch: u64,
    },
}

/// From the server to the runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRunner {
    /// The function returned.
    Ran(Ran),
    /// The worker died, or the cell was interrupted; the worker's state is as before the run.
    Dropped,
    /// The worker's variables are gone for good. The runner leaves, so that evcxr forgets them too. Said to who
    /// waits for a run only; `Evaluate` says it, too.
    StateLost,
    /// The engine died; forget what is half said. What was asked before is not answered any more.
    Reset {
        /// Greater than that of every reset before; runs that are asked for from here on carry it.
        epoch: u64,
    },
}

/// How a function that has returned went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// A panic ended the user's code.
    pub panicked: bool,
    /// A `?` ended the user's code.
    pub failed: bool,
    /// Variables whose stored type is not the expected one any more; the code has not been run then.
    pub lost_variables: Vec<String>,
}

impl Ran {
    /// Whether the user's code came to its end.
    pub fn is_clean(&self) -> bool {
        !self.panicked && !self.failed && self.lost_variables.is_empty()
    }
}
