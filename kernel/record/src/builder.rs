//! Makes a [`Record`] of raw events: those of the recorder, and the output as its reader saw it.
//!
//! Raw events have the monotonic clock's own times, come in batches that overlap a little, and some
//! are missing. Here they get one order, times since the cell's beginning, and a life for each process;
//! what cannot be known of a life is a gap in the record and no error. Nothing here asks the system.

use std::collections::HashMap;

use crate::{Ending, Event, Nanoseconds, Pid, Process, Record, Status, Stream, What};

/// More output than this, in bytes, is not kept.
const MOST_OUTPUT: usize = 4 << 20;

/// More pieces of output than this are not kept.
const MOST_PIECES: usize = 50_000;

/// More processes than this are not named in one gap.
const MOST_NAMED: usize = 4;

/// Collects what happens in one run of a cell.
///
/// ```
/// use forklab_record::builder::Builder;
/// use forklab_record::{Ending, Event, Status, Stream, What};
///
/// let mut builder = Builder::new(3, 1_750_000_000.0, 100, 5_000);
/// builder.add([Event { at: 6_000, pid: 100, what: What::Forked(101) }], []);
/// builder.wrote(7_000, 101, Stream::Stdout, "hello\n");
/// builder.add([Event { at: 6_500, pid: 101, what: What::Ended(Status::Exited(0)) }], []);
/// let record = builder.build(Ending::Finished, 9_000);
/// assert_eq!(record.role(101), "C1");
/// assert_eq!(record.output(101, Stream::Stdout), "hello\n");
/// assert_eq!(record.processes[1].ended, Some((1_500, Status::Exited(0))));
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    execution: u32,
    started: f64,
    own: Pid,
    began: Nanoseconds,
    events: Vec<Event>,
    gaps: Vec<String>,
    /// Output that was kept so far.
    bytes: usize,
    pieces: usize,
    /// Roles in the order in which forks came in.
    roles: HashMap<Pid, String>,
    forks: usize,
}

impl Builder {
    /// For a run of `In [execution]` that began at `started` by the wall clock (seconds since 1970) and at
    /// `began` by the monotonic one (nanoseconds). `own` is the cell's own process, the worker's pid.
    pub fn new(execution: u32, started: f64, own: Pid, began: Nanoseconds) -> Builder {
        Builder {
            execution,
            started,
            own,
            began,
            events: Vec::new(),
            gaps: Vec::new(),
            bytes: 0,
            pieces: 0,
            roles: HashMap::from([(own, "P".to_owned())]),
            forks: 0,
        }
    }

    /// The cell's code began at this time, which its own process has measured: later than was thought.
    pub fn began(&mut self, began: Nanoseconds) {
        self.began = began;
    }

    /// The cell's code ended at this time, which its own process has measured, and everything that it did is
    /// known by now: what was seen of it later than this, a child that it has reaped for instance, was done by
    /// then.
    pub fn ended(&mut self, ended: Nanoseconds) {
        for event in self.events.iter_mut().filter(|event| event.pid == self.own) {
            event.at = event.at.min(ended);
        }
    }

    /// What the recorder has seen. The times are the monotonic clock's. Batches may overlap in time.
    pub fn add(&mut self, events: impl IntoIterator<Item = Event>, gaps: impl IntoIterator<Item = String>) {
        for event in events {
            if let What::Forked(child) = event.what {
                self.forks += 1;
                self.roles.insert(child, format!("C{}", self.forks));
            }
            self.events.push(event);
        }
        for gap in gaps {
            self.gap(gap);
        }
    }

    /// A piece of output, read at this time of the monotonic clock. Of a flood the beginning is kept.
    pub fn wrote(&mut self, at: Nanoseconds, pid: Pid, stream: Stream, text: impl Into<String>) {
        let text = text.into();
        if self.bytes + text.len() > MOST_OUTPUT || self.pieces == MOST_PIECES {
            // Nothing comes after the first piece that is left out: a record with holes is worse than a short one.
            self.bytes = MOST_OUTPUT;
            self.pieces = MOST_PIECES;
            self.gap("all of the output: there was too much of it, and the record has the beginning".to_owned());
            return;
        }
        self.bytes += text.len();
        self.pieces += 1;
        self.events.push(Event { at, pid, what: What::Wrote { stream, text } });
    }

    /// Something that the record will not say, for the person. Said twice, it is there once.
    pub fn gap(&mut self, gap: String) {
        if !self.gaps.contains(&gap) {
            self.gaps.push(gap);
        }
    }

    /// The role of a process as far as one can tell now, for output that is coloured while the cell runs;
    /// `None` for one whose fork has not come in yet. Forks that come in late may give the finished
    /// record other roles.
    pub fn role(&self, pid: Pid) -> Option<&str> {
        self.roles.get(&pid).map(String::as_str)
    }

    /// The record as it is known now, of a run that ended at `ended` by the monotonic clock. More may be
    /// added after it, of processes that outlive the cell, and another record be built.
    pub fn build(&self, ending: Ending, ended: Nanoseconds) -> Record {
        let mut events = self.events.clone();
        put_writes_before_ends(&mut events);
        for event in &mut events {
            event.at = event.at.saturating_sub(self.began);
        }
        // What was written at the moment of an end was written before it.
        events.sort_by_key(|event| (event.at, matches!(event.what, What::Ended(_))));
        let mut lives = Lives::new(self.own);
        for event in &events {
            lives.take(event);
        }
        let mut gaps = self.gaps.clone();
        let processes = lives.finish(&mut gaps);
        let duration = ended.saturating_sub(self.began);
        Record { execution: self.execution, started: self.started, duration, ending, processes, events, gaps }
    }
}

/// Output is read a little after it was written, and its writer may have ended meanwhile. Who has ended has
/// written before that; and what stands before it in the same stream was written before it, too.
fn put_writes_before_ends(events: &mut [Event]) {
    let mut ends: HashMap<Pid, Vec<Nanoseconds>> = HashMap::new();
    let mut births: HashMap<Pid, Vec<Nanoseconds>> = HashMap::new();
    for event in events.iter() {
        match event.what {
            What::Ended(_) => ends.entry(event.pid).or_default().push(event.at),
            What::Forked(child) => births.entry(child).or_default().push(event.at),
            _ => {}
        }
    }
    for wanted in [Stream::Stdout, Stream::Stderr] {
        let mut bound = Nanoseconds::MAX;
        for event in events.iter_mut().rev() {
            if !matches!(event.what, What::Wrote { stream, .. } if stream == wanted) {
                continue;
            }
            // A pid may have been given again: its last end before the reading counts, if nobody was born
            // with it in between.
            let last = |times: Option<&Vec<Nanoseconds>>| {
                times.into_iter().flatten().copied().filter(|at| *at <= event.at).max()
            };
            let ended = last(ends.get(&event.pid))
                .filter(|ended| last(births.get(&event.pid)).is_none_or(|born| born <= *ended));
            bound = bound.min(ended.unwrap_or(Nanoseconds::MAX)).min(event.at);
            event.at = bound;
        }
    }
}

/// One process, while its events come in.
#[derive(Debug)]
struct Life {
    process: Process,
    /// Whether its fork was seen; the cell's own process needs none.
    born: bool,
}

/// The processes, found by pid. A pid that is given again after its owner was reaped means the new one.
#[derive(Debug)]
struct Lives {
    list: Vec<Life>,
    latest: HashMap<Pid, usize>,
}

impl Lives {
    fn new(own: Pid) -> Lives {
        let mut lives = Lives { list: Vec::new(), latest: HashMap::new() };
        lives.begin(own, None, 0, true);
        lives
    }

    fn begin(&mut self, pid: Pid, parent: Option<Pid>, forked: Nanoseconds, born: bool) -> &mut Life {
        let process = Process {
            pid,
            role: String::new(),
            parent,
            adopted: None,
            forked,
            programs: Vec::new(),
            ended: None,
            reaped: None,
        };
        let index = self.list.len();
        self.latest.insert(pid, index);
        self.list.push(Life { process, born });
        &mut self.list[index]
    }

    /// The process that has this pid now; one that nobody has seen before is made. `None` for what is no
    /// pid: a writer in another pid namespace has the number 0.
    fn of(&mut self, pid: Pid, at: Nanoseconds) -> Option<&mut Life> {
        if pid <= 0 {
            return None;
        }
        match self.latest.get(&pid) {
            Some(index) => Some(&mut self.list[*index]),
            None => Some(self.begin(pid, None, at, false)),
        }
    }

    fn take(&mut self, event: &Event) {
        let at = event.at;
        match &event.what {
            What::Forked(child) => self.forked(event.pid, *child, at),
            // Who reaps may be no process of the cell: orphans are the supervisor's.
            What::Reaped(child) => {
                if let Some(life) = self.of(*child, at) {
                    life.process.reaped.get_or_insert((at, event.pid));
                }
            }
            What::Ended(status) => self.ended(event.pid, *status, at),
            What::Execed(program) => {
                if let Some(life) = self.of(event.pid, at) {
                    life.process.programs.push((at, program.clone()));
                }
            }
            // The last who adopts it is who reaps it.
            What::Adopted(by) => {
                if let Some(life) = self.of(event.pid, at) {
                    life.process.adopted = Some((at, *by));
                }
            }
            // These may be told of one who is gone already: output by its reader, a signal by its receiver.
            _ => {
                self.of(event.pid, at);
            }
        }
    }

    fn forked(&mut self, parent: Pid, child: Pid, at: Nanoseconds) {
        // Before its child, so that it stands before it in the list.
        self.of(parent, at);
        let known = self.latest.get(&child).map(|index| &mut self.list[*index]);
        match known {
            // The child was seen before its parent's fork was. That it was reaped between the two cannot be.
            Some(life) if !life.born && life.process.reaped.is_none() => {
                life.born = true;
                life.process.parent = Some(parent);
            }
            _ => {
                self.begin(child, Some(parent), at, true);
            }
        }
    }

    fn ended(&mut self, pid: Pid, status: Status, at: Nanoseconds) {
        let over = |life: &mut Life| life.process.ended.is_some() && life.process.reaped.is_some();
        if self.of(pid, at).is_some_and(over) {
            // Nobody ends twice: the pid was given again, and that fork was not seen.
            self.begin(pid, None, at, false);
        }
        if let Some(life) = self.of(pid, at) {
            life.process.ended.get_or_insert((at, status));
        }
    }

    /// The processes in the order of fork with their roles, and what is not known of them.
    fn finish(mut self, gaps: &mut Vec<String>) -> Vec<Process> {
        self.list[1..].sort_by_key(|life| life.process.forked);
        self.list[0].process.role = "P".to_owned();
        let (mut unborn, mut endless) = (Vec::new(), Vec::new());
        for (number, life) in self.list.iter_mut().enumerate().skip(1) {
            let role = format!("C{number}");
            if !life.born {
                unborn.push(format!("{role} (pid {})", life.process.pid));
                // Only a parent reaps.
                let reaper = life.process.reaped.filter(|_| life.process.adopted.is_none()).map(|(_, by)| by);
                life.process.parent = reaper.filter(|by| self.latest.contains_key(by));
            }
            if life.process.ended.is_none() && life.process.reaped.is_some() {
                endless.push(format!("{role} (pid {})", life.process.pid));
            }
            life.process.role = role;
        }
        gaps.extend(named(&unborn).map(|who| format!("who forked {who}, and when")));
        gaps.extend(named(&endless).map(|who| format!("how {who} ended")));
        self.list.into_iter().map(|life| life.process).collect()
    }
}

/// `C1 (pid 12), C2 (pid 13) and 5 more`; `None` of nobody.
fn named(who: &[String]) -> Option<String> {
    match who {
        [] => None,
        [only] => Some(only.clone()),
        _ if who.len() > MOST_NAMED + 1 => {
            Some(format!("{} and {} more", who[..MOST_NAMED].join(", "), who.len() - MOST_NAMED))
        }
        [most @ .., last] => Some(format!("{} and {last}", most.join(", "))),
    }
}
