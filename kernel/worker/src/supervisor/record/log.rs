//! What is known of the recorded processes, and the events that are made of it. No system calls but
//! looks into `/proc`; both of the supervisor's threads come here, one at a time.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use forklab_record::{Event, Status, What};
use forklab_sys::process::{ExitStatus, Pid, Signal};
use forklab_sys::procfs::{command_line, handles, stat};
use forklab_sys::trace::{Origin, Received, Zombies, exists, now};

use super::delays::{Delays, Point};
use super::stops::{Parked, will_speak};
use crate::messages::CellId;

/// So many events of one cell are recorded.
const MOST_EVENTS: usize = 10_000;

/// So many processes are followed at once. A fork bomb has better to do than to wait for us.
const MOST_PROCESSES: usize = 250;

/// So many zombies are watched; of more, we look.
const MOST_WATCHED: usize = 64;

/// So many cells' counts are remembered.
const CELLS: usize = 50;

/// For so long it is believed that a process handles SIGCHLD, or does not: asking costs more than the
/// signal itself.
const BELIEVED: Duration = Duration::from_millis(1);

/// A process that is followed.
#[derive(Debug)]
pub struct Process {
    pub cell: CellId,
    pub parent: Pid,
    /// A signal has stopped it, as far as is known.
    pub(super) stopped: bool,
    /// It seems to go on, and is followed again to learn whether it does.
    pub(super) doubted: bool,
    /// Whether it handled SIGCHLD when somebody looked.
    hears_of_children: Option<(Instant, bool)>,
    /// By order of fork in a run that is perturbed.
    number: u64,
    /// How often it has forked, and become another program.
    forks: u64,
    execs: u64,
    /// It has been let go for the first time.
    begun: bool,
}

/// One that has ended and was not reaped when somebody looked last.
#[derive(Debug, Clone, Copy)]
pub struct Zombie {
    pub pid: Pid,
    pub parent: Pid,
    cell: CellId,
    /// When it ended, as events tell it.
    since: u64,
    /// It was still there at a moment at which a parent that waits would have reaped it.
    pub lasting: bool,
    /// As its process's.
    number: u64,
}

/// One cell's record, as far as it was not handed out.
#[derive(Debug, Default)]
pub struct Log {
    pub events: Vec<Event>,
    pub gaps: Vec<String>,
    /// How many events there were, those that were handed out included.
    count: usize,
    /// Gaps that were said already.
    said: Vec<String>,
}

/// All that is known.
#[derive(Debug)]
pub struct State {
    /// The threads that are traced, and whose they are.
    pub threads: HashMap<Pid, Pid>,
    pub processes: HashMap<Pid, Process>,
    pub parked: HashMap<Pid, Parked>,
    pub zombies: Vec<Zombie>,
    /// Those of whose reaping the system tells.
    watched: Zombies,
    /// The supervisor's own children that its tracer has reaped.
    pub reaped_here: Vec<(Pid, ExitStatus)>,
    /// Of the task that runs, or ran last.
    pub delays: Option<Delays>,
    logs: BTreeMap<CellId, Log>,
}

impl State {
    /// Nothing is known.
    pub fn new(watched: Zombies) -> State {
        State {
            threads: HashMap::new(),
            processes: HashMap::new(),
            parked: HashMap::new(),
            zombies: Vec::new(),
            watched,
            reaped_here: Vec::new(),
            delays: None,
            logs: BTreeMap::new(),
        }
    }

    /// Whether there is nothing to write down, now or later.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.zombies.is_empty() && self.logs.values().all(Log::is_empty)
    }

    /// Whether anybody but the worker may do something.
    pub fn has_company(&self) -> bool {
        self.processes.len() > 1 || !self.zombies.is_empty() || self.logs.values().any(|log| !log.is_empty())
    }

    /// Whether a cell's record is full: its processes are let go.
    pub fn is_full(&self, process: Pid) -> bool {
        let log = self.processes.get(&process).and_then(|process| self.logs.get(&process.cell));
        log.is_some_and(|log| log.count >= MOST_EVENTS)
    }

    /// A task of this cell's begins in the worker.
    pub fn begin(&mut self, worker: Pid, cell: CellId) {
        let parent = Pid::this();
        let known = self.processes.entry(worker).or_insert(Process::new(cell, parent));
        *known = Process { stopped: known.stopped, doubted: known.doubted, begun: true, ..Process::new(cell, parent) };
        self.logs.entry(cell).or_default();
        while self.logs.len() > CELLS {
            self.logs.pop_first();
        }
    }

    /// A cell's record is over, whoever of its processes still lives.
    pub fn end(&mut self, cell: CellId) {
        self.logs.remove(&cell);
        self.delays.take_if(|delays| delays.cell == cell);
        self.processes.retain(|_, process| process.cell != cell);
        self.parked.retain(|pid, _| self.processes.contains_key(pid));
        let (over, zombies) = std::mem::take(&mut self.zombies).into_iter().partition(|zombie| zombie.cell == cell);
        self.zombies = zombies;
        let over: Vec<Zombie> = over;
        over.iter().for_each(|zombie| self.watched.forget(zombie.pid));
    }

    /// What was written down since the last time, by cell.
    pub fn take(&mut self) -> Vec<(CellId, Vec<Event>, Vec<String>)> {
        let news = self.logs.iter_mut().filter(|(_, log)| !log.is_empty());
        news.map(|(cell, log)| {
            let mut events = std::mem::take(&mut log.events);
            // Loop and tracer both write, each with the time at which it saw.
            events.sort_by_key(|event| event.at);
            (*cell, events, std::mem::take(&mut log.gaps))
        })
        .collect()
    }

    pub(super) fn note(&mut self, cell: CellId, pid: Pid, what: What) {
        let Some(log) = self.logs.get_mut(&cell) else { return };
        log.count += 1;
        if log.count <= MOST_EVENTS {
            log.events.push(Event { at: now(), pid: pid.as_raw(), what });
        }
        if log.count == MOST_EVENTS {
            log.say(format!("more than {MOST_EVENTS} events; what came after them is not recorded"));
        }
    }

    /// Something of a process's could not be seen.
    pub fn gap(&mut self, process: Pid, what: String) {
        if let Some(cell) = self.processes.get(&process).map(|process| process.cell) {
            self.gap_in(cell, what);
        }
    }

    pub fn gap_in(&mut self, cell: CellId, what: String) {
        if let Some(log) = self.logs.get_mut(&cell) {
            log.say(what);
        }
    }

    pub(super) fn note_of(&mut self, process: Pid, what: What) {
        if let Some(cell) = self.processes.get(&process).map(|process| process.cell) {
            self.note(cell, process, what);
        }
    }

    /// A process is there that this one has forked.
    pub fn forked(&mut self, parent: Pid, child: Pid) {
        let Some(cell) = self.processes.get(&parent).map(|process| process.cell) else { return };
        if self.threads.contains_key(&child) {
            return;
        }
        // A pid that is used again: whoever had it has been reaped.
        while let Some(index) = self.zombies.iter().position(|zombie| zombie.pid == child) {
            let zombie = self.zombies.swap_remove(index);
            self.reaped(zombie, zombie.parent);
        }
        self.note(cell, parent, What::Forked(child.as_raw()));
        self.threads.insert(child, child);
        let delays = self.delays.as_mut().filter(|delays| delays.cell == cell);
        let number = delays.map_or(0, Delays::number);
        self.processes.insert(child, Process { number, ..Process::new(cell, parent) });
        if self.processes.len() > MOST_PROCESSES
            && let Some(log) = self.logs.get_mut(&cell)
        {
            log.count = log.count.max(MOST_EVENTS + 1);
            log.say(format!("more than {MOST_PROCESSES} processes at once; what came after them is not recorded"));
        }
    }

    pub fn execed(&mut self, process: Pid, former: Pid) {
        if former != process {
            self.threads.remove(&former);
        }
        self.threads.insert(process, process);
        let program = command_line(process).unwrap_or_default();
        self.note_of(process, What::Execed(program));
    }

    /// A process has ended, and whoever is to reap it can.
    pub fn ended(&mut self, pid: Pid, status: ExitStatus) {
        self.threads.remove(&pid);
        self.parked.remove(&pid);
        let Some(process) = self.processes.remove(&pid) else { return };
        let killed = matches!(status, ExitStatus::Signaled { signal: Signal::KILL, .. });
        self.note(process.cell, pid, What::Ended(status_of(status)));
        if killed {
            self.gap_in(process.cell, "who sends a SIGKILL is not seen".to_owned());
        }
        let Process { parent, cell, number, .. } = process;
        self.zombies.push(Zombie { pid, parent, cell, since: now(), lasting: false, number });
        self.orphaned_by(pid);
    }

    /// Its children have other parents now: the system has seen to it before anybody heard of its end.
    fn orphaned_by(&mut self, parent: Pid) {
        let living = self.processes.iter().filter(|(_, child)| child.parent == parent).map(|(pid, _)| *pid);
        let dead = self.zombies.iter().filter(|child| child.parent == parent).map(|child| child.pid);
        for child in living.chain(dead).collect::<Vec<Pid>>() {
            // One that is gone was reaped: the next sweep finds that.
            let Some(adopter) = stat(child).and_then(|stat| stat.parent).filter(|now| *now != parent) else { continue };
            let mut cell = None;
            if let Some(process) = self.processes.get_mut(&child) {
                process.parent = adopter;
                cell = Some(process.cell);
            }
            for zombie in self.zombies.iter_mut().filter(|zombie| zombie.pid == child) {
                zombie.parent = adopter;
                cell = Some(zombie.cell);
            }
            if let Some(cell) = cell {
                self.note(cell, child, What::Adopted(adopter.as_raw()));
            }
        }
    }

    fn reaped(&mut self, zombie: Zombie, by: Pid) {
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

    /// A signal is about to be delivered.
    pub fn signalled(&mut self, process: Pid, received: Received) {
        let signal = received.signal.as_raw();
        let from = match received.origin {
            Origin::Process(from) => from,
            Origin::System => None,
            Origin::ChildEnded(child, _) | Origin::ChildStopped(child) | Origin::ChildContinued(child) => {
                if !self.hears_of_children(process) {
                    return;
                }
                Some(child)
            }
        };
        if let (Origin::Process(_), Some(from)) = (received.origin, from) {
            self.note_of(from, What::SignalSent { signal, to: process.as_raw() });
        }
        self.note_of(process, What::SignalReceived { signal, from: from.map(Pid::as_raw) });
    }

    /// Whether SIGCHLD is more to this process than what every parent gets and nobody notices.
    fn hears_of_children(&mut self, pid: Pid) -> bool {
        let Some(process) = self.processes.get_mut(&pid) else { return false };
        match process.hears_of_children {
            Some((at, hears)) if at.elapsed() < BELIEVED => hears,
            _ => {
                let hears = handles(pid, Signal::CHLD);
                process.hears_of_children = Some((Instant::now(), hears));
                hears
            }
        }
    }

    /// Nobody is followed any more.
    pub fn forget_all(&mut self) {
        self.threads.clear();
        self.parked.clear();
        self.processes.clear();
    }

    /// For how long a process is held that has forked.
    pub fn delay_of_fork(&mut self, process: Pid) -> Duration {
        let Some(known) = self.processes.get_mut(&process) else { return Duration::ZERO };
        known.forks += 1;
        let count = known.forks;
        self.delay(process, Point::Fork(count))
    }

    /// For how long a process is held that is another program now.
    pub fn delay_of_exec(&mut self, process: Pid) -> Duration {
        let Some(known) = self.processes.get_mut(&process) else { return Duration::ZERO };
        known.execs += 1;
        let count = known.execs;
        self.delay(process, Point::Exec(count))
    }

    /// For how long a process is held that stops for us: if it has not begun yet.
    pub fn delay_of_beginning(&mut self, thread: Pid) -> Duration {
        let begun = self.processes.get_mut(&thread).is_none_or(|known| std::mem::replace(&mut known.begun, true));
        if begun { Duration::ZERO } else { self.delay(thread, Point::Begin) }
    }

    /// For how long a process is held whose first thread is about to end.
    pub fn delay_of_end(&self, thread: Pid) -> Duration {
        self.delay(thread, Point::End)
    }

    /// For how long a process is held that hears of this child's end.
    pub fn delay_of_wait(&self, process: Pid, child: Pid) -> Duration {
        let Some(delays) = &self.delays else { return Duration::ZERO };
        let number = self.zombies.iter().rev().find(|zombie| zombie.pid == child && zombie.cell == delays.cell);
        number.map_or(Duration::ZERO, |zombie| self.delay(process, Point::Wait(zombie.number)))
    }

    fn delay(&self, process: Pid, point: Point) -> Duration {
        let known = self.processes.get(&process);
        let delays = self.delays.as_ref().zip(known).filter(|(delays, known)| delays.cell == known.cell);
        delays.map_or(Duration::ZERO, |(delays, known)| delays.of(known.number, point))
    }

    /// A process is not followed any more.
    pub fn forget(&mut self, thread: Pid) {
        let Some(process) = self.threads.remove(&thread) else { return };
        if !self.threads.values().any(|other| *other == process) {
            self.processes.remove(&process);
        }
    }
}

impl Process {
    fn new(cell: CellId, parent: Pid) -> Process {
        Process {
            cell,
            parent,
            stopped: false,
            doubted: false,
            hears_of_children: None,
            number: 0,
            forks: 0,
            execs: 0,
            begun: false,
        }
    }
}

impl Log {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.gaps.is_empty()
    }

    fn say(&mut self, gap: String) {
        if !self.said.contains(&gap) {
            self.said.push(gap.clone());
            self.gaps.push(gap);
        }
    }
}

fn status_of(status: ExitStatus) -> Status {
    match status {
        ExitStatus::Exited(code) => Status::Exited(code),
        ExitStatus::Signaled { signal, .. } => Status::Killed(signal.as_raw()),
    }
}
