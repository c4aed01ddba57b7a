//! Whether the worker, as a task has left it, can run another one.
//!
//! A task may take from its process what every later one needs. That is a lesson's good right, but
//! it must not be what the notebook is left with: the task is then undone, and the person told why.
//! So after each task the worker tries what the next will ask of it, under the limits that user code
//! has set.

use std::io;
use std::path::{Path, PathBuf};

use forklab_sys::descriptors::{none_left, try_to_have_some};
use forklab_sys::generated::{try_to_allocate, try_to_load};
use forklab_sys::role::{View, children_have_another_pid_namespace, most_processes};

use crate::messages::Hindrance;

/// What a small cell takes: its code, and the allocator's first piece.
const LEAST_MEMORY: usize = 16 << 20;

/// What is remembered to tell.
#[derive(Debug)]
pub struct Fitness {
    /// The root directory and the mounts that the worker began with.
    view: View,
    /// How many processes the worker could begin with.
    processes: Option<u64>,
    /// A shared object that could be loaded.
    library: Option<PathBuf>,
}

impl Fitness {
    /// For a worker that begins.
    pub fn new() -> Fitness {
        Fitness { view: View::now(), processes: most_processes(), library: None }
    }

    /// A shared object was loaded.
    pub fn loaded(&mut self, library: &Path) {
        self.library = Some(library.to_owned());
    }

    /// What is in the way of another task.
    pub fn hindrance(&self) -> Option<Hindrance> {
        if children_have_another_pid_namespace() {
            return Some(Hindrance::PidNamespace);
        }
        if try_to_have_some().is_err_and(|error| none_left(&error)) {
            return Some(Hindrance::Descriptors);
        }
        let load = self.library.as_deref().map_or(Ok(()), try_to_load);
        let allocate = || try_to_allocate(LEAST_MEMORY).map_err(|_| Hindrance::Memory);
        load.or_else(|error| self.judge(&error)).and_then(|()| allocate()).err()
    }

    /// Why no checkpoint could be made, where user code is the reason. Where the machine is, or a limit
    /// of the notebook's, there will be one when others have ended.
    pub fn hindrance_to_checkpoint(&self, error: &io::Error) -> Option<Hindrance> {
        let lowered = most_processes() < self.processes;
        (lowered && error.kind() == io::ErrorKind::WouldBlock).then_some(Hindrance::Processes)
    }

    fn judge(&self, error: &io::Error) -> Result<(), Hindrance> {
        match error.kind() {
            io::ErrorKind::OutOfMemory => Err(Hindrance::Memory),
            _ if none_left(error) => Err(Hindrance::Descriptors),
            // Removed, and not hidden from this process: everybody misses it, and it is for others to
            // bring back.
            io::ErrorKind::NotFound if View::now() == self.view => Ok(()),
            _ => Err(Hindrance::Files { errno: error.raw_os_error().unwrap_or(0) }),
        }
    }
}
