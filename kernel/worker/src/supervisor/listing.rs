//! What the person asks about single processes: which there are, and their end.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use forklab_sys::process::{Pid, Signal, kill};
use forklab_sys::procfs::{Stat, age, command_line, descendants, name, stat};

use super::Supervisor;
use super::tree::Spared;
use crate::messages::{CellId, FromSupervisor, ProcessId, ProcessInfo};

/// How long a process may take to end that has been killed.
const TIME_TO_END: Duration = Duration::from_secs(2);

/// Between two looks whether all of a cell's processes are gone.
const PACE: Duration = Duration::from_millis(10);

/// As for the keyboard: what looking costs, it costs a small part of one processor.
const COST: u32 = 20;

/// The cell whose processes the server waits for.
#[derive(Debug)]
pub struct Awaited {
    cell: CellId,
    /// The last look found nobody.
    empty: bool,
    /// When we look next.
    pub next_look: Instant,
}

impl Supervisor {
    pub fn list_processes(&mut self) -> io::Result<()> {
        let everybody = descendants(Pid::this());
        self.note_origins(&everybody);
        let mut listed: Vec<&Stat> = everybody.iter().filter(|process| !self.is_own(process)).collect();
        listed.sort_by_key(|process| (process.identity.started, process.identity.pid));
        let processes = listed.into_iter().map(|process| self.describe(process)).collect();
        self.tell(&FromSupervisor::Processes { processes })
    }

    fn describe(&self, process: &Stat) -> ProcessInfo {
        let pid = process.identity.pid;
        let command = command_line(pid).filter(|line| !line.is_empty());
        let command = command.unwrap_or_else(|| format!("[{}]", name(pid).unwrap_or_default()));
        ProcessInfo {
            pid: pid.into(),
            parent: process.parent.map_or(ProcessId(0), ProcessId::from),
            state: process.state,
            cell: self.origins.of(&process.identity),
            command,
            age: age(&process.identity),
        }
    }

    /// Ends these processes, or all left-over ones, and says which have ended.
    pub fn kill_processes(&mut self, pids: Option<Vec<ProcessId>>) -> io::Result<()> {
        let leftovers = self.leftovers();
        let Some(wanted) = pids else {
            self.end_leftovers()?;
            let mut pids: Vec<ProcessId> = leftovers.iter().map(|p| p.identity.pid.into()).collect();
            pids.sort_by_key(|pid| pid.0);
            return self.tell(&FromSupervisor::Killed { pids, strangers: Vec::new() });
        };
        let (known, strangers): (Vec<ProcessId>, Vec<ProcessId>) =
            wanted.into_iter().partition(|pid| leftovers.iter().any(|p| p.identity.pid == pid.0));
        let chosen: Vec<&Stat> = leftovers.iter().filter(|p| known.contains(&p.identity.pid.into())).collect();
        for process in &chosen {
            // It was there a moment ago; that its pid is another's by now takes a whole turn of pids.
            let _ = kill(process.identity.pid, Signal::KILL);
        }
        let ended = |process: &Stat| match stat(process.identity.pid) {
            Some(now) => now.zombie || now.identity != process.identity,
            None => true,
        };
        self.wait_until(|| chosen.iter().all(|process| ended(process)))?;
        self.tell(&FromSupervisor::Killed { pids: known, strangers })
    }

    /// Ends what cells have left behind.
    pub fn end_leftovers(&mut self) -> io::Result<()> {
        let mut spared = Spared::default();
        spared.add(Some(self.worker));
        spared.add(self.checkpoint.as_ref().map(|checkpoint| checkpoint.pid));
        spared.add_newborn();
        self.end_tree(&spared)
    }

    /// Ends what one cell has left behind. Its processes may fork while we look, so we look until a
    /// look finds none: a child belongs to its parent's cell.
    pub fn end_leftovers_of(&mut self, cell: CellId) -> io::Result<Vec<ProcessId>> {
        let mut ended = HashSet::new();
        let deadline = Instant::now() + TIME_TO_END;
        loop {
            let victims = self.living_of(cell);
            for pid in &victims {
                ended.insert(*pid);
                // As above.
                let _ = kill(*pid, Signal::KILL);
            }
            self.reap();
            if victims.is_empty() || Instant::now() > deadline {
                let mut ended: Vec<ProcessId> = ended.into_iter().map(ProcessId::from).collect();
                ended.sort_by_key(|pid| pid.0);
                return Ok(ended);
            }
            self.rest()?;
        }
    }

    /// The living processes that a cell has started.
    fn living_of(&mut self, cell: CellId) -> Vec<Pid> {
        let everybody = descendants(Pid::this());
        self.note_origins(&everybody);
        let of_cell = |process: &&Stat| !process.zombie && self.origins.of(&process.identity) == Some(cell);
        everybody.iter().filter(of_cell).map(|process| process.identity.pid).collect()
    }

    /// The server wants to know when a cell's processes are gone.
    pub fn await_cell(&mut self, cell: CellId) -> io::Result<()> {
        self.awaited = Some(Awaited { cell, empty: false, next_look: Instant::now() });
        self.look_for_awaited()
    }

    pub fn look_for_awaited(&mut self) -> io::Result<()> {
        let Some(Awaited { cell, empty: empty_before, .. }) = self.awaited else { return Ok(()) };
        let started = Instant::now();
        // A child of ours that ends while the list of our children is read (the checkpoint before this
        // one does just now) may hide the worker in it, and all below: one look that finds nobody is not enough.
        let empty = self.living_of(cell).is_empty();
        if empty && empty_before {
            self.awaited = None;
            return self.tell(&FromSupervisor::Gone { cell });
        }
        let next_look = Instant::now() + PACE.max(started.elapsed() * COST);
        self.awaited = Some(Awaited { cell, empty, next_look });
        Ok(())
    }

    /// Waits for something that ends by itself soon. Whether it has come is the next look's to say.
    fn wait_until(&mut self, mut done: impl FnMut() -> bool) -> io::Result<()> {
        let deadline = Instant::now() + TIME_TO_END;
        while !done() && Instant::now() < deadline {
            self.reap();
            self.rest()?;
        }
        Ok(())
    }
}
