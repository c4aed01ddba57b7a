//! Processes that a signal has stopped, as far as they are known. What becomes of them is heard from their
//! parents' SIGCHLD, or found by a look of the loop's.
//!
//! One that stays traced while it is stopped is `t` to everybody and not `T`, also under PTRACE_LISTEN.
//! So it is let go, stopped, and followed again when it goes on (`Parked`). What may happen in between:
//!
//! - Its parent hears of the stop when the tracer does. The process is `t` then, and, once it is let go,
//!   runs (`R`) until it has come to its own stop: on a busy machine half a second. A parent that
//!   looks in this time would find a stopped child that is not `T`. It does not: it has its own SIGCHLD to
//!   report to the tracer before it can look, and is held there until its child is asleep.
//! - For the same time a look of ours would take it for one that goes on. Whoever has not been seen asleep
//!   and waits for a processor is left alone. Who seems to go on is followed again and asked (`doubted`): by the stop
//!   with which it answers, the system tells whether its process is stopped (ptrace(2), PTRACE_EVENT_STOP). One
//!   that was killed while it was stopped runs too, and gives no answer.
//! - It is killed, its parent reaps it, and its pid is nobody's at the time of our look; the parent's
//!   SIGCHLD, which tells how it has ended, has not been heard yet. The system has sent it before the
//!   parent could reap: so it is pending, or one of the parent's threads stands still to report it
//!   ([`will_speak`]), or it has been heard. The tracer decides, see its `look_again`.

use std::time::{Duration, Instant};

use forklab_record::What;
use forklab_sys::process::{Pid, Signal};
use forklab_sys::procfs::{Identity, awaits, children, stat, threads};

use super::log::State;

/// A process that was let go while it was stopping is asleep after so long, on a busy machine too.
pub const SETTLING: Duration = Duration::from_secs(5);

/// It needs microseconds of a processor for that, however long it waits for one. Who has used so much, two
/// clock ticks, has not gone to sleep.
const SETTLING_WORK: Duration = Duration::from_millis(20);

/// A process that is stopped, and not traced so that everybody sees it stopped and not traced.
#[derive(Debug)]
pub struct Parked {
    pub identity: Identity,
    /// It has been seen asleep.
    asleep: bool,
    since: Instant,
    /// The processor time that it had used by then.
    cpu: Duration,
}

/// What a look at a parked process shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Asleep,
    /// It was let go a moment ago, and is not asleep yet.
    Settling,
    /// It runs, or is about to end.
    Awake,
    Zombie,
    Gone,
}

impl Parked {
    pub fn look(&mut self) -> Look {
        match stat(self.identity.pid).filter(|stat| stat.identity == self.identity) {
            None => Look::Gone,
            Some(stat) if stat.zombie => Look::Zombie,
            Some(stat) if stat.state == 'T' => {
                self.asleep = true;
                Look::Asleep
            }
            Some(stat) => {
                let waits = stat.state == 'R' && stat.cpu.saturating_sub(self.cpu) < SETTLING_WORK;
                if waits && !self.asleep && self.since.elapsed() < SETTLING { Look::Settling } else { Look::Awake }
            }
        }
    }
}

impl State {
    /// A thread takes part in its process's stop, and is let go, stopped, so that `ps` and the parent
    /// see what they would see without us.
    pub fn stopped(&mut self, thread: Pid, process: Pid, signal: Signal) {
        self.threads.remove(&thread);
        let Some(known) = self.processes.get_mut(&process) else { return };
        let cell = known.cell;
        known.doubted = false;
        if !std::mem::replace(&mut known.stopped, true) {
            self.note(cell, process, What::Stopped(signal.as_raw()));
        }
        if let Some(stat) = stat(process) {
            let parked = Parked { identity: stat.identity, asleep: false, since: Instant::now(), cpu: stat.cpu };
            self.parked.insert(process, parked);
        }
    }

    /// Whether a process of which its parent is told that it is stopped is on its way to its stop.
    pub fn is_stopping(&mut self, process: Pid) -> bool {
        if let Some(parked) = self.parked.get_mut(&process) {
            return parked.look() == Look::Settling;
        }
        // In the tracer's stop, of which the tracer has not heard yet.
        self.threads.contains_key(&process) && stat(process).is_some_and(|stat| stat.state == 't')
    }

    /// A stopped process goes on.
    pub fn continued(&mut self, process: Pid) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        known.doubted = false;
        if std::mem::replace(&mut known.stopped, false) {
            self.note_of(process, What::Continued);
        }
        // What it has forked before it was traced again.
        for child in children(process) {
            if !self.processes.contains_key(&child) && !self.zombies.iter().any(|zombie| zombie.pid == child) {
                self.gap(process, format!("what process {process} did within the first moments after it went on"));
            }
        }
    }

    /// Whether a stopped process is followed again because it seems to go on. Makes it such a one.
    pub fn doubt(&mut self, process: Pid) -> bool {
        let stopped = self.processes.get_mut(&process).filter(|known| known.stopped);
        stopped.map(|known| known.doubted = true).is_some()
    }

    /// Whether a process is followed again that may still be stopped.
    pub fn is_doubted(&self, process: Pid) -> bool {
        self.processes.get(&process).is_some_and(|known| known.doubted)
    }

    /// A process that was stopped and not traced has ended, and nobody can say how.
    pub fn lost(&mut self, process: Pid) {
        self.parked.remove(&process);
        self.gap(process, format!("how process {process}, which was stopped, has ended"));
        self.processes.remove(&process);
    }
}

/// Whether the tracer will hear from this parent about its children before it goes on: a SIGCHLD waits
/// for it, or one of its threads stands still for the tracer. Between the two a thread has the signal and
/// stands still at once; so who is asked in this order is found in one or the other. For one that blocks
/// SIGCHLD, nothing of the kind is to come.
pub fn will_speak(state: &State, parent: Pid) -> bool {
    let followed = state.threads.values().any(|process| *process == parent);
    let speaks = |thread| awaits(thread, Signal::CHLD) || stat(thread).is_some_and(|stat| stat.state == 't');
    followed && threads(parent).into_iter().any(speaks)
}
