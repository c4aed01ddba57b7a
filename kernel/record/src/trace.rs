//! A record in Chrome's trace format, which <https://ui.perfetto.dev> and `chrome://tracing` open.
//!
//! The format: "Trace Event Format" by the Chromium project. Times are microseconds. Phases that are used:
//! `M` names, `X` a stretch of time, `i` a moment, `s` and `f` the two ends of an arrow.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::timeline::{Family, words};
use crate::{Event, Nanoseconds, Pid, Record, What};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    /// Names, stretches, moments and arrows.
    #[serde(rename = "traceEvents")]
    pub events: Vec<TraceEvent>,
    /// The unit in which a viewer begins to show times.
    #[serde(rename = "displayTimeUnit")]
    pub unit: &'static str,
    /// What is not an event: how the run ended, what was not seen.
    #[serde(rename = "otherData")]
    pub other: BTreeMap<&'static str, String>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceEvent {
    /// What the viewer writes on it.
    pub name: String,
    /// By what viewers filter.
    pub cat: &'static str,
    /// The phase: what kind of entry it is.
    pub ph: &'static str,
    /// When, in microseconds.
    pub ts: f64,
    /// For how long, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dur: Option<f64>,
    /// The process.
    pub pid: Pid,
    /// The thread: a record's processes are shown as having one.
    pub tid: Pid,
    /// Joins the two ends of an arrow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// `t`: a moment is of its thread; `e` as `bp`: an arrow ends at the stretch around it.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'static str>,
    /// Where an arrow's end is bound.
    #[serde(rename = "bp", skip_serializing_if = "Option::is_none")]
    pub binding: Option<&'static str>,
    /// Whatever else is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<&'static str, Argument>,
}

/// A value of an entry.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// The record for a viewer of traces.
pub fn chrome(record: &Record) -> Trace {
    let family = Family::new(record);
    let mut trace = Tracer { family: &family, events: Vec::new(), arrows: 0 };
    for index in 0..record.processes.len() {
        trace.process(index);
    }
    for event in &record.events {
        trace.event(event);
    }
    let mut other = BTreeMap::from([("ending", words::ending(&record.ending)), ("cell", record.execution.to_string())]);
    if !record.gaps.is_empty() {
        other.insert("not seen", record.gaps.join("\n"));
    }
    Trace { events: trace.events, unit: "ms", other }
}

struct Tracer<'a> {
    family: &'a Family<'a>,
    events: Vec<TraceEvent>,
    arrows: u64,
}

impl Tracer<'_> {
    fn entry(
        &mut self,
        ph: &'static str,
        cat: &'static str,
        name: String,
        pid: Pid,
        at: Nanoseconds,
    ) -> &mut TraceEvent {
        let ts = at as f64 / 1e3;
        let entry = TraceEvent {
            name,
            cat,
            ph,
            ts,
            dur: None,
            pid,
            tid: pid,
            id: None,
            scope: None,
            binding: None,
            args: BTreeMap::new(),
        };
        self.events.push(entry);
        let last = self.events.len() - 1;
        &mut self.events[last]
    }

    fn named(&mut self, what: &str, pid: Pid, key: &'static str, value: Argument) {
        self.entry("M", "__metadata", what.to_owned(), pid, 0).args.insert(key, value);
    }

    fn process(&mut self, index: usize) {
        let family = self.family;
        let process = family.process(index);
        let program = process.program().map_or(String::new(), |command| format!(" {}", words::program(command)));
        let name = format!("{}{program}", process.role);
        self.named("process_name", process.pid, "name", Argument::Text(name.clone()));
        self.named("thread_name", process.pid, "name", Argument::Text(name));
        self.named("process_sort_index", process.pid, "sort_index", Argument::Number(index as i64));
        for span in crate::timeline::spans(family, index) {
            let entry = self.entry("X", "life", span.state.word().to_owned(), process.pid, span.from);
            entry.dur = Some((span.to - span.from) as f64 / 1e3);
            if let Some((_, status)) = process.ended {
                entry.args.insert("end", Argument::Text(words::status(status)));
            }
        }
        if let Some(parent) = family.parent[index] {
            let parent = family.process(parent).pid;
            self.arrow("fork", (parent, process.forked), (process.pid, process.forked));
        }
        if let (Some((ended, _)), Some((reaped, by))) = (process.ended, process.reaped)
            && family.at(by, reaped).is_some()
        {
            self.arrow("reap", (process.pid, ended), (by, reaped));
        }
    }

    fn arrow(&mut self, what: &'static str, from: (Pid, Nanoseconds), to: (Pid, Nanoseconds)) {
        self.arrows += 1;
        let id = self.arrows;
        self.entry("s", what, what.to_owned(), from.0, from.1).id = Some(id);
        let end = self.entry("f", what, what.to_owned(), to.0, to.1);
        end.id = Some(id);
        end.binding = Some("e");
    }

    fn event(&mut self, event: &Event) {
        let cat = match event.what {
            What::Forked(_) | What::Ended(_) | What::Execed(_) | What::Reaped(_) | What::Adopted(_) => "process",
            What::SignalSent { .. } | What::SignalReceived { .. } | What::Stopped(_) | What::Continued => "signal",
            What::Wrote { .. } => "output",
            What::Sent { .. } | What::Received { .. } => "message",
            // The stretches tell it.
            What::Blocked(_) | What::Running => return,
        };
        let name = words::event(self.family, event, 60);
        let entry = self.entry("i", cat, name, event.pid, event.at);
        entry.scope = Some("t");
        if let What::Wrote { text, .. } = &event.what {
            entry.args.insert("text", Argument::Text(text.clone()));
        }
        match event.what {
            // Both ends have the message's number; a viewer joins them. Our own arrows have small numbers.
            What::Sent { message, .. } => {
                self.entry("s", "message", "message".to_owned(), event.pid, event.at).id = Some(message | 1 << 63)
            }
            What::Received { message, .. } => {
                let end = self.entry("f", "message", "message".to_owned(), event.pid, event.at);
                end.id = Some(message | 1 << 63);
                end.binding = Some("e");
            }
            _ => {}
        }
    }
}
