//! What the supervisor and its worker say to each other.
//!
//! They have no standing connection: the worker closes it before user code runs and connects anew
//! to the supervisor's socket after it, so that user code and its children have nothing to inherit.
//! Descriptors travel beside the messages, in the order given.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::messages::{Hindrance, Outcome, ProcessId, Task};

/// From the supervisor to the worker, or to its sleeping copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first word to a fresh worker. Descriptor: the terminal. Answered by `Ready`.
    Begin {
        /// Where to connect after a task.
        socket: PathBuf,
        /// Another way to the same, which needs no files: a name in the abstract namespace of unix(7).
        name: String,
    },
    /// Wakes a checkpoint, which is the worker from then on. Descriptor: the terminal.
    /// Answered by `Ready`.
    Wake,
    /// Make a checkpoint. Answered by `Ready`.
    Prepare,
    /// Run this. Descriptors: the terminal, the cell's stdout and stderr. The worker closes this
    /// connection, and answers with `Ready` over a new one.
    Run {
        /// What to run.
        task: Task,
        /// Whether to make a checkpoint afterwards.
        checkpoint: bool,
        /// Whether this process runs no other task: it does not look whether it could.
        last: bool,
        /// To how many processors the task is pinned.
        cpus: Option<usize>,
        /// How many files a process of the task may have open.
        files: Option<u64>,
        /// Comes back with what becomes of it: user code may find the way to the supervisor, and does
        /// not know this.
        token: u64,
    },
}

/// From the worker to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The worker waits for a task.
    Ready {
        /// How the last one ended, and its token; nothing after `Begin`, `Wake` and `Prepare`.
        ended: Option<(Outcome, u64)>,
        /// A copy of the worker as it is now, asleep. Its line comes as a descriptor. Nothing when
        /// the system would not make one.
        checkpoint: Option<ProcessId>,
    },
    /// The task has ended, and this process can run no other. It waits to be ended.
    Stranded {
        /// Why.
        hindrance: Hindrance,
        /// The task's.
        token: u64,
    },
}
