//! What the server asks for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use forklab_sys::channel::Received;

use super::life::After;
use super::tree::Spared;
use super::{Phase, Queued, Supervisor};
use crate::messages::{FromSupervisor, Outcome, ProcessId, ToSupervisor};
use crate::orders::ToWorker;

impl Supervisor {
    pub fn on_request(&mut self, request: Received<ToSupervisor>) -> io::Result<()> {
        match request.value {
            ToSupervisor::Run { cell, task, checkpoint } => {
                if self.queued.is_some() || matches!(self.phase, Phase::Busy { .. }) {
                    let message = "another task is still running".to_owned();
                    return self.tell(&FromSupervisor::Ended { cell, outcome: Outcome::NotRun { message } });
                }
                self.queued = Some(Queued { cell, task, checkpoint, descriptors: request.descriptors });
                self.run_queued()
            }
            ToSupervisor::Interrupt => self.interrupt(),
            ToSupervisor::Input { text } => self.type_text(text.into_bytes()),
            ToSupervisor::EndOfInput => self.type_end_of_input(),
            ToSupervisor::ListProcesses => {
                let pids = self.leftovers().iter().map(|process| ProcessId::from(process.identity.pid)).collect();
                self.tell(&FromSupervisor::Processes { pids })
            }
            ToSupervisor::Shutdown => Ok(()),
        }
    }

    /// Gives the worker the task that waits for it, if it can take one.
    pub fn run_queued(&mut self) -> io::Result<()> {
        if !matches!(self.phase, Phase::Idle) {
            return Ok(());
        }
        let Some(connection) = self.connection.take() else { return Ok(()) };
        let Some(queued) = self.queued.take() else {
            self.connection = Some(connection);
            return Ok(());
        };
        let [output, errors] = match <[OwnedFd; 2]>::try_from(queued.descriptors) {
            Ok(both) => both,
            Err(_) => {
                self.connection = Some(connection);
                let message = "the task came without its stdout and stderr".to_owned();
                return self.tell(&FromSupervisor::Ended { cell: queued.cell, outcome: Outcome::NotRun { message } });
            }
        };
        if !queued.checkpoint {
            self.drop_checkpoint();
        }
        self.begin_of_task()?;
        let before = self.leftovers().iter().map(|process| process.identity).collect();
        self.phase = Phase::Busy { cell: queued.cell, before };
        let descriptors = [self.pty.terminal(), output.as_fd(), errors.as_fd()];
        // A worker that cannot hear has died; what becomes of the task is decided when it is reaped.
        let _ = connection.send_with(&ToWorker::Run { task: queued.task }, &descriptors);
        // Our end is closed here, and not when the worker closes its own.
        drop(connection);
        Ok(())
    }

    fn interrupt(&mut self) -> io::Result<()> {
        // A task that has reported is not running any more; and a worker that is reaped here has
        // died by itself.
        self.hear_out()?;
        if let Some(queued) = self.queued.take() {
            let outcome = Outcome::Interrupted { restored: true };
            self.tell(&FromSupervisor::Ended { cell: queued.cell, outcome })?;
        }
        let mut spared = Spared::default();
        spared.add(self.checkpoint.as_ref().map(|checkpoint| checkpoint.pid));
        let Phase::Busy { cell, .. } = self.phase else {
            spared.add(Some(self.worker));
            return self.end_tree(&spared);
        };
        self.end_tree(&spared)?;
        self.end_of_task()?;
        self.replace(After::Interrupted { cell })
    }
}
