//! The server's handle on the engine, its standby and its runner.
//!
//! The engine is a fork of the zygote, where there is one, and else a process that is started here and
//! takes some seconds to be ready. A zygote is asked and not waited for: what it has not done in time, or
//! not done well, a process of our own does.
//!
//! The engine can die at any moment, by a panic in rust-analyzer or by a kill. Then the standby,
//! a fork of it from after the last cell, takes over: the server speaks to the standby's channel
//! as it spoke to the engine's. The runner outlives both.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forklab_engine::messages::{FromEngine, FromRunner, ToEngine, ToRunner, Verdict};
use forklab_engine::zygote::{Ends, Zygote};
use forklab_sys::channel::{Channel, Received};
use forklab_sys::process::{self, Pid, Signal};
use forklab_sys::procfs;
use forklab_sys::ready::wait_readable;

use super::far::wait_until;

/// How long the engine may take to leave; it has nothing to save.
const LEAVE: Duration = Duration::from_millis(300);

/// How long a zygote may take to fork. It takes milliseconds; a longer time is lost for the start of an
/// engine of our own.
const FORK: Duration = Duration::from_millis(1500);

/// Whether requests can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Warming up.
    Starting,
    /// Waiting for a request.
    Idle,
    /// Working on the request with this number.
    Busy(u64),
    /// There is no engine, and none can be had; the text says why.
    Failed(String),
}

/// The running engine.
#[derive(Debug)]
pub struct Compiler {
    program: PathBuf,
    runtime: PathBuf,
    zygote: Option<Zygote>,
    channel: Channel<ToEngine, FromEngine>,
    runner: Channel<ToRunner, FromRunner>,
    standby: Option<(Process, UnixStream)>,
    /// The engine has committed a cell since it made its standby.
    stale: bool,
    /// The person has interrupted while the standby was stale: the engine ends when it is not.
    interrupted: bool,
    /// The number of resets that the runner was told to do.
    epoch: u64,
    /// Whether the run that is under way was asked for by the engine, and not by the runner.
    engine_asks: bool,
    /// Whether it was asked for by the runner, which waits for an answer.
    runner_asks: bool,
    origin: Origin,
    /// Whether there is an engine at the other end of the channel.
    open: bool,
    /// The process that is the engine now. `None` until the zygote's fork has told of itself.
    process: Option<Process>,
    state: State,
    next_id: u64,
}

/// Where the engine, or the one that its standby came from, came from.
#[derive(Debug)]
enum Origin {
    /// Spawned here; after a take-over, a zombie that has been reaped.
    Spawned(Child),
    /// Forked from the zygote. It is killed when the line closes.
    Zygote {
        _line: UnixStream,
        /// When a fork that has not told of itself is not waited for any more.
        deadline: Instant,
    },
}

/// A process that may be nobody's child here, and so may be reaped by somebody else.
#[derive(Debug)]
struct Process {
    pid: Pid,
    /// Leads to this process and to no later one with its pid.
    handle: OwnedFd,
}

/// What took over after an engine's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Successor {
    /// The standby: everything is as it was before the last request.
    Standby,
    /// A standby that does not know the last cell.
    Stale,
    /// A new engine that knows nothing of the notebook.
    Fresh,
    /// Nothing.
    None,
}

impl Compiler {
    /// Has an engine started. Its build directory is below `runtime`.
    ///
    /// # Errors
    /// Those of socketpair(2), fork(2) and execve(2).
    pub fn start(program: &Path, runtime: &Path, zygote: Option<Zygote>) -> io::Result<Compiler> {
        let Begun { channel, runner, origin, process } = begin(program, runtime, zygote.as_ref())?;
        Ok(Compiler {
            program: program.to_owned(),
            runtime: runtime.to_owned(),
            zygote,
            channel,
            runner,
            standby: None,
            stale: false,
            interrupted: false,
            epoch: 0,
            engine_asks: false,
            runner_asks: false,
            open: true,
            origin,
            process,
            state: State::Starting,
            next_id: 1,
        })
    }

    /// The pid of the engine that was spawned here, which is reaped by its handle.
    pub fn spawned_pid(&self) -> Option<i32> {
        match &self.origin {
            Origin::Spawned(child) => Some(child.id() as i32),
            Origin::Zygote { .. } => None,
        }
    }

    /// When a zygote that has not answered is not waited for any more.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.origin {
            Origin::Zygote { deadline, .. } if self.process.is_none() => Some(*deadline),
            _ => None,
        }
    }

    /// Whether an engine that was asked for has failed before it was ready, or its time is over; an
    /// engine of our own is started then.
    ///
    /// The zygote may still fork after that. What it forks finds its channel and its line closed.
    ///
    /// # Errors
    /// As [`Compiler::start`].
    pub fn do_without_zygote(&mut self) -> io::Result<bool> {
        if self.spawned_pid().is_some() || self.state != State::Starting {
            return Ok(false);
        }
        if let Some(process) = self.process.take() {
            process.end_engine();
        }
        // Not asked again: what has failed once is not worth the time.
        self.zygote = None;
        let begun = begin(&self.program, &self.runtime, None)?;
        self.put(begun);
        Ok(true)
    }

    fn put(&mut self, begun: Begun) {
        (self.channel, self.runner) = (begun.channel, begun.runner);
        (self.origin, self.process) = (begun.origin, begun.process);
        self.state = State::Starting;
        self.epoch = 0;
        self.open = true;
        (self.engine_asks, self.runner_asks) = (false, false);
    }

    /// Whether requests can be sent.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Sends a request, made from its number; the number is returned.
    ///
    /// # Errors
    /// `BrokenPipe` when the engine is gone. Its end is then seen on its descriptor as well.
    pub fn request(&mut self, request: impl FnOnce(u64) -> ToEngine) -> io::Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.state = State::Busy(id);
        self.channel.send(&request(id))?;
        Ok(id)
    }

    /// Waits for the next message; `None` when the engine is gone. Standbys are kept here.
    ///
    /// # Errors
    /// Those of `Channel::receive`.
    pub fn receive(&mut self) -> io::Result<Option<FromEngine>> {
        let Some(Received { value, descriptors }) = self.channel.receive()? else { return Ok(None) };
        match &value {
            FromEngine::Forked { pid } => {
                let handle = descriptors.into_iter().next();
                self.process = Pid::from_raw(*pid).zip(handle).map(|(pid, handle)| Process { pid, handle });
            }
            FromEngine::Ready => self.state = State::Idle,
            FromEngine::Failed { message } => self.state = State::Failed(message.clone()),
            // The older standby leaves when its channel is dropped here.
            FromEngine::Standby { pid } => {
                let channel = descriptors.into_iter().next().map(UnixStream::from);
                self.standby = channel.and_then(|channel| Some((Process::at(*pid, &channel)?, channel)));
                self.stale = false;
                if std::mem::take(&mut self.interrupted) {
                    self.kill();
                }
            }
            FromEngine::Evaluated { id, .. } | FromEngine::Completed { id, .. } | FromEngine::Inspected { id, .. } => {
                if self.state == State::Busy(*id) {
                    self.state = State::Idle;
                    self.interrupted = false;
                }
                self.stale |= matches!(&value, FromEngine::Evaluated { verdict: Verdict::Committed { .. }, .. });
            }
            FromEngine::NoStandby { .. } => {
                self.standby = None;
                self.stale = false;
            }
            FromEngine::Run { .. } => self.engine_asks = true,
            FromEngine::Rested => self.rest(),
            FromEngine::Building { .. } => {}
        }
        Ok(Some(value))
    }

    /// The descriptor that tells of the engine's messages and of its end, while there is one.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.channel.as_fd())
    }

    /// The runner's channel, for what it asks and what it is answered.
    pub fn runner(&self) -> &Channel<ToRunner, FromRunner> {
        &self.runner
    }

    /// Answers whoever has asked for the run that is under way.
    ///
    /// # Errors
    /// Those of the channel: the one who asked has ended.
    pub fn answer(&mut self, answer: &ToRunner) -> io::Result<()> {
        if std::mem::take(&mut self.engine_asks) {
            self.channel.send(&ToEngine::Answer(answer.clone()))
        } else {
            self.runner_asks = false;
            self.runner.send(answer)
        }
    }

    /// The runner has asked for a run of this engine's.
    pub fn runner_asks(&mut self) {
        self.runner_asks = true;
    }

    /// Tells whoever waits for a run that the variables are gone: evcxr then misses the runner. Where
    /// nobody waits, the next request says it.
    ///
    /// # Errors
    /// As [`Compiler::answer`].
    pub fn tell_state_lost(&mut self) -> io::Result<()> {
        if self.engine_asks || self.runner_asks { self.answer(&ToRunner::StateLost) } else { Ok(()) }
    }

    /// Lets the standby take the place of an engine that has nothing to do.
    ///
    /// A request that is on its way to the engine, or that it works on, has made the state another.
    fn rest(&mut self) {
        if self.state == State::Idle && !self.stale && self.standby.is_some() {
            self.take_over();
            // It makes a standby of its own. When it is gone, its end is the next event.
            let _ = self.channel.send(&ToEngine::Wake);
        }
    }

    /// Ends a compilation, by ending the engine, if its standby can go on with everything that the
    /// engine knew before; returns whether that is so. A standby that is still being made is waited
    /// for. Without one, the compilation goes on to its end.
    ///
    /// Between an answer and the new standby: the engine answers `Evaluated`, the next cell is sent
    /// and interrupted, the engine is killed, and the standby of the cell before takes over. What the
    /// answered cell has defined would be gone without a word.
    pub fn interrupt(&mut self) -> bool {
        // A standby that has died tells nobody: its end of the channel is open in the engine, too.
        self.standby.take_if(|(standby, _)| standby.is_gone_by(Instant::now()));
        match (&self.standby, self.stale) {
            (_, true) => self.interrupted = true,
            (Some(_), false) => self.kill(),
            (None, false) => return false,
        }
        true
    }

    /// Ends the engine; its channel then closes. Programs that it runs (cargo, rustc) end with it.
    pub fn kill(&mut self) {
        if let Some(process) = &self.process {
            process.end_engine();
        }
    }

    /// The number of the last reset; runs that carry another are nobody's.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether there is no engine and none can be had.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    /// After the engine's end: lets its successor take over.
    pub fn take_over(&mut self) -> Successor {
        // A channel that closes is no ended process yet; and one that cannot end must not be waited for.
        self.kill();
        if let Origin::Spawned(child) = &mut self.origin {
            let _ = child.wait();
        }
        self.open = false;
        let stale = std::mem::take(&mut self.stale);
        (self.interrupted, self.engine_asks, self.runner_asks) = (false, false, false);
        let failed = matches!(self.state, State::Failed(_));
        if let Some((process, standby)) = self.standby.take() {
            self.process = Some(process);
            self.channel = Channel::new(standby);
            // What the dead engine had asked of the runner is not answered any more.
            self.epoch += 1;
            let _ = self.runner.send(&ToRunner::Reset { epoch: self.epoch });
            self.state = State::Idle;
            self.open = true;
            return if stale { Successor::Stale } else { Successor::Standby };
        }
        if failed || self.state == State::Starting {
            if !failed {
                self.state =
                    State::Failed("the compiler process ended while it was starting; see the kernel's log".into());
            }
            return Successor::None;
        }
        match begin(&self.program, &self.runtime, self.zygote.as_ref()) {
            Ok(begun) => {
                self.put(begun);
                Successor::Fresh
            }
            Err(error) => {
                self.state = State::Failed(format!("the compiler process cannot be started again: {error}"));
                Successor::None
            }
        }
    }

    /// Ends the engine, what it runs, and its standby.
    pub fn leave(mut self) {
        let _ = self.channel.send(&ToEngine::Quit);
        let standby = self.standby.take().map(|(standby, _)| standby);
        drop((self.channel, self.runner));
        let deadline = Instant::now() + LEAVE;
        let spawned = match &mut self.origin {
            Origin::Spawned(child) => wait_until(child, deadline),
            Origin::Zygote { .. } => true,
        };
        let gone = self.process.as_ref().is_none_or(|process| process.is_gone_by(deadline));
        if !spawned || !gone {
            if let Some(process) = &self.process {
                process.end_engine();
            }
            if let Origin::Spawned(child) = &mut self.origin {
                let _ = child.wait();
            }
        }
        // It writes nothing, but its directory is about to be removed.
        if let Some(standby) = standby {
            standby.is_gone_by(Instant::now() + LEAVE);
        }
    }

    /// The processes of ours that compile: the engine, its standby, and what they run.
    pub fn processes(&self) -> Vec<i32> {
        let engines = self.process.iter().chain(self.standby.iter().map(|(standby, _)| standby));
        let spawned = self.spawned_pid().and_then(Pid::from_raw);
        let roots: Vec<Pid> = engines.map(|process| process.pid).chain(spawned).collect();
        let below = roots.iter().flat_map(|root| procfs::descendants(*root)).map(|stat| stat.identity.pid);
        below.chain(roots.iter().copied()).map(|pid| pid.as_raw()).collect()
    }
}

impl Process {
    /// The process that holds the other end of this channel and says that this is its pid. `None` when it
    /// has ended.
    ///
    /// A pid's process can end, be reaped by its parent, and leave its number to another before it is
    /// looked up here. So the look at the channel comes after it: while the process holds the channel
    /// open, its pid is its own.
    fn at(pid: i32, channel: &UnixStream) -> Option<Process> {
        let pid = Pid::from_raw(pid)?;
        let handle = process::open_pidfd(pid).ok()?;
        let closed = wait_readable(channel.as_fd(), Some(Duration::ZERO)).unwrap_or(true);
        (!closed).then_some(Process { pid, handle })
    }

    /// Waits for its end; whether it has ended. One that was adopted is reaped.
    fn is_gone_by(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let gone = wait_readable(self.handle.as_fd(), Some(left)).unwrap_or(true);
        if gone {
            // Not our child, or reaped already: nothing is left to do.
            let _ = process::reap(self.pid);
        }
        gone
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        process::kill_by_pidfd(self.handle.as_fd(), signal)
    }

    /// Kills an engine and the programs that it runs, but neither its standby nor its runner.
    ///
    /// The engine is stopped first: cargo, killed, starts no further rustc, and the engine no further
    /// cargo, so a look that finds nobody is the last.
    fn end_engine(&self) {
        if self.signal(Signal::STOP).is_err() {
            return;
        }
        for _ in 0..50 {
            let tools: Vec<Pid> = procfs::descendants(self.pid)
                .into_iter()
                .filter(|stat| !stat.zombie)
                .map(|stat| stat.identity.pid)
                .filter(|pid| !has_role(*pid, &["engine", "runner"]))
                .collect();
            if tools.is_empty() {
                break;
            }
            for tool in tools {
                // One that has ended by itself in the meantime is not an error.
                let _ = process::kill(tool, Signal::KILL);
            }
        }
        let _ = self.signal(Signal::KILL);
    }
}

/// Whether a process is this program in one of these roles. The rustc wrapper has none.
fn has_role(pid: Pid, roles: &[&str]) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    words.nth(1).is_some_and(|role| roles.iter().any(|known| known.as_bytes() == role))
}

/// An engine that is about to be ready, and its runner.
struct Begun {
    channel: Channel<ToEngine, FromEngine>,
    runner: Channel<ToRunner, FromRunner>,
    origin: Origin,
    process: Option<Process>,
}

/// Asks the zygote for an engine, or starts one.
fn begin(program: &Path, runtime: &Path, zygote: Option<&Zygote>) -> io::Result<Begun> {
    let (ours, theirs) = UnixStream::pair()?;
    let (our_runner, their_runner) = UnixStream::pair()?;
    let (channel, runner) = (Channel::new(ours), Channel::new(our_runner));
    if let Some(zygote) = zygote {
        let (line, their_line) = UnixStream::pair()?;
        let ends = Ends { channel: theirs.as_fd(), runner: their_runner.as_fd(), lifeline: their_line.as_fd() };
        match zygote.ask(&fresh_directory(runtime), &ends) {
            Ok(()) => {
                let origin = Origin::Zygote { _line: line, deadline: Instant::now() + FORK };
                return Ok(Begun { channel, runner, origin, process: None });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => tracing::info!("there is no zygote: a cold start"),
            Err(error) => tracing::warn!(%error, "the zygote cannot be used: a cold start"),
        }
    }
    let child = Command::new(program)
        .arg("engine")
        .arg("--build-dir")
        .arg(runtime.join("build"))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(OwnedFd::from(their_runner)))
        .spawn()?;
    let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::NotFound)?;
    let process = Some(Process { pid, handle: process::open_pidfd(pid)? });
    Ok(Begun { channel, runner, origin: Origin::Spawned(child), process })
}

/// A build directory for a fork of the zygote: never the one of an engine that is started because the
/// zygote did not answer in time, and that it would fill nevertheless.
fn fresh_directory(runtime: &Path) -> PathBuf {
    let mut number = 1;
    loop {
        let directory = runtime.join(format!("warm-{number}"));
        if !directory.exists() {
            return directory;
        }
        number += 1;
    }
}

/// Requests that wait for the engine's answer.
pub type Pending<T> = HashMap<u64, T>;

/// Text by MIME type.
pub type Bundle = BTreeMap<String, String>;
