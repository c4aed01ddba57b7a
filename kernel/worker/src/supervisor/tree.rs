//! Ending processes below the supervisor, and reaping them.
//!
//! Every process that user code starts stays below the supervisor, whatever it does: `setsid` and
//! double forks change sessions and parents, but orphans go to the nearest subreaper, which is we.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use forklab_sys::checkpoint::NAME;
use forklab_sys::events::readable;
use forklab_sys::process::{Pid, Signal, kill, kill_group};
use forklab_sys::procfs::{Identity, Stat, children, descendants, stat};

use super::Supervisor;
use crate::messages::FromSupervisor;

/// SIGKILL ends everything but a process within a system call that cannot be interrupted. A crowd on a
/// busy machine takes its time.
const TIME_TO_END: Duration = Duration::from_secs(10);

/// Between two looks, unless a child's end comes first.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// How many children are reaped before other events have their turn.
const REAPED_AT_ONCE: usize = 500;

/// So many processes are stopped before they are killed.
const CROWD: usize = 32;

/// How often we look for new ones to stop.
const FREEZES: usize = 100;

/// How often we aim at our own children before we look at the whole tree.
const SHOTS: usize = 50;

/// Who is to live on.
#[derive(Debug, Default)]
pub struct Spared {
    /// By pid, and when it started where it is not our own child.
    processes: HashMap<Pid, Option<u64>>,
    /// A checkpoint that is being made, and whose pid is not known yet.
    newborn: bool,
}

impl Spared {
    /// One that cannot be mistaken: our child, not reaped.
    pub fn add(&mut self, own: Option<Pid>) {
        self.processes.extend(own.map(|pid| (pid, None)));
    }

    pub fn add_all(&mut self, processes: impl IntoIterator<Item = Identity>) {
        self.processes.extend(processes.into_iter().map(|process| (process.pid, Some(process.started))));
    }

    /// Also a checkpoint that is being made. For those who do not end the worker.
    pub fn add_newborn(&mut self) {
        self.newborn = true;
    }

    fn holds(&self, process: &Stat) -> bool {
        let Identity { pid, started } = process.identity;
        let listed = self.processes.get(&pid).is_some_and(|at| at.is_none_or(|at| at == started));
        listed || self.newborn && is_checkpoint(process)
    }
}

/// Whether a process is a checkpoint: our own child, under a name that no other of our children has but
/// one who wants to be taken for it.
fn is_checkpoint(process: &Stat) -> bool {
    process.parent == Some(Pid::this()) && NAME.to_str().is_ok_and(|name| process.is_named(name))
}

/// The groups in which nobody is to live on. A signal to a group comes to all of it at once: a fork
/// bomb that stays in its group, as most do, has no moment between two signals in which to grow.
fn groups_to_end(everybody: &[Stat], spared: &Spared) -> HashSet<i32> {
    let (living_on, ending): (Vec<&Stat>, Vec<&Stat>) = everybody.iter().partition(|process| spared.holds(process));
    let mut groups: HashSet<i32> = ending.iter().map(|process| process.group).collect();
    groups.retain(|group| living_on.iter().all(|process| process.group != *group));
    // Ours: nobody below can be in it, as our children lead sessions of their own.
    if let Some(ours) = stat(Pid::this()) {
        groups.remove(&ours.group);
    }
    groups
}

impl Supervisor {
    /// Reaps children that have ended; remembers how the worker did.
    ///
    /// A bounded number at a time: children may end faster than we reap, and an interrupt that
    /// would end that must not wait behind them. What is left is reaped at the next event.
    pub fn reap(&mut self) {
        self.more_to_reap = false;
        for _ in 0..REAPED_AT_ONCE {
            let Ok(Some((pid, status))) = self.recorder.reap() else { return };
            self.reaped += 1;
            self.retired.retain(|retired| *retired != pid);
            if pid == self.worker {
                self.worker_ended = Some(status);
            } else if self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.pid == pid) {
                self.checkpoint = None;
            }
        }
        self.more_to_reap = true;
    }

    /// Waits until earlier checkpoints, which were killed, are reaped: until then they count among
    /// the processes that the system limits.
    pub fn await_retired(&mut self) {
        let deadline = Instant::now() + TIME_TO_END;
        while !self.retired.is_empty() && Instant::now() < deadline {
            self.reap();
            if !self.retired.is_empty() && self.rest().is_err() {
                return;
            }
        }
    }

    /// Waits for a child's end, or for a moment.
    pub fn rest(&mut self) -> io::Result<()> {
        while self.signals.next()?.is_some() {}
        readable(&[self.signals.as_fd()], Some(BETWEEN_LOOKS)).map(drop)
    }

    /// Who lives below, zombies left out.
    pub fn living(&self) -> Vec<Stat> {
        descendants(Pid::this()).into_iter().filter(|process| !process.zombie).collect()
    }

    /// Who lives below that user code has started.
    pub fn leftovers(&self) -> Vec<Stat> {
        let mut living = self.living();
        living.retain(|process| !self.is_own(process));
        living
    }

    /// Whether a process is the worker, its checkpoint, an earlier one on its way out, or a new one of
    /// which the worker has not told yet.
    pub fn is_own(&self, process: &Stat) -> bool {
        let pid = process.identity.pid;
        let checkpoint = self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.pid == pid);
        pid == self.worker || checkpoint || self.retired.contains(&pid) || is_checkpoint(process)
    }

    /// Ends every process below but the spared ones, and waits until they are gone. Tells the
    /// server when some will not go.
    pub fn end_tree(&mut self, spared: &Spared) -> io::Result<()> {
        let deadline = Instant::now() + TIME_TO_END;
        let mut empty_looks = 0;
        self.freeze(spared)?;
        // One look is not enough. A process that is listed may fork before its SIGKILL comes, and
        // its child is not in the list; a process whose parent dies while we read that parent's
        // children is missing from it. Once a SIGKILL is pending a process forks no more, and each
        // child so missed is below us still. A process that forks and leaves passes its child on to us
        // while we look elsewhere; but then it is reaped here itself, and a look during which anybody
        // was reaped has not found nobody.
        while empty_looks < 2 {
            self.shoot_at_sight(spared);
            let reaped = self.reaped;
            let everybody = self.living();
            let victims: Vec<Stat> = everybody.iter().filter(|p| !spared.holds(p)).copied().collect();
            for group in groups_to_end(&everybody, spared) {
                // A group with no process left is not an error.
                let _ = kill_group(group, Signal::KILL);
            }
            for victim in &victims {
                // It was there a moment ago. That its pid is another's by now takes a whole turn
                // of the machine's pids between two lines.
                let _ = kill(victim.identity.pid, Signal::KILL);
            }
            while self.signals.next()?.is_some() {}
            self.reap();
            let nobody = victims.is_empty() && self.sights(spared).is_empty();
            if nobody && self.reaped == reaped {
                empty_looks += 1;
                continue;
            }
            empty_looks = 0;
            if Instant::now() > deadline {
                let pids: Vec<String> = victims.iter().map(|p| p.identity.pid.to_string()).collect();
                let message = format!("these processes cannot be ended: {}; restart the kernel", pids.join(", "));
                return self.tell(&FromSupervisor::Failed { message });
            }
            // Where somebody was reaped in this turn and nobody is left, there is no end to wait for.
            if !nobody {
                readable(&[self.signals.as_fd()], Some(BETWEEN_LOOKS))?;
            }
        }
        Ok(())
    }

    /// Stops a crowd before it is killed: a stopped process forks no more and leaves us the
    /// processors, where a killed one leaves its place among the allowed to a new one.
    fn freeze(&mut self, spared: &Spared) -> io::Result<()> {
        let mut stopped = HashSet::new();
        for _ in 0..FREEZES {
            let everybody = self.living();
            if everybody.len() < CROWD {
                return Ok(());
            }
            for group in groups_to_end(&everybody, spared) {
                // As in `end_tree`.
                let _ = kill_group(group, Signal::STOP);
            }
            let mut new = false;
            for process in everybody.iter().filter(|process| !spared.holds(process)) {
                if stopped.insert(process.identity) {
                    new = true;
                    // As below.
                    let _ = kill(process.identity.pid, Signal::STOP);
                }
            }
            if !new {
                return Ok(());
            }
            self.reap();
        }
        Ok(())
    }

    /// Our own children that are to go, zombies among them.
    fn sights(&self, spared: &Spared) -> Vec<Pid> {
        let known = |pid: &Pid| spared.processes.contains_key(pid);
        let newborn = |pid: Pid| spared.newborn && stat(pid).is_some_and(|process| is_checkpoint(&process));
        children(Pid::this()).into_iter().filter(|pid| !known(pid) && !newborn(*pid)).collect()
    }

    /// Kills our own children as soon as they are seen, again and again while there are new ones.
    /// A process that forks and leaves within a tenth of a millisecond is an orphan, so our child,
    /// and gone before a look at the whole tree has ended.
    fn shoot_at_sight(&mut self, spared: &Spared) {
        for _ in 0..SHOTS {
            let sights = self.sights(spared);
            if sights.is_empty() {
                return;
            }
            for pid in sights {
                // Our child, and not reaped since: the pid is its own.
                let _ = kill(pid, Signal::KILL);
            }
            self.reap();
        }
    }

    /// The end of all of it, the supervisor's own last act.
    pub fn end_everything(&mut self) {
        // Nobody is left to be told of what goes wrong here.
        let _ = self.end_tree(&Spared::default());
    }
}
