//! Who is whose child in a record, and which process a pid meant at a time: the system gives a pid
//! again to another process when its owner has been reaped.

use std::collections::HashMap;

use crate::{Event, Nanoseconds, Pid, Process, Record, What};

/// Thirty years.
const LATEST: Nanoseconds = 1_000_000_000_000_000_000;

/// The processes of a record, found by pid and time, with their events and children.
pub struct Family<'a> {
    /// What it is about.
    pub record: &'a Record,
    /// For each process the index of its parent, if it is of this record.
    pub parent: Vec<Option<usize>>,
    /// For each process the indices of its children, in order of fork.
    pub children: Vec<Vec<usize>>,
    /// For each process its events, in order of time.
    pub events: Vec<Vec<&'a Event>>,
    /// The end of everything that is known: the cell's end, or the last event, whichever is later.
    pub until: Nanoseconds,
    by_pid: HashMap<Pid, Vec<usize>>,
}

impl<'a> Family<'a> {
    /// Looks a record through once.
    pub fn new(record: &'a Record) -> Self {
        let count = record.processes.len();
        let mut by_pid: HashMap<Pid, Vec<usize>> = HashMap::new();
        for (index, process) in record.processes.iter().enumerate() {
            by_pid.entry(process.pid).or_default().push(index);
        }
        for same in by_pid.values_mut() {
            same.sort_by_key(|index| record.processes[*index].forked);
        }
        let mut family = Family {
            record,
            parent: vec![None; count],
            children: vec![Vec::new(); count],
            events: vec![Vec::new(); count],
            until: 0,
            by_pid,
        };
        for index in 0..count {
            family.find_parent(index);
        }
        for event in &record.events {
            if let Some(index) = family.process_of(event) {
                family.events[index].push(event);
            }
        }
        for events in &mut family.events {
            events.sort_by_key(|event| event.at);
        }
        family.until = family.times().max().unwrap_or(0);
        family
    }

    fn find_parent(&mut self, index: usize) {
        let process = &self.record.processes[index];
        let Some(parent) = process.parent else { return };
        // A parent comes before its children in the list; whatever else a record says cannot make a circle.
        let known =
            |candidate: &usize| *candidate < index && self.record.processes[*candidate].forked <= process.forked;
        let found = self.by_pid.get(&parent).and_then(|same| same.iter().rev().copied().find(known));
        if let Some(found) = found {
            self.parent[index] = Some(found);
            self.children[found].push(index);
        }
    }

    /// Every point in time that the record names, as far as there is one: a clock that has gone wrong
    /// ends at thirty years, which leaves room for sums.
    pub fn times(&self) -> impl Iterator<Item = Nanoseconds> {
        let lives = self.record.processes.iter().flat_map(|process| {
            let ends = [process.ended.map(|(at, _)| at), process.reaped.map(|(at, _)| at)];
            let turns = process.programs.iter().map(|(at, _)| *at).chain(process.adopted.map(|(at, _)| at));
            ends.into_iter().flatten().chain(turns).chain([process.forked])
        });
        let events = self.record.events.iter().map(|event| event.at);
        lives.chain(events).chain([0, self.record.duration]).map(|at| at.min(LATEST))
    }

    /// The index of the process that had a pid at a time: the last that was forked by then.
    pub fn at(&self, pid: Pid, at: Nanoseconds) -> Option<usize> {
        let same = self.by_pid.get(&pid)?;
        let begun = same.iter().rev().find(|index| self.record.processes[**index].forked <= at);
        begun.or(same.first()).copied()
    }

    /// The process that an event is of. Output is timed by its reader, so its writer may be gone by then,
    /// and its pid's next owner may be there; a process that has ended writes no more, but who could
    /// have written it is only one of the two when the pid is used once, which is nearly always.
    pub fn process_of(&self, event: &Event) -> Option<usize> {
        match event.what {
            What::Ended(_) => self.before(event.pid, event.at),
            _ => self.at(event.pid, event.at),
        }
    }

    /// As [`Family::at`], for a process whose end or reaping is at that time: of two with this pid,
    /// the elder when the younger begins just then.
    pub fn before(&self, pid: Pid, at: Nanoseconds) -> Option<usize> {
        let same = self.by_pid.get(&pid)?;
        let begun = same.iter().rev().find(|index| self.record.processes[**index].forked < at);
        begun.or(same.first()).copied()
    }

    /// The process at an index.
    pub fn process(&self, index: usize) -> &'a Process {
        &self.record.processes[index]
    }

    /// `C1`, or `pid 12` for a process that is not of this record.
    pub fn role(&self, pid: Pid, at: Nanoseconds) -> String {
        self.at(pid, at).map_or_else(|| format!("pid {pid}"), |index| self.process(index).role.clone())
    }

    /// As [`Family::role`], for a process that ends or is reaped at that time.
    pub fn role_before(&self, pid: Pid, at: Nanoseconds) -> String {
        self.before(pid, at).map_or_else(|| format!("pid {pid}"), |index| self.process(index).role.clone())
    }

    /// `C1 (pid 12)`, or `pid 12`.
    pub fn full(&self, pid: Pid, at: Nanoseconds) -> String {
        match self.at(pid, at) {
            Some(index) => format!("{} (pid {pid})", self.process(index).role),
            None => format!("pid {pid}"),
        }
    }

    /// How deep below the cell's own process one stands.
    pub fn depth(&self, mut index: usize) -> usize {
        let mut depth = 0;
        while let Some(parent) = self.parent[index] {
            index = parent;
            depth += 1;
        }
        depth
    }
}
