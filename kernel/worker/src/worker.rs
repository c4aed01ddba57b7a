//! The worker: runs one task after the other in its main thread and keeps the variables.
//!
//! While user code runs it holds no descriptor of the kernel's but the cell's own; what it needs to
//! find its way back is the supervisor's address. Nothing here may print: standard output and
//! standard error are the cell's.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use forklab_sys::channel::Channel;
use forklab_sys::checkpoint::{self, Copy};
use forklab_sys::descriptors::{
    Room, connect, connect_by_name, give_up_standard_input, null, set_standard, take_standard_input,
};
use forklab_sys::generated::{Library, Origin, Variables};
use forklab_sys::process::{ExitStatus, Signal, exit_now};
use forklab_sys::signals::HeldInterrupts;
use forklab_sys::usage::Usage;
use forklab_sys::{processors, pty, role, signals};

use crate::fitness::Fitness;
use crate::messages::{Hindrance, Outcome, ProcessId, Report, Task, Used};
use crate::orders::{FromWorker, ToWorker};
use crate::report;

/// The niceness of a program that has asked for none.
const ORDINARY: i32 = 0;

/// What `ps` shows.
const NAME: &CStr = c"forklab";

/// Before every other process: the highest `oom_score_adj`.
const FIRST_VICTIM: i32 = 1000;

type Supervisor = Channel<FromWorker, ToWorker>;

/// With what the worker leaves when it cannot reach its supervisor any more, because user code has
/// taken the means away (a filter of system calls).
pub const UNREACHABLE: i32 = 70;

/// Runs as the worker. Standard input is the first connection to the supervisor. Returns when the
/// supervisor has gone.
///
/// # Errors
/// When the supervisor's first word is not what it should be, or the terminal cannot be taken.
pub fn main() -> io::Result<()> {
    let supervisor: Supervisor = Channel::new(UnixStream::from(take_standard_input()?));
    role::set_name(NAME);
    signals::reset_inherited();
    // The supervisor's may be below it.
    let _ = role::set_niceness(ORDINARY);
    let interrupts = signals::hold_interrupts();
    report::prepare()?;
    pty::new_session()?;
    let null = null()?;
    set_standard(None, Some(null.as_fd()), Some(null.as_fd()))?;
    drop(null);
    let Some(first) = supervisor.receive()? else { return Ok(()) };
    let ToWorker::Begin { socket, name } = first.value else {
        return Err(io::Error::other("the supervisor did not begin at the beginning"));
    };
    // Root's worker could open what our processes keep to themselves. Where it cannot give that up,
    // it had no right to it.
    let _ = role::give_up_tracing_everybody();
    let score = role::memory_victim_score();
    settle(first.descriptors)?;
    let interrupts = Some(interrupts);
    let (variables, room, fitness) = (Variables::none(), Room::default(), Fitness::new());
    Worker { socket, name, variables, room, interrupts, score, fitness }.serve(supervisor)
}

/// What a process does that becomes the worker: fresh from exec, or woken.
fn settle(descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let [terminal] = <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| io::Error::other("no terminal came"))?;
    set_standard(Some(terminal.as_fd()), None, None)?;
    pty::take_terminal(terminal.as_fd())?;
    report::become_worker();
    take_place()
}

/// What a process does before each task, since the one before it may have undone it.
fn take_place() -> io::Result<()> {
    role::receive_when_parent_dies(Signal::KILL)?;
    // The supervisor looks at it to see who waits for input.
    role::let_others_in();
    // When memory is short, what a cell does goes before everybody else. A system without the means
    // chooses by size, which is right mostly.
    let _ = role::set_memory_victim_score(FIRST_VICTIM);
    Ok(())
}

struct Worker {
    socket: PathBuf,
    /// The same socket's other name.
    name: String,
    variables: Variables,
    /// For our own descriptors, between tasks.
    room: Room,
    /// SIGINT comes to user code only. One that came while the worker speaks with the supervisor, or
    /// to a checkpoint that is being made, would end what a person's interrupt is not about.
    interrupts: Option<HeldInterrupts>,
    /// How likely the worker was to be ended for want of memory before it raised that.
    score: Option<i32>,
    /// Whether the last task has left this process fit for another one.
    fitness: Fitness,
}

impl Worker {
    fn serve(mut self, mut supervisor: Supervisor) -> io::Result<()> {
        let mut ended: Option<(Outcome, u64)> = None;
        let mut wanted = true;
        loop {
            match wanted.then(|| checkpoint::take(supervisor.as_fd(), NAME, self.score)) {
                Some(Ok(Copy::Original { pid, line })) => {
                    let ready = FromWorker::Ready { ended, checkpoint: Some(ProcessId::from(pid)) };
                    supervisor.send_with(&ready, &[line.as_fd()])?;
                }
                Some(Ok(Copy::Woken { line })) => {
                    supervisor = Channel::new(line);
                    let Some(order) = supervisor.receive()? else { return Ok(()) };
                    settle(order.descriptors)?;
                    ended = None;
                    continue;
                }
                Some(Err(error)) => match (self.fitness.hindrance_to_checkpoint(&error), &ended) {
                    (Some(hindrance), Some((_, token))) => return give_up(&supervisor, hindrance, *token),
                    _ => supervisor.send(&FromWorker::Ready { ended, checkpoint: None })?,
                },
                None => supervisor.send(&FromWorker::Ready { ended, checkpoint: None })?,
            }
            let Some(order) = supervisor.receive()? else { return Ok(()) };
            let (task, checkpoint, last, cpus, files, token) = match order.value {
                ToWorker::Run { task, checkpoint, last, cpus, files, token } => {
                    (task, checkpoint, last, cpus, files, token)
                }
                ToWorker::Prepare => {
                    (ended, wanted) = (None, true);
                    continue;
                }
                ToWorker::Begin { .. } | ToWorker::Wake => {
                    return Err(io::Error::other("the supervisor asked a running worker to begin"));
                }
            };
            wanted = checkpoint;
            // The supervisor sends a task when it has heard of the last one's end: a SIGINT that is
            // here by now was for that.
            if let Some(held) = &self.interrupts {
                held.forget();
            }
            put_on(order.descriptors)?;
            take_place()?;
            drop(supervisor);
            ended = Some((self.run(task, cpus, files), token));
            let hindrance = if last { None } else { self.fitness.hindrance() };
            supervisor = Channel::new(self.call_home());
            if let Some(hindrance) = hindrance {
                return give_up(&supervisor, hindrance, token);
            }
        }
    }

    /// Connects to the supervisor. Each attempt has a cell against which the one before it fails: one
    /// that has changed its root directory or its user, removed the kernel's files, or left itself no
    /// descriptor but the standard ones.
    fn call_home(&self) -> UnixStream {
        connect(&self.socket)
            .or_else(|_| connect_by_name(&self.name))
            .or_else(|_| {
                give_up_standard_input();
                connect(&self.socket)
            })
            .or_else(|_| connect_by_name(&self.name))
            .unwrap_or_else(|_| exit_now(UNREACHABLE))
    }

    /// Runs a task. Returns in the worker only.
    fn run(&mut self, task: Task, cpus: Option<usize>, files: Option<u64>) -> Outcome {
        // Until the outcome is known, so that no checkpoint has it.
        let pinned = match cpus.map(processors::pin).transpose() {
            Ok(pinned) => pinned,
            Err(error) => return Outcome::NotRun { message: format!("the cell cannot be pinned: {error}") },
        };
        let outcome = match task {
            Task::Call { library, function } => {
                self.call(&library, &function, files).map(|used| Report { used: Some(used), ..report::finish() })
            }
            Task::Shell { command } => self.shell(&command, files),
        };
        drop(pinned);
        match outcome {
            Ok(report) => Outcome::Returned(report),
            Err(error) => Outcome::NotRun { message: error.to_string() },
        }
    }

    fn call(&mut self, path: &Path, function: &str, files: Option<u64>) -> io::Result<Used> {
        let origins = origins_beside(path);
        let library = Library::open(path)?;
        self.fitness.loaded(path);
        let function = library.function(function)?;
        report::begin(&library, function, origins);
        let reserve = std::mem::take(&mut self.room).give_back(files);
        if let Some(held) = self.interrupts.take() {
            held.release();
        }
        let usage = Usage::now();
        let variables = function.call(self.variables);
        // From here on this may be a child that user code forked and that came to the function's
        // end. It must not go further: what follows speaks for the worker.
        if !report::in_worker() {
            report::leave_child();
        }
        let used = usage.since().into();
        self.interrupts = Some(signals::hold_interrupts());
        self.variables = variables;
        self.room = reserve.release();
        Ok(used)
    }

    fn shell(&mut self, command: &str, files: Option<u64>) -> io::Result<Report> {
        let reserve = std::mem::take(&mut self.room).give_back(files);
        let usage = Usage::now();
        let child = start_shell("sh", command).or_else(|error| match error.kind() {
            // A cell may have changed PATH.
            io::ErrorKind::NotFound => start_shell("/bin/sh", command),
            _ => Err(error),
        });
        self.room = reserve.release();
        let explained = |error| io::Error::other(format!("the shell, `sh`, cannot be started: {error}"));
        // This child only: other children are the lesson's to wait for. Where the lesson ignores
        // SIGCHLD, the kernel has reaped it, and its status is lost.
        let status = child.map_err(explained)?.wait().ok().map(|status| ExitStatus::from(status).into());
        Ok(Report { shell: status, used: Some(usage.since().into()), ..Report::default() })
    }
}

/// Which lines of the library's source are whose, if a file of the same name says so: the library itself
/// may have been made for an earlier run of its cell.
fn origins_beside(library: &Path) -> Option<Vec<Origin>> {
    let bytes = std::fs::read(library.with_extension("origins")).ok()?;
    let numbers: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_ne_bytes(*bytes)).collect();
    Some(numbers.as_chunks::<5>().0.to_vec())
}

/// Says that this process can run no other task, and waits for its end.
fn give_up(supervisor: &Supervisor, hindrance: Hindrance, token: u64) -> io::Result<()> {
    supervisor.send(&FromWorker::Stranded { hindrance, token })?;
    supervisor.receive().map(drop)
}

fn start_shell(program: &str, command: &str) -> io::Result<Child> {
    let mut shell = Command::new(program);
    // Ctrl-C is for what runs on the terminal; the worker holds it back and waits.
    signals::let_interrupts_through(shell.arg("-c").arg(command));
    shell.spawn()
}

/// Makes the cell's terminal, stdout and stderr this process's own.
fn put_on(descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let [terminal, output, errors] =
        <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| io::Error::other("not three descriptors came"))?;
    set_standard(Some(terminal.as_fd()), Some(output.as_fd()), Some(errors.as_fd()))?;
    // A cell may have given the terminal up, left it to a group in the background, or hung it up, after
    // which this is another. Where it has left the session, or given the terminal to somebody else,
    // there is none, as it wanted.
    let _ = pty::take_terminal(terminal.as_fd());
    let _ = pty::come_to_foreground(terminal.as_fd());
    Ok(())
}
