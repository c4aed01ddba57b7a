//! What the supervisor and its worker say to each other.
//!
//! They have no standing connection: the worker closes it before user code runs and connects anew
//! to the supervisor's socket after it, so that user code and its children have nothing to inherit.
//! Descriptors travel beside the messages, in the order given.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::messages::{Outcome, ProcessId, Task};

/// From the supervisor to the worker, or to its sleeping copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first word to a fresh worker. Descriptor: the terminal. Answered by `Ready`.
    Begin {
        /// Where to connect after a task.
        socket: PathBuf,
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
        /// How many files a process of the task may have open.
        files: Option<u64>,
    },
}

/// From the worker to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The worker waits for a task.
    Ready {
        /// How the last one ended; nothing after `Begin` and `Wake`.
        ended: Option<Outcome>,
        /// A copy of the worker as it is now, asleep. Its line comes as a descriptor. Nothing when
        /// the system would not make one.
        checkpoint: Option<ProcessId>,
    },
}
