//! The end of a task before its time.
//!
//! A person's interrupt is Ctrl-C first: SIGINT for every process of the notebook, and SIGCONT so
//! that a stopped one hears it. Programs may clean up or, as at a terminal, go on. Half a second
//! later, or when the person interrupts again, whoever is still there is killed.
//!
//! - The worker would die of its SIGINT at once, and its end as the session's leader is a SIGHUP for
//!   the processes on its terminal, which were to have their half second. It is stopped instead while
//!   there are any, and killed after them. One that handles SIGINT, ignores it or holds it back gets it.
//! - The worker returns from its function while SIGINT is on its way: it holds SIGINT back outside
//!   of user code, drops what has come when it is given its next task, and so does not die of it.
//! - It is asked while it makes a checkpoint, which has a pid that we do not know yet and is among
//!   those who get SIGINT: the copy has SIGINT blocked, as the worker had.
//! - A new task comes within the half second: what is left of the old one is killed first.

use std::io;
use std::time::{Duration, Instant};

use forklab_sys::process::{Signal, kill};
use forklab_sys::procfs::dies_of;

use super::life::After;
use super::tree::Spared;
use super::{Phase, Supervisor};
use crate::messages::{CellId, Reached, Scope};

/// How long processes may take to end by themselves. With the killing it stays well below a second.
const GRACE: Duration = Duration::from_millis(500);

/// Between two looks whether they have.
const PACE: Duration = Duration::from_millis(5);

/// Processes have been sent SIGINT.
#[derive(Debug)]
pub struct Interrupting {
    deadline: Instant,
    /// The worker is stopped until the others have ended.
    worker_waits: bool,
    /// When we look next whether they have ended.
    pub next_look: Instant,
}

impl Supervisor {
    /// The person wants the task to end, or, where none runs, what is left of earlier ones.
    pub fn interrupt(&mut self) -> io::Result<()> {
        // A task that has reported is not running any more; and a worker that is reaped here has
        // died by itself.
        self.hear_out()?;
        if let Some(queued) = self.queued.take() {
            self.tell_ended(queued.cell, crate::messages::Outcome::Interrupted { restored: true })?;
        }
        if self.interrupting.is_some() {
            return self.end_interrupted();
        }
        let busy = matches!(self.phase, Phase::Busy { .. });
        let mut asked = self.living();
        asked.retain(|process| if process.identity.pid == self.worker { busy } else { !self.is_own(process) });
        let worker_waits = busy && asked.len() > 1 && dies_of(self.worker, Signal::INT);
        if worker_waits {
            asked.retain(|process| process.identity.pid != self.worker);
            // Our child and not reaped, so the pid is its own.
            let _ = kill(self.worker, Signal::STOP);
        }
        for process in &asked {
            // It was there a moment ago; that its pid is another's by now takes a whole turn of pids.
            let _ = kill(process.identity.pid, Signal::INT);
            let _ = kill(process.identity.pid, Signal::CONT);
        }
        let now = Instant::now();
        self.interrupting = Some(Interrupting { deadline: now + GRACE, worker_waits, next_look: now + PACE });
        Ok(())
    }

    /// Looks whether those who were asked to end have.
    pub fn look_at_interrupted(&mut self) -> io::Result<()> {
        let Some(interrupting) = &mut self.interrupting else { return Ok(()) };
        let now = Instant::now();
        interrupting.next_look = now + PACE;
        let late = now >= interrupting.deadline;
        let worker_waits = interrupting.worker_waits || !matches!(self.phase, Phase::Busy { .. });
        // Where one look finds nobody, there may be some who fork and leave; killing looks again.
        if late || worker_waits && self.leftovers().is_empty() {
            return self.end_interrupted();
        }
        Ok(())
    }

    /// Whether processes that were asked to end still have time for it.
    pub fn interrupted_processes_go_on(&self) -> bool {
        let in_time = self.interrupting.as_ref().is_some_and(|interrupting| Instant::now() < interrupting.deadline);
        in_time && !self.leftovers().is_empty()
    }

    /// Kills those who were asked to end and have not.
    pub fn end_interrupted(&mut self) -> io::Result<()> {
        if self.interrupting.take().is_none() {
            return Ok(());
        }
        match self.phase {
            Phase::Busy { cell, .. } => self.end_task(After::Interrupted { cell }),
            _ => self.end_leftovers(),
        }
    }

    /// Ends a task for a limit. It takes the processes of earlier cells along, which may be what has gone
    /// beyond it; unless the task is undone and the limit its own: the next run is to find them.
    pub fn end_beyond_limit(&mut self, cell: CellId, reached: Reached) -> io::Result<()> {
        let after = After::OverLimit { cell, reached };
        match &mut self.phase {
            Phase::Busy { undo: true, before, .. } if reached.scope == Scope::Cell => {
                let before = std::mem::take(before);
                self.interrupting = None;
                self.end_record_of_undone()?;
                self.end_task_sparing(before, after)
            }
            _ => self.end_task(after),
        }
    }

    /// Kills the worker and everything below, and lets the checkpoint take over.
    pub fn end_task(&mut self, after: After) -> io::Result<()> {
        self.interrupting = None;
        self.end_record_of_undone()?;
        let mut spared = Spared::default();
        spared.add(self.checkpoint.as_ref().map(|checkpoint| checkpoint.pid));
        self.end_tree(&spared)?;
        self.end_of_task()?;
        self.replace(after)
    }
}
