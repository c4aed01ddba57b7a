//! When one of our processes dies: what becomes of the cell, and what the person is told.
//!
//! The engine and the worker each hold half of the notebook's state, the definitions and the
//! variables. Whatever dies, the two halves must agree afterwards; where they cannot, the variables
//! are forgotten on both sides, and somebody is told.

use forklab_worker::messages::{Exit, ToSupervisor};
use jupyter_protocol::messaging::ReplyError;

use super::compiler::Successor;
use super::execution::Stage;
use super::{Kernel, report};

/// So many supervisors in a row may end before they have a worker.
const MOST_FAILED_STARTS: u32 = 3;

impl Kernel {
    /// The engine's process is gone; `successor` has taken its place.
    pub(super) fn engine_ended(&mut self, successor: Successor) {
        let interrupted = self.running.as_ref().is_some_and(|running| running.interrupted);
        let loss = match successor {
            Successor::Standby => None,
            Successor::Stale => Some("what the last cell defined, and all variables, are lost: run those cells again"),
            Successor::Fresh => Some("a new one was started: run the cells with your definitions again"),
            Successor::None => Some("it cannot be started: see the kernel's log, then restart the kernel"),
        };
        if loss.is_some() {
            // What the worker holds, the successor does not know.
            self.tell_state_lost();
        }
        let ended = "the compiler process ended unexpectedly";
        let error = match loss {
            None if interrupted => report::interrupted(None),
            None => report::engine(format!("{ended}; the definitions and variables from before this cell are there")),
            Some(loss) => report::engine(format!("{ended}; {loss}")),
        };
        match self.running.as_ref().map(|running| running.stage) {
            Some(Stage::Compiling(_)) => self.fail(error),
            // The worker's variables must not run ahead of what the successor knows: the run is
            // ended and rolled back, and its answer is for nobody.
            Some(Stage::Running(_)) => self.abandon(error),
            // The worker has kept the cell, and the successor does not know of it.
            Some(Stage::Settling(_)) => {
                self.tell_state_lost();
                self.fail(error);
                self.say_variables_lost();
            }
            Some(Stage::WaitingForEngine) => {
                self.must_tell_loss(loss.is_some(), error);
                self.advance();
            }
            None | Some(Stage::Between | Stage::Shell | Stage::Asking | Stage::Abandoned | Stage::Waiting) => {
                self.must_tell_loss(loss.is_some(), error);
            }
        }
    }

    fn must_tell_loss(&mut self, lost: bool, error: ReplyError) {
        // An engine that never came up has said why, and each cell that needs it says so.
        if lost && !self.compiler.has_failed() {
            self.must_tell.get_or_insert(error);
        }
    }

    fn abandon(&mut self, error: ReplyError) {
        if let Some(running) = &mut self.running {
            running.error = Some(error);
            running.stage = Stage::Abandoned;
        }
        if let Err(error) = self.far.send(&ToSupervisor::Interrupt) {
            tracing::warn!(%error, "the supervisor ended too");
        }
    }

    /// The next cell's person is told that the variables are gone.
    pub(super) fn say_variables_lost(&mut self) {
        let text = "the compiler process ended while the last cell was finishing; the variables are lost, run their cells again";
        self.must_tell.get_or_insert(report::engine(text));
    }

    /// The far side is gone, and with it the worker and its variables. What it has left behind is
    /// ended, and a new one is started; `Err` when none comes up.
    pub(super) fn far_side_ended(&mut self) -> std::io::Result<()> {
        self.far.await_end();
        self.end_strays();
        self.far_starts += 1;
        if self.far_starts > MOST_FAILED_STARTS {
            let why = "the process that owns the cells' processes does not start; see the kernel's log";
            return Err(std::io::Error::other(why));
        }
        let fresh = super::Far::start(
            &crate::cli::cells_program(),
            self.runtime.path(),
            super::bounds::of_notebook(&self.ceiling),
        )?;
        std::mem::replace(&mut self.far, fresh).leave();
        // The dead one's; whoever was in them has ended.
        forklab_sys::cgroup::remove_folders(&std::mem::take(&mut self.groups));
        self.tell_state_lost();
        let error =
            report::kernel("the kernel's supervisor ended; all processes and variables are lost, run the cells again");
        match self.running.as_ref().map(|running| running.stage) {
            None => {
                self.must_tell.get_or_insert(error);
            }
            Some(Stage::Running(id)) => {
                if let Some(running) = &mut self.running {
                    running.error.get_or_insert(error);
                    running.stage = Stage::Settling(id);
                }
            }
            Some(_) => self.fail(error),
        }
        Ok(())
    }

    /// The worker died between two cells, and its variables with it.
    pub(super) fn state_lost(&mut self, how: Exit) {
        if self.lose_repeating(report::lost_between_cells(how)) {
            return;
        }
        self.tell_state_lost();
        self.must_tell.get_or_insert(report::lost_between_cells(how));
    }

    /// The far side cannot do what it must, such as ending a process.
    pub(super) fn far_side_failed(&mut self, message: &str) {
        tracing::error!(message, "the supervisor has failed");
        let error = report::kernel(format!("{message}; restart the kernel"));
        match &mut self.running {
            None => {
                self.must_tell.get_or_insert(error);
            }
            Some(running) => {
                running.error.get_or_insert(error);
            }
        }
    }
}
