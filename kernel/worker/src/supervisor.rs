//! The supervisor: one loop, owner of the worker, its checkpoint and everything below.
//!
//! Events come in by [`Supervisor::wait`], one at a time; each is handled to its end before the
//! next. This file holds the state and the loop; `requests` what the server asks for, `life` the
//! worker's birth, death and replacement, `interrupt` the end of a task before its time, `tree`
//! killing and reaping, `input` who waits for the keyboard, `watch` the limits, `origins` whose a
//! process is, `listing` what the person asks about processes, `undo` the end of a run that is undone,
//! `record` what processes do (its tracer is the one other thread). User code never runs here.

mod input;
mod interrupt;
mod life;
mod listing;
mod origins;
mod record;
mod requests;
mod tree;
mod undo;
mod watch;

use std::collections::HashSet;
use std::fs::DirBuilder;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forklab_sys::channel::{Channel, Received, Unhurried};
use forklab_sys::descriptors::{listen_by_name, peer};
use forklab_sys::events::readable;
use forklab_sys::process::{ExitStatus, Pid, Signal};
use forklab_sys::procfs::Identity;
use forklab_sys::pty::Pty;
use forklab_sys::role;
use forklab_sys::signals::{self, Signals};

use crate::messages::{CellId, FromSupervisor, Hindrance, Limits, Outcome, Task, ToSupervisor};
use crate::orders::{FromWorker, ToWorker};
use input::Keyboard;
use interrupt::Interrupting;
use life::{After, Checkpoint};
use listing::Awaited;
use origins::Origins;
use record::Recorder;
use watch::Watch;

/// The name of the socket in the kernel's runtime directory.
const SOCKET: &str = "supervisor.sock";

/// The longest path of a socket, in bytes: `sun_path` of unix(7), and a zero at its end.
const LONGEST_SOCKET: usize = 107;

/// The niceness of one who has little to do and must do it at once.
const BEFORE_OTHERS: i32 = -10;

/// The longest report: what `limits` lets through, should JSON write each byte of it as six.
const LONGEST_REPORT: usize = 64 << 20;

/// How many of those who connect are looked at before others have their turn.
const KNOCKS_AT_ONCE: usize = 64;

/// How long a dead kernel's directory may resist.
const TIME_TO_CLEAR: Duration = Duration::from_secs(2);

type Server = Channel<FromSupervisor, ToSupervisor>;
type Connection = Unhurried<ToWorker, FromWorker>;

/// Runs as the supervisor until the server says so or closes its end of the channel; every process
/// below has ended by then. `runtime_dir` is a directory that only this user can enter.
///
/// # Errors
/// When the system does not give what the supervisor stands on: a terminal, a socket, signals; or
/// when the first worker cannot be started. The server has then been told why.
pub fn main(server: UnixStream, runtime_dir: PathBuf) -> io::Result<()> {
    let last_words: Server = Channel::new(server.try_clone()?);
    let mut supervisor = Supervisor::start(server, &runtime_dir).inspect_err(|error| {
        // Where the server has gone, there is nobody to tell.
        let _ = last_words.send(&FromSupervisor::Failed { message: error.to_string() });
    })?;
    drop(last_words);
    let parting = supervisor.run();
    supervisor.end_everything();
    supervisor.watch.leave();
    if matches!(parting, Ok(Parting::Orphaned)) {
        clear_away(&runtime_dir);
    }
    parting.map(drop)
}

/// Why the loop has ended.
enum Parting {
    /// The server has said so, and clears its directory away itself.
    Told,
    /// The server is gone, and was not able to.
    Orphaned,
}

/// Removes the dead kernel's directory. Its engine may still be at work in it: it ends by its own
/// channel and signal, and a file that it makes between our look and our removal of a directory makes
/// that removal fail; so there are several.
fn clear_away(directory: &Path) {
    let deadline = Instant::now() + TIME_TO_CLEAR;
    while std::fs::remove_dir_all(directory).is_err() && directory.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Opens the socket to which the worker comes with its reports.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let len = socket.as_os_str().len();
    if len > LONGEST_SOCKET {
        let path = socket.display();
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the path of the kernel's socket has {len} bytes, and the system takes {LONGEST_SOCKET}: {path}; \
                 set TMPDIR to a directory with a shorter path"
            ),
        ));
    }
    // One that was killed leaves its socket behind, and the one that follows it gets the same
    // directory. It is this kernel's alone, so what lies there is a predecessor's. For the same
    // reason nobody removes the socket when he leaves: a successor may have made his by then.
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(directory) = socket.parent() {
        // There, unless a cell has removed it, and then our predecessor.
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The next of those who wait at any of these.
fn accepted<'a>(listeners: impl Iterator<Item = &'a UnixListener>) -> io::Result<Option<UnixStream>> {
    for listener in listeners {
        loop {
            match listener.accept() {
                Ok((stream, _)) => return Ok(Some(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

/// A number that nobody guesses.
fn secret() -> u64 {
    // The keys of std's hasher come from the system's source of random numbers.
    std::hash::RandomState::new().build_hasher().finish()
}

struct Supervisor {
    server: Server,
    /// Who started us. SIGTERM counts when it is no longer our parent: it then told of its death.
    parent: Option<Pid>,
    signals: Signals,
    listener: UnixListener,
    /// The same by another name, for a worker that does not find the path any more; see [`Home`].
    by_name: Option<UnixListener>,
    home: Home,
    pty: Pty,
    worker: Pid,
    /// How the present worker ended, from its reaping until there is another.
    worker_ended: Option<ExitStatus>,
    /// To the present worker. None while it runs a task.
    connection: Option<Connection>,
    phase: Phase,
    /// How many workers in a row have not come up.
    failed_starts: u32,
    checkpoint: Option<Checkpoint>,
    /// Earlier checkpoints, killed and not reaped yet.
    retired: Vec<Pid>,
    /// How many children were reaped so far.
    reaped: u64,
    /// There are more zombies than were reaped at once.
    more_to_reap: bool,
    /// A task that came while the worker was not ready.
    queued: Option<Queued>,
    keyboard: Keyboard,
    watch: Watch,
    origins: Origins,
    recorder: Recorder,
    /// Processes have been asked to end, and have a moment for it.
    interrupting: Option<Interrupting>,
    awaited: Option<Awaited>,
    /// The worker has said that it cannot go on, and was killed for it.
    stranded: Option<Hindrance>,
    /// Which source of events was served last.
    served: usize,
}

/// Where the worker finds us after a task.
struct Home {
    /// Only this user gets there.
    socket: PathBuf,
    /// In the abstract namespace of unix(7), where a path is of no use: after chroot(2), with other
    /// mounts, when a cell has removed the kernel's files. Anybody gets there, and is sent away.
    name: String,
}

/// What the present worker does.
enum Phase {
    /// It gets ready: fresh or woken. A worker that takes longer than until `deadline` is replaced.
    Starting { after: After, woken: bool, deadline: Instant },
    /// It waits for a task.
    Idle,
    /// It makes a checkpoint, which it had none of. Until `deadline`, as above.
    Preparing { deadline: Instant },
    /// It runs one, and makes a checkpoint then if that is wanted. `before` lived below the supervisor
    /// when the task began. With `undo` it makes none, and ends with its task.
    Busy { cell: CellId, token: u64, checkpoint: bool, undo: bool, before: HashSet<Identity> },
}

struct Queued {
    cell: CellId,
    task: Task,
    checkpoint: bool,
    limits: Limits,
    record: bool,
    undo: bool,
    cpus: Option<usize>,
    perturb: Option<u64>,
    /// The worker was asked for a checkpoint for it.
    prepared: bool,
    descriptors: Vec<OwnedFd>,
}

/// What can happen.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is moved once")]
enum Event {
    Server(Option<Received<ToSupervisor>>),
    Signal,
    Knock,
    Worker,
    Screen,
    Reaped,
    Clock,
}

impl Supervisor {
    fn start(server: UnixStream, runtime_dir: &Path) -> io::Result<Supervisor> {
        role::set_name(c"supervisor");
        role::adopt_orphans()?;
        // An orphan that signals its parent, as children do, signals us. And a Ctrl-C at the
        // terminal from which Jupyter was started is not for us either.
        signals::ignore_strangers();
        let signals = Signals::take(&[Signal::CHLD, Signal::TERM])?;
        // Among a thousand processes of a fork bomb we are one, and must be the one that runs. Only who
        // is allowed to goes before others; the worker goes back.
        let _ = role::set_niceness(BEFORE_OTHERS);
        // Belt and braces: the closed channel tells of the server's death too.
        role::receive_when_parent_dies(Signal::TERM)?;
        let socket = runtime_dir.join(SOCKET);
        let listener = listen(&socket)?;
        let home = Home { socket, name: format!("forklab-{}-{:016x}", Pid::this(), secret()) };
        // Without it, the path is the only way.
        let by_name = listen_by_name(&home.name).and_then(|l| l.set_nonblocking(true).map(|()| l)).ok();
        let pty = Pty::open()?;
        let mut watch = Watch::start();
        let (worker, connection) = life::spawn(&home, &pty, &mut watch)?;
        let supervisor = Supervisor {
            server: Channel::new(server),
            parent: Pid::parent(),
            signals,
            listener,
            by_name,
            home,
            pty,
            worker,
            worker_ended: None,
            connection: Some(connection),
            phase: Phase::starting(After::Nothing, false),
            failed_starts: 0,
            checkpoint: None,
            retired: Vec::new(),
            reaped: 0,
            more_to_reap: false,
            queued: None,
            keyboard: Keyboard::new(),
            watch,
            origins: Origins::default(),
            recorder: Recorder::new()?,
            interrupting: None,
            awaited: None,
            stranded: None,
            served: 0,
        };
        supervisor.tell(&supervisor.watch.limiting())?;
        Ok(supervisor)
    }

    /// The loop. Returns when the server wants it or is gone.
    fn run(&mut self) -> io::Result<Parting> {
        loop {
            match self.wait()? {
                Event::Server(None) => return Ok(Parting::Orphaned),
                Event::Server(Some(Received { value: ToSupervisor::Shutdown, .. })) => return Ok(Parting::Told),
                Event::Server(Some(request)) => self.on_request(request)?,
                Event::Signal => {
                    if self.on_signals()? {
                        return Ok(Parting::Orphaned);
                    }
                }
                Event::Knock => self.on_knock()?,
                Event::Worker => self.on_worker()?,
                Event::Screen => self.pty.discard_output()?,
                Event::Reaped => self.recorder.on_reaped(),
                Event::Clock => self.on_clock()?,
            }
            if let Some(status) = self.worker_ended {
                self.on_worker_ended(status)?;
            }
        }
    }

    /// Waits for the next event. The server comes first: an interrupt must not queue up behind
    /// what it is to end. Then what is due by the clock; then everybody in turn, since user code can
    /// keep most of the sources ready for ever: by knocking, by writing to the terminal, by dying.
    fn wait(&mut self) -> io::Result<Event> {
        let mut sources: Vec<(BorrowedFd<'_>, fn() -> Event)> = vec![
            (self.server.as_fd(), || Event::Server(None)),
            (self.signals.as_fd(), || Event::Signal),
            (self.listener.as_fd(), || Event::Knock),
            (self.pty.screen(), || Event::Screen),
            (self.recorder.zombies(), || Event::Reaped),
        ];
        sources.extend(self.by_name.as_ref().map(|l| (l.as_fd(), (|| Event::Knock) as fn() -> Event)));
        sources.extend(self.connection.as_ref().map(|c| (c.as_fd(), (|| Event::Worker) as fn() -> Event)));
        let descriptors: Vec<BorrowedFd<'_>> = sources.iter().map(|(descriptor, _)| *descriptor).collect();
        let next = self.next_clock();
        let ready = readable(&descriptors, next.map(|at| at.saturating_duration_since(Instant::now())))?;
        if ready[0] {
            return Ok(Event::Server(self.server.receive()?));
        }
        if next.is_some_and(|at| at <= Instant::now()) {
            return Ok(Event::Clock);
        }
        let turns = (self.served + 1..sources.len()).chain(1..sources.len());
        let Some(served) = turns.into_iter().find(|&source| ready[source]) else { return Ok(Event::Clock) };
        let event = sources[served].1();
        self.served = served;
        Ok(event)
    }

    /// The next moment at which something is due without anybody's saying so.
    fn next_clock(&self) -> Option<Instant> {
        let deadline = match &self.phase {
            Phase::Starting { deadline, .. } | Phase::Preparing { deadline } => Some(*deadline),
            Phase::Idle | Phase::Busy { .. } => None,
        };
        let reap = self.more_to_reap.then(Instant::now);
        let interrupting = self.interrupting.as_ref().map(|interrupting| interrupting.next_look);
        let awaited = self.awaited.as_ref().map(|awaited| awaited.next_look);
        let [keyboard, watch] = [self.keyboard.next_look(), self.watch.next_look()];
        let clocks = [deadline, keyboard, watch, reap, interrupting, awaited, self.recorder.next_look()];
        clocks.into_iter().flatten().min()
    }

    fn on_clock(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.more_to_reap {
            self.reap();
        }
        if let Phase::Starting { deadline, .. } | Phase::Preparing { deadline } = &self.phase
            && *deadline <= now
        {
            self.give_up_starting();
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.interrupting.as_ref().map(|interrupting| interrupting.next_look)) {
            self.look_at_interrupted()?;
        }
        if due(self.watch.next_look()) {
            self.look_at_limits()?;
        }
        if due(self.recorder.next_look()) {
            self.look_at_record()?;
        }
        if due(self.keyboard.next_look()) {
            self.look_for_readers()?;
        }
        if due(self.awaited.as_ref().map(|awaited| awaited.next_look)) {
            self.look_for_awaited()?;
        }
        Ok(())
    }

    /// Returns whether it is time to leave.
    fn on_signals(&mut self) -> io::Result<bool> {
        let mut leave = false;
        while let Some(signal) = self.signals.next()? {
            leave |= signal == Signal::TERM && Pid::parent() != self.parent;
        }
        self.reap();
        Ok(leave)
    }

    /// Somebody connects. Only the worker has business here, and only when it runs a task.
    fn on_knock(&mut self) -> io::Result<()> {
        for _ in 0..KNOCKS_AT_ONCE {
            let listeners = [Some(&self.listener), self.by_name.as_ref()];
            let Some(stream) = accepted(listeners.into_iter().flatten())? else { return Ok(()) };
            // The pid is the worker's own and not another's who got it later: the worker is our
            // child, and its pid stays taken until we reap it.
            if peer(&stream)? == Some(self.worker) && matches!(self.phase, Phase::Busy { .. }) {
                self.connection = Some(Unhurried::new(stream, LONGEST_REPORT));
            }
        }
        Ok(())
    }

    /// A task is over.
    fn tell_ended(&mut self, cell: CellId, outcome: Outcome) -> io::Result<()> {
        self.tell_recorded()?;
        let refused_forks = self.watch.refused_in(cell);
        self.tell(&FromSupervisor::Ended { cell, outcome, refused_forks })
    }

    fn tell(&self, message: &FromSupervisor) -> io::Result<()> {
        match self.server.send(message) {
            // The server is gone; the next event is the end of its channel.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            other => other,
        }
    }
}
