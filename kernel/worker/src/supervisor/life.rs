//! The worker's life: birth, readiness, death, and replacement by its checkpoint.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forklab_sys::channel::Heard;
use forklab_sys::events::readable;
use forklab_sys::process::{ExitStatus, Pid, Signal, kill};
use forklab_sys::pty::Pty;

use super::watch::Watch;
use super::{Connection, Home, LONGEST_REPORT, Phase, Supervisor};
use crate::messages::{CellId, Exit, FromSupervisor, Hindrance, Outcome, ProcessId, Reached};
use crate::orders::{FromWorker, ToWorker};

/// A worker that has not said within this time that it is ready never will.
const TIME_TO_START: Duration = Duration::from_secs(20);

/// After so many workers that do not come up, another one will not either.
const MOST_FAILED_STARTS: u32 = 3;

/// A copy of the worker, asleep. It leaves when `line` is closed.
pub struct Checkpoint {
    pub pid: Pid,
    line: UnixStream,
}

/// What the server is owed when the worker that is starting has come up.
#[derive(Debug, Clone)]
pub enum After {
    /// The first worker: nothing.
    Nothing,
    /// The worker before this one died in a task.
    Died { cell: CellId, how: Exit },
    /// The worker before this one has finished a task, and could take no other.
    Stranded { cell: CellId, hindrance: Hindrance },
    /// The worker before this one has finished a task, and was ended to undo that.
    Undone { cell: CellId, outcome: Box<Outcome> },
    /// The worker before this one was killed by an interrupt.
    Interrupted { cell: CellId },
    /// The worker before this one was killed because a limit was reached.
    OverLimit { cell: CellId, reached: Reached },
    /// The worker before this one died between two tasks.
    Between { how: Exit },
}

impl Phase {
    pub fn starting(after: After, woken: bool) -> Phase {
        Phase::Starting { after, woken, deadline: Instant::now() + TIME_TO_START }
    }

    pub fn preparing() -> Phase {
        Phase::Preparing { deadline: Instant::now() + TIME_TO_START }
    }
}

/// Starts a fresh worker: this same program in another role.
pub fn spawn(home: &Home, pty: &Pty, watch: &mut Watch) -> io::Result<(Pid, Connection)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("forklab").arg("worker").stdin(Stdio::from(OwnedFd::from(theirs)));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // A panic in a cell shows its message and no pages of backtrace.
    command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    for (name, value) in [("TERM", "xterm-color"), ("PAGER", "cat"), ("GIT_PAGER", "cat")] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id() as i32).expect("a child has a pid");
    // It has not begun, so nothing of it is outside of the limits.
    watch.enter(pid);
    let connection = Connection::new(ours, LONGEST_REPORT);
    let begin = ToWorker::Begin { socket: home.socket.clone(), name: home.name.clone() };
    connection.send_with(&begin, &[pty.terminal()])?;
    Ok((pid, connection))
}

impl Supervisor {
    /// The worker says something, or has closed its connection.
    pub fn on_worker(&mut self) -> io::Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match connection.receive() {
            Ok(Heard::Value(message)) => match message.value {
                FromWorker::Ready { ended, checkpoint } => self.on_ready(ended, checkpoint, message.descriptors),
                FromWorker::Stranded { hindrance, token } => {
                    if self.is_of_task(token) {
                        self.stranded = Some(hindrance);
                    }
                    self.end_worker();
                    Ok(())
                }
            },
            Ok(Heard::NotYet) => Ok(()),
            // User code has knocked and gone. Or the worker has died; then its reaping tells how.
            Ok(Heard::Closed) if matches!(self.phase, Phase::Busy { .. }) => {
                self.connection = None;
                Ok(())
            }
            // It left; how, its reaping will tell. Or it speaks nonsense, in which case user code
            // has got hold of the worker's connection, and the worker is not to be trusted.
            Ok(Heard::Closed) | Err(_) => {
                self.end_worker();
                Ok(())
            }
        }
    }

    /// Whether this is the token of the task that runs.
    fn is_of_task(&self, given: u64) -> bool {
        matches!(self.phase, Phase::Busy { token, .. } if token == given)
    }

    fn on_ready(
        &mut self,
        ended: Option<(Outcome, u64)>,
        checkpoint: Option<ProcessId>,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let line = descriptors.into_iter().next().map(UnixStream::from);
        let pid = checkpoint.and_then(|pid| Pid::from_raw(pid.0));
        let fresh = pid.zip(line).map(|(pid, line)| Checkpoint { pid, line });
        match (std::mem::replace(&mut self.phase, Phase::Idle), ended) {
            (Phase::Busy { cell, token, undo: true, before, .. }, Some((outcome, given))) if token == given => {
                return self.undo(cell, before, outcome);
            }
            (Phase::Busy { cell, checkpoint, token, .. }, Some((outcome, given))) if token == given => {
                self.commit(fresh);
                if checkpoint && self.checkpoint.is_none() {
                    self.watch.forgive_refusal();
                }
                self.end_of_task()?;
                self.tell_ended(cell, outcome)?;
                if checkpoint && self.checkpoint.is_none() {
                    return self.prepare();
                }
            }
            (Phase::Preparing { .. }, None) => self.commit(fresh),
            (Phase::Starting { after, woken, .. }, None) => {
                self.commit(fresh);
                self.settle_accounts(after, woken)?;
            }
            // No worker of ours says this now: user code speaks in its name, and is not to be
            // trusted. What the server is owed stays owed until the worker is reaped.
            (before, _) => {
                self.phase = before;
                self.end_worker();
            }
        }
        self.run_queued()
    }

    /// From here on a rollback leads to this moment.
    fn commit(&mut self, fresh: Option<Checkpoint>) {
        self.drop_checkpoint();
        self.checkpoint = fresh;
        self.failed_starts = 0;
    }

    /// A new worker is there: says so, and what became of the task in which the old one died.
    fn settle_accounts(&mut self, after: After, restored: bool) -> io::Result<()> {
        self.tell(&FromSupervisor::Worker { pid: self.worker.into() })?;
        match after {
            After::Nothing => Ok(()),
            After::Died { cell, how } => self.tell_ended(cell, Outcome::Died { how, restored }),
            After::Stranded { cell, hindrance } => self.tell_ended(cell, Outcome::Stranded { hindrance, restored }),
            After::Undone { cell, outcome } => self.tell_undone(cell, *outcome, restored),
            After::Interrupted { cell } => self.tell_ended(cell, Outcome::Interrupted { restored }),
            After::OverLimit { cell, reached } => self.tell_ended(cell, Outcome::OverLimit { reached, restored }),
            After::Between { .. } if restored => Ok(()),
            After::Between { how } => self.tell(&FromSupervisor::StateLost { how }),
        }
    }

    /// The worker has ended and is reaped.
    pub fn on_worker_ended(&mut self, status: ExitStatus) -> io::Result<()> {
        // Its last words count: a worker that has reported has finished its task, whatever killed
        // it then; and one that was killed while it reported has not.
        self.hear_out()?;
        if self.worker_ended.is_none() {
            // Its task is undone, and another one is the worker.
            return Ok(());
        }
        let how = status.into();
        if self.interrupted_processes_go_on() {
            return Ok(());
        }
        match &mut self.phase {
            Phase::Busy { cell, .. } if self.interrupting.is_some() => {
                let cell = *cell;
                self.end_task(After::Interrupted { cell })
            }
            Phase::Busy { cell, .. } if self.watch.out_of_memory() => {
                let (cell, reached) = (*cell, self.watch.memory_reached());
                self.end_beyond_limit(cell, reached)
            }
            Phase::Busy { cell, before, .. } => {
                let (cell, before) = (*cell, std::mem::take(before));
                self.end_record_of_undone()?;
                let after = match self.stranded.take() {
                    Some(hindrance) => After::Stranded { cell, hindrance },
                    None => After::Died { cell, how },
                };
                self.end_task_sparing(before, after)
            }
            Phase::Idle | Phase::Preparing { .. } => self.replace(After::Between { how }),
            // A restored worker that does not come up: a fresh one will, but knows nothing.
            Phase::Starting { after, woken, .. } => {
                let (after, woken) = (after.clone(), *woken);
                self.failed_starts += u32::from(!woken);
                if self.failed_starts < MOST_FAILED_STARTS {
                    return self.replace_by_fresh(after);
                }
                let message = format!("the process that runs the cells does not start ({status}); restart the kernel");
                self.tell(&FromSupervisor::Failed { message: message.clone() })?;
                Err(io::Error::other(message))
            }
        }
    }

    /// Takes in what the worker has sent and we have not read yet.
    pub fn hear_out(&mut self) -> io::Result<()> {
        self.on_knock()?;
        let Some(connection) = &self.connection else { return Ok(()) };
        if readable(&[connection.as_fd()], Some(Duration::ZERO))?[0] {
            self.on_worker()?;
        }
        Ok(())
    }

    /// Wakes the checkpoint; without one, starts afresh.
    pub fn replace(&mut self, after: After) -> io::Result<()> {
        let Some(checkpoint) = self.checkpoint.take() else { return self.replace_by_fresh(after) };
        let connection = Connection::new(checkpoint.line, LONGEST_REPORT);
        if connection.send_with(&ToWorker::Wake, &[self.pty.terminal()]).is_err() {
            return self.replace_by_fresh(after);
        }
        self.worker = checkpoint.pid;
        self.worker_ended = None;
        self.connection = Some(connection);
        self.phase = Phase::starting(after, true);
        Ok(())
    }

    fn replace_by_fresh(&mut self, after: After) -> io::Result<()> {
        self.drop_checkpoint();
        let (worker, connection) = spawn(&self.home, &self.pty, &mut self.watch)?;
        self.worker = worker;
        self.worker_ended = None;
        self.connection = Some(connection);
        self.phase = Phase::starting(after, false);
        Ok(())
    }

    /// Ends the checkpoint. Its reaping comes with its signal.
    pub fn drop_checkpoint(&mut self) {
        if let Some(checkpoint) = self.checkpoint.take() {
            // It is our child and not reaped, so the pid is its own.
            let _ = kill(checkpoint.pid, Signal::KILL);
            self.retired.push(checkpoint.pid);
        }
    }

    /// Ends the worker. What is to be done about it is done when it is reaped.
    pub fn end_worker(&mut self) {
        // It is our child and not reaped, so the pid is its own.
        if self.worker_ended.is_none() {
            let _ = kill(self.worker, Signal::KILL);
        }
        // Readable for ever, now that nobody is at the other end.
        self.connection = None;
    }

    pub fn give_up_starting(&mut self) {
        if let Phase::Starting { deadline, .. } | Phase::Preparing { deadline } = &mut self.phase {
            *deadline = Instant::now() + TIME_TO_START;
        }
        self.end_worker();
    }
}
