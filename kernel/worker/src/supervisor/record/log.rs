//! What is known of the recorded processes, and the events that are made of it. What is asked of the system
//! here are looks that change nothing; both of the supervisor's threads come here, one at a time. What is
//! known of zombies is in `zombies`, of stopped processes in `stops`, of delays in `delays`.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use forklab_record::{Event, Status, What};
use forklab_sys::process::{ExitStatus, Pid, Signal};
use forklab_sys::procfs::{command_line, handles, stat};
use forklab_sys::trace::{Origin, Received, Zombies, now};

use super::delays::Delays;
use super::stops::Parked;
use super::zombies::Zombie;
use crate::messages::CellId;

/// So many events of one cell are recorded.
const MOST_EVENTS: usize = 10_000;

/// So many processes are followed at once. A fork bomb has better to do than to wait for us.
const MOST_PROCESSES: usize = 250;

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
    pub(super) number: u64,
    /// How often it has forked, and become another program.
    pub(super) forks: u64,
    pub(super) execs: u64,
    /// It has been let go for the first time.
    pub(super) begun: bool,
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
    pub(super) watched: Zombies,
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
