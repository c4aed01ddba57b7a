//! One cell on its way from request to reply.
//!
//! ```text
//! queued ─▶ magics, shell lines ─▶ waiting for the engine ─▶ compiling ─▶ running ⇄ settling ─▶ (%%wait) ─▶ finished
//!                                                               └──────── (no code to run) ─────▲
//! ```
//!
//! Only the event loop moves a cell on: by an answer of the supervisor, the runner or the engine,
//! by an interrupt, or by the end of one of those processes (`deaths`). Each of these can come at any
//! stage; the functions are written by event and look at the stage. Those of its runs are in `runs`, those of
//! its end in `conclusion`.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use forklab_engine::messages::{ToEngine, Verdict};
use forklab_worker::messages::{CellId, Limits, Task, ToSupervisor};
use jupyter_protocol::messaging::{ExecuteInput, ExecuteRequest, ReplyError};

use super::compiler::{Bundle, State};
use super::conclusion::count;
use super::delivery::LiveOutput;
use super::magics::observe::{Repeat, Trace};
use super::magics::{Cell, MagicError, Script, Step, Wait};
use super::observing::Time;
use super::output::Output;
use super::repeating::Repeating;
use super::{Kernel, bounds, processes, report};
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
    pub(super) refused_forks: u64,
    rust: Option<String>,
    pub(super) writers: [OwnedFd; 2],
    pub(super) results: Vec<Bundle>,
    /// `%%trace`
    pub(super) trace: Option<Trace>,
    /// `%%time`
    pub(super) time: Time,
    /// `%%repeat`
    pub(super) repeat: Option<Repeat>,
    pub(super) repeating: Option<Repeating>,
    /// Where its progress is shown, between a first run that has lost variables and the next beginning.
    pub(super) progress: Option<String>,
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
            progress: None,
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
        let live = LiveOutput { output, parent, limits, limit, ended: false, hidden: false, coloured };
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
