//! `%%repeat`: one compiled cell, run many times from the same state, and the orders that were seen.
//!
//! The engine asks for one run and waits. Meanwhile the server has the supervisor run that library again
//! and again, each time with `undo`: whatever became of a run, the worker goes back to the state before it,
//! and none of its processes lives. So everything that a run has written is in its sockets when its end is
//! told. In the end the engine hears that the run was dropped, which is what has happened to the variables.
//!
//! Each run is a cell of its own to the supervisor: limits, input and recorded events are the run's, and
//! what comes late is not taken for the next one's.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use forklab_engine::messages::ToRunner;
use forklab_record::Ending;
use forklab_record::orders::{self, Orders};
use forklab_worker::messages::{CellId, Limit, Outcome, Reached, Scope, Task, ToSupervisor};
use jupyter_protocol::messaging::{DisplayData, ReplyError, UpdateDisplayData};

use super::compiler::Bundle;
use super::delivery::{LiveOutput, READ_AT_END};
use super::execution::Stage;
use super::magics::Script;
use super::magics::observe::Repeat;
use super::output::Output;
use super::runs::{is_lost, ran};
use super::{Kernel, bounds, recording, report, show};

/// Between two looks of a person at the progress.
const PACE: Duration = Duration::from_millis(100);

/// A cell that is being repeated.
#[derive(Debug)]
pub struct Repeating {
    asked: Repeat,
    library: PathBuf,
    function: String,
    orders: Orders,
    /// The cell's own name between our processes; while it is repeated, it has that of the run.
    own: CellId,
    /// The answers for the input of each run.
    script: Option<Script>,
    display: String,
    /// When the progress was last shown.
    shown: Instant,
    /// A run has ended the checkpoint, and every variable with it.
    lost: bool,
}

impl Repeating {
    fn is_done(&self) -> bool {
        let enough = self.asked.until.is_some_and(|until| self.orders.is_done(until));
        enough || self.orders.runs().len() >= self.asked.runs
    }

    /// The next run's: each has delays of its own, and the same ones when the repetition is repeated.
    fn seed(&self) -> Option<u64> {
        self.asked.perturb.map(|seed| seed.wrapping_mul(1_000_003).wrapping_add(self.orders.runs().len() as u64))
    }

    fn progress(&self) -> Bundle {
        let text = orders::progress(&self.orders, Some(self.asked.runs));
        let (done, runs) = (self.orders.runs().len(), self.asked.runs);
        let html = format!(
            "<div style=\"display:flex;align-items:center;gap:0.8em\"><progress max=\"{runs}\" value=\"{done}\" \
             style=\"width:16em\">{done}</progress><span>{text}</span></div>"
        );
        Bundle::from([("text/html".to_owned(), html), ("text/plain".to_owned(), text)])
    }

    fn result(&self) -> Bundle {
        if self.orders.runs().is_empty() {
            return Bundle::from([("text/plain".to_owned(), "no run has come to its end".to_owned())]);
        }
        let html = orders::html(&self.orders, &orders::Options::default());
        let text = orders::text(&self.orders, recording::WIDTH);
        Bundle::from([("text/html".to_owned(), html), ("text/plain".to_owned(), text)])
    }
}

impl Kernel {
    /// The engine has the function that is to be repeated.
    pub(super) fn begin_repeating(&mut self, asked: Repeat, library: PathBuf, function: String) {
        let Some(running) = &mut self.running else { return };
        // Begun before, without the variables that were lost then: it goes on in the same place.
        let shown = running.progress.take();
        let display = shown.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let repeating = Repeating {
            orders: Orders::new(asked.by),
            asked,
            library,
            function,
            own: running.cell,
            script: running.script.clone(),
            display,
            shown: Instant::now(),
            lost: false,
        };
        running.begun.get_or_insert_with(Instant::now);
        if !running.request.content.silent {
            let (origin, progress) = (Some(&running.request.origin), show::media(repeating.progress()));
            if shown.is_some() {
                self.front.iopub(origin, UpdateDisplayData::new(progress, &repeating.display));
            } else {
                let mut progress = DisplayData::new(progress);
                progress.transient.get_or_insert_default().display_id = Some(repeating.display.clone());
                self.front.iopub(origin, progress);
            }
        }
        running.repeating = Some(repeating);
        self.recording.write_last_run();
        self.begin_run();
    }

    /// Has the next run begin.
    fn begin_run(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(repeating) = &running.repeating else { return };
        let spent = running.begun.map(|begun| begun.elapsed()).unwrap_or_default();
        let mut limits = running.limits;
        let left = limits.time.map(|most| most.saturating_sub(spent));
        if left.is_some_and(|left| left.is_zero()) {
            let reached = Reached { limit: Limit::Time, scope: Scope::Cell };
            return self.end_repeating_with(reached);
        }
        limits.time = Some(left.map_or(repeating.asked.timeout, |left| left.min(repeating.asked.timeout)));
        let task = Task::Call { library: repeating.library.clone(), function: repeating.function.clone() };
        let perturb = repeating.seed();
        let (cpus, execution, parent) = (repeating.asked.cpus, running.execution, running.request.origin.clone());
        let notebook = bounds::of_notebook(&self.ceiling);
        let (room, limit) = bounds::room(&limits, &notebook, self.written());
        let (mut output, writers) = match Output::new(room) {
            Ok(made) => made,
            Err(error) => {
                let error = report::kernel(format!("no sockets for a run's output: {error}"));
                return self.end_repeating(Some(error), false);
            }
        };
        output.listen(true);
        self.next_cell += 1;
        let cell = CellId(self.next_cell);
        let live = LiveOutput { output, parent, limits, limit, ended: false, hidden: true, coloured: false };
        self.outputs.insert(cell, live);
        self.recording.begin(cell, execution, self.worker, true);
        let Some(running) = &mut self.running else { return };
        (running.cell, running.record) = (cell, cell);
        running.script = running.repeating.as_ref().and_then(|repeating| repeating.script.clone());
        running.time.begin();
        let run = ToSupervisor::Run { cell, task, checkpoint: true, limits, record: true, undo: true, cpus, perturb };
        self.send_run(&run, &writers);
    }

    /// A run is over, and everything that it did is undone.
    pub(super) fn on_run_ended(&mut self, cell: CellId, outcome: Outcome) {
        self.keep_run(cell, &outcome);
        let Some(running) = &mut self.running else { return };
        running.asking = None;
        running.time.end(recording::used(&outcome));
        let abandoned = running.stage == Stage::Abandoned;
        let lost = is_lost(&outcome) || running.repeating.as_ref().is_some_and(|repeating| repeating.lost);
        match &outcome {
            _ if lost => {
                let error = report::outcome(&outcome, &self.sources);
                self.end_repeating(error.or_else(|| Some(report::interrupted(Some(false)))), true);
            }
            Outcome::NotRun { .. } => {
                let error = report::outcome(&outcome, &self.sources);
                self.end_repeating(error, false);
            }
            // Nothing of it has run; the engine makes it anew without them.
            Outcome::Returned(report) if !report.lost_variables.is_empty() => {
                if self.settle_repeating() {
                    return self.answer_run(&ran(report));
                }
                // The engine that has asked for it has died meanwhile: the cell ends below.
            }
            _ => self.count_run(cell, &outcome),
        }
        if abandoned {
            if lost {
                self.say_variables_lost();
            }
            self.finish();
        }
    }

    /// A run has ended its checkpoint, and every variable is gone. That is said behind the run's end, when the
    /// next one may have begun without them: it is ended, and its end ends the repetition. Returns whether
    /// a cell is being repeated.
    pub(super) fn lose_repeating(&mut self, error: ReplyError) -> bool {
        let Some(running) = &mut self.running else { return false };
        let Some(repeating) = &mut running.repeating else { return false };
        repeating.lost = true;
        running.error.get_or_insert(error);
        if let Err(error) = self.far.send(&ToSupervisor::Interrupt) {
            tracing::warn!(%error, "the supervisor ended too");
        }
        true
    }

    /// Takes what the run has written into its record, and forgets its sockets.
    fn keep_run(&mut self, cell: CellId, outcome: &Outcome) {
        let Some(mut live) = self.outputs.remove(&cell) else { return };
        live.output.read(&mut self.buffer, READ_AT_END);
        live.output.end_characters(|_| true);
        self.recording.hear(cell, live.output.take_heard());
        self.written += live.output.taken();
        let full = live.output.is_full() && matches!(outcome, Outcome::Returned(_));
        let ending = if full { Ending::OverLimit("output".to_owned()) } else { recording::ending(outcome) };
        self.recording.end(cell, ending, recording::used(outcome));
    }

    fn count_run(&mut self, cell: CellId, outcome: &Outcome) {
        let whole = !matches!(outcome, Outcome::Interrupted { .. });
        let record = self.recording.record().filter(|_| whole && self.recording.is_of(cell));
        let Some(running) = &mut self.running else { return };
        let interrupted = running.interrupted || running.stage == Stage::Abandoned;
        let Some(repeating) = &mut running.repeating else { return };
        if let Some(record) = record {
            repeating.orders.add_record(&record);
        }
        if interrupted || !whole || repeating.is_done() {
            let (done, asked) = (repeating.orders.runs().len(), repeating.asked.runs);
            let stopped = !repeating.is_done();
            return self.end_repeating(stopped.then(|| report::repeat_interrupted(done, asked)), false);
        }
        if repeating.shown.elapsed() >= PACE {
            repeating.shown = Instant::now();
            let progress = UpdateDisplayData::new(show::media(repeating.progress()), &repeating.display);
            if !running.request.content.silent {
                self.front.iopub(Some(&running.request.origin), progress);
            }
        }
        self.begin_run();
    }

    fn end_repeating_with(&mut self, reached: Reached) {
        let Some(running) = &self.running else { return };
        let done = running.repeating.as_ref().map_or(0, |repeating| repeating.orders.runs().len());
        let what = format!("the repetition was ended after {done} of its runs");
        let error = self.over_limit(reached, &running.limits, &what);
        self.end_repeating(Some(error), false);
    }

    /// The last run is over: shows what was seen, and has the engine go on.
    fn end_repeating(&mut self, error: Option<ReplyError>, lost: bool) {
        if let Some(running) = &mut self.running
            && running.error.is_none()
        {
            running.error = error;
        }
        self.show_orders();
        let awaited = self.settle_repeating();
        if lost {
            self.tell_state_lost();
        } else if awaited {
            self.answer_run(&ToRunner::Dropped);
        }
    }

    /// Shows what was seen, if a cell is being repeated.
    pub(super) fn show_orders(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(repeating) = running.repeating.take() else { return };
        (running.cell, running.repeated) = (repeating.own, true);
        if !running.request.content.silent {
            let result = UpdateDisplayData::new(show::media(repeating.result()), &repeating.display);
            self.front.iopub(Some(&running.request.origin), result);
        }
        if !repeating.orders.runs().is_empty() {
            self.recording.keep_runs(repeating.orders);
        }
    }

    /// The cell has its own name again. Returns whether the engine waits for the end of the run.
    fn settle_repeating(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        if let Some(repeating) = running.repeating.take() {
            running.cell = repeating.own;
            running.progress = Some(repeating.display);
        }
        let Stage::Running(id) = running.stage else { return false };
        running.stage = Stage::Settling(id);
        true
    }
}
