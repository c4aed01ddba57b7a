//! The thread that follows the processes: it waits for their stops, writes down what has happened and
//! lets them go on. It reaps the supervisor's children, too, see [`trace::next`], and tells the loop. It is a
//! thread of its own because a process waits for it at each fork: the loop's looks at hundreds of processes
//! would be the length of that wait.
//!
//! - A new process's first stop may come before its parent's word that it has forked: it waits for that
//!   word (`early`). A parent that is killed before it says it never will: when nothing else is to be
//!   heard, `/proc` tells who the parent is.
//! - A new process may be killed before that word, too: its end is kept (`stillborn`) until it comes.
//! - A process of a run that is perturbed is let go later (`held`), as is a parent whose child stops; the
//!   thread goes on hearing of others meanwhile, and looks every [`BETWEEN_LOOKS`] whether it is time. One that
//!   is killed while it is held cannot be let go, and its end is heard of.
//! - A stopped process is let go, see `stops`. Its parent's SIGCHLD tells when it goes on, or a look of the
//!   loop's does.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forklab_sys::process::{ExitStatus, Pid, Signal};
use forklab_sys::procfs::{is_thread_of, process_of, stat, threads};
use forklab_sys::trace::{self, Origin, Received, Seen};

use super::log::State;
use super::stops::{Look, SETTLING, will_speak};

/// So many ends are kept for parents that have not spoken yet.
const MOST_STILLBORN: usize = 100;

/// Between two looks whether there are children, when there were none.
const PAUSE: Duration = Duration::from_millis(2);

/// Between two looks while somebody is held.
const BETWEEN_LOOKS: Duration = Duration::from_micros(100);

/// What the loop asks the tracer for.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Follow this process, and what it forks.
    Attach(Pid),
    /// Find out what has become of this one, which was stopped and not traced.
    LookAgain(Pid),
    /// Follow nobody. Answered when this one is followed no more.
    LetGo(Pid),
}

/// An order, and where its answer goes.
pub type Letter = (Order, Sender<io::Result<()>>);

/// Nobody leaves the state half changed; where one has panicked, the record is what suffers.
pub fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's life.
pub fn run(state: &Mutex<State>, letters: &Receiver<Letter>) {
    let mut tracer = Tracer {
        state,
        early: Vec::new(),
        stillborn: HashMap::new(),
        held: Vec::new(),
        leaving: None,
        letting_go: false,
    };
    loop {
        while let Ok(letter) = letters.try_recv() {
            tracer.obey(letter);
        }
        let left = tracer.let_held_go_on();
        match trace::next(tracer.early.is_empty() && left.is_none()) {
            Ok(Some((thread, seen))) => tracer.on_seen(thread, seen),
            Ok(None) => {
                tracer.place_early();
                if let Some(left) = left {
                    std::thread::sleep(left.min(BETWEEN_LOOKS));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // No child and no tracee: the worker is being replaced, or everything ends.
            Err(_) => {
                tracer.nobody_left();
                match letters.recv_timeout(PAUSE) {
                    Ok(letter) => tracer.obey(letter),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }
}

/// One that goes on later.
struct Held {
    until: Instant,
    /// Sooner, once this child has stopped.
    child: Option<Pid>,
    thread: Pid,
    signal: Option<Signal>,
}

struct Tracer<'a> {
    state: &'a Mutex<State>,
    early: Vec<Pid>,
    stillborn: HashMap<Pid, ExitStatus>,
    held: Vec<Held>,
    /// Who is waited for until it is followed no more, and who wants to know.
    leaving: Option<(Pid, Sender<io::Result<()>>)>,
    letting_go: bool,
}

impl Tracer<'_> {
    fn obey(&mut self, (order, answer): Letter) {
        match order {
            Order::Attach(process) => {
                self.letting_go = false;
                // Those that were reaped in the meantime have parents that will not speak, and their pids may
                // be others' soon. A parent that has not spoken yet stands still, and has not reaped.
                self.stillborn.retain(|pid, _| trace::exists(*pid));
                let attached = follow(&mut lock(self.state), process);
                // Nobody waits any more: then nobody wants to know.
                let _ = answer.send(attached);
            }
            Order::LookAgain(process) => {
                self.look_again(process);
                // As above.
                let _ = answer.send(Ok(()));
            }
            Order::LetGo(process) => {
                self.letting_go = true;
                let followed: Vec<Pid> = lock(self.state).threads.keys().copied().collect();
                for thread in followed {
                    // One that is gone needs none.
                    let _ = trace::interrupt(thread);
                }
                self.leaving = Some((process, answer));
                self.answer_if_left();
            }
        }
    }

    /// What has become of one that was stopped and not traced. This thread has written down all that it
    /// has heard when it comes here, unlike the loop's when it looked.
    fn look_again(&mut self, process: Pid) {
        let mut state = lock(self.state);
        let known = state.processes.get(&process).map(|known| known.parent);
        let (Some(parked), Some(parent)) = (state.parked.get_mut(&process), known) else { return };
        match parked.look() {
            // Nobody is to be followed.
            Look::Awake if self.letting_go => {
                state.parked.remove(&process);
                state.processes.remove(&process);
            }
            // One that cannot be followed is about to end, or somebody else's tracee.
            Look::Awake => drop(follow(&mut state, process)),
            Look::Gone if !will_speak(&state, parent) => state.lost(process),
            Look::Gone | Look::Asleep | Look::Settling | Look::Zombie => {}
        }
    }

    fn answer_if_left(&mut self) {
        let left = |process: Pid| !lock(self.state).threads.values().any(|of| *of == process);
        if self.leaving.as_ref().is_some_and(|(process, _)| left(*process))
            && let Some((_, answer)) = self.leaving.take()
        {
            // As above.
            let _ = answer.send(Ok(()));
        }
    }

    fn nobody_left(&mut self) {
        self.early.clear();
        self.stillborn.clear();
        let mut state = lock(self.state);
        state.threads.clear();
        if self.letting_go {
            state.forget_all();
        }
        drop(state);
        self.answer_if_left();
    }

    fn on_seen(&mut self, thread: Pid, seen: Seen) {
        let mut state = lock(self.state);
        // Before the news: a parent that was waiting has reaped by now, and this is the next that is
        // heard of it.
        let process = state.threads.get(&thread).copied();
        if state.sweep(process) {
            state.watch_zombies();
        }
        if let Some(process) = process
            && state.is_doubted(process)
            && shows_awake(seen)
        {
            state.continued(process);
        }
        match (seen, process) {
            (Seen::Ended(status), Some(process)) if process == thread => on_end(&mut state, process, status),
            (Seen::Ended(_), Some(_)) => drop(state.threads.remove(&thread)),
            // One that is stopped is known, and not traced.
            (Seen::Ended(status), None) if state.processes.contains_key(&thread) => on_end(&mut state, thread, status),
            // A child of ours that nobody follows.
            (Seen::Ended(status), None) if !trace::exists(thread) => {
                self.early.retain(|early| *early != thread);
                state.reaped_here.push((thread, status));
                trace::alert();
            }
            (Seen::Ended(status), None) => {
                self.early.retain(|early| *early != thread);
                if self.stillborn.len() < MOST_STILLBORN {
                    self.stillborn.insert(thread, status);
                }
            }
            (Seen::Execed(former), process) => {
                let process = process.unwrap_or(thread);
                state.execed(process, former);
                let delay = state.delay_of_exec(process);
                self.resume_after(delay, &mut state, thread, None);
            }
            (Seen::Forked(child), Some(process)) => {
                self.born(&mut state, process, child, false);
                let delay = state.delay_of_fork(process);
                self.resume_after(delay, &mut state, thread, None);
            }
            (Seen::Cloned(child), Some(process)) => {
                let is_thread = is_thread_of(process, child);
                self.born(&mut state, process, child, is_thread);
                let delay = if is_thread { Duration::ZERO } else { state.delay_of_fork(process) };
                self.resume_after(delay, &mut state, thread, None);
            }
            (Seen::Signal(received), process) => self.on_signal(&mut state, thread, process, received),
            (Seen::Ending, _) => {
                let delay = state.delay_of_end(thread);
                self.resume_after(delay, &mut state, thread, None);
            }
            (Seen::Stopped(signal), Some(process)) => {
                // One that was killed is heard of again.
                let _ = trace::detach(thread, None);
                state.stopped(thread, process, signal);
            }
            (Seen::Paused | Seen::Stopped(_), None) if !self.letting_go => self.early.push(thread),
            (Seen::Paused | Seen::Stopped(_) | Seen::Other | Seen::Forked(_) | Seen::Cloned(_), _) => {
                let delay = state.delay_of_beginning(thread);
                self.resume_after(delay, &mut state, thread, None);
            }
        }
        drop(state);
        self.answer_if_left();
    }

    fn on_signal(&mut self, state: &mut State, thread: Pid, process: Option<Pid>, received: Received) {
        let signal = Some(received.signal);
        let Some(process) = process else { return self.resume(state, thread, signal) };
        state.signalled(process, received);
        let mut delay = Duration::ZERO;
        match received.origin {
            Origin::ChildContinued(child) if state.parked.contains_key(&child) || state.is_doubted(child) => {
                // Where it is gone already, the next that is heard of it is its end.
                let _ = attach(state, child);
                state.continued(child);
            }
            Origin::ChildEnded(child, status) => {
                if state.parked.contains_key(&child) {
                    state.ended(child, status);
                }
                delay = state.delay_of_wait(process, child);
            }
            // It is to find its child asleep, see `stops`.
            Origin::ChildStopped(child) if !self.letting_go && state.is_stopping(child) => {
                let until = Instant::now() + SETTLING;
                self.held.push(Held { until, child: Some(child), thread, signal });
                return;
            }
            _ => {}
        }
        self.resume_after(delay, state, thread, signal);
    }

    /// A tracee has a new child or thread.
    fn born(&mut self, state: &mut State, process: Pid, child: Pid, is_thread: bool) {
        if is_thread {
            state.threads.insert(child, process);
        } else {
            state.forked(process, child);
        }
        if let Some(status) = self.stillborn.remove(&child) {
            if is_thread {
                state.threads.remove(&child);
            } else {
                on_end(state, child, status);
            }
        }
        if let Some(index) = self.early.iter().position(|early| *early == child) {
            self.early.swap_remove(index);
            let delay = state.delay_of_beginning(child);
            self.resume_after(delay, state, child, None);
        }
    }

    /// Lets those go on who have been held for long enough. Returns how long the next is held yet.
    fn let_held_go_on(&mut self) -> Option<Duration> {
        if self.held.is_empty() {
            return None;
        }
        let now = Instant::now();
        let mut state = lock(self.state);
        let letting_go = self.letting_go;
        let mut is_due =
            |held: &Held| held.until <= now || held.child.is_some_and(|child| letting_go || !state.is_stopping(child));
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(&mut is_due);
        self.held = held;
        let due: Vec<Held> = due;
        for Held { thread, signal, .. } in due {
            self.resume(&mut state, thread, signal);
        }
        drop(state);
        self.answer_if_left();
        self.held.iter().map(|held| held.until.saturating_duration_since(now)).min()
    }

    /// Lets a tracee go on by and by.
    fn resume_after(&mut self, delay: Duration, state: &mut State, thread: Pid, signal: Option<Signal>) {
        if delay.is_zero() || self.letting_go {
            self.resume(state, thread, signal);
        } else {
            self.held.push(Held { until: Instant::now() + delay, child: None, thread, signal });
        }
    }

    /// Those whose parents have not spoken, and nothing else is to be heard.
    fn place_early(&mut self) {
        let mut state = lock(self.state);
        for thread in std::mem::take(&mut self.early) {
            match (process_of(thread), stat(thread).and_then(|stat| stat.parent)) {
                (Some(process), _) if process != thread => drop(state.threads.insert(thread, process)),
                (_, Some(parent)) => state.forked(parent, thread),
                _ => {}
            }
            self.resume(&mut state, thread, None);
        }
    }

    /// Lets a tracee go on; for good, where it is not to be followed any more.
    fn resume(&self, state: &mut State, thread: Pid, signal: Option<Signal>) {
        let process = state.threads.get(&thread).copied();
        let unwanted = self.letting_go || process.is_none_or(|process| state.is_full(process));
        // One that was killed meanwhile cannot go on, and its end is heard of next.
        if unwanted {
            let _ = trace::detach(thread, signal);
            state.forget(thread);
        } else {
            let _ = trace::go_on(thread, signal);
        }
    }
}

/// A process has ended, and the system has told its parent so when it told us.
fn on_end(state: &mut State, process: Pid, status: ExitStatus) {
    let ours = state.processes.get(&process).is_some_and(|known| known.parent == Pid::this());
    // An orphan that nobody has seen become one is ours as well.
    if ours || !trace::exists(process) && stat(process).is_none() && orphan(state, process) {
        state.reaped_by_us(process, status);
        state.reaped_here.push((process, status));
        trace::alert();
    } else {
        state.ended(process, status);
    }
}

/// Whether the parent of a process is gone.
fn orphan(state: &State, process: Pid) -> bool {
    state.processes.get(&process).is_none_or(|known| !trace::exists(known.parent))
}

/// Whether a thread's process is not stopped, and was not killed while it was: nobody else comes to this.
fn shows_awake(seen: Seen) -> bool {
    !matches!(seen, Seen::Stopped(_) | Seen::Ending | Seen::Ended(ExitStatus::Signaled { .. }))
}

/// Follows a process; where it was stopped, asks whether it still is.
fn follow(state: &mut State, process: Pid) -> io::Result<()> {
    attach(state, process)?;
    if state.doubt(process) {
        for (thread, _) in state.threads.iter().filter(|(_, of)| **of == process) {
            // One that is gone has another way to be heard of.
            let _ = trace::interrupt(*thread);
        }
    }
    Ok(())
}

/// Follows every thread of a process. New ones come while we look, and are followed already where the
/// thread that makes them is.
fn attach(state: &mut State, process: Pid) -> io::Result<()> {
    loop {
        let mut new = false;
        for thread in threads(process) {
            if state.threads.contains_key(&thread) {
                continue;
            }
            match trace::seize(thread, state.delays.is_some()) {
                Ok(()) => {
                    state.threads.insert(thread, process);
                    state.parked.remove(&process);
                    new = true;
                }
                Err(error) if thread == process => return Err(error),
                Err(_) => {}
            }
        }
        if !new {
            return Ok(());
        }
    }
}
