//! The server's handle on the far side: the supervisor, and through it the worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forklab_sys::channel::Channel;
use forklab_sys::process::{self, Pid, Signal};
use forklab_worker::messages::{FromSupervisor, Limits, ToSupervisor};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::recording;

/// How long the supervisor may take to end everything below it.
const LEAVE: Duration = Duration::from_secs(2);

/// The running supervisor.
#[derive(Debug)]
pub struct Far {
    channel: Channel<ToSupervisor, FromSupervisor>,
    child: Child,
}

impl Far {
    /// Starts the supervisor, in its own process group: a signal from the terminal of the person
    /// who started the server is not for the cells; and Jupyter kills a kernel by SIGKILL to its
    /// group, which the supervisor must outlive to end the cells' processes. All that they run together may
    /// use `notebook`.
    ///
    /// # Errors
    /// Those of socketpair(2), fork(2) and execve(2).
    pub fn start(program: &Path, runtime: &Path, notebook: Limits) -> io::Result<Far> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .arg("supervisor")
            .arg("--runtime-dir")
            .arg(runtime)
            .envs(recording::files(runtime))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let far = Far { channel: Channel::new(ours), child };
        far.send(&ToSupervisor::Limit { notebook })?;
        Ok(far)
    }

    /// The supervisor's pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a `Run` with the cell's stdout and stderr.
    ///
    /// # Errors
    /// `BrokenPipe` when the supervisor is gone.
    pub fn run(&self, run: &ToSupervisor, writers: &[OwnedFd; 2]) -> io::Result<()> {
        self.channel.send_with(run, &[writers[0].as_fd(), writers[1].as_fd()])
    }

    /// Sends any other message.
    ///
    /// # Errors
    /// `BrokenPipe` when the supervisor is gone.
    pub fn send(&self, message: &ToSupervisor) -> io::Result<()> {
        self.channel.send(message)
    }

    /// Waits for the next message; `None` when the supervisor is gone.
    ///
    /// # Errors
    /// Those of `Channel::receive`.
    pub fn receive(&self) -> io::Result<Option<FromSupervisor>> {
        Ok(self.channel.receive()?.map(|received| received.value))
    }

    /// Lets a supervisor go on that a cell has stopped: its processes may send it signals, and
    /// SIGSTOP cannot be ignored. That it has stopped is told by SIGCHLD.
    pub fn go_on_if_stopped(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        if let Ok(WaitStatus::Stopped(..)) = waitid(Id::Pid(pid), flags)
            && let Some(supervisor) = Pid::from_raw(self.pid())
        {
            tracing::warn!("the supervisor was stopped by somebody; it goes on");
            // It has not been reaped, so the pid is its own.
            let _ = process::kill(supervisor, Signal::CONT);
        }
    }

    /// After the end of its channel: waits until the supervisor has ended. A process closes its descriptors
    /// before its children get another parent, and has given all of them away when it is a zombie.
    pub fn await_end(&mut self) {
        if !wait_until(&mut self.child, Instant::now() + LEAVE) {
            tracing::warn!("the supervisor has closed its channel and lives; it is killed");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Asks the supervisor to end everything, and waits until it has. It is killed when it takes
    /// longer than two seconds; its children then end by their parent-death signals.
    pub fn leave(mut self) {
        // A supervisor that is gone already cannot be told, and need not be.
        let _ = self.channel.send(&ToSupervisor::Shutdown);
        drop(self.channel);
        if !wait_until(&mut self.child, Instant::now() + LEAVE) {
            tracing::warn!("the supervisor did not leave in time and is killed");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl AsFd for Far {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Waits for a child of ours until a deadline; whether it has ended.
pub fn wait_until(child: &mut Child, deadline: Instant) -> bool {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => return true,
        }
    }
}
