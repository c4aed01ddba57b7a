//! One cell on its way from request to reply.
//!
//! ```text
//! queued ─▶ shell lines ─▶ waiting for the engine ─▶ compiling ─▶ running ─▶ compiling ─▶ finished
//!                                                        └──────── (no code to run) ───────▲
//! ```
//!
//! Only the event loop moves a cell on: by an answer of the supervisor, the runner or the engine,
//! by an interrupt, or by the end of one of those processes. Each of these can come at any stage;
//! the functions below are written by event and look at the stage.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

use forklab_engine::messages::{FromRunner, ToEngine, ToRunner, Verdict};
use forklab_worker::messages::{CellId, Exit, Outcome, Report, Task, ToSupervisor};
use jupyter_protocol::messaging::{ExecuteInput, ExecuteReply, ExecuteRequest, ReplyError, ReplyStatus};

use super::compiler::{Bundle, State, Successor};
use super::magics::{Cell, Script};
use super::output::Output;
use super::{Kernel, report, show};
use crate::jupyter::Origin;

/// The cell that is being worked on.
#[derive(Debug)]
pub struct Execution {
    /// The request.
    pub request: Request,
    /// The `n` of `In [n]`.
    pub execution: u32,
    /// Its name between our processes.
    pub cell: CellId,
    /// Answers for its input.
    pub script: Option<Script>,
    /// The process that the front end is asking a person for.
    pub asking: Option<i32>,
    /// The process that was refused input, the first one.
    pub refused: Option<i32>,
    /// Whether the person has interrupted it.
    pub interrupted: bool,
    shell: VecDeque<String>,
    rust: Option<String>,
    writers: [OwnedFd; 2],
    stage: Stage,
    results: Vec<Bundle>,
    error: Option<ReplyError>,
}

/// A request to run a cell.
#[derive(Debug)]
pub struct Request {
    /// Parent of everything that is published for it.
    pub origin: Origin,
    /// The code and the flags.
    pub content: ExecuteRequest,
}

/// What a cell needs before it can begin.
struct Prepared {
    cell: CellId,
    parsed: Cell,
    writers: [OwnedFd; 2],
}

impl Prepared {
    fn with(self, request: Request, execution: u32) -> Execution {
        let Prepared { cell, parsed, writers } = self;
        Execution {
            request,
            execution,
            cell,
            script: parsed.script,
            asking: None,
            refused: None,
            interrupted: false,
            shell: parsed.shell.into(),
            rust: Some(parsed.code).filter(|code| !code.is_empty()),
            writers,
            stage: Stage::Between,
            results: Vec::new(),
            error: None,
        }
    }
}

/// Where a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not begun, or between two steps.
    Between,
    /// A `!` line runs.
    Shell,
    /// The engine is not ready yet.
    WaitingForEngine,
    /// The engine works, with this request.
    Compiling(u64),
    /// The worker runs what the engine made.
    Running(u64),
    /// The engine has ended while the worker ran; the run is being ended too.
    Abandoned,
}

impl Kernel {
    /// Takes a request into the queue.
    pub(super) fn enqueue(&mut self, request: Request) {
        self.queue.push_back(request);
        self.begin_next();
    }

    /// Begins the next queued cell if none is being worked on.
    pub(super) fn begin_next(&mut self) {
        while self.running.is_none() {
            let Some(request) = self.queue.pop_front() else { return };
            self.begin(request);
        }
    }

    fn begin(&mut self, request: Request) {
        self.front.busy(&request.origin);
        let code = request.content.code.clone();
        if request.content.store_history && !request.content.silent {
            self.count += 1;
            self.history.push(self.count, &code);
        }
        let execution = self.count;
        if !request.content.silent {
            let input = ExecuteInput { code: code.clone(), execution_count: count(execution) };
            self.front.iopub(Some(&request.origin), input);
        }
        let prepared = self.prepare(&request, execution);
        self.sources.insert(execution, code);
        match prepared {
            Ok(prepared) => {
                self.running = Some(prepared.with(request, execution));
                self.advance();
            }
            Err(error) => self.conclude(&request, execution, Err(error)),
        }
    }

    fn prepare(&mut self, request: &Request, execution: u32) -> Result<Prepared, ReplyError> {
        if let Some(error) = self.must_tell.take() {
            return Err(error);
        }
        let parsed = Cell::parse(&request.content.code).map_err(|error| report::magic(&error, execution))?;
        let (output, writers) =
            Output::new().map_err(|error| report::kernel(format!("no sockets for the cell's output: {error}")))?;
        self.next_cell += 1;
        let cell = CellId(self.next_cell);
        self.outputs.insert(cell, super::LiveOutput { output, parent: request.origin.clone() });
        Ok(Prepared { cell, parsed, writers })
    }

    /// Takes the running cell's next step.
    pub(super) fn advance(&mut self) {
        let Some(running) = &mut self.running else { return };
        if running.error.is_some() {
            return self.finish();
        }
        if let Some(command) = running.shell.pop_front() {
            running.stage = Stage::Shell;
            return self.run_task(Task::Shell { command });
        }
        if running.rust.is_none() {
            return self.finish();
        }
        match self.compiler.state() {
            State::Idle => self.evaluate(),
            State::Failed(message) => self.fail(report::engine(message.clone())),
            // A completion may be on its way; the engine is free in a moment.
            State::Starting | State::Busy(_) => running.stage = Stage::WaitingForEngine,
        }
    }

    /// The engine has become free. A cell goes before completions, which it makes stale.
    pub(super) fn engine_free(&mut self) {
        match &self.running {
            Some(running) if running.stage == Stage::WaitingForEngine => self.advance(),
            Some(_) => {}
            None => self.send_next_analysis(),
        }
    }

    fn evaluate(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(code) = running.rust.take() else { return };
        let execution = running.execution;
        self.drop_waiting_analyses();
        let Some(running) = &mut self.running else { return };
        // When the engine has just ended, this fails, and its end is the next event: the cell is
        // in the stage that the event expects.
        match self.compiler.request(|id| ToEngine::Evaluate { id, execution, code }) {
            Ok(id) => running.stage = Stage::Compiling(id),
            Err(error) => {
                tracing::warn!(%error, "the engine ended before a request");
                running.stage = Stage::Compiling(0);
            }
        }
    }

    fn run_task(&mut self, task: Task) {
        let Some(running) = &self.running else { return };
        if let Err(error) = self.far.run(running.cell, task, true, &running.writers) {
            tracing::warn!(%error, "the supervisor ended before a run");
        }
    }

    /// The runner has something to run.
    pub(super) fn on_runner(&mut self, message: FromRunner) {
        let FromRunner::Run { library, function } = message;
        match &mut self.running {
            Some(running) if matches!(running.stage, Stage::Compiling(_)) && !running.interrupted => {
                if let Stage::Compiling(id) = running.stage {
                    running.stage = Stage::Running(id);
                }
                self.run_task(Task::Call { library, function });
            }
            // The engine's own warm-up, or a cell that is being interrupted: nothing runs.
            _ => self.answer_runner(&ToRunner::Ran { panicked: false, failed: false, lost_variables: Vec::new() }),
        }
    }

    fn answer_runner(&mut self, answer: &ToRunner) {
        if let Err(error) = self.compiler.runner().send(answer) {
            tracing::warn!(%error, "the runner ended before its answer");
        }
    }

    /// A task of the worker's is over.
    pub(super) fn on_ended(&mut self, cell: CellId, outcome: Outcome) {
        let Some(running) = self.running.as_mut().filter(|running| running.cell == cell) else {
            tracing::warn!(?cell, "a task ended that nobody waits for");
            return;
        };
        running.asking = None;
        running.error = running.error.take().or_else(|| report::outcome(&outcome, &self.sources));
        match running.stage {
            Stage::Shell => {
                if let Outcome::Died { restored: false, .. } | Outcome::Interrupted { restored: false } = outcome {
                    self.answer_runner(&ToRunner::StateLost);
                }
                self.advance();
            }
            Stage::Running(id) => {
                running.stage = Stage::Compiling(id);
                if let Outcome::Returned(report) = &outcome {
                    running.results.extend(bundles(report));
                }
                let answer = runner_answer(outcome);
                self.answer_runner(&answer);
            }
            Stage::Abandoned => {
                if let Outcome::Died { restored: false, .. } | Outcome::Interrupted { restored: false } = outcome {
                    self.answer_runner(&ToRunner::StateLost);
                }
                self.finish();
            }
            Stage::Between | Stage::WaitingForEngine | Stage::Compiling(_) => {
                tracing::warn!(?cell, "a task ended at an unexpected stage");
            }
        }
    }

    /// The engine has done with the cell.
    pub(super) fn on_evaluated(&mut self, id: u64, verdict: Verdict) {
        let Some(running) = &mut self.running else { return };
        if running.stage != Stage::Compiling(id) {
            return;
        }
        match verdict {
            Verdict::Committed { display } => {
                if !display.is_empty() {
                    running.results.insert(0, display);
                }
            }
            Verdict::Rejected(rejection) => running.error = running.error.take().or(Some(report::rejected(rejection))),
            Verdict::RolledBack => {
                running.error = running.error.take().or_else(|| Some(report::engine("the cell was not run")));
            }
        }
        running.stage = Stage::Between;
        self.advance();
    }

    /// The person wants the cell to end.
    pub(super) fn interrupt(&mut self) {
        let stage = self.running.as_mut().map(|running| {
            running.interrupted = true;
            running.stage
        });
        match stage {
            Some(Stage::Compiling(_)) => self.compiler.kill(),
            Some(Stage::WaitingForEngine) => self.fail(report::interrupted(None)),
            // Without a running cell, what earlier cells have left behind ends.
            None | Some(Stage::Between | Stage::Shell | Stage::Running(_) | Stage::Abandoned) => {
                if let Err(error) = self.far.send(&ToSupervisor::Interrupt) {
                    tracing::warn!(%error, "the supervisor ended before an interrupt");
                }
            }
        }
    }

    /// The engine's process is gone; `successor` has taken its place.
    pub(super) fn engine_ended(&mut self, successor: Successor) {
        let kept = match successor {
            Successor::Standby => "the definitions and variables from before this cell are there",
            Successor::Fresh => "a new one was started; run the cells with your definitions again",
            Successor::None => "it cannot be started again; restart the kernel",
        };
        let error = report::engine(format!("the compiler process ended unexpectedly; {kept}"));
        let Some(running) = &mut self.running else {
            if successor != Successor::Standby {
                self.must_tell = Some(error);
            }
            return;
        };
        match running.stage {
            Stage::Compiling(_) if running.interrupted => {
                running.error = Some(report::interrupted(None));
                self.finish();
            }
            Stage::Compiling(_) => self.fail(error),
            // The worker's variables must not run ahead of what the successor knows: the run is
            // ended and rolled back, and its answer is for nobody.
            Stage::Running(_) => {
                running.error = Some(error);
                running.stage = Stage::Abandoned;
                if let Err(error) = self.far.send(&ToSupervisor::Interrupt) {
                    tracing::warn!(%error, "the supervisor ended too");
                }
            }
            Stage::WaitingForEngine => self.advance(),
            Stage::Between | Stage::Shell | Stage::Abandoned => {}
        }
    }

    /// The far side is gone, and with it the worker and its variables.
    pub(super) fn far_side_ended(&mut self) {
        self.answer_runner(&ToRunner::StateLost);
        let error =
            report::kernel("the kernel's supervisor ended; all processes and variables are lost, run the cells again");
        match &mut self.running {
            None => self.must_tell = Some(error),
            Some(running) => match running.stage {
                Stage::Running(id) => {
                    running.error = Some(error);
                    running.stage = Stage::Compiling(id);
                }
                _ => self.fail(error),
            },
        }
    }

    /// The worker died between two cells, and its variables with it.
    pub(super) fn state_lost(&mut self, how: Exit) {
        self.answer_runner(&ToRunner::StateLost);
        self.must_tell = Some(report::lost_between_cells(how));
    }

    /// The far side cannot do what it must, such as ending a process.
    pub(super) fn far_side_failed(&mut self, message: &str) {
        tracing::error!(message, "the supervisor has failed");
        let error = report::kernel(format!("{message}; restart the kernel"));
        match &mut self.running {
            None => self.must_tell = Some(error),
            Some(running) => running.error = running.error.take().or(Some(error)),
        }
    }

    fn fail(&mut self, error: ReplyError) {
        if let Some(running) = &mut self.running {
            running.error.get_or_insert(error);
            self.finish();
        }
    }

    /// Delivers what was written, then the result or the error, then the reply.
    fn finish(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.deliver_all(running.cell);
        let Execution { request, execution, results, error, refused, writers, .. } = running;
        // From here on, only processes of the cell hold its sockets open.
        drop(writers);
        let error = error.or_else(|| refused.map(report::input_refused));
        if error.is_none() && !request.content.silent {
            show::results(&self.front, &request.origin, execution, results);
        }
        self.conclude(&request, execution, error.map_or(Ok(()), Err));
        self.begin_next();
    }

    /// Publishes the error, replies, and says that the kernel is idle.
    fn conclude(&mut self, request: &Request, execution: u32, end: Result<(), ReplyError>) {
        let mut reply = ExecuteReply { execution_count: count(execution), ..ExecuteReply::default() };
        reply.user_expressions = Some(show::user_expressions(&request.content));
        // What has been sent by now is queued behind the error. Taken before the reply goes out: a front
        // end that has the reply may send its next cell at once, and that one is not queued.
        let aborted =
            if end.is_err() && request.content.stop_on_error { self.take_queue() } else { Default::default() };
        if let Err(error) = end {
            self.front.iopub(Some(&request.origin), show::error_output(&error));
            reply.status = ReplyStatus::Error;
            reply.error = Some(Box::new(error));
        }
        self.front.reply(&request.origin, reply);
        self.front.idle(&request.origin);
        self.abort(aborted);
    }

    /// Answers every queued cell with `aborted`.
    pub(super) fn abort_queued(&mut self) {
        let queued = self.take_queue();
        self.abort(queued);
    }

    /// Empties the queue. What the front end has sent by now counts as queued: it is still in our
    /// inbox when the cells were sent all at once ("run all").
    fn take_queue(&mut self) -> std::collections::VecDeque<Request> {
        self.take_incoming_executes();
        std::mem::take(&mut self.queue)
    }

    fn abort(&mut self, requests: std::collections::VecDeque<Request>) {
        for request in requests {
            self.front.busy(&request.origin);
            let status = ReplyStatus::Aborted;
            let user_expressions = Some(Default::default());
            let execution_count = count(self.count);
            let reply = ExecuteReply { status, execution_count, user_expressions, ..ExecuteReply::default() };
            self.front.reply(&request.origin, reply);
            self.front.idle(&request.origin);
        }
    }

    /// Whether this is the cell that is running, or the last that ran, for a process that reads.
    pub(super) fn running_cell(&self) -> Option<CellId> {
        self.running.as_ref().map(|running| running.cell)
    }
}

fn count(execution: u32) -> jupyter_protocol::ExecutionCount {
    jupyter_protocol::ExecutionCount::new(execution as usize)
}

fn runner_answer(outcome: Outcome) -> ToRunner {
    match outcome {
        Outcome::Returned(report) => ToRunner::Ran {
            panicked: report.panic.is_some(),
            failed: report.error.is_some(),
            lost_variables: report.lost_variables,
        },
        Outcome::Died { restored: false, .. } | Outcome::Interrupted { restored: false } => ToRunner::StateLost,
        Outcome::NotRun { .. } | Outcome::Died { .. } | Outcome::Interrupted { .. } => ToRunner::Dropped,
    }
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
