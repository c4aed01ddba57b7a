//! The kernel: one loop that owns everything the notebook is.
//!
//! The world's events (messages of a front end, of the supervisor, of the engine and its runner,
//! output of cells, deadlines) come in through poll(2), one [`Event`] at a time, and every change
//! of state happens here, in one thread. Nothing in this module waits for a cell, a compiler or a
//! front end: what takes time is asked for by a message, and the answer is an event.

mod bounds;
mod compiler;
mod conclusion;
mod deaths;
mod delivery;
mod execution;
mod far;
mod history;
mod input;
mod magics;
mod observing;
mod output;
mod processes;
mod recording;
mod repeating;
mod report;
mod requests;
mod runs;
mod show;
mod strays;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use forklab_engine::messages::FromEngine;
use forklab_engine::zygote::{self, Ember, Zygote};
use forklab_sys::cgroup;
use forklab_sys::events::readable;
use forklab_sys::ready::wait_readable;
use forklab_worker::messages::{CellId, FromSupervisor};
use jupyter_protocol::messaging::ReplyError;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::compiler::Compiler;
use self::delivery::LiveOutput;
use self::execution::{Execution, Request};
use self::far::Far;
use self::history::History;
use self::recording::Recording;
use crate::jupyter::{Connection, FrontEnd, Incoming};
use crate::limits::{Ceiling, LimitsError};

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A signal for the server.
    Signal,
    /// The front end has sent something, or has room again.
    FrontEnd,
    /// The supervisor has something to say, or is gone.
    Supervisor,
    /// The engine has something to say, or is gone.
    Engine,
    /// The runner has something to say.
    Runner,
    /// Processes of a cell have written, or all of them are gone.
    Output(CellId),
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    Leave,
}

/// The state of a notebook.
struct Kernel {
    front: FrontEnd,
    signals: SignalFd,
    far: Far,
    compiler: Compiler,
    /// Becomes the zygote for later kernels, as soon as this one's engine has what it needs.
    ember: Option<Ember>,
    runner_open: bool,
    runtime: tempfile::TempDir,
    outputs: BTreeMap<CellId, LiveOutput>,
    queue: VecDeque<Request>,
    /// Messages that were passed over while cells were looked for.
    deferred: VecDeque<Incoming>,
    running: Option<Execution>,
    /// What the engine was asked about code.
    analyses: compiler::Pending<requests::Analysis>,
    /// What it will be asked when it is free.
    waiting_analyses: VecDeque<requests::Analysis>,
    /// The cells' sources, for the lines of errors.
    sources: report::Sources,
    history: History,
    recording: Recording,
    count: u32,
    next_cell: u64,
    /// Something that happened between cells and that the next cell's person has to know.
    must_tell: Option<ReplyError>,
    /// How often the variables were lost, and how often they had been when the engine was asked last.
    losses: u64,
    told_losses: u64,
    /// How many supervisors in a row have not had a worker.
    far_starts: u32,
    /// The process that runs the cells.
    worker: i32,
    /// What cells and the notebook may use.
    ceiling: Result<Ceiling, LimitsError>,
    /// Control groups that the supervisor has made.
    groups: Vec<std::path::PathBuf>,
    /// `%checkpoint`
    checkpoints: bool,
    /// The `n` of `In [n]` for each cell.
    executions: HashMap<CellId, u32>,
    /// What cells have written that are forgotten.
    written: u64,
    buffer: Vec<u8>,
}

/// Serves one notebook until it is shut down.
///
/// # Errors
/// A connection file that cannot be used, ports that cannot be bound, or processes that cannot be
/// started.
pub fn serve(connection: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let connection = Connection::read(connection)?;
    let program = std::env::current_exe()?;
    // Blocked before any thread starts, so that no thread takes a signal that is for the loop.
    // SIGINT is taken and ignored: front ends interrupt by message, and a Ctrl-C in the terminal
    // of a Jupyter server goes to every process of its group.
    let mut mask = SigSet::empty();
    mask.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD]);
    mask.thread_block()?;
    // Of those that cells may send, these would end the kernel, and are nothing to it.
    forklab_sys::signals::ignore_strangers();
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let zygote = find_zygote();
    let mut ember = zygote.as_ref().and_then(|zygote| leave_ember(zygote, &program));
    let front = FrontEnd::bind(&connection)?;
    front.starting();
    // What becomes the zygote is no descendant of ours any more.
    if let Some(ember) = &mut ember {
        ember.detach();
    }
    // A standby that has taken over from a dead engine, and what that engine had started, become
    // ours to reap and to end.
    nix::sys::prctl::set_child_subreaper(true)?;
    // Nobody else's business: the cells' sources are below it.
    let private = std::fs::Permissions::from_mode(0o700);
    let runtime = tempfile::Builder::new().prefix("forklab-").permissions(private).tempdir()?;
    let ceiling = Ceiling::load();
    let far = Far::start(&crate::cli::cells_program(), runtime.path(), bounds::of_notebook(&ceiling))?;
    let compiler = Compiler::start(&program, runtime.path(), zygote)?;
    let recording = Recording::new(runtime.path());
    let kernel = Kernel {
        front,
        signals,
        far,
        compiler,
        ember,
        runner_open: true,
        runtime,
        outputs: BTreeMap::new(),
        queue: VecDeque::new(),
        deferred: VecDeque::new(),
        running: None,
        analyses: compiler::Pending::new(),
        waiting_analyses: VecDeque::new(),
        sources: report::Sources::new(),
        history: History::default(),
        recording,
        count: 0,
        next_cell: 0,
        must_tell: None,
        losses: 0,
        told_losses: 0,
        far_starts: 0,
        worker: 0,
        ceiling,
        groups: Vec::new(),
        checkpoints: true,
        executions: HashMap::new(),
        written: 0,
        buffer: vec![0; 256 << 10],
    };
    kernel.run()
}

/// The zygote for this kernel, if there is to be one.
fn find_zygote() -> Option<Zygote> {
    if !zygote::is_wanted() {
        return None;
    }
    let found = Zygote::of_this_process(crate::cli::data_dir().as_deref());
    found.inspect_err(|error| tracing::warn!(%error, "no zygote: a cold start")).ok()
}

/// Starts what can become the zygote, if there is none.
fn leave_ember(zygote: &Zygote, program: &Path) -> Option<Ember> {
    if zygote.exists() {
        return None;
    }
    let ember = zygote.ember(program);
    ember.inspect_err(|error| tracing::warn!(%error, "there will be no zygote for other kernels")).ok()
}

impl Kernel {
    fn run(mut self) -> Result<(), Box<dyn std::error::Error>> {
        loop {
            for event in self.wait()? {
                if self.handle(event)? == Flow::Leave {
                    self.leave();
                    return Ok(());
                }
            }
            if !self.deferred.is_empty() && self.on_front_end() == Flow::Leave {
                self.leave();
                return Ok(());
            }
            if self.compiler.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
                tracing::warn!("the zygote does not answer: a cold start");
                self.do_without_zygote()?;
            }
            self.begin_next();
            let now = Instant::now();
            self.look_at_wait(now);
            self.send_ready_output(now);
        }
    }

    /// Waits for events, or for the next deadline. Returns what has happened.
    fn wait(&self) -> io::Result<Vec<Event>> {
        let mut events = vec![Event::Signal, Event::FrontEnd, Event::Supervisor];
        let mut descriptors = vec![self.signals.as_fd(), self.front.as_fd(), self.far.as_fd()];
        if let Some(engine) = self.compiler.descriptor() {
            events.push(Event::Engine);
            descriptors.push(engine);
        }
        if self.runner_open {
            events.push(Event::Runner);
            descriptors.push(self.compiler.runner().as_fd());
        }
        // While the front end has no room, output stays with its writers, who then wait too.
        if self.front.iopub_room() {
            for (cell, live) in &self.outputs {
                for descriptor in live.output.descriptors() {
                    events.push(Event::Output(*cell));
                    descriptors.push(descriptor);
                }
            }
        }
        let happened = readable(&descriptors, self.patience())?;
        let mut events: Vec<Event> =
            events.into_iter().zip(happened).filter(|(_, happened)| *happened).map(|(event, _)| event).collect();
        events.dedup();
        Ok(events)
    }

    /// How long nothing is due without an event; `None`: for ever.
    fn patience(&self) -> Option<Duration> {
        if self.running.is_none() && !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let output = self.outputs.values().filter_map(|live| live.deadline(&self.recording)).min();
        let next = [output, self.end_of_wait(), self.compiler.deadline()].into_iter().flatten().min();
        next.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn handle(&mut self, event: Event) -> io::Result<Flow> {
        match event {
            Event::Signal => return Ok(self.on_signal()),
            Event::FrontEnd => return Ok(self.on_front_end()),
            Event::Supervisor => self.on_supervisor()?,
            Event::Engine => self.on_engine()?,
            Event::Runner => self.on_runner_event()?,
            Event::Output(cell) => self.on_output(cell),
        }
        Ok(Flow::Continue)
    }

    fn on_signal(&mut self) -> Flow {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGINT) => {}
                // A cell may signal its grandparent as any other process; that does not end a notebook.
                Ok(Signal::SIGTERM | Signal::SIGHUP) if self.is_of_a_cell(signal.ssi_pid) => {
                    tracing::warn!(pid = signal.ssi_pid, "a process of a cell wanted the kernel to end");
                }
                Ok(Signal::SIGCHLD) => {
                    self.far.go_on_if_stopped();
                    self.reap_adopted();
                }
                _ => return Flow::Leave,
            }
        }
        Flow::Continue
    }

    fn on_supervisor(&mut self) -> io::Result<()> {
        let message = self.far.receive();
        tracing::debug!(?message, "from the supervisor");
        match message {
            Ok(Some(FromSupervisor::Ended { cell, outcome, refused_forks })) => {
                self.on_ended(cell, outcome, refused_forks);
            }
            Ok(Some(FromSupervisor::Recorded { cell, events, gaps })) => self.recording.add(cell, events, gaps),
            Ok(Some(FromSupervisor::WantsInput { pid, cell })) => self.on_wants_input(pid, cell),
            Ok(Some(FromSupervisor::InputCancelled { pid })) => self.on_input_cancelled(pid),
            Ok(Some(FromSupervisor::Worker { pid })) => {
                self.worker = pid.0;
                self.far_starts = 0;
            }
            Ok(Some(FromSupervisor::Processes { processes })) => self.on_processes(&processes),
            Ok(Some(FromSupervisor::Killed { pids, strangers })) => self.on_killed(&pids, &strangers),
            Ok(Some(FromSupervisor::Gone { cell })) => self.on_gone(cell),
            Ok(Some(FromSupervisor::LeftoversEnded { reached, processes })) => {
                self.on_leftovers_ended(reached, &processes);
            }
            Ok(Some(FromSupervisor::Limiting { how, groups })) => {
                tracing::info!(how, "limits");
                self.groups = groups;
            }
            Ok(Some(FromSupervisor::StateLost { how })) => self.state_lost(how),
            Ok(Some(FromSupervisor::Failed { message })) => self.far_side_failed(&message),
            end @ (Ok(None) | Err(_)) => {
                tracing::error!(?end, "the supervisor ended");
                self.far_side_ended()?;
            }
        }
        Ok(())
    }

    fn on_engine(&mut self) -> io::Result<()> {
        let message = self.compiler.receive();
        tracing::debug!(?message, "from the engine");
        match message {
            Ok(Some(FromEngine::Ready)) => self.engine_free(),
            Ok(Some(FromEngine::Failed { message })) => {
                tracing::error!(%message, "no engine");
                self.engine_free();
            }
            Ok(Some(FromEngine::Forked { .. } | FromEngine::Rested)) => {}
            // The engine has done all that it does by itself.
            Ok(Some(FromEngine::Standby { .. })) => self.kindle(),
            Ok(Some(FromEngine::NoStandby { why })) => {
                tracing::warn!(%why, "the engine has no standby");
                self.kindle();
            }
            Ok(Some(FromEngine::Run { library, function, losses })) => self.run_unless_lost(library, function, losses),
            Ok(Some(FromEngine::Building { name })) => tracing::info!(%name, "building a dependency"),
            Ok(Some(FromEngine::Evaluated { id, verdict })) => self.on_evaluated(id, verdict),
            Ok(Some(FromEngine::Completed { id, start, end, matches })) => {
                self.on_completed(id, start, end, &matches);
                self.engine_free();
            }
            Ok(Some(FromEngine::Inspected { id, found })) => {
                self.on_inspected(id, found);
                self.engine_free();
            }
            Ok(None) | Err(_) if self.do_without_zygote()? => {
                tracing::warn!("the zygote's engine ended before it was ready: a cold start");
            }
            end @ (Ok(None) | Err(_)) => {
                tracing::warn!(?end, "the engine ended");
                let successor = self.compiler.take_over();
                self.runner_open = true;
                self.drop_analyses();
                self.engine_ended(successor);
            }
        }
        Ok(())
    }

    /// Goes on with an engine of our own, where the zygote's is not ready; whether it was not.
    fn do_without_zygote(&mut self) -> io::Result<bool> {
        let cold = self.compiler.do_without_zygote()?;
        self.runner_open |= cold;
        Ok(cold)
    }

    /// Lets other kernels have a zygote.
    fn kindle(&mut self) {
        if let Some(mut ember) = self.ember.take() {
            ember.kindle();
        }
    }

    fn on_runner_event(&mut self) -> io::Result<()> {
        // The engine may have been replaced, and its runner with it, since poll(2) said so.
        if !wait_readable(self.compiler.runner().as_fd(), Some(Duration::ZERO))? {
            return Ok(());
        }
        match self.compiler.runner().receive() {
            Ok(Some(received)) => self.on_runner(received.value),
            // The engine's end says what there is to say.
            Ok(None) | Err(_) => self.runner_open = false,
        }
        Ok(())
    }

    fn leave(mut self) {
        self.abort_queued();
        self.fail(report::kernel("the kernel was shut down while the cell ran"));
        self.drop_analyses();
        self.far.leave();
        cgroup::remove_folders(&self.groups);
        self.compiler.leave();
        for (_, mut live) in std::mem::take(&mut self.outputs) {
            live.deliver(&self.front, &self.recording, &mut self.buffer);
        }
        self.front.close();
        if let Err(error) = self.runtime.close() {
            tracing::warn!(%error, "the runtime directory was not removed");
        }
    }
}
