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
use std::rc::Rc;

use forklab_engine::messages::{FromRunner, ToEngine, ToRunner, Verdict};
use forklab_worker::messages::{CellId, Outcome, Report, Task, ToSupervisor};
use jupyter_protocol::messaging::{ExecuteInput, ExecuteReply, ExecuteRequest, ReplyError, ReplyStatus, Status};

use super::compiler::{Bundle, State, Successor};
use super::magics::{Cell, Script};
use super::output::Output;
use super::{Kernel, report, show};
use crate::jupyter::Incoming;

/// The cell that is being worked on.
#[derive(Debug)]
pub struct Execution {
    /// The request, parent of everything that is published for it.
    pub request: Rc<Incoming>,
    /// What of the request matters later.
    pub options: Options,
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

/// The flags of an execute request.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Publish no input and no result, and do not count.
    pub silent: bool,
    /// Abort what is queued when this cell fails.
    pub stop_on_error: bool,
    /// Whether the front end can ask the person.
    pub allow_stdin: bool,
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
    /// Takes an execute request into the queue.
    pub(super) fn enqueue(&mut self, request: Incoming) {
        self.queue.push_back(Rc::new(request));
        self.begin_next();
    }

    /// Begins the next queued cell if none is being worked on.
    pub(super) fn begin_next(&mut self) {
        while self.running.is_none() {
            let Some(request) = self.queue.pop_front() else { return };
            let Some(content) = request.execute_request().cloned() else { continue };
            self.begin(request, content);
        }
    }

    fn begin(&mut self, request: Rc<Incoming>, content: ExecuteRequest) {
        self.front.iopub(Some(&request), Status::busy());
        let counted = content.store_history && !content.silent;
        if counted {
            self.count += 1;
        }
        let execution = self.count;
        if !content.silent {
            let input = ExecuteInput { code: content.code.clone(), execution_count: count(execution) };
            self.front.iopub(Some(&request), input);
        }
        if counted {
            self.history.push(execution, &content.code);
        }
        self.sources.insert(execution, content.code.clone());
        match self.prepare(&request, &content, execution) {
            Ok(running) => {
                self.running = Some(running);
                self.advance();
            }
            Err(error) => self.conclude(&request, options(&content), execution, Err(error)),
        }
    }

    fn prepare(&mut self, request: &Rc<Incoming>, content: &ExecuteRequest, execution: u32) -> Result<Execution, ReplyError> {
        if let Some(error) = self.must_tell.take() {
            return Err(error);
        }
        let parsed = Cell::parse(&content.code).map_err(|error| report::magic(&error, execution))?;
        let (output, writers) =
            Output::new().map_err(|error| report::kernel(format!("no sockets for the cell's output: {error}")))?;
        self.next_cell += 1;
        let cell = CellId(self.next_cell);
        self.outputs.insert(cell, super::LiveOutput { output, parent: Rc::clone(request) });
        Ok(Execution {
            request: Rc::clone(request),
            options: options(content),
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
        })
    }

    /// Takes the running cell's next step.
    pub(super) fn advance(&mut self) {
        let Some(running) = &mut self.running else { return };
        if running.error.is_some() {
            return self.finish();
        }
        if let Some(command) = running.shell.pop_front() {
            running.stage = Stage::Shell;
            return self.run(Task::Shell { command });
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

    /// The engine has become free.
    pub(super) fn engine_free(&mut self) {
        if self.running.as_ref().is_some_and(|running| running.stage == Stage::WaitingForEngine) {
            self.advance();
        }
    }

    fn evaluate(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(code) = running.rust.take() else { return };
        let execution = running.execution;
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

    fn run(&mut self, task: Task) {
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
                self.run(Task::Call { library, function });
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
            Stage::Abandoned => self.finish(),
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
        let error = report::kernel("the kernel's supervisor ended; all processes and variables are lost, run the cells again");
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
        let Execution { request, options, execution, results, error, refused, writers, .. } = running;
        // From here on, only processes of the cell hold its sockets open.
        drop(writers);
        let error = error.or_else(|| refused.map(report::input_refused));
        if error.is_none() && !options.silent {
            show::results(&self.front, &request, execution, results);
        }
        self.conclude(&request, options, execution, error.map_or(Ok(()), Err));
        self.begin_next();
    }

    /// Publishes the error, replies, and says that the kernel is idle.
    fn conclude(&mut self, request: &Rc<Incoming>, options: Options, execution: u32, end: Result<(), ReplyError>) {
        let mut reply = ExecuteReply { execution_count: count(execution), ..ExecuteReply::default() };
        reply.user_expressions = Some(show::user_expressions(request));
        let failed = end.is_err();
        if let Err(error) = end {
            self.front.iopub(Some(request), show::error_output(&error));
            reply.status = ReplyStatus::Error;
            reply.error = Some(Box::new(error));
        }
        self.front.reply(request, reply);
        self.front.iopub(Some(request), Status::idle());
        if failed && options.stop_on_error {
            self.abort_queued();
        }
    }

    /// Answers every queued cell with `aborted`. What the front end has sent by now counts as
    /// queued: it is still in our inbox when the cells were sent all at once ("run all").
    pub(super) fn abort_queued(&mut self) {
        self.take_incoming_executes();
        for request in std::mem::take(&mut self.queue) {
            self.front.iopub(Some(&request), Status::busy());
            let status = ReplyStatus::Aborted;
            let reply = ExecuteReply { status, execution_count: count(self.count), ..ExecuteReply::default() };
            self.front.reply(&request, reply);
            self.front.iopub(Some(&request), Status::idle());
        }
    }

    /// Whether this is the cell that is running, or the last that ran, for a process that reads.
    pub(super) fn running_cell(&self) -> Option<CellId> {
        self.running.as_ref().map(|running| running.cell)
    }
}

fn options(content: &ExecuteRequest) -> Options {
    Options { silent: content.silent, stop_on_error: content.stop_on_error, allow_stdin: content.allow_stdin }
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
