//! A process that runs a function.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use forklab_sys::process::{self as sys, ExitStatus, Fork, Pid, Signal};
use forklab_sys::ready::wait_readable;

use crate::handover::Handover;
use crate::shared;
use crate::{Error, ExitValue, Result};

/// A function and the child process that runs it. Mirrors Python's `multiprocessing.Process` with
/// the start method `fork`.
///
/// The function runs in a copy of this process as it is when [`start`](Process::start) is called: it
/// sees all values as they are then, and what it changes stays its own. It is `'static`, which means
/// that it owns what it uses (`move`), but it need not be `Send`: it never crosses to a thread.
///
/// What was moved into the function is dropped here as soon as the child has its copy, as Python
/// drops `args`. So an end of a pipe that the child uses is closed here by itself. It also means
/// that a destructor with an effect outside of the process (a temporary directory that removes
/// itself, a `BufWriter` with something unwritten) has its effect in both processes; let such values
/// stay outside.
///
/// The child ends when the function does: its stdout is flushed, and it leaves by _exit(2), without
/// the destructors of what belongs to the parent. The status is the function's [`ExitValue`]; after
/// a panic, whose message is printed as always, it is 101. `std::process::exit` works inside.
///
/// Only the process that started a child can join it, signal it or look at it. In any other process
/// (another child that was forked later, say) the methods say so: [`Error::NotTheParent`]. A notebook
/// whose cell has crashed goes on in another process than before, with the variables of the earlier
/// cells; the children that were started there are not its own.
///
/// # Dropping
/// Dropping a `Process` waits for nothing. If its child has ended, it is reaped. If it lives, it
/// goes on, and is reaped some time after its end: at the next start, join or drop of any `Process`
/// of the same program, in whatever cell that stands. Until then it is a zombie.
pub struct Process {
    name: String,
    identity: String,
    work: Option<Work>,
    state: Cell<State>,
}

type Work = Box<dyn FnOnce() -> i32>;

/// The exit status after a panic, as for a Rust program.
const PANICKED: i32 = 101;

#[derive(Clone, Copy)]
enum State {
    /// Not started.
    New,
    /// `run` was called, and there never was a child.
    RunHere,
    /// There is a child, alive or a zombie.
    Started { pid: Pid, parent: Pid },
    /// It has been reaped, by us.
    Joined { pid: Pid, status: ExitStatus },
    /// It has been reaped by somebody else. Its pid may be a stranger's.
    Lost { pid: Pid },
}

impl Process {
    /// A process that will run this function or closure, under a name of its own: `Process-1`,
    /// `Process-2` and so on, and `Process-1:1` for the first one that `Process-1` makes. There is
    /// no child yet. Python's `Process(target=f)`.
    pub fn new<F, T>(function: F) -> Process
    where
        F: FnOnce() -> T + 'static,
        T: ExitValue,
    {
        Process::make(None, Box::new(move || function().status()))
    }

    /// As [`Process::new`], with a name for messages. Python's `Process(name=…, target=f)`.
    pub fn named<F, T>(name: impl Into<String>, function: F) -> Process
    where
        F: FnOnce() -> T + 'static,
        T: ExitValue,
    {
        Process::make(Some(name.into()), Box::new(move || function().status()))
    }

    fn make(name: Option<String>, work: Work) -> Process {
        let identity = shared::lock().next_identity();
        let name = name.unwrap_or_else(|| format!("Process-{identity}"));
        Process { name, identity, work: Some(work), state: Cell::new(State::New) }
    }

    /// Forks the child, which runs the function. Returns at once; the two then run side by side.
    /// fork(2).
    ///
    /// What this process had printed and not yet written out is written out first, so that it
    /// appears once.
    ///
    /// # Errors
    /// [`Error::AlreadyStarted`]; [`Error::System`] when there are too many processes, or too many
    /// open files; then the process can be started again.
    pub fn start(&mut self) -> Result<()> {
        let Some(work) = self.work.take() else {
            return Err(Error::AlreadyStarted { name: self.name.clone() });
        };
        let mut shared = shared::lock();
        shared.reap_unjoined();
        let ends = shared.open_ends();
        let forked = Handover::new(ends).and_then(|handover| Ok((sys::fork_flushed()?, handover)));
        match forked {
            Err(error) => {
                self.work = Some(work);
                Err(Error::System { doing: "start a process", source: error })
            }
            Ok((Fork::Child, handover)) => {
                shared.become_child(mem::take(&mut self.identity));
                drop(shared);
                live(work, handover)
            }
            Ok((Fork::Parent(pid), handover)) => {
                drop(shared);
                self.state.set(State::Started { pid, parent: Pid::this() });
                drop(work);
                handover.tell();
                Ok(())
            }
        }
    }

    /// Calls the function here, in this process, as any function: no child, no other pid. A panic in
    /// it is a panic here. Returns the status with which a child would have ended. Python's `run`.
    ///
    /// # Errors
    /// [`Error::AlreadyStarted`] when it was started or run before: the function is gone then.
    pub fn run(&mut self) -> Result<ExitStatus> {
        let Some(work) = self.work.take() else {
            return Err(Error::AlreadyStarted { name: self.name.clone() });
        };
        self.state.set(State::RunHere);
        Ok(ExitStatus::Exited(work() & 0xff))
    }

    /// Waits until the child has ended, reaps it, and returns how it ended; asked again, it returns
    /// the same. waitpid(2); until then, a child that has ended is a zombie.
    ///
    /// # Errors
    /// [`Error::NotStarted`], [`Error::NotTheParent`], [`Error::ReapedElsewhere`].
    pub fn join(&self) -> Result<ExitStatus> {
        let Some(pid) = self.child()? else { return self.known_status() };
        let waited = sys::wait(pid);
        self.reap(pid, waited)
    }

    /// As [`join`](Process::join), but waits no longer than this. `None` when the time is over and
    /// the child lives. Python's `join(timeout)`.
    ///
    /// # Errors
    /// As [`join`](Process::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let Some(pid) = self.child()? else { return self.known_status().map(Some) };
        match wait_for_end(pid, timeout) {
            Ok(None) => Ok(None),
            Ok(Some(status)) => self.reap(pid, Ok(status)).map(Some),
            Err(error) => self.reap(pid, Err(error)).map(Some),
        }
    }

    /// Whether the child has been started and has not ended. Looking does not reap: a child that has
    /// ended stays a zombie until [`join`](Process::join). (Python's reaps.)
    ///
    /// # Panics
    /// In a process that did not start the child, which cannot know.
    pub fn is_alive(&self) -> bool {
        self.look().is_some_and(|status| status.is_none())
    }

    /// How the child ended; `None` while it has not. Looking does not reap.
    ///
    /// # Panics
    /// As [`is_alive`](Process::is_alive).
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.look().flatten()
    }

    /// [`exit_status`](Process::exit_status) as one number: the status, or the signal's number below
    /// zero. Python's `exitcode`.
    ///
    /// # Panics
    /// As [`is_alive`](Process::is_alive).
    pub fn exitcode(&self) -> Option<i32> {
        self.exit_status().map(|status| match status {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled { signal, .. } => -signal.as_raw(),
        })
    }

    /// The child's pid, also after its end; `None` before it was started.
    pub fn pid(&self) -> Option<Pid> {
        match self.state.get() {
            State::New | State::RunHere => None,
            State::Started { pid, .. } | State::Joined { pid, .. } | State::Lost { pid } => Some(pid),
        }
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the child to end: SIGTERM, which it may catch. Returns at once; `join` waits for it.
    /// A child that has ended is left alone.
    ///
    /// # Errors
    /// [`Error::NotStarted`], [`Error::NotTheParent`].
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends the child: SIGKILL, which nobody can catch. Returns at once; `join` waits for it.
    /// A child that has ended is left alone.
    ///
    /// # Errors
    /// [`Error::NotStarted`], [`Error::NotTheParent`].
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends the child any signal: `p.signal(Signal::STOP)`, or one of nix's. kill(2). A child that
    /// has ended is left alone.
    ///
    /// # Errors
    /// [`Error::NotStarted`], [`Error::NotTheParent`], [`Error::System`] when the child has become
    /// another user's.
    pub fn signal(&self, signal: impl Into<Signal>) -> Result<()> {
        let Some(pid) = self.child()? else { return Ok(()) };
        // A zombie keeps its pid until it is reaped, and only this Process reaps it: between the
        // look and the signal the pid cannot become a stranger's. Where somebody else did reap it,
        // the look says so, and no signal is sent.
        match self.look() {
            Some(None) => sys::kill(pid, signal.into()).map_err(Error::system("signal a process")),
            _ => Ok(()),
        }
    }

    /// The child to wait for or to signal; `None` when there is nothing left to do.
    fn child(&self) -> Result<Option<Pid>> {
        let name = || self.name.clone();
        match self.state.get() {
            State::New | State::RunHere => Err(Error::NotStarted { name: name() }),
            State::Joined { .. } | State::Lost { .. } => Ok(None),
            State::Started { pid, parent } if parent == Pid::this() => Ok(Some(pid)),
            State::Started { pid, parent } => Err(Error::NotTheParent { name: name(), pid, parent }),
        }
    }

    /// The status of a child that has been reaped.
    fn known_status(&self) -> Result<ExitStatus> {
        match self.state.get() {
            State::Joined { status, .. } => Ok(status),
            State::Lost { pid } => Err(Error::ReapedElsewhere { name: self.name.clone(), pid }),
            _ => Err(Error::NotStarted { name: self.name.clone() }),
        }
    }

    /// Looks at the child without reaping it. `None`: there is none, or nothing is known any more.
    fn look(&self) -> Option<Option<ExitStatus>> {
        let State::Started { pid, parent } = self.state.get() else {
            return self.known_status().ok().map(Some);
        };
        assert!(parent == Pid::this(), "{}", Error::NotTheParent { name: self.name.clone(), pid, parent });
        match sys::peek(pid) {
            Ok(found) => Some(found),
            Err(_) => {
                self.state.set(State::Lost { pid });
                None
            }
        }
    }

    /// Reaps a child that has been waited for.
    fn reap(&self, pid: Pid, waited: io::Result<ExitStatus>) -> Result<ExitStatus> {
        self.state.set(match waited.and_then(|status| sys::reap(pid).map(|_| status)) {
            Ok(status) => State::Joined { pid, status },
            Err(_) => State::Lost { pid },
        });
        shared::lock().reap_unjoined();
        self.known_status()
    }
}

/// Waits for a child's end, but not longer than this, and does not reap it.
fn wait_for_end(pid: Pid, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    match sys::open_pidfd(pid) {
        Ok(ended) => {
            wait_readable(ended.as_fd(), Some(timeout))?;
            sys::peek(pid)
        }
        // Without a descriptor to wait on (there are none left, or the kernel is an old one), what
        // remains is to look again and again.
        Err(_) => {
            let begin = Instant::now();
            loop {
                let found = sys::peek(pid)?;
                let left = timeout.saturating_sub(begin.elapsed());
                if found.is_some() || left.is_zero() {
                    return Ok(found);
                }
                thread::sleep(left.min(Duration::from_millis(5)));
            }
        }
    }
}

/// The child's whole life. Whatever happens in the function, the child never leaves this one.
fn live(work: Work, handover: Handover) -> ! {
    let ended = catch_unwind(AssertUnwindSafe(move || {
        handover.heed();
        work()
    }));
    match ended {
        Ok(status) => sys::leave(status),
        Err(payload) => {
            // Its destructor could panic again.
            mem::forget(payload);
            sys::leave(PANICKED)
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let State::Started { pid, parent } = self.state.get() else { return };
        if parent == Pid::this() {
            let mut shared = shared::lock();
            shared.reap_later(pid);
            shared.reap_unjoined();
        }
    }
}

/// `Process("Process-1", not started)`, `Process("Process-1", pid 123, running)`,
/// `Process("Process-1", pid 123, zombie, exit status 3)` and, once it has been joined,
/// `Process("Process-1", pid 123, exit status 3)`.
impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({:?}, ", self.name)?;
        match self.state.get() {
            State::New => write!(f, "not started)"),
            State::RunHere => write!(f, "run here)"),
            State::Joined { pid, status, .. } => write!(f, "pid {pid}, {status})"),
            State::Lost { pid } => write!(f, "pid {pid}, reaped elsewhere)"),
            State::Started { pid, parent } if parent != Pid::this() => {
                write!(f, "pid {pid}, started by process {parent})")
            }
            State::Started { pid, .. } => match sys::peek(pid) {
                Ok(None) => write!(f, "pid {pid}, running)"),
                Ok(Some(status)) => write!(f, "pid {pid}, zombie, {status})"),
                Err(_) => write!(f, "pid {pid}, reaped elsewhere)"),
            },
        }
    }
}

// A panic between two of its methods leaves a Process as it was: its state changes in one step, and
// the function is either there or taken. Cells are run under catch_unwind and hold it across that.
impl UnwindSafe for Process {}
impl RefUnwindSafe for Process {}
