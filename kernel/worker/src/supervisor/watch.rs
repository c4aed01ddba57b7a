//! Limits: setting them, and ending what has gone beyond them.
//!
//! A control group keeps the limits of processes and memory where there is one: a fork beyond the
//! limit fails with EAGAIN, and memory beyond it is refused by ending a process (which we see in a
//! counter). Everything else, and without a control group those two as well, is looked at every few
//! milliseconds here.
//!
//! What a look misses: between two of them a loop of forks makes some hundred processes too many,
//! and an allocating one some hundred megabytes. That is the price of a watchdog, and why a group is
//! taken wherever one is to be had.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use forklab_sys::cgroup::{Group, remove_abandoned};
use forklab_sys::process::{Pid, Signal, kill};
use forklab_sys::procfs::{Identity, Stat, descendants, proportional, resident, stat, tasks};
use forklab_sys::role::limit_processes_of_user;

use super::{Phase, Supervisor};
use crate::messages::{CellId, FromSupervisor, Limit, Limits, ProcessId, Reached, Scope};

/// Between two looks.
const PACE: Duration = Duration::from_millis(10);

/// Between two looks of the watchdog's: it must see a crowd while it is small.
const PACE_OF_WATCHDOG: Duration = Duration::from_millis(3);

/// The user's own limit stands behind the watchdog's at so many times as many processes.
const BEHIND: u64 = 4;

/// A look that took a time is followed by a pause of this many times that, but of no more than
/// [`LONGEST_PAUSE`]: looks are slow when there is much to see.
const COST: u32 = 10;

/// Between two looks at the most.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// A cell whose forks are refused for so long, again and again, is a fork bomb.
const REFUSED_FOR: Duration = Duration::from_millis(2500);

/// Refusals that are further apart than this are not one row of them.
const REFUSALS_APART: Duration = Duration::from_millis(1000);

/// Keeps the limits.
#[derive(Debug)]
pub struct Watch {
    group: Option<Group>,
    how: String,
    notebook: Limits,
    /// Of the cell whose task runs, or ran last.
    usage: Option<Usage>,
    /// What stands in the group now.
    set: Option<(Option<u64>, Option<u64>)>,
    refusals: Refusals,
    /// For how long tasks have run, all of them that have ended.
    spent: Duration,
    next_look: Option<Instant>,
}

/// What a cell has used, and what it may.
#[derive(Debug)]
struct Usage {
    cell: CellId,
    limits: Limits,
    began: Instant,
    /// When its present task did.
    task_began: Instant,
    /// Processor time of the tree when the cell began.
    cpu: Duration,
    /// Processor time of those who lived when the cell began, then.
    others: HashMap<Identity, Duration>,
    refused: u64,
    killed: u64,
    /// Tasks in the group when the cell began: the worker, its checkpoint, and what earlier cells
    /// have left behind, threads among it.
    tasks: u64,
}

/// Forks that the system has refused lately.
#[derive(Debug, Default)]
struct Refusals {
    seen: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Refusals {
    /// Takes note of the counter. Returns whether they go on for too long.
    fn note(&mut self, count: u64, now: Instant) -> bool {
        let news = count > self.seen;
        self.seen = count;
        // Only a look that finds nothing new tells of a break: on a busy machine two looks may be far
        // apart, and of what was between them nothing is known.
        if !news && self.last.is_none_or(|last| now.duration_since(last) > REFUSALS_APART) {
            self.first = None;
        }
        if news {
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
        self.first.is_some_and(|first| now.duration_since(first) > REFUSED_FOR)
    }
}

impl Watch {
    /// Makes a group, where that may be done.
    pub fn start() -> Watch {
        remove_abandoned();
        let name = format!("forklab-{}-{:08x}", Pid::this(), nanoseconds());
        let (group, how) = match Group::create(&name) {
            Ok(group) => {
                let can = group.abilities();
                let left: Vec<&str> = [(can.processes, "processes"), (can.memory, "memory")]
                    .iter()
                    .filter(|(can, _)| !can)
                    .map(|(_, what)| *what)
                    .collect();
                let rest = if left.is_empty() { String::new() } else { format!("; watchdog: {}", left.join(", ")) };
                let how = group.description() + &rest;
                (Some(group), how)
            }
            Err(why) => (None, format!("watchdog ({why})")),
        };
        Watch {
            group,
            how,
            notebook: Limits::default(),
            usage: None,
            set: None,
            refusals: Refusals::default(),
            spent: Duration::ZERO,
            next_look: None,
        }
    }

    /// Puts a new worker under the limits. Before it has forked anything.
    pub fn enter(&mut self, worker: Pid) {
        self.set = None;
        let Some(group) = &self.group else { return };
        if let Err(error) = group.enter(worker) {
            self.how = format!("watchdog (the control group cannot be entered: {error})");
            // One that holds nobody has nothing to keep it.
            let _ = group.remove();
            self.group = None;
        }
    }

    pub fn limiting(&self) -> FromSupervisor {
        let groups = self.group.as_ref().map(Group::folders).unwrap_or_default();
        FromSupervisor::Limiting { how: self.how.clone(), groups }
    }

    /// Removes the group. Everybody in it has ended.
    pub fn leave(&self) {
        if let Some(group) = &self.group {
            // The server tries again after us.
            let _ = group.remove();
        }
    }

    pub fn set_notebook(&mut self, limits: Limits) {
        self.notebook = limits;
    }

    pub fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    fn pace(&self) -> Duration {
        let kept = self.group.as_ref().is_some_and(|group| group.abilities().processes);
        if kept { PACE } else { PACE_OF_WATCHDOG }
    }

    fn refused(&self) -> u64 {
        self.group.as_ref().and_then(Group::refused_forks).unwrap_or(0)
    }

    fn killed(&self) -> u64 {
        self.group.as_ref().and_then(Group::out_of_memory_kills).unwrap_or(0)
    }

    fn tasks(&self) -> Option<u64> {
        self.group.as_ref().and_then(Group::processes)
    }

    /// A fork of the worker's own, for its checkpoint, found no place: that is none of the cell's.
    pub fn forgive_refusal(&mut self) {
        let count = self.refused();
        if let Some(usage) = &mut self.usage {
            usage.refused = (usage.refused + 1).min(count);
        }
    }

    /// Lets the worker fork once although cells' processes may have taken every place. The next
    /// task sets its own limit.
    pub fn make_room(&mut self) {
        if let (Some(group), Some(tasks), Some((Some(_), _))) = (&self.group, self.tasks(), self.set) {
            // Where it fails there is no checkpoint, which is looked at.
            let _ = group.limit_processes(Some(tasks + 1));
            self.set = None;
        }
    }

    /// Whether the system has ended a process of this cell for want of memory.
    pub fn out_of_memory(&self) -> bool {
        self.usage.as_ref().is_some_and(|usage| self.killed() > usage.killed)
    }

    /// A task is over.
    pub fn end_of_task(&mut self) {
        self.spent += self.usage.as_ref().map_or(Duration::ZERO, |usage| usage.task_began.elapsed());
    }

    /// Whose limit of memory is the lower one.
    pub fn memory_reached(&self) -> Reached {
        let cell = self.usage.as_ref().and_then(|usage| usage.limits.memory);
        Reached { limit: Limit::Memory, scope: scope_of_lower(cell, self.notebook.memory) }
    }

    /// How many forks were refused since the cell began.
    pub fn refused_in(&self, cell: CellId) -> u64 {
        let usage = self.usage.as_ref().filter(|usage| usage.cell == cell);
        usage.map_or(0, |usage| self.refused().saturating_sub(usage.refused))
    }

    /// Processor time of all that cells have run.
    fn cpu(&self, everybody: &[Stat]) -> Duration {
        if let Some(cpu) = self.group.as_ref().and_then(Group::cpu) {
            return cpu;
        }
        let reaped = stat(Pid::this()).map(|us| us.children_cpu).unwrap_or_default();
        everybody.iter().map(|process| process.cpu + process.children_cpu).sum::<Duration>() + reaped
    }
}

fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    [one, other].into_iter().flatten().min()
}

fn scope_of_lower(cell: Option<u64>, notebook: Option<u64>) -> Scope {
    match (cell, notebook) {
        (Some(cell), Some(notebook)) if notebook < cell => Scope::Notebook,
        (None, Some(_)) => Scope::Notebook,
        _ => Scope::Cell,
    }
}

/// So that two groups of one pid have two names.
fn nanoseconds() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos())
}

impl Supervisor {
    /// A task begins: sets its limits. `Err` is for the person.
    pub fn begin_limits(&mut self, cell: CellId, limits: Limits) -> Result<(), String> {
        let everybody = descendants(Pid::this());
        if self.watch.usage.as_ref().is_none_or(|usage| usage.cell != cell) {
            let others = everybody.iter().filter(|process| !self.is_own(process));
            let others = others.map(|process| (process.identity, process.cpu + process.children_cpu)).collect();
            self.watch.refusals = Refusals { seen: self.watch.refused(), ..Refusals::default() };
            self.watch.usage = Some(Usage {
                cell,
                limits,
                began: Instant::now(),
                task_began: Instant::now(),
                cpu: self.watch.cpu(&everybody),
                others,
                refused: self.watch.refused(),
                killed: self.watch.killed(),
                tasks: self.watch.tasks().unwrap_or(everybody.len() as u64),
            });
        }
        if let Some(usage) = &mut self.watch.usage {
            usage.task_began = Instant::now();
        }
        if self.watch.notebook.time.is_some_and(|most| self.watch.spent >= most) {
            return Err("the notebook's cells have used up their time; restart the kernel".to_owned());
        }
        self.set_group(&limits, &everybody)?;
        self.watch.next_look = Some(Instant::now() + PACE);
        Ok(())
    }

    fn set_group(&mut self, limits: &Limits, everybody: &[Stat]) -> Result<(), String> {
        let own = 1 + u64::from(self.checkpoint.is_some());
        let tasks = self.watch.usage.as_ref().map_or(own, |usage| usage.tasks);
        let processes =
            lower(limits.processes.map(|most| most + tasks), self.watch.notebook.processes.map(|most| most + own));
        let memory = lower(limits.memory, self.watch.notebook.memory);
        if self.watch.set == Some((processes, memory)) {
            return Ok(());
        }
        if let Some(most) = memory {
            let used = self.memory_used(everybody, most);
            if used >= most {
                let (used, most) = (used >> 20, most >> 20);
                return Err(format!(
                    "the notebook's processes use {used} MiB of memory already, and the limit is {most} MiB"
                ));
            }
        }
        self.set_backstop(processes);
        let Some(group) = &self.watch.group else { return Ok(()) };
        let can = group.abilities();
        let set = || -> io::Result<()> {
            if can.processes {
                group.limit_processes(processes)?;
            }
            if can.memory {
                group.limit_memory(memory)?;
            }
            Ok(())
        };
        set().map_err(|error| format!("the limits of the cell cannot be set: {error}"))?;
        self.watch.set = Some((processes, memory));
        Ok(())
    }

    /// Where the watchdog counts processes, the user's own limit stands behind it, for what it does not see in
    /// time. It holds the processes of an ordinary user, and all of them together: so it is set well above.
    fn set_backstop(&self, processes: Option<u64>) {
        let counted = self.watch.group.as_ref().is_some_and(|group| group.abilities().processes);
        if let (false, Some(most), Some(tasks)) = (counted, processes, tasks()) {
            // A worker that is gone needs none.
            let _ = limit_processes_of_user(self.worker, tasks + BEHIND * most);
        }
    }

    /// Memory of the worker, its checkpoint and everything below, in bytes; as far as is needed to
    /// know whether it is above `most`. Resident memory is quick to ask for and counts a shared page
    /// for each who has it; only when that is too much, the exact figure is asked for.
    fn memory_used(&self, everybody: &[Stat], most: u64) -> u64 {
        let sum = |of: fn(Pid) -> Option<u64>| everybody.iter().filter_map(|p| of(p.identity.pid)).sum::<u64>();
        let quick = sum(resident);
        if quick < most { quick } else { sum(proportional) }
    }

    /// A look at what is used, and the end of what is beyond a limit.
    pub fn look_at_limits(&mut self) -> io::Result<()> {
        let began = Instant::now();
        self.let_server_go_on();
        let everybody = descendants(Pid::this());
        let busy = matches!(self.phase, Phase::Busy { .. });
        if !busy && everybody.iter().all(|process| process.zombie || self.is_own(process)) {
            self.watch.next_look = None;
            return Ok(());
        }
        if let Some(reached) = self.beyond(&everybody, busy) {
            self.end_for(reached)?;
        }
        self.watch.next_look =
            Some(Instant::now() + self.watch.pace().max((began.elapsed() * COST).min(LONGEST_PAUSE)));
        Ok(())
    }

    /// A cell may have stopped its grandparent, as it may have stopped us; the server sees to that.
    fn let_server_go_on(&self) {
        if let Some(server) = self.parent
            && stat(server).is_some_and(|server| server.state == 'T')
        {
            // It is our parent: were it gone, its end would have ended us, or will at the next event.
            let _ = kill(server, Signal::CONT);
        }
    }

    fn end_for(&mut self, reached: Reached) -> io::Result<()> {
        // A task that has reported is over, and within its limits as far as we have seen.
        self.hear_out()?;
        if let Phase::Busy { cell, .. } = self.phase {
            return self.end_beyond_limit(cell, reached);
        }
        // One look for both: a bomb has more processes by the next.
        let everybody = descendants(Pid::this());
        self.note_origins(&everybody);
        let leftovers = everybody.iter().filter(|p| !p.zombie && !self.is_own(p));
        let processes: Vec<(ProcessId, Option<CellId>)> =
            leftovers.map(|p| (p.identity.pid.into(), self.origins.of(&p.identity))).collect();
        self.end_leftovers()?;
        self.watch.refusals = Refusals { seen: self.watch.refused(), ..Refusals::default() };
        if let Some(usage) = &mut self.watch.usage {
            usage.killed = self.watch.group.as_ref().and_then(Group::out_of_memory_kills).unwrap_or(0);
        }
        self.tell(&FromSupervisor::LeftoversEnded { reached, processes })
    }

    /// The first limit that is reached.
    fn beyond(&mut self, everybody: &[Stat], busy: bool) -> Option<Reached> {
        let usage = self.watch.usage.as_ref()?;
        let (cell, notebook) = (usage.limits, self.watch.notebook);
        let reached = |limit, scope| Some(Reached { limit, scope });
        if busy && cell.time.is_some_and(|most| usage.began.elapsed() > most) {
            return reached(Limit::Time, Scope::Cell);
        }
        if busy && notebook.time.is_some_and(|most| self.watch.spent + usage.task_began.elapsed() > most) {
            return reached(Limit::Time, Scope::Notebook);
        }
        if self.watch.out_of_memory() {
            return Some(self.watch.memory_reached());
        }
        if cell.cpu.is_some() || notebook.cpu.is_some() {
            let cpu = self.watch.cpu(everybody);
            let others: Duration = everybody
                .iter()
                .filter_map(|p| Some((p.cpu + p.children_cpu).saturating_sub(*usage.others.get(&p.identity)?)))
                .sum();
            if cell.cpu.is_some_and(|most| cpu.saturating_sub(usage.cpu + others) > most) {
                return reached(Limit::Cpu, Scope::Cell);
            }
            if notebook.cpu.is_some_and(|most| cpu > most) {
                return reached(Limit::Cpu, Scope::Notebook);
            }
        }
        self.beyond_group(everybody, &cell, &notebook)
    }

    /// The limits that a control group keeps, where it keeps them, and the watchdog where not.
    fn beyond_group(&mut self, everybody: &[Stat], cell: &Limits, notebook: &Limits) -> Option<Reached> {
        let living = |process: &&Stat| !process.zombie && !self.is_own(process);
        let all = everybody.iter().filter(living).count() as u64;
        let usage = self.watch.usage.as_ref()?;
        let before = everybody.iter().filter(living).filter(|p| usage.others.contains_key(&p.identity)).count() as u64;
        let beyond_cell = cell.processes.is_some_and(|most| all - before > most);
        let beyond_notebook = notebook.processes.is_some_and(|most| all > most);
        let abilities = self.watch.group.as_ref().map(Group::abilities);
        if abilities.is_some_and(|can| can.processes) {
            let refused = self.watch.refused();
            if self.watch.refusals.note(refused, Instant::now()) {
                let scope = scope_of_lower(cell.processes.map(|most| most + before), notebook.processes);
                return Some(Reached { limit: Limit::Processes, scope });
            }
        } else if beyond_cell || beyond_notebook {
            // A bomb may go beyond both between two looks: it went beyond the lower one first.
            let scope = scope_of_lower(cell.processes.map(|most| most + before), notebook.processes);
            return Some(Reached { limit: Limit::Processes, scope });
        }
        if !abilities.is_some_and(|can| can.memory)
            && let Some(most) = lower(cell.memory, notebook.memory)
            && self.memory_used(everybody, most) > most
        {
            return Some(self.watch.memory_reached());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_a_row_are_a_bomb_and_single_ones_are_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bomb = Refusals::default();
        assert!(!bomb.note(10, at(0)));
        assert!(!bomb.note(20, at(900)));
        assert!(!bomb.note(30, at(1800)));
        assert!(bomb.note(40, at(2600)));
        let mut slow = Refusals::default();
        assert!(!slow.note(10, at(0)));
        assert!(!slow.note(20, at(1500)));
        assert!(slow.note(30, at(3000)), "our looks are slow, not the bomb");
        let mut lesson = Refusals::default();
        assert!(!lesson.note(1, at(0)));
        assert!(!lesson.note(1, at(1500)));
        assert!(!lesson.note(2, at(2600)));
        assert!(!lesson.note(2, at(5200)));
    }
}
