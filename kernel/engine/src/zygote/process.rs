//! The zygote's own process: gets warm, forks, and leaves when nobody needs it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forklab_sys::channel::{Channel, Received};
use forklab_sys::events::readable;
use forklab_sys::process::{self, Fork, Pid, Signal};
use forklab_sys::signals::{self, Signals};
use forklab_sys::{alone, procfs, pty, role};

use super::identity::Identity;
use super::limits;
use super::meeting::{self, Meeting, Private};
use super::{FIRST_LINE, FromZygote, Place, Start, Status, ToZygote};
use crate::cache;
use crate::environment;
use crate::host::{Engine, Leash, Peer, duplicate, live_with};
use crate::messages::FromEngine;
use crate::runner::Epoch;
use crate::standby;
use crate::start::{self, RunnersPlace};
use crate::template::{self, Data};

/// How many seconds a zygote stays that has no engine; for people and tests.
const IDLE_VARIABLE: &str = "FORKLAB_ZYGOTE_IDLE";
const IDLE: Duration = Duration::from_secs(600);

/// How often it looks whether it is still the right one and can still be found.
const LOOK: Duration = Duration::from_secs(20);

/// How long a caller may take to say what it wants.
const CALLERS_PATIENCE: Duration = Duration::from_millis(500);

/// The zygote's own build directory, in its directory.
const BUILD: &str = "engine";

/// The role `engine --zygote`: leaves the caller's descendants, waits for a byte on `line`, and then is
/// the zygote until it is not needed. To be called while the process has one thread.
///
/// # Errors
/// Those of fork(2), of the directories, and of the socket. They are in the log, where there is one.
pub fn main(mut line: File, data: Option<PathBuf>) -> io::Result<()> {
    let identity = Identity::of_this_process(data.as_deref())?;
    if let Fork::Parent(_) = alone::fork()? {
        process::exit_now(0);
    }
    pty::new_session()?;
    signals::ignore_strangers();
    std::env::set_current_dir(identity.directory())?;
    if line.read(&mut [0])? == 0 {
        return Ok(());
    }
    drop(line);
    let meeting = Meeting::find(identity.name(), true)?;
    let Some(lock) = first_lock(&meeting)? else { return Ok(()) };
    let mut log = log_into(&meeting)?;
    let served = serve(&identity, &meeting, data);
    if let Ok(Some((warm, birth))) = served {
        drop((meeting, lock, log));
        warm.become_engine(birth)
    }
    if let Err(error) = &served {
        // Standard error may be the engine's pipe still.
        writeln!(log, "the zygote ends: {error}")?;
    }
    // What it has failed of can be read there until the next one starts.
    meeting.remove(served.is_err());
    served.map(drop)
}

/// The lock, unless another zygote has it. Who only asks whether it is taken holds it for a moment, and a
/// zygote that was killed until all of its memory has been given back.
fn first_lock(meeting: &Meeting) -> io::Result<Option<File>> {
    for _ in 0..600 {
        if let Some(lock) = meeting.lock()? {
            return Ok(Some(lock));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

fn log_into(meeting: &Meeting) -> io::Result<File> {
    let mut log = meeting.log()?;
    writeln!(log, "{FIRST_LINE}{}", Pid::this())?;
    nix::unistd::dup2_stderr(&log)?;
    Ok(log)
}

/// The zygote's life. In a fork: what it is to become.
fn serve(identity: &Identity, meeting: &Meeting, data: Option<PathBuf>) -> io::Result<Option<(Warm, Birth)>> {
    let own = make_own_directory(meeting, &identity.name())?;
    let served = Warm::new(&own.join(BUILD), data).and_then(|warm| {
        let served = Server::new(identity, meeting, &own).and_then(|mut server| server.serve());
        // Taking all that rust-analyzer knows apart lasts seconds, and the process ends anyway.
        let warm = std::mem::ManuallyDrop::new(warm);
        Ok(served?.map(|birth| (std::mem::ManuallyDrop::into_inner(warm), birth)))
    });
    if !matches!(served, Ok(Some(_))) {
        let _ = fs::remove_dir_all(&own);
        // Another's may be there.
        let _ = fs::remove_dir(meeting::builds());
    }
    served
}

/// A directory for the lock's holder, with an empty build directory. Removes those of zygotes that were killed.
fn make_own_directory(meeting: &Meeting, name: &str) -> io::Result<PathBuf> {
    let builds = Private::open(&meeting::builds(), true)?;
    for entry in fs::read_dir(builds.path())?.flatten() {
        let owner = entry.file_name().to_string_lossy().strip_suffix(".build").map(str::to_owned);
        let Some(owner) = owner.filter(|owner| owner != name) else { continue };
        let dead = meeting.beside(owner)?;
        // Whoever becomes that zygote waits for the lock meanwhile.
        if let Ok(Some(_lock)) = dead.lock() {
            let _ = fs::remove_dir_all(entry.path());
            dead.remove(false);
        }
    }
    let own = builds.path().join(format!("{name}.build"));
    match fs::remove_dir_all(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(own.join(BUILD))?,
    }
    Ok(own)
}

/// What a fork is to become.
struct Birth {
    start: Start,
    /// A copy of the build directory that is nobody else's.
    spare: Option<PathBuf>,
    channel: UnixStream,
    runner: UnixStream,
    line: UnixStream,
    log: File,
}

/// A warm engine that has no server.
struct Warm {
    engine: Engine,
    runner: RunnersPlace,
    /// The sources of the library for cells.
    library: Option<PathBuf>,
}

impl Warm {
    fn new(build: &Path, data: Option<PathBuf>) -> io::Result<Warm> {
        let place = Place::new(build)?;
        let library = data.as_deref().map(|data| Data::at(data).library);
        let (_server, channel) = UnixStream::pair()?;
        let (_runners_server, runner) = UnixStream::pair()?;
        let (channel, runner_channel) = (Channel::new(channel), runner.as_raw_fd());
        let mut engine =
            Engine::start(&channel, runner, place.path(), data, start::rehearse).map_err(io::Error::other)?;
        let _ = engine.noise.during(duplicate(&channel)?, || start::warm_up(&mut engine.context));
        engine.place = Some(place);
        standby::wait_until_alone(|| Ok(false))?;
        let runner = RunnersPlace::find(runner_channel)?;
        if let Ok(mut child) = engine.runner.lock() {
            child.kill()?;
            child.wait()?;
        }
        engine.noise.release();
        template::clean(&engine.places)?;
        // What was rehearsed is no cell of anybody's.
        let _ = fs::remove_dir_all(engine.places.build.join(cache::DIRECTORY));
        alone::trim_memory();
        Ok(Warm { engine, runner, library })
    }

    /// The fork's life: makes everything that is the zygote's its own, and serves its kernel. Whatever
    /// fails here, the kernel sees its channel close before it was told `Ready`, and starts another engine.
    fn become_engine(mut self, birth: Birth) -> ! {
        let Birth { start, spare, channel, runner, line, log } = birth;
        let channel = Channel::new(channel);
        match self.settle(&channel, start, spare.as_deref(), runner, line, log) {
            Ok(()) => self.engine.serve(channel),
            Err(error) => {
                tracing::error!(%error, "an engine from the zygote cannot start");
                process::exit_now(1)
            }
        }
    }

    fn settle(
        &mut self,
        channel: &Peer,
        start: Start,
        spare: Option<&Path>,
        runner: UnixStream,
        line: UnixStream,
        log: File,
    ) -> io::Result<()> {
        live_with(&line)?;
        signals::reset_inherited();
        signals::ignore_strangers();
        let own = process::open_pidfd(Pid::this())?;
        channel.send_with(&FromEngine::Forked { pid: Pid::this().as_raw() }, &[own.as_fd()])?;
        // From here on it may be killed by the line at any moment: the kernel has gone on without it.
        if spare.is_none_or(|spare| fs::rename(spare, &start.build).is_err()) {
            // Another file system. The directory above is the kernel's, and is not made anew.
            DirBuilder::new().mode(0o700).create(&start.build)?;
            template::link(&self.engine.places.build, &start.build)?;
            let _ = spare.map(fs::remove_dir_all);
        }
        let place = self.engine.place.as_mut().ok_or(io::ErrorKind::NotFound)?;
        place.move_to(&start.build)?;
        limits::take_over(&start.limits)?;
        alone::replace_environment(&start.environment)?;
        environment::set(&self.engine.places, self.library.as_deref())?;
        environment::note(&self.engine.places)?;
        std::env::set_current_dir(&start.directory)?;
        fs::write(self.engine.places.cells(), "[]")?;
        Epoch::begin(&self.engine.places.epoch())?;
        self.runner.fill(&self.engine.places, runner, &self.engine.runner)?;
        self.engine.noise.log_to(log);
        self.engine.noise.renew()?;
        self.engine.leash = Leash::Line(line);
        Ok(())
    }
}

/// Who listens to kernels.
struct Server<'a> {
    identity: &'a Identity,
    meeting: &'a Meeting,
    /// The zygote's own directory.
    own: &'a Path,
    /// A copy of the build directory for the next engine.
    spare: Option<PathBuf>,
    forked: u64,
    listener: UnixListener,
    inode: Option<u64>,
    signals: Signals,
    idle: Duration,
}

impl<'a> Server<'a> {
    fn new(identity: &'a Identity, meeting: &'a Meeting, own: &'a Path) -> io::Result<Server<'a>> {
        role::adopt_orphans()?;
        let signals = Signals::take(&[Signal::TERM, Signal::CHLD])?;
        let idle = std::env::var(IDLE_VARIABLE).ok().and_then(|text| text.parse().ok());
        let listener = meeting.listen()?;
        let idle = idle.map_or(IDLE, Duration::from_secs);
        let inode = meeting.socket_inode();
        Ok(Server { identity, meeting, own, spare: None, forked: 0, listener, inode, signals, idle })
    }

    /// Serves until nobody needs it any more: `None`. In a fork: what it is to become.
    fn serve(&mut self) -> io::Result<Option<Birth>> {
        let mut lonely_since = Some(Instant::now());
        loop {
            let lonely = lonely_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
            if lonely >= self.idle || !self.is_needed() {
                return Ok(None);
            }
            let patience = LOOK.min(self.idle - lonely);
            let [called, signalled] = self.wait(patience)?;
            if signalled && self.is_told_to_end()? {
                return Ok(None);
            }
            let living = reap();
            if called {
                let status = Status { pid: Pid::this().as_raw(), forked: self.forked, living };
                match self.answer(status) {
                    Ok(Answered::Fork(birth)) => return Ok(Some(*birth)),
                    Ok(Answered::Stop) => return Ok(None),
                    Ok(Answered::Other) => {}
                    Err(error) => tracing::warn!(%error, "a kernel was not served"),
                }
            }
            let alone = procfs::children(Pid::this()).is_empty();
            lonely_since = alone.then(|| lonely_since.unwrap_or_else(Instant::now));
        }
    }

    /// Waits for a kernel or a signal. Where there is neither, makes a copy of the build directory first.
    fn wait(&mut self, patience: Duration) -> io::Result<[bool; 2]> {
        let looks = [Duration::ZERO, patience];
        for look in looks {
            let happened = readable(&[self.listener.as_fd(), self.signals.as_fd()], Some(look))?;
            if happened[0] || happened[1] {
                return Ok([happened[0], happened[1]]);
            }
            if self.spare.is_none() {
                self.spare = self.make_spare().inspect_err(|error| tracing::warn!(%error, "no copy")).ok();
            }
        }
        Ok([false, false])
    }

    fn make_spare(&self) -> io::Result<PathBuf> {
        let spare = self.own.join(format!("spare-{}", self.forked));
        // What a copy that has failed has left.
        let _ = fs::remove_dir_all(&spare);
        template::link(&self.own.join(BUILD), &spare)?;
        Ok(spare)
    }

    fn is_told_to_end(&self) -> io::Result<bool> {
        while let Some(signal) = self.signals.next()? {
            if signal == Signal::TERM {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether kernels that are started now look for this zygote, and find it.
    fn is_needed(&self) -> bool {
        self.identity.is_current()
            && self.inode.is_some()
            && self.meeting.socket_inode() == self.inode
            && self.own.is_dir()
    }

    /// Takes one request.
    ///
    /// # Errors
    /// Those of the connection: a caller that is slow, speaks nonsense, or is another user's.
    fn answer(&mut self, status: Status) -> io::Result<Answered> {
        let (stream, _) = self.listener.accept()?;
        meeting::expect_own_user(&stream)?;
        stream.set_read_timeout(Some(CALLERS_PATIENCE))?;
        stream.set_write_timeout(Some(CALLERS_PATIENCE))?;
        let channel: Channel<FromZygote, ToZygote> = Channel::new(stream);
        let Some(Received { value, descriptors }) = channel.receive()? else { return Ok(Answered::Other) };
        match value {
            ToZygote::Stop => Ok(Answered::Stop),
            ToZygote::Status => channel.send(&FromZygote::Status(status)).map(|()| Answered::Other),
            ToZygote::Start(start) => {
                let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
                let [own, runner, line, log] =
                    <[_; 4]>::try_from(descriptors).map_err(|_| wrong("an engine has four descriptors"))?;
                if start.identity != self.identity.text() {
                    return Err(wrong("the kernel looks for another zygote"));
                }
                // What has changed since the last look must not get an old compiler's engine.
                if !self.is_needed() {
                    return Ok(Answered::Stop);
                }
                let spare = self.spare.take();
                match alone::fork()? {
                    Fork::Parent(_) => self.forked += 1,
                    Fork::Child => {
                        let (channel, runner, line, log) = (own.into(), runner.into(), line.into(), log.into());
                        let birth = Birth { start, spare, channel, runner, line, log };
                        return Ok(Answered::Fork(Box::new(birth)));
                    }
                }
                Ok(Answered::Other)
            }
        }
    }
}

/// What a request came to.
enum Answered {
    /// This is the fork.
    Fork(Box<Birth>),
    /// The zygote is to leave.
    Stop,
    /// The zygote has done it.
    Other,
}

/// Reaps the children that have ended; returns how many there are still.
fn reap() -> usize {
    let children = procfs::children(Pid::this()).into_iter();
    children.filter(|child| matches!(process::reap(*child), Ok(None))).count()
}
