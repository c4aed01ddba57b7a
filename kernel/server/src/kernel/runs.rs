//! One run of what the engine has made, or of a `!` line: from the one who asks for it to the supervisor, and
//! its end back again. A cell that is repeated has many (`repeating`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use forklab_engine::messages::{FromRunner, Ran, ToRunner};
use forklab_worker::messages::{CellId, Outcome, Report, Task, ToSupervisor};

use super::compiler::Bundle;
use super::delivery::READ_AT_END;
use super::execution::{Execution, Stage};
use super::{Kernel, recording, report};

impl Kernel {
    pub(super) fn run_task(&mut self, task: Task) {
        let Some(running) = &mut self.running else { return };
        running.begun.get_or_insert_with(Instant::now);
        running.time.begin();
        let (cell, execution, limits) = (running.cell, running.execution, running.limits);
        let record = self.recording.always || running.trace.is_some();
        if !self.recording.is_of(cell) {
            self.recording.write_last_run();
        }
        self.recording.begin(cell, execution, self.worker, record);
        if let Some(live) = self.outputs.get_mut(&cell) {
            live.output.listen(true);
        }
        let checkpoint = self.checkpoints;
        let run = ToSupervisor::Run { cell, task, checkpoint, limits, record, undo: false, cpus: None, perturb: None };
        let Some(running) = &self.running else { return };
        let sent = self.far.run(&run, &running.writers);
        self.look_at_sent(sent);
    }

    /// Sends the run of a repeated cell.
    pub(super) fn send_run(&mut self, run: &ToSupervisor, writers: &[OwnedFd; 2]) {
        let sent = self.far.run(run, writers);
        self.look_at_sent(sent);
    }

    fn look_at_sent(&mut self, sent: io::Result<()>) {
        let Some(running) = &mut self.running else { return };
        let Err(error) = sent else { return };
        if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            // The supervisor has ended; that is the next event, and finds the cell in its stage.
            return;
        }
        running.error = Some(report::kernel(format!("the cell could not be handed to its process: {error}")));
        match running.stage {
            Stage::Running(id) => {
                running.stage = Stage::Settling(id);
                self.answer_run(&ToRunner::Dropped);
            }
            _ => self.finish(),
        }
    }

    /// The runner has something to run.
    pub(super) fn on_runner(&mut self, message: FromRunner) {
        tracing::debug!(?message, "from the runner");
        let FromRunner::Run { library, function, epoch } = message;
        if epoch != self.compiler.epoch() {
            // Asked for by an engine that has died meanwhile; nobody waits for an answer.
            return;
        }
        self.compiler.runner_asks();
        self.run_unless_lost(library, function, self.told_losses);
    }

    /// The runner, or the engine again, has something to run, for a cell of which it was told with `losses`.
    pub(super) fn run_unless_lost(&mut self, library: PathBuf, function: String, losses: u64) {
        if losses == self.losses {
            self.run_function(library, function);
        } else {
            // The worker has lost its variables since the engine was asked, and they are what this is for.
            self.answer_run(&ToRunner::StateLost);
        }
    }

    fn run_function(&mut self, library: PathBuf, function: String) {
        match &mut self.running {
            Some(Execution {
                stage: stage @ (Stage::Compiling(_) | Stage::Settling(_)),
                interrupted: false,
                repeat,
                repeated: false,
                ..
            }) => {
                if let Stage::Compiling(id) | Stage::Settling(id) = *stage {
                    *stage = Stage::Running(id);
                }
                match repeat.clone() {
                    Some(repeat) => self.begin_repeating(repeat, library, function),
                    None => self.run_task(Task::Call { library, function }),
                }
            }
            // A cell that was interrupted while it was compiled, or has been repeated: nothing of it runs.
            _ => self.answer_run(&ToRunner::Dropped),
        }
    }

    pub(super) fn answer_run(&mut self, answer: &ToRunner) {
        if let Err(error) = self.compiler.answer(answer) {
            tracing::warn!(%error, "who asked for a run has ended before its answer");
        }
    }

    /// Has evcxr forget the variables: at once, if it waits for a run, and with the next cell in any case.
    pub(super) fn tell_state_lost(&mut self) {
        self.losses += 1;
        if let Err(error) = self.compiler.tell_state_lost() {
            tracing::warn!(%error, "who asked for a run has ended before it was told that the variables are lost");
        }
    }

    /// A task of the worker's is over.
    pub(super) fn on_ended(&mut self, cell: CellId, outcome: Outcome, refused_forks: u64) {
        if self.running.as_ref().is_some_and(|running| running.cell == cell && running.repeating.is_some()) {
            return self.on_run_ended(cell, outcome);
        }
        if let Some(live) = self.outputs.get_mut(&cell) {
            live.output.read(&mut self.buffer, READ_AT_END);
        }
        self.hear_all();
        self.recording.end(cell, recording::ending(&outcome), recording::used(&outcome));
        let over_limit = self.error_of_limit(cell, &outcome);
        let Some(running) = self.running.as_mut().filter(|running| running.cell == cell) else {
            tracing::warn!(?cell, "a task ended that nobody waits for");
            return;
        };
        running.asking = None;
        running.refused_forks = refused_forks;
        running.time.end(recording::used(&outcome));
        let error = running.error.take().or(over_limit);
        running.error = error.or_else(|| report::outcome(&outcome, &self.sources));
        let lost = is_lost(&outcome);
        if lost && !self.checkpoints {
            running.error.iter_mut().for_each(report::without_checkpoint);
        }
        match running.stage {
            Stage::Shell => {
                if running.interrupted {
                    // The shell has ended, and what became of it is no matter of the cell's.
                    running.error.get_or_insert(report::interrupted(Some(true)));
                }
                if lost {
                    self.tell_state_lost();
                }
                self.advance();
            }
            Stage::Running(id) => {
                running.stage = Stage::Settling(id);
                match outcome {
                    _ if lost => self.tell_state_lost(),
                    Outcome::Returned(report) => {
                        running.results.extend(bundles(&report));
                        self.answer_run(&ran(&report));
                    }
                    _ => self.answer_run(&ToRunner::Dropped),
                }
            }
            Stage::Abandoned => {
                // The interrupt came too late, or there was nothing to go back to: the worker's
                // variables are not those that the engine's successor knows.
                if lost || matches!(outcome, Outcome::Returned(_)) {
                    self.tell_state_lost();
                    self.say_variables_lost();
                }
                self.finish();
            }
            Stage::Between
            | Stage::Asking
            | Stage::WaitingForEngine
            | Stage::Compiling(_)
            | Stage::Settling(_)
            | Stage::Waiting => {
                tracing::warn!(?cell, "a task ended at an unexpected stage");
            }
        }
    }
}

/// What the engine is told of a function that has returned.
pub(super) fn ran(report: &Report) -> ToRunner {
    ToRunner::Ran(Ran {
        panicked: report.panic.is_some(),
        failed: report.error.is_some(),
        lost_variables: report.lost_variables.clone(),
    })
}

/// Whether the worker has lost its variables.
pub(super) fn is_lost(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Died { restored: false, .. }
            | Outcome::Interrupted { restored: false }
            | Outcome::Stranded { restored: false, .. }
            | Outcome::OverLimit { restored: false, .. }
    )
}

/// One value may be shown in several forms: forms that follow each other make one bundle, until
/// a MIME type comes again.
fn bundles(report: &Report) -> Vec<Bundle> {
    let mut bundles: Vec<Bundle> = Vec::new();
    for (mime, content) in &report.displays {
        match bundles.last_mut() {
            Some(bundle) if !bundle.contains_key(mime) => {
                bundle.insert(mime.clone(), content.clone());
            }
            _ => bundles.push(BTreeMap::from([(mime.clone(), content.clone())])),
        }
    }
    bundles
}
