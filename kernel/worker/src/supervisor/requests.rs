//! What the server asks for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use forklab_sys::channel::Received;
use forklab_sys::process::Pid;
use forklab_sys::procfs::descendants;

use super::{Phase, Queued, Supervisor, secret, undo};
use crate::messages::{CellId, Outcome, Reached, ToSupervisor};
use crate::orders::ToWorker;

impl Supervisor {
    pub fn on_request(&mut self, request: Received<ToSupervisor>) -> io::Result<()> {
        match request.value {
            ToSupervisor::Run { cell, task, checkpoint, limits, record, undo, cpus, perturb } => {
                // A new task must not be taken for what was interrupted.
                self.end_interrupted()?;
                if self.queued.is_some() || matches!(self.phase, Phase::Busy { .. }) {
                    let message = "another task is still running".to_owned();
                    return self.tell_ended(cell, Outcome::NotRun { message });
                }
                if undo && !checkpoint {
                    return self.tell_ended(cell, Outcome::NotRun { message: undo::NOT_WANTED.to_owned() });
                }
                let (prepared, descriptors) = (false, request.descriptors);
                self.queued =
                    Some(Queued { cell, task, checkpoint, limits, record, undo, cpus, perturb, prepared, descriptors });
                self.run_queued()
            }
            ToSupervisor::Interrupt => self.interrupt(),
            ToSupervisor::Input { text } => self.type_text(text.into_bytes()),
            ToSupervisor::EndOfInput => self.type_end_of_input(),
            ToSupervisor::ListProcesses => self.list_processes(),
            ToSupervisor::Limit { notebook } => {
                self.watch.set_notebook(notebook);
                Ok(())
            }
            ToSupervisor::EndCell { cell, reached } => self.end_cell(cell, reached),
            ToSupervisor::Kill { pids } => self.kill_processes(pids),
            ToSupervisor::Await { cell } => self.await_cell(cell),
            ToSupervisor::Shutdown => Ok(()),
        }
    }

    /// Gives the worker the task that waits for it, if it can take one.
    pub fn run_queued(&mut self) -> io::Result<()> {
        if !matches!(self.phase, Phase::Idle) || self.connection.is_none() {
            return Ok(());
        }
        let Some(mut queued) = self.queued.take() else { return Ok(()) };
        if queued.checkpoint && self.checkpoint.is_none() && !queued.prepared {
            queued.prepared = true;
            self.queued = Some(queued);
            return self.prepare();
        }
        let cell = queued.cell;
        match self.begin(queued) {
            Ok(()) => Ok(()),
            Err(message) => self.tell_ended(cell, Outcome::NotRun { message }),
        }
    }

    /// There is no checkpoint, and one is wanted: by the next task, or because the processes of the
    /// last one had left no place for it.
    pub fn prepare(&mut self) -> io::Result<()> {
        // An earlier checkpoint has its place among the processes until it is reaped.
        self.await_retired();
        self.watch.make_room();
        self.phase = Phase::preparing();
        if let Some(connection) = &self.connection {
            // A worker that cannot hear has died; that is said when it is reaped.
            let _ = connection.send(&ToWorker::Prepare);
        }
        Ok(())
    }

    /// Sends the worker its task. `Err` is for the person.
    fn begin(&mut self, queued: Queued) -> Result<(), String> {
        let [output, errors] = <[OwnedFd; 2]>::try_from(queued.descriptors)
            .map_err(|_| "the task came without its stdout and stderr".to_owned())?;
        if queued.undo && self.checkpoint.is_none() {
            return Err(undo::NOT_MADE.to_owned());
        }
        if !queued.checkpoint {
            self.drop_checkpoint();
        }
        self.await_retired();
        self.begin_limits(queued.cell, queued.limits)?;
        self.begin_of_task().map_err(|error| format!("the cell's terminal cannot be used: {error}"))?;
        self.note_origins(&descendants(Pid::this()));
        let before = self.leftovers();
        self.origins.begin(queued.cell, [output.as_fd(), errors.as_fd()]);
        let before = before.iter().map(|p| p.identity).collect();
        let token = secret();
        self.stranded = None;
        let Queued { cell, checkpoint, undo, cpus, .. } = queued;
        self.phase = Phase::Busy { cell, token, checkpoint, undo, before };
        self.begin_record(queued.cell, queued.record, queued.perturb);
        let descriptors = [self.pty.terminal(), output.as_fd(), errors.as_fd()];
        let files = queued.limits.files;
        let (task, checkpoint) = (queued.task, checkpoint && !undo);
        let run = ToWorker::Run { task, checkpoint, last: undo, cpus, files, token };
        // Taken: our end is closed here, and not when the worker closes its own.
        if let Some(connection) = self.connection.take() {
            // A worker that cannot hear has died; what becomes of the task is decided when it is reaped.
            let _ = connection.send_with(&run, &descriptors);
        }
        Ok(())
    }

    /// The server has seen a limit reached.
    fn end_cell(&mut self, cell: CellId, reached: Reached) -> io::Result<()> {
        self.hear_out()?;
        match self.phase {
            Phase::Busy { cell: running, .. } if running == cell => self.end_beyond_limit(cell, reached),
            _ => self.end_leftovers_of(cell).map(drop),
        }
    }
}
