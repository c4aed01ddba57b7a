//! The zygote: a warm engine that no notebook has, from which those of notebooks are forked.
//!
//! An engine that is started loads rust-analyzer and the standard library for seconds. A fork of one that
//! has done so need not. There is one zygote for each user, compiler and binary (`identity`); kernels find
//! it by a socket in a directory of the user's alone (`meeting`), and a kernel that finds none starts
//! its engine itself and leaves an [`Ember`] behind that becomes the zygote (`client`).
//!
//! What the zygote has evaluated is ours, so nothing of one notebook can reach another through it. The
//! fork gets its environment, directory, log and descriptors from the kernel that asked for it, and a
//! build directory of its own (`process`).
//!
//! The forks are the zygote's children, so it reaps them. They do not end with it: each has a line to its
//! own kernel. Nothing depends on the zygote: a kernel that has no answer from it in time does without.

mod client;
mod identity;
mod limits;
mod meeting;
mod place;
mod process;

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use client::{Ember, Ends, Zygote, is_wanted};
pub(crate) use place::Place;
pub use process::main;

/// How the log begins, before the pid.
const FIRST_LINE: &str = "zygote ";

/// To a zygote, one to a connection.
#[derive(Debug, Serialize, Deserialize)]
enum ToZygote {
    /// Fork an engine. Descriptors: its channel, its runner's channel, its lifeline, its log.
    Start(Start),
    /// Say how you are. Answered by `Status`.
    Status,
    /// Leave. Your engines stay.
    Stop,
}

/// What an engine is to be.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    /// [`Identity::text`] of the caller.
    identity: String,
    /// Its build directory, which is not there yet, in a directory that is.
    build: PathBuf,
    /// Its working directory.
    directory: PathBuf,
    /// Its soft limits.
    limits: Vec<u64>,
    /// All of its environment.
    environment: Vec<(OsString, OsString)>,
}

/// From a zygote.
#[derive(Debug, Serialize, Deserialize)]
enum FromZygote {
    Status(Status),
}

/// How a zygote is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: i32,
    /// How many engines it has forked.
    pub forked: u64,
    /// How many of its children live: engines, and standbys that have taken over.
    pub living: usize,
}
