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
use std::thread;
use std::time::{Duration, Instant};

use forklab_sys::alone;
use forklab_sys::channel::Channel;
use forklab_sys::process::{self, Fork, Pid, Signal};
use forklab_sys::ready::wait_readable;
use forklab_sys::role;

use crate::messages::{FromEngine, ToEngine};

/// Whether this engine can fork. A build without the flag in `.cargo/config.toml` has a rust-analyzer
/// that keeps threads: it works, a little slower to start, and cannot be replaced when it dies.
pub(crate) const POSSIBLE: bool = cfg!(no_salsa_async_drops);

/// How long threads that have finished their work may take to be gone. On a busy machine it is long
/// until the runner has been loaded and closes its stderr, which ends evcxr's thread there.
const THREADS_END: Duration = Duration::from_secs(20);

/// How long they may take while a request is waiting. Enough for a runner on an idle machine.
const THREADS_END_SOON: Duration = Duration::from_millis(100);

/// How long an engine whose channel has closed may take to be gone.
const ENGINE_ENDS: Duration = Duration::from_secs(5);

/// What came of a fork, on either side.
pub(crate) enum Standby {
    /// The engine's side; the server has the standby's channel.
    Made(Pid),
    /// The standby's side: the channel on which its first request will come.
    Asleep(Channel<FromEngine, ToEngine>),
}

/// Makes a standby and gives the server the other end of its channel.
///
/// # Errors
/// `ResourceBusy` while threads are about to end and a request is waiting, or those of fork(2), of
/// socketpair(2) and of the channel.
pub(crate) fn make(channel: &Channel<FromEngine, ToEngine>) -> io::Result<Standby> {
    wait_until_alone(|| is_waiting(channel))?;
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

/// Ends a woken standby with the server, to which its engine's children fall.
///
/// Not before they have: an engine's descriptors close before its children get another parent. The
/// engine dies, its channel closes, the server wakes the standby, the standby asks for a signal at its
/// parent's death, and the engine's end goes on to the children, whose parent has died.
///
/// # Errors
/// Those of prctl(2).
pub(crate) fn live_with_server(engine: Pid) -> io::Result<()> {
    let deadline = Instant::now() + ENGINE_ENDS;
    while Pid::parent() == Some(engine) {
        if Instant::now() > deadline {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    role::receive_when_parent_dies(Signal::KILL)
}

/// Waits until no thread but this one is left. A joined thread is in `/proc` for a moment still, and
/// evcxr's at the runner's stderr until the runner has started.
///
/// # Errors
/// `ResourceBusy` when it takes too long, which is much sooner when somebody `is_waiting`.
pub(crate) fn wait_until_alone(is_waiting: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        if alone::threads()? == 1 {
            return Ok(());
        }
        let waited = start.elapsed();
        if waited > THREADS_END || waited > THREADS_END_SOON && is_waiting()? {
            let names = alone::thread_names()?.join(", ");
            let message = format!("these threads have not ended: {names}");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a request has come that nobody has read.
pub(crate) fn is_waiting(channel: &Channel<FromEngine, ToEngine>) -> io::Result<bool> {
    is_waiting_within(channel, Duration::ZERO)
}

/// Whether a request comes within this time.
pub(crate) fn is_waiting_within(channel: &Channel<FromEngine, ToEngine>, time: Duration) -> io::Result<bool> {
    wait_readable(channel.as_fd(), Some(time))
}
