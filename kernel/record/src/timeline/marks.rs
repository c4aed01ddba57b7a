//! What happened at a point in time, as marks on lanes and arrows between them. Those that would be
//! drawn at the same place become one, with a count.

use std::collections::{BTreeMap, HashMap};

use super::family::Family;
use super::lanes::Lanes;
use super::scale::Scale;
use super::words;
use crate::{Event, Nanoseconds, Status, Stream, What};

/// How many events a merged mark tells of.
const TOLD: usize = 3;
/// On lanes that are shared, what is nearer than this many times the grain becomes one.
const SHARED: f64 = 5.0;

/// The kinds of marks, in the order in which they are drawn: later ones cover earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It became another program.
    Exec,
    /// Its parent had ended.
    Adopted,
    /// It was stopped or went on.
    Stop,
    /// It wrote to its stdout.
    Stdout,
    /// It wrote to its stderr.
    Stderr,
    /// A signal reached it.
    Signal,
    /// It left.
    Exited,
    /// A signal ended it.
    Killed,
}

/// A mark on a lane.
pub struct Mark {
    /// Which lane.
    pub lane: usize,
    /// Where on it.
    pub x: f64,
    /// What.
    pub kind: Kind,
    /// How many events it stands for.
    pub count: usize,
    /// What a line beside it says; may be empty.
    pub label: String,
    /// What is said of it on hover.
    pub told: String,
}

/// The kinds of arrows, in the order in which they are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// From a parent to its new child.
    Fork,
    /// From a child to who reaped it.
    Reap,
    /// A message from a process to another.
    Message,
    /// A signal from a process to another.
    Signal,
}

/// An arrow from lane to lane.
pub struct Arrow {
    /// What it tells of.
    pub link: Link,
    /// From which lane.
    pub from: usize,
    /// Where there.
    pub from_x: f64,
    /// To which lane.
    pub to: usize,
    /// Where there.
    pub to_x: f64,
    /// How many it stands for.
    pub count: usize,
    /// What is said of it on hover.
    pub told: String,
}

/// Everything that is drawn on and between lanes.
pub struct Marks {
    /// Marks, in the order in which to draw them.
    pub marks: Vec<Mark>,
    /// Arrows, likewise.
    pub arrows: Vec<Arrow>,
}

/// What is put together before it is known how much falls on one place.
struct Gathered<Key> {
    places: BTreeMap<Key, Place>,
    grain: f64,
}

struct Place {
    count: usize,
    label: String,
    told: Vec<String>,
    x: (f64, f64),
}

type MarkKey = (Kind, usize, i64);
type ArrowKey = (Link, usize, usize, i64, i64);

impl<Key: Ord> Gathered<Key> {
    fn cell(&self, x: f64, coarser: f64) -> i64 {
        (x / (self.grain * coarser)).round() as i64
    }

    fn add(&mut self, key: Key, x: (f64, f64), label: impl FnOnce() -> String, told: impl FnOnce() -> String) {
        let place = self.places.entry(key).or_insert_with(|| Place { count: 0, label: label(), told: Vec::new(), x });
        place.count += 1;
        // The text of ten thousand events is not made to be thrown away.
        if place.told.len() < TOLD {
            place.told.push(told());
        }
    }
}

impl Place {
    fn told(self) -> String {
        let more = self.count - self.told.len();
        let mut lines = self.told;
        if more > 0 {
            lines.push(format!("… and {} more", words::grouped(more)));
        }
        lines.join("\n")
    }
}

/// Finds all marks and arrows. What is nearer than `grain` becomes one.
pub fn find(family: &Family, lanes: &Lanes, scale: &Scale, grain: f64) -> Marks {
    let mut finder = Finder {
        family,
        lanes,
        scale,
        // A mark is wider than a line.
        marks: Gathered { places: BTreeMap::new(), grain: grain * 2.0 },
        arrows: Gathered { places: BTreeMap::new(), grain },
    };
    for index in 0..family.record.processes.len() {
        finder.life(index);
    }
    finder.messages();
    finder.signals();
    for event in &family.record.events {
        finder.event(event);
    }
    finder.finish()
}

struct Finder<'a, 'r> {
    family: &'a Family<'r>,
    lanes: &'a Lanes,
    scale: &'a Scale,
    marks: Gathered<MarkKey>,
    arrows: Gathered<ArrowKey>,
}

impl Finder<'_, '_> {
    fn mark(
        &mut self,
        kind: Kind,
        index: usize,
        at: Nanoseconds,
        label: impl FnOnce() -> String,
        told: impl FnOnce() -> String,
    ) {
        let x = self.scale.x(at);
        let lane = self.lanes.of[index];
        let coarser = self.coarser(lane);
        let role = &self.family.process(index).role;
        let told = || format!("{} · {} {}", words::time(at), words::clean(role), told());
        let mut key = (kind, lane, self.marks.cell(x, coarser));
        // Two that are near each other may stand on both sides of a cell's edge.
        let before = (kind, lane, key.2 - 1);
        if self
            .marks
            .places
            .get(&before)
            .is_some_and(|place| (0.0..self.marks.grain * coarser).contains(&(x - place.x.0)))
        {
            key = before;
        }
        self.marks.add(key, (x, x), label, told);
    }

    fn arrow(
        &mut self,
        link: Link,
        from: (usize, Nanoseconds),
        to: (usize, Nanoseconds),
        told: impl FnOnce() -> String,
    ) {
        let (lanes, x) = ((self.lanes.of[from.0], self.lanes.of[to.0]), (self.scale.x(from.1), self.scale.x(to.1)));
        // Within a lane there is nothing to draw an arrow over.
        if lanes.0 == lanes.1 {
            return;
        }
        let coarser = self.coarser(lanes.0).max(self.coarser(lanes.1));
        let key = (link, lanes.0, lanes.1, self.arrows.cell(x.0, coarser), self.arrows.cell(x.1, coarser));
        self.arrows.add(key, x, String::new, || format!("{} · {}", words::time(from.1), told()));
    }

    fn coarser(&self, lane: usize) -> f64 {
        if self.lanes.list[lane].members.len() > 1 { SHARED } else { 1.0 }
    }

    fn role(&self, index: usize) -> String {
        words::clean(&self.family.process(index).role)
    }

    fn life(&mut self, index: usize) {
        let family = self.family;
        let process = family.process(index);
        if let Some(parent) = family.parent[index] {
            let told = || format!("{} forks {} (pid {})", self.role(parent), self.role(index), process.pid);
            let told = told();
            self.arrow(Link::Fork, (parent, process.forked), (index, process.forked), || told);
        }
        for (at, command) in &process.programs {
            self.mark(
                Kind::Exec,
                index,
                *at,
                || words::program(command),
                || format!("becomes {}", words::shown(command, 120)),
            );
        }
        if let Some((at, by)) = process.adopted {
            self.mark(
                Kind::Adopted,
                index,
                at,
                || "orphan".to_owned(),
                || format!("is an orphan: its parent has ended, {} adopts it", family.full(by, at)),
            );
        }
        let Some((ended, status)) = process.ended else { return };
        let told = || match status {
            Status::Exited(_) => format!("ends: {}", words::status(status)),
            Status::Killed(_) => format!("is ended by {}", words::status(status)),
        };
        let kind = if matches!(status, Status::Exited(_)) { Kind::Exited } else { Kind::Killed };
        // A shared lane's height tells of its members' ends.
        if kind == Kind::Killed || self.lanes.list[self.lanes.of[index]].members.len() == 1 {
            self.mark(kind, index, ended, String::new, told);
        }
        let Some((reaped, by)) = process.reaped else { return };
        if let Some(by) = family.at(by, reaped).filter(|by| *by != index) {
            let told = format!(
                "{} reaps {}, which was a zombie for {}",
                self.role(by),
                self.role(index),
                words::time(reaped.saturating_sub(ended))
            );
            self.arrow(Link::Reap, (index, reaped), (by, reaped), || told);
        }
    }

    fn messages(&mut self) {
        let family = self.family;
        let mut sent: HashMap<u64, &Event> = HashMap::new();
        for event in &family.record.events {
            match event.what {
                What::Sent { message, .. } => drop(sent.insert(message, event)),
                What::Received { message, bytes } => {
                    let Some(sending) = sent.remove(&message) else { continue };
                    let (Some(from), Some(to)) = (family.process_of(sending), family.process_of(event)) else {
                        continue;
                    };
                    let told = format!(
                        "{} sends {} a message of {}, received at {}",
                        self.role(from),
                        self.role(to),
                        words::bytes(bytes),
                        words::time(event.at)
                    );
                    self.arrow(Link::Message, (from, sending.at), (to, event.at), || told);
                }
                _ => {}
            }
        }
    }

    /// A signal's sending and its arrival are one arrow. Either may be missing: SIGKILL is never seen to
    /// arrive, and a sender may have been no process of the cell.
    fn signals(&mut self) {
        let family = self.family;
        let mut sent: HashMap<(usize, usize, i32), Vec<&Event>> = HashMap::new();
        for event in family.record.events.iter().rev() {
            let What::SignalSent { signal, to } = event.what else { continue };
            if let (Some(from), Some(to)) = (family.process_of(event), family.at(to, event.at)) {
                sent.entry((from, to, signal)).or_default().push(event);
            }
        }
        for event in &family.record.events {
            let What::SignalReceived { signal, from: Some(from) } = event.what else { continue };
            let (Some(from), Some(to)) = (family.at(from, event.at), family.process_of(event)) else { continue };
            let waiting = sent.get_mut(&(from, to, signal));
            let sending = waiting.and_then(|waiting| waiting.pop_if(|sending| sending.at <= event.at));
            let at = sending.map_or(event.at, |sending| sending.at);
            let told = format!("{} sends {} {}", self.role(from), self.role(to), words::signal(signal));
            self.arrow(Link::Signal, (from, at), (to, event.at), || told);
        }
        let mut alone: Vec<_> =
            sent.into_iter().flat_map(|(who, events)| events.into_iter().map(move |event| (event.at, who))).collect();
        alone.sort_unstable();
        for (at, (from, to, signal)) in alone {
            let told = format!("{} sends {} {}", self.role(from), self.role(to), words::signal(signal));
            self.arrow(Link::Signal, (from, at), (to, at), || told);
            // Signal 0 only asks whether the process is there.
            if signal != 0 {
                self.mark(
                    Kind::Signal,
                    to,
                    at,
                    || words::signal(signal),
                    || format!("is sent {}", words::signal(signal)),
                );
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let family = self.family;
        let Some(index) = family.process_of(event) else { return };
        let told = || words::event(family, event, 80);
        match &event.what {
            What::Wrote { stream, text } => {
                let kind = if *stream == Stream::Stdout { Kind::Stdout } else { Kind::Stderr };
                self.mark(kind, index, event.at, || words::shown(text.trim(), 40), told);
            }
            What::SignalReceived { signal, .. } => {
                self.mark(Kind::Signal, index, event.at, || words::signal(*signal), told);
            }
            What::Stopped(_) | What::Continued => self.mark(Kind::Stop, index, event.at, String::new, told),
            _ => {}
        }
    }

    fn finish(self) -> Marks {
        let marks = self.marks.places.into_iter().map(|((kind, lane, _), mut place)| {
            let label = std::mem::take(&mut place.label);
            Mark { lane, x: place.x.0, kind, count: place.count, label, told: place.told() }
        });
        let arrows = self.arrows.places.into_iter().map(|((link, from, to, _, _), place)| {
            let (from_x, to_x) = place.x;
            Arrow { link, from, from_x, to, to_x, count: place.count, told: place.told() }
        });
        Marks { marks: marks.collect(), arrows: arrows.collect() }
    }
}
