//! rustc as a child that ends with the engine.
//!
//! Nobody else would end an endless constant: evcxr waits for cargo, cargo for rustc, and neither
//! notices that nobody waits for them any more.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use forklab_sys::events::readable;
use forklab_sys::process::{self, ExitStatus, Fork, Pid, Signal};
use forklab_sys::{alone, role};

use crate::environment::ENGINE_VARIABLE;

/// With what a rustc ends that nobody waits for.
pub(crate) const ABANDONED: i32 = 1;

/// A compilation that has ended.
#[derive(Debug)]
pub(crate) struct Compiled {
    status: ExitStatus,
    /// What rustc has written to standard error: a JSON value in each line.
    pub errors: Vec<u8>,
}

impl Compiled {
    /// Whether rustc has made what it was to make.
    pub fn is_good(&self) -> bool {
        self.status == ExitStatus::Exited(0)
    }
}

/// Runs the compiler to its end. This process ends at once when its engine does, and the compiler
/// with it. To be called while there is one thread.
///
/// # Errors
/// Those of pipe(2), fork(2) and poll(2). That there is no such program is the compilation's failure.
pub(crate) fn run(mut command: Command) -> io::Result<Compiled> {
    let engine = engine()?;
    role::receive_when_parent_dies(Signal::KILL)?;
    let (mut reader, writer) = io::pipe()?;
    let this = Pid::this();
    let child = match alone::fork()? {
        Fork::Parent(child) => child,
        Fork::Child => {
            die_with(this)?;
            nix::unistd::dup2_stderr(&writer)?;
            let error = command.exec();
            eprintln!("error: cannot run {}: {error}", command.get_program().display());
            process::exit_now(127)
        }
    };
    drop(writer);
    let mut errors = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        if let Some(engine) = &engine
            && readable(&[reader.as_fd(), engine.as_fd()], None)?[1]
        {
            process::exit_now(ABANDONED)
        }
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => errors.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Compiled { status: process::wait(child)?, errors })
}

/// The engine that is to be worked for. Where it has ended, this process does, too.
///
/// # Errors
/// Those of pidfd_open(2).
pub(crate) fn engine() -> io::Result<Option<OwnedFd>> {
    let engine = std::env::var(ENGINE_VARIABLE).ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    let Some(engine) = engine else { return Ok(None) };
    match process::open_pidfd(engine) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => process::exit_now(ABANDONED),
        other => other.map(Some),
    }
}

/// Has this process, a fresh fork, end with the one that it was forked from.
///
/// # Errors
/// Those of prctl(2).
pub(crate) fn die_with(parent: Pid) -> io::Result<()> {
    role::receive_when_parent_dies(Signal::KILL)?;
    // The parent may have ended before the wish.
    if Pid::parent() == Some(parent) { Ok(()) } else { process::exit_now(ABANDONED) }
}
