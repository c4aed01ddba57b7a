//! Processes that have ended and were not reaped when somebody looked last, and how it is found out when they
//! are. Nobody tells of a reaping by itself: the system does of a few that are watched, looks find the others.

use std::time::Duration;

use forklab_record::What;
use forklab_sys::process::{ExitStatus, Pid};
use forklab_sys::trace::{exists, now};

use super::log::State;
use super::stops::will_speak;
use crate::messages::CellId;

/// So many zombies are watched; of more, we look.
const MOST_WATCHED: usize = 64;

/// One that has ended and was not reaped when somebody looked last.
#[derive(Debug, Clone, Copy)]
pub struct Zombie {
    pub pid: Pid,
    pub parent: Pid,
    pub(super) cell: CellId,
    /// When it ended, as events tell it.
    pub(super) since: u64,
    /// It was still there at a moment at which a parent that waits would have reaped it.
    pub lasting: bool,
    /// As its process's.
    pub(super) number: u64,
}

impl State {
    pub(super) fn reaped(&mut self, zombie: Zombie, by: Pid) {
        self.watched.forget(zombie.pid);
        self.note(zombie.cell, by, What::Reaped(zombie.pid.as_raw()));
    }

    /// This thread group, the supervisor's, has reaped a child of its own.
    pub fn reaped_by_us(&mut self, pid: Pid, status: ExitStatus) {
        self.ended(pid, status);
        if let Some(index) = self.zombies.iter().position(|zombie| zombie.pid == pid) {
            let zombie = self.zombies.swap_remove(index);
            self.reaped(zombie, Pid::this());
        }
    }

    /// This zombie was reaped by its parent.
    pub fn reaped_by_parent(&mut self, pid: Pid) {
        if let Some(index) = self.zombies.iter().position(|zombie| zombie.pid == pid) {
            let zombie = self.zombies.swap_remove(index);
            self.reaped(zombie, zombie.parent);
        }
    }

    /// Has the system tell when the zombies are reaped that last. The tracer does so before a parent goes on
    /// that may reap next: the loop would be late on a busy machine, and nobody would know when it did.
    pub fn watch_zombies(&mut self) {
        let lasting: Vec<Pid> = self.zombies.iter().filter(|zombie| zombie.lasting).map(|zombie| zombie.pid).collect();
        if lasting.len() <= self.watched.count() {
            return;
        }
        for pid in lasting {
            if self.watched.count() >= MOST_WATCHED || self.watched.waits_for(pid) {
                continue;
            }
            if self.watched.add(pid).is_err() && !exists(pid) {
                self.reaped_by_parent(pid);
            }
        }
    }

    /// Watched zombies were reaped.
    pub fn hear_of_reaped(&mut self) {
        while let Some(pid) = self.watched.reaped() {
            self.reaped_by_parent(pid);
        }
    }

    /// Looks which zombies are gone, now that something has happened to this process: the new ones, and
    /// its own children. Returns whether some have been found to last.
    pub fn sweep(&mut self, process: Option<Pid>) -> bool {
        let looked_at = self.zombies.iter().filter(|zombie| !zombie.lasting || Some(zombie.parent) == process);
        let mut found = false;
        for pid in looked_at.map(|zombie| zombie.pid).collect::<Vec<Pid>>() {
            if !exists(pid) {
                self.reaped_by_parent(pid);
            } else if let Some(zombie) = self.zombies.iter_mut().find(|zombie| zombie.pid == pid) {
                found |= !std::mem::replace(&mut zombie.lasting, true);
            }
        }
        found
    }

    /// Looks which zombies are gone, at a moment at which nothing has happened; those left out that
    /// have ended so lately that something will, and those whose parents have news for the tracer.
    pub fn sweep_late(&mut self, lately: Duration) {
        let before = now().saturating_sub(lately.as_nanos() as u64);
        let gone = |zombie: &&Zombie| {
            zombie.since <= before && !exists(zombie.pid) && (lately.is_zero() || !will_speak(self, zombie.parent))
        };
        let gone: Vec<Zombie> = self.zombies.iter().filter(gone).copied().collect();
        // Of those who are watched the system has told when they were gone.
        self.hear_of_reaped();
        for zombie in gone {
            if !self.zombies.iter().any(|known| known.pid == zombie.pid) {
                continue;
            }
            self.gap_in(zombie.cell, "when a zombie was reaped is known to some milliseconds only".to_owned());
            self.reaped_by_parent(zombie.pid);
        }
    }
}
