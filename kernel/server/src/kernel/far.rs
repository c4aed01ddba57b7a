//! The server's handle on the far side: the supervisor, and through it the worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forklab_sys::channel::Channel;
use forklab_worker::messages::{CellId, FromSupervisor, Task, ToSupervisor};

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
    /// who started the server is not for the cells.
    ///
    /// # Errors
    /// Those of socketpair(2), fork(2) and execve(2).
    pub fn start(program: &Path, runtime: &Path) -> io::Result<Far> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .arg("supervisor")
            .arg("--runtime-dir")
            .arg(runtime)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Far { channel: Channel::new(ours), child })
    }

    /// The supervisor's pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Runs a task with the cell's stdout and stderr.
    ///
    /// # Errors
    /// `BrokenPipe` when the supervisor is gone.
    pub fn run(&self, cell: CellId, task: Task, checkpoint: bool, writers: &[OwnedFd; 2]) -> io::Result<()> {
        let message = ToSupervisor::Run { cell, task, checkpoint };
        self.channel.send_with(&message, &[writers[0].as_fd(), writers[1].as_fd()])
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
