//! A kernel's side: asks for an engine, and has a zygote made where there is none.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use forklab_sys::channel::Channel;
use forklab_sys::process::{self, Pid, Signal};
use forklab_sys::{descriptors, procfs};

use super::identity::{Identity, kept_variables};
use super::limits;
use super::meeting::Meeting;
use super::{FromZygote, Start, Status, ToZygote};
use crate::standby;

/// How long a zygote may take to read a request, and to answer one about itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long one may take that was told to leave.
const LEAVES: Duration = Duration::from_secs(2);

/// Switches all of this off.
const SWITCH: &str = "FORKLAB_ZYGOTE";

/// Whether engines are to come from a zygote: not with `FORKLAB_ZYGOTE=off`, and not in a build whose
/// rust-analyzer keeps threads.
pub fn is_wanted() -> bool {
    standby::POSSIBLE && std::env::var_os(SWITCH).is_none_or(|value| value != "off")
}

/// What an engine gets of its kernel's.
#[derive(Debug)]
pub struct Ends<'a> {
    /// Its end of the channel.
    pub channel: BorrowedFd<'a>,
    /// Its runner's end of the runner's channel.
    pub runner: BorrowedFd<'a>,
    /// Nothing goes through it. The engine is killed when the kernel's end closes.
    pub lifeline: BorrowedFd<'a>,
}

/// The zygote for kernels like this one.
#[derive(Debug)]
pub struct Zygote {
    identity: Identity,
}

impl Zygote {
    /// The one for this process, whose library for cells is below `data`. It need not be there.
    ///
    /// # Errors
    /// Those of reading `/proc`.
    pub fn of_this_process(data: Option<&Path>) -> io::Result<Zygote> {
        Ok(Zygote { identity: Identity::of_this_process(data)? })
    }

    /// Asks it for an engine that builds in `build`, a new directory. Does not wait for the engine, which
    /// sends `Forked` as its first message; if it does not come, neither will anything else.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused` when there is no zygote, `PermissionDenied` when what is there
    /// is somebody else's, `TimedOut` or `WouldBlock` when it does not read.
    pub fn ask(&self, build: &Path, ends: &Ends<'_>) -> io::Result<()> {
        // As a file that is opened to be written and locked by others: what has changed since this
        // process started makes this another's zygote.
        if !self.identity.is_current() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "forklab, rustc or the library was replaced"));
        }
        let start = Start {
            identity: self.identity.text().to_owned(),
            build: build.to_owned(),
            directory: std::env::current_dir()?,
            limits: limits::soft(),
            environment: std::env::vars_os().collect::<Vec<(OsString, OsString)>>(),
        };
        let errors = io::stderr();
        let descriptors = [ends.channel, ends.runner, ends.lifeline, errors.as_fd()];
        self.connect()?.send_with(&ToZygote::Start(start), &descriptors)
    }

    fn connect(&self) -> io::Result<Channel<ToZygote, FromZygote>> {
        let stream = Meeting::find(self.identity.name(), false)?.connect()?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Channel::new(stream))
    }

    /// What the zygote says of itself.
    ///
    /// # Errors
    /// As [`Zygote::ask`].
    pub fn status(&self) -> io::Result<Status> {
        let channel = self.connect()?;
        channel.send(&ToZygote::Status)?;
        let gone = || io::Error::new(io::ErrorKind::ConnectionRefused, "the zygote has left");
        let FromZygote::Status(status) = channel.receive()?.ok_or_else(gone)?.value;
        Ok(status)
    }

    /// Whether there is one, or one that is not warm yet.
    pub fn exists(&self) -> bool {
        Meeting::find(self.identity.name(), false).is_ok_and(|meeting| meeting.is_taken())
    }

    /// Has the zygote leave; the engines that came from it stay. One that does not read is killed, and
    /// so is one that is still warming up. `false` when there was none.
    ///
    /// # Errors
    /// Those of connect(2), of `/proc` and of kill(2).
    pub fn stop(&self) -> io::Result<bool> {
        if !self.exists() {
            return Ok(false);
        }
        if let Ok(channel) = self.connect() {
            let pid = descriptors::peer(&UnixStream::from(channel.as_fd().try_clone_to_owned()?))?;
            let _ = channel.send(&ToZygote::Stop);
            if self.is_gone_within(LEAVES) {
                return Ok(true);
            }
            pid.map_or(Ok(()), |pid| process::kill(pid, Signal::KILL))?;
        } else {
            self.warming().into_iter().try_for_each(|pid| process::kill(pid, Signal::TERM))?;
        }
        if self.is_gone_within(LEAVES) { Ok(true) } else { Err(io::Error::other("the zygote does not leave")) }
    }

    /// Who holds the lock and does not listen yet, as its log's first line tells.
    fn warming(&self) -> Option<Pid> {
        let meeting = Meeting::find(self.identity.name(), false).ok()?;
        let log = std::fs::read_to_string(meeting.log_path()).ok()?;
        let pid = log.lines().next()?.strip_prefix(super::FIRST_LINE)?.parse().ok().and_then(Pid::from_raw)?;
        let command = procfs::stat(pid).and_then(|_| std::fs::read(format!("/proc/{pid}/cmdline")).ok())?;
        command.ends_with(b"\0engine\0--zygote\0").then_some(pid)
    }

    fn is_gone_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while self.exists() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Where the zygote's log is.
    pub fn log_path(&self) -> Option<PathBuf> {
        Some(Meeting::find(self.identity.name(), false).ok()?.log_path())
    }

    /// Starts the process that can become the zygote, and becomes it when it is told to.
    ///
    /// It is to be started before this process becomes the one to which orphans below it fall
    /// (`role::adopt_orphans`): it leaves this process's descendants, and [`Ember::detach`] sees that it
    /// has done so.
    ///
    /// # Errors
    /// Those of fork(2) and execve(2).
    pub fn ember(&self, program: &Path) -> io::Result<Ember> {
        let mut command = Command::new(program);
        command.args(["engine", "--zygote"]).env_clear().envs(kept_variables());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let line = child.stdin.take().ok_or(io::ErrorKind::NotFound)?;
        Ok(Ember { child, line: Some(line) })
    }
}

/// A process that can become the zygote. It leaves when this is dropped before.
#[derive(Debug)]
pub struct Ember {
    /// Its first half, which ends when the second has left our descendants.
    child: Child,
    line: Option<ChildStdin>,
}

impl Ember {
    /// Waits until it is no descendant of ours, a few milliseconds.
    pub fn detach(&mut self) {
        let _ = self.child.wait();
    }

    /// Has it become the zygote, unless another one has meanwhile.
    pub fn kindle(&mut self) {
        // If it has left there will be none.
        let _ = self.line.take().map(|mut line| line.write_all(b"!"));
    }
}
