//! The server's handle on the engine, its standby and its runner.
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
use forklab_sys::channel::{Channel, Received};
use forklab_sys::process::{self, Pid, Signal};
use forklab_sys::procfs;

use super::far::wait_until;

/// How long the engine may take to leave; it has nothing to save.
const LEAVE: Duration = Duration::from_millis(300);

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
    channel: Channel<ToEngine, FromEngine>,
    runner: Channel<ToRunner, FromRunner>,
    standby: Option<(i32, UnixStream)>,
    /// The engine has committed a cell since it made its standby.
    stale: bool,
    /// The person has interrupted while the standby was stale: the engine ends when it is not.
    interrupted: bool,
    /// The number of resets that the runner was told to do.
    epoch: u64,
    /// Whether the run that is under way was asked for by the engine, and not by the runner.
    engine_asks: bool,
    /// The engine that was spawned; after a take-over, a zombie that has been reaped.
    child: Child,
    /// Whether there is an engine at the other end of the channel.
    open: bool,
    /// The process that is the engine now.
    pid: i32,
    state: State,
    next_id: u64,
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
    /// Starts an engine. Its build directory is `runtime/build`.
    ///
    /// # Errors
    /// Those of socketpair(2), fork(2) and execve(2).
    pub fn start(program: &Path, runtime: &Path) -> io::Result<Compiler> {
        let (channel, runner, child) = spawn(program, runtime)?;
        Ok(Compiler {
            program: program.to_owned(),
            runtime: runtime.to_owned(),
            channel,
            runner,
            standby: None,
            stale: false,
            interrupted: false,
            epoch: 0,
            engine_asks: false,
            open: true,
            pid: child.id() as i32,
            child,
            state: State::Starting,
            next_id: 1,
        })
    }

    /// The pid of the engine that was started here, which is reaped by its handle.
    pub fn spawned_pid(&self) -> i32 {
        self.child.id() as i32
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
            FromEngine::Ready => self.state = State::Idle,
            FromEngine::Failed { message } => self.state = State::Failed(message.clone()),
            // The older standby leaves when its channel is dropped here.
            FromEngine::Standby { pid } => {
                self.standby = descriptors.into_iter().next().map(|fd| (*pid, UnixStream::from(fd)));
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
            self.runner.send(answer)
        }
    }

    /// Tells the runner, which evcxr will miss, that the variables are gone; and the engine, if it waits
    /// for a run.
    ///
    /// # Errors
    /// Those of the runner's channel.
    pub fn tell_state_lost(&mut self) -> io::Result<()> {
        self.tell_engine_state_lost();
        self.runner.send(&ToRunner::StateLost)
    }

    /// Tells the engine, if it waits for a run, that the variables are gone.
    pub fn tell_engine_state_lost(&mut self) {
        if self.engine_asks {
            // That it has ended is the next event.
            let _ = self.answer(&ToRunner::StateLost);
        }
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
        let lives = |pid: i32| Pid::from_raw(pid).and_then(procfs::stat).is_some_and(|stat| !stat.zombie);
        self.standby.take_if(|(pid, _)| !lives(*pid));
        match (&self.standby, self.stale) {
            (_, true) => self.interrupted = true,
            (Some(_), false) => self.kill(),
            (None, false) => return false,
        }
        true
    }

    /// Ends the engine; its channel then closes. Programs that it runs (cargo, rustc) end with it.
    pub fn kill(&mut self) {
        end_engine(self.pid);
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
        end_engine(self.pid);
        let _ = self.child.wait();
        self.open = false;
        let stale = std::mem::take(&mut self.stale);
        (self.interrupted, self.engine_asks) = (false, false);
        let failed = matches!(self.state, State::Failed(_));
        if let Some((pid, standby)) = self.standby.take() {
            self.pid = pid;
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
        match spawn(&self.program, &self.runtime) {
            Ok((channel, runner, child)) => {
                self.pid = child.id() as i32;
                (self.channel, self.runner, self.child) = (channel, runner, child);
                self.state = State::Starting;
                self.epoch = 0;
                self.open = true;
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
        drop((self.channel, self.standby.take(), self.runner));
        let deadline = Instant::now() + LEAVE;
        if !wait_until(&mut self.child, deadline) || !gone_until(self.pid, deadline) {
            end_engine(self.pid);
            let _ = self.child.wait();
        }
    }

    /// The processes of ours that compile: the engine, its standby, and what they run.
    pub fn processes(&self) -> Vec<i32> {
        let roots = [Some(self.spawned_pid()), Some(self.pid), self.standby.as_ref().map(|(pid, _)| *pid)];
        let roots: Vec<Pid> = roots.into_iter().flatten().filter_map(Pid::from_raw).collect();
        let below = roots.iter().flat_map(|root| procfs::descendants(*root)).map(|stat| stat.identity.pid);
        below.chain(roots.iter().copied()).map(|pid| pid.as_raw()).collect()
    }
}

/// Waits for the end of a process that may be a child that was adopted.
fn gone_until(pid: i32, deadline: Instant) -> bool {
    let Some(pid) = Pid::from_raw(pid) else { return true };
    loop {
        // Not our child, or reaped already: gone as far as we are concerned.
        let alive = matches!(process::reap(pid), Ok(None));
        if !alive || Instant::now() >= deadline {
            return !alive;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills an engine and the programs that it runs, but neither its standby nor its runner.
///
/// The engine is stopped first: cargo, killed, starts no further rustc, and the engine no further
/// cargo, so a look that finds nobody is the last.
fn end_engine(pid: i32) {
    let Some(engine) = Pid::from_raw(pid) else { return };
    if process::kill(engine, Signal::STOP).is_err() {
        return;
    }
    for _ in 0..50 {
        let tools: Vec<Pid> = procfs::descendants(engine)
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
    let _ = process::kill(engine, Signal::KILL);
}

/// Whether a process is this program in one of these roles. The rustc wrapper has none.
fn has_role(pid: Pid, roles: &[&str]) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    words.nth(1).is_some_and(|role| roles.iter().any(|known| known.as_bytes() == role))
}

type Spawned = (Channel<ToEngine, FromEngine>, Channel<ToRunner, FromRunner>, Child);

fn spawn(program: &Path, runtime: &Path) -> io::Result<Spawned> {
    let (ours, theirs) = UnixStream::pair()?;
    let (our_runner, their_runner) = UnixStream::pair()?;
    let child = Command::new(program)
        .arg("engine")
        .arg("--build-dir")
        .arg(runtime.join("build"))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(OwnedFd::from(their_runner)))
        .spawn()?;
    Ok((Channel::new(ours), Channel::new(our_runner), child))
}

/// Requests that wait for the engine's answer.
pub type Pending<T> = HashMap<u64, T>;

/// Text by MIME type.
pub type Bundle = BTreeMap<String, String>;
