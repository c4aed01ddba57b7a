//! The kernel: one loop that owns everything the notebook is.
//!
//! The world's events (messages of a front end, of the supervisor, of the engine and its runner,
//! output of cells, deadlines) come in through poll(2), one [`Event`] at a time, and every change
//! of state happens here, in one thread. Nothing in this module waits for a cell, a compiler or a
//! front end: what takes time is asked for by a message, and the answer is an event.

mod bounds;
mod compiler;
mod deaths;
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
mod show;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use forklab_engine::messages::FromEngine;
use forklab_engine::zygote::{self, Ember, Zygote};
use forklab_sys::events::readable;
use forklab_sys::process::{self, Pid};
use forklab_sys::ready::wait_readable;
use forklab_sys::{cgroup, procfs};
use forklab_worker::messages::{CellId, FromSupervisor, Limits, Reached};
use jupyter_protocol::messaging::{ReplyError, Stdio};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::compiler::Compiler;
use self::execution::{Execution, Request};
use self::far::Far;
use self::history::History;
use self::output::{Output, Piece, Stream};
use self::recording::Recording;
use crate::jupyter::{Connection, FrontEnd, Incoming, Origin};
use crate::limits::{Ceiling, LimitsError};

/// As much of one stream is read before others have their turn.
const READ_AT_ONCE: usize = 1 << 20;
/// More than a socket can hold: a cell's end delivers at most this much of each stream.
const READ_AT_END: usize = 8 << 20;

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

/// The output of a cell that processes can still write to.
#[derive(Debug)]
struct LiveOutput {
    output: Output,
    /// The request that it belongs to, also after the cell's end.
    parent: Origin,
    /// The cell's limits.
    limits: Limits,
    /// The one that it reaches when it is full.
    limit: Reached,
    /// That it is full was dealt with.
    ended: bool,
    /// Nobody is to see it: the output of a run of `%%repeat`.
    hidden: bool,
    /// Each writer's text has the colour of its role.
    coloured: bool,
}

impl LiveOutput {
    /// Publishes everything that is in the sockets now.
    fn deliver(&mut self, front: &FrontEnd, recording: &Recording, buffer: &mut [u8]) {
        self.output.read(buffer, READ_AT_END);
        let pieces = self.output.take_all();
        self.publish(front, recording, pieces);
    }

    fn publish(&self, front: &FrontEnd, recording: &Recording, pieces: Vec<Piece>) {
        for mut piece in pieces {
            if self.hidden {
                continue;
            }
            if self.coloured {
                recording.colour(&mut piece);
            }
            let name = match piece.stream {
                Stream::Stdout => Stdio::Stdout,
                Stream::Stderr => Stdio::Stderr,
            };
            front.stream(Some(&self.parent), name, &piece.text);
        }
    }

    /// When there is something to publish, if nothing more is read. Coloured text waits for the recorder to
    /// say whose it is, for a while.
    fn deadline(&self, recording: &Recording) -> Option<Instant> {
        let deadline = self.output.deadline()?;
        let (first, mut writers) = self.output.waiting()?;
        let unknown = self.coloured && writers.any(|pid| pid > 0 && !recording.knows(pid));
        Some(if unknown { deadline.max(first + recording::HOLD_COLOUR) } else { deadline })
    }
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
    ember.as_mut().map(Ember::detach);
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

    /// Whether a process is below the supervisor. One that has ended cannot be told any more.
    fn is_of_a_cell(&self, pid: u32) -> bool {
        let supervisor = Pid::from_raw(self.far.pid());
        let below = supervisor.map(procfs::descendants).unwrap_or_default();
        below.iter().any(|process| process.identity.pid == pid as i32)
    }

    /// Reaps what was not started here but left to us by a dead engine. The supervisor and the first
    /// engine are left to their own handles, which wait for them by pid.
    fn reap_adopted(&self) {
        let own = [Some(self.far.pid()), self.compiler.spawned_pid()];
        let zombies = procfs::descendants(Pid::this()).into_iter().filter(|stat| stat.zombie);
        let adopted = zombies.filter(|stat| stat.parent == Some(Pid::this()));
        for zombie in adopted.filter(|stat| !own.contains(&Some(stat.identity.pid.as_raw()))) {
            if let Err(error) = process::reap(zombie.identity.pid) {
                tracing::warn!(%error, "an adopted process was not reaped");
            }
        }
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

    fn on_output(&mut self, cell: CellId) {
        let Some(live) = self.outputs.get_mut(&cell) else { return };
        live.output.read(&mut self.buffer, READ_AT_ONCE);
        self.look_at_size(cell);
    }

    /// Publishes what has waited long enough, and forgets cells that nobody can write to.
    fn send_ready_output(&mut self, now: Instant) {
        self.hear_all();
        for live in self.outputs.values_mut() {
            if live.deadline(&self.recording).is_some_and(|deadline| deadline <= now) || !live.coloured {
                let pieces = live.output.ready(now);
                live.publish(&self.front, &self.recording, pieces);
            }
        }
        let running = self.running_cell();
        let mut written = 0;
        self.outputs.retain(|cell, live| {
            let kept = Some(*cell) == running || !live.output.is_over();
            written += if kept { 0 } else { live.output.taken() };
            kept
        });
        self.written += written;
    }

    /// Delivers everything that was written to a cell's sockets before this call. What the worker
    /// wrote before its function returned is among it: a write to a socket is in its queue when
    /// write(2) returns, and the worker reports after that.
    fn deliver_all(&mut self, cell: CellId) {
        if let Some(live) = self.outputs.get_mut(&cell) {
            live.deliver(&self.front, &self.recording, &mut self.buffer);
        }
    }

    /// Delivers a cell's output at its end: characters that the worker or a dead process has begun
    /// will never be whole.
    fn deliver_last(&mut self, cell: CellId) {
        let Some(live) = self.outputs.get_mut(&cell) else { return };
        live.output.read(&mut self.buffer, READ_AT_END);
        let worker = self.worker;
        live.output.end_characters(|pid| pid == worker || !Path::new(&format!("/proc/{pid}")).exists());
        let pieces = live.output.take_all();
        live.publish(&self.front, &self.recording, pieces);
    }

    /// Ends what a dead supervisor or engine has left to us: everything below this process that is
    /// neither the supervisor nor compiles.
    ///
    /// Who is there is looked up before who compiles. The other way round: the compilers are looked up,
    /// the engine forks its standby or calls rustc, all that is there is looked up, and the new process,
    /// which is the engine's, is taken for a stray.
    ///
    /// A look that finds nobody is not the last. Our children are read, the worker dies and its children
    /// become ours, the worker's children are read, and there are none: its children were in neither list. The
    /// next look finds them. So two looks after each other must have found the same.
    fn end_strays(&self) {
        let mut before = Vec::new();
        for _ in 0..100 {
            let below = procfs::descendants(Pid::this());
            let mut spared = self.compiler.processes();
            spared.push(self.far.pid());
            let is_stray = |stat: &&procfs::Stat| !stat.zombie && !spared.contains(&stat.identity.pid.as_raw());
            let strays: Vec<Pid> = below.iter().filter(is_stray).map(|stat| stat.identity.pid).collect();
            let seen: Vec<_> = below.iter().map(|stat| (stat.identity, stat.zombie)).collect();
            if strays.is_empty() && seen == before {
                return;
            }
            for stray in strays {
                // One that has ended by itself in the meantime is not an error.
                let _ = process::kill(stray, process::Signal::KILL);
            }
            before = seen;
        }
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
