//! The standby: a fork of the engine as it was after the last cell, asleep.
//!
//! When the engine dies, the server sends the next request to the standby, which goes on with the
//! items, dependencies and variables that the engine had. It shares the build directory and evcxr's
//! two pipes to the runner with the engine that it came from.
//!
//! A fork copies one thread, so the engine has one when it forks: the listener of `noise` has been
//! joined, evcxr's thread at the runner's stderr has ended with that stderr, and rust-analyzer's
//! loader has none (`kernel/loader`).

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use forklab_sys::alone;
use forklab_sys::channel::Channel;
use forklab_sys::process::{self, Fork, Pid};

use crate::messages::{FromEngine, ToEngine};

/// Whether this engine can fork. A build without the flag in `.cargo/config.toml` has a rust-analyzer
/// that keeps threads: it works, a little slower to start, and cannot be replaced when it dies.
pub(crate) const POSSIBLE: bool = cfg!(no_salsa_async_drops);

/// How long a thread that has finished its work may take to be gone.
const THREADS_END: Duration = Duration::from_secs(2);

/// What came of a fork, on either side.
pub(crate) enum Standby {
    /// The engine's side; the server has the standby's channel.
    Made(Pid),
    /// The standby's side: the channel on which its first request will come.
    Asleep(Channel<FromEngine, ToEngine>),
}

/// Makes a standby and gives the server the other end of its channel.
pub(crate) fn make(channel: &Channel<FromEngine, ToEngine>) -> io::Result<Standby> {
    wait_until_alone()?;
    let (servers_end, standbys_end) = UnixStream::pair()?;
    match alone::fork()? {
        Fork::Child => Ok(Standby::Asleep(Channel::new(standbys_end))),
        Fork::Parent(pid) => {
            drop(standbys_end);
            channel.send_with(&FromEngine::Standby { pid: pid.as_raw() }, &[servers_end.as_fd()])?;
            Ok(Standby::Made(pid))
        }
    }
}

/// Forgets the standbys that have left.
pub(crate) fn reap(standbys: &mut Vec<Pid>) {
    standbys.retain(|pid| matches!(process::reap(*pid), Ok(None)));
}

/// Waits until no thread but this one is left. A joined thread is in `/proc` for a moment still.
pub(crate) fn wait_until_alone() -> io::Result<()> {
    let deadline = Instant::now() + THREADS_END;
    loop {
        if alone::threads()? == 1 {
            return Ok(());
        }
        if Instant::now() > deadline {
            let names = alone::thread_names()?.join(", ");
            let message = format!("these threads do not end: {names}");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
