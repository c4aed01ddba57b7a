//! One cell on its way from request to reply.
//!
//! ```text
//! queued ─▶ magics, shell lines ─▶ waiting for the engine ─▶ compiling ─▶ running ⇄ settling ─▶ (%%wait) ─▶ finished
//!                                                               └──────── (no code to run) ─────▲
//! ```
//!
//! Only the event loop moves a cell on: by an answer of the supervisor, the runner or the engine,
//! by an interrupt, or by the end of one of those processes (`deaths`). Each of these can come at any
//! stage; the functions are written by event and look at the stage.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use forklab_engine::messages::{FromRunner, Ran, ToEngine, ToRunner, Verdict};
use forklab_worker::messages::{CellId, Limits, Outcome, Report, Task, ToSupervisor};
use jupyter_protocol::messaging::{ExecuteInput, ExecuteReply, ExecuteRequest, ReplyError, ReplyStatus};

use super::compiler::{Bundle, State};
use super::magics::observe::{Repeat, Trace};
use super::magics::{Cell, MagicError, Script, Step, Wait};
use super::observing::Time;
use super::output::Output;
use super::repeating::Repeating;
use super::{Kernel, bounds, processes, recording, report, show};
use crate::jupyter::Origin;
use crate::limits;

/// The longest cell, in bytes. A compiler needs a hundred times as much memory for some of them, and
/// minutes; no person has written one.
pub const LONGEST_CELL: usize = 4 << 20;

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
    /// Until when it waits for its processes; for ever without.
    pub wait_until: Option<Instant>,
    /// Whether that is when its time is up.
    pub wait_limited: bool,
    /// When its first task began.
    pub begun: Option<Instant>,
    pub(super) stage: Stage,
    pub(super) error: Option<ReplyError>,
    head: VecDeque<Step>,
    wait: Option<Wait>,
    pub(super) limits: Limits,
    /// How many forks were refused for the limit of processes.
    refused_forks: u64,
    rust: Option<String>,
    writers: [OwnedFd; 2],
    results: Vec<Bundle>,
    /// `%%trace`
    pub(super) trace: Option<Trace>,
    /// `%%time`
    pub(super) time: Time,
    /// `%%repeat`
    repeat: Option<Repeat>,
    pub(super) repeating: Option<Repeating>,
    /// It was repeated, and what it defines is not kept.
    pub(super) repeated: bool,
    /// Whose record is the cell's: its own, or that of the last run of a repeated one.
    pub(super) record: CellId,
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
    limits: Limits,
    writers: [OwnedFd; 2],
}

impl Prepared {
    fn with(self, request: Request, execution: u32) -> Execution {
        let Prepared { cell, parsed, limits, writers } = self;
        // A run that is repeated ends when its code does.
        let wait = if parsed.repeat.is_some() { None } else { parsed.wait.or_else(wait_of_graders) };
        Execution {
            request,
            execution,
            cell,
            script: parsed.script,
            asking: None,
            refused: None,
            interrupted: false,
            wait_until: None,
            wait_limited: false,
            begun: None,
            head: parsed.head.into(),
            wait,
            limits,
            refused_forks: 0,
            rust: Some(parsed.code).filter(|code| !code.is_empty()),
            writers,
            stage: Stage::Between,
            results: Vec::new(),
            error: None,
            trace: parsed.trace,
            time: Time::wanted(parsed.time),
            repeat: parsed.repeat,
            repeating: None,
            repeated: false,
            record: cell,
        }
    }
}

/// Where a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not begun, or between two steps.
    Between,
    /// A `!` line runs.
    Shell,
    /// The supervisor is asked for a line magic.
    Asking,
    /// The engine is not ready yet.
    WaitingForEngine,
    /// The engine works, with this request.
    Compiling(u64),
    /// The worker runs what the engine made.
    Running(u64),
    /// The run is over and the engine takes note of it, or wants another.
    Settling(u64),
    /// The engine has ended while the worker ran; the run is being ended too.
    Abandoned,
    /// The code is done; processes that the cell has started live on.
    Waiting,
}

impl Kernel {
    /// Begins the next queued cell if none is being worked on. Called by the loop only, once a round:
    /// a cell that ends at once must not begin the next one from within its own end, and what it
    /// leaves (its sockets) is cleared away between the two.
    pub(super) fn begin_next(&mut self) {
        if self.running.is_none()
            && let Some(request) = self.queue.pop_front()
        {
            self.begin(request);
        }
    }

    fn begin(&mut self, request: Request) {
        self.front.busy(&request.origin);
        let length = request.content.code.len();
        if length > LONGEST_CELL {
            // Neither kept in the history nor sent back.
            return self.conclude(&request, Err(report::too_long(length, LONGEST_CELL)));
        }
        let code = request.content.code.clone();
        let counted = request.content.store_history && !request.content.silent;
        if counted {
            self.count += 1;
            self.history.push(self.count, &code);
        }
        // A cell that is not counted has no `In [n]`, and must not take another's.
        let execution = if counted { self.count } else { 0 };
        if !request.content.silent {
            let input = ExecuteInput { code: code.clone(), execution_count: count(self.count) };
            self.front.iopub(Some(&request.origin), input);
        }
        let prepared = self.prepare(&request, execution);
        self.sources.insert(execution, code);
        match prepared {
            Ok(prepared) => {
                self.running = Some(prepared.with(request, execution));
                self.advance();
            }
            Err(error) => self.conclude(&request, Err(error)),
        }
    }

    fn prepare(&mut self, request: &Request, execution: u32) -> Result<Prepared, ReplyError> {
        if let Some(error) = self.must_tell.take() {
            return Err(error);
        }
        let parsed = Cell::parse(&request.content.code).map_err(|error| report::magic(&error, execution))?;
        if let Some(repeat) = parsed.repeat.as_ref().filter(|_| !self.checkpoints) {
            let message =
                "`%%repeat` goes back to the state before each run, and checkpoints are off: `%checkpoint on`";
            return Err(report::magic(&MagicError { line: repeat.line, message: message.to_owned() }, execution));
        }
        let ceiling = self.ceiling.as_ref().map_err(|error| report::kernel(error.to_string()))?;
        let limits = match &parsed.limit {
            Some(words) => limits::parse_cell(words, ceiling)
                .map_err(|message| report::magic(&MagicError { line: parsed.limit_line, message }, execution))?,
            None => ceiling.cell,
        };
        let (room, limit) = bounds::room(&limits, &ceiling.notebook, self.written());
        let (mut output, writers) =
            Output::new(room).map_err(|error| report::kernel(format!("no sockets for the cell's output: {error}")))?;
        self.next_cell += 1;
        let cell = CellId(self.next_cell);
        let parent = request.origin.clone();
        let coloured = parsed.trace.is_some_and(|trace| trace.colour);
        if coloured {
            output.keep_writers();
        }
        let live = super::LiveOutput { output, parent, limits, limit, ended: false, hidden: false, coloured };
        self.outputs.insert(cell, live);
        self.executions.insert(cell, execution);
        Ok(Prepared { cell, parsed, limits, writers })
    }

    /// Takes the running cell's next step.
    pub(super) fn advance(&mut self) {
        let Some(running) = &mut self.running else { return };
        let done = running.head.is_empty() && running.rust.is_none();
        if running.interrupted && !done {
            // Its processes had all ended when the interrupt came, between two of its steps.
            running.error.get_or_insert(report::interrupted(Some(true)));
        }
        if running.error.is_some() || done {
            return match running.wait.take() {
                Some(wait) if !running.interrupted => self.await_processes(wait.most),
                _ => self.finish(),
            };
        }
        match running.head.pop_front() {
            Some(Step::Shell(command)) => {
                running.stage = Stage::Shell;
                return self.run_task(Task::Shell { command });
            }
            Some(Step::Magic(magic)) => return self.line_magic(&magic),
            None => {}
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
        // When this fails, the engine has ended or is ended here, and its end is the next event: the
        // cell is in the stage that the event expects.
        let losses = self.losses;
        self.told_losses = losses;
        match self.compiler.request(|id| ToEngine::Evaluate { id, execution, code, losses }) {
            Ok(id) => running.stage = Stage::Compiling(id),
            Err(error) => {
                tracing::warn!(%error, "the engine cannot be asked");
                running.stage = Stage::Compiling(0);
                self.compiler.kill();
            }
        }
    }

    fn run_task(&mut self, task: Task) {
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
            live.output.read(&mut self.buffer, super::READ_AT_END);
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

    /// The engine has done with the cell.
    pub(super) fn on_evaluated(&mut self, id: u64, verdict: Verdict) {
        let Some(running) = self
            .running
            .as_mut()
            .filter(|running| [Stage::Compiling(id), Stage::Settling(id)].contains(&running.stage))
        else {
            // The answer to a cell that has failed meanwhile; the engine is free for the next.
            return self.engine_free();
        };
        match verdict {
            Verdict::Committed { display } => {
                if !display.is_empty() {
                    running.results.insert(0, display);
                }
            }
            Verdict::Repeated => {}
            Verdict::Rejected(rejection) => running.error = running.error.take().or(Some(report::rejected(rejection))),
            Verdict::RolledBack if running.repeated => {}
            Verdict::RolledBack => {
                let interrupted = running.interrupted;
                running.error = running.error.take().or_else(|| {
                    Some(if interrupted { report::interrupted(None) } else { report::engine("the cell was not run") })
                });
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
        tracing::debug!(?stage, "interrupted");
        // Whatever the cell does now, and without one: what earlier cells have left behind ends, too.
        if let Err(error) = self.far.send(&ToSupervisor::Interrupt) {
            tracing::warn!(%error, "the supervisor ended before an interrupt");
        }
        match stage {
            // Where the engine has nobody to take its place, it goes on, and what it makes is not run.
            Some(Stage::Compiling(_)) if self.compiler.interrupt() => {}
            Some(Stage::Compiling(_) | Stage::WaitingForEngine) => self.fail(report::interrupted(None)),
            _ => {}
        }
    }

    pub(super) fn fail(&mut self, error: ReplyError) {
        if let Some(running) = &mut self.running {
            running.error.get_or_insert(error);
            self.finish();
        }
    }

    /// Delivers what was written, then the result or the error, then the reply.
    pub(super) fn finish(&mut self) {
        self.show_orders();
        if let Some(cell) = self.running_cell() {
            self.deliver_last(cell);
            self.show_record();
        }
        let Some(running) = self.running.take() else { return };
        let full = self.full_output(running.cell, &running.limits);
        let Execution { request, results, error, refused, writers, refused_forks, limits, .. } = running;
        // From here on, only processes of the cell hold its sockets open.
        drop(writers);
        let mut error = error.or(full).or_else(|| refused.map(report::input_refused));
        if let Some(error) = &mut error
            && refused_forks > 0
            // Whose own words say it.
            && error.ename != report::LIMIT_REACHED
        {
            error.traceback.push(self.refused_forks(refused_forks, &limits));
        }
        if error.is_none() && !request.content.silent {
            show::results(&self.front, &request.origin, self.count, results);
        }
        self.conclude(&request, error.map_or(Ok(()), Err));
    }

    /// Publishes the error, replies, and says that the kernel is idle.
    fn conclude(&mut self, request: &Request, end: Result<(), ReplyError>) {
        let mut reply = ExecuteReply { execution_count: count(self.count), ..ExecuteReply::default() };
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

    /// The cell that is being worked on.
    pub(super) fn running_cell(&self) -> Option<CellId> {
        self.running.as_ref().map(|running| running.cell)
    }
}

/// A grader looks at a cell when it is idle, and sees nothing of what comes later.
fn wait_of_graders() -> Option<Wait> {
    let graded = std::env::var_os("NBGRADER_EXECUTION").is_some_and(|value| !value.is_empty());
    graded.then_some(Wait { most: Some(processes::GRADED_WAIT) })
}

fn count(execution: u32) -> jupyter_protocol::ExecutionCount {
    jupyter_protocol::ExecutionCount::new(execution as usize)
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
