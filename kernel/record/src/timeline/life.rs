//! A process's life as a row of stretches of time, each in one state.

use super::family::Family;
use crate::{Nanoseconds, What};

/// What a process was doing for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It lived; whether it ran or waited is not known.
    Alive,
    /// It ran, or could have.
    Running,
    /// It waited for something.
    Blocked,
    /// A signal had stopped it.
    Stopped,
    /// It had ended and nobody had asked for its status yet.
    Zombie,
}

/// A stretch of time in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    /// From when.
    pub from: Nanoseconds,
    /// To when.
    pub to: Nanoseconds,
    /// What it did.
    pub state: State,
    /// What it waited for, when it waited; else empty.
    pub on: &'a str,
}

/// The life of a process from its fork to its reaping, without holes.
pub fn spans<'a>(family: &Family<'a>, index: usize) -> Vec<Span<'a>> {
    let process = family.process(index);
    // The cell's own process lives on after the cell, as the notebook's; that is no part of the picture.
    // One whose fork was not seen has no parent either.
    let own = index == 0;
    let last = if own { family.record.duration.max(process.forked) } else { family.until };
    let end = process.ended.map_or(last, |(at, _)| at).max(process.forked);
    let known = family.events[index].iter().any(|event| matches!(event.what, What::Blocked(_) | What::Running));
    let mut state = if known { State::Running } else { State::Alive };
    let mut awake = state;
    let (mut on, mut awake_on) = ("", "");
    let mut from = process.forked;
    let mut spans = Vec::new();
    for event in &family.events[index] {
        match &event.what {
            What::Blocked(cause) => (awake, awake_on) = (State::Blocked, cause.as_str()),
            What::Running => (awake, awake_on) = (State::Running, ""),
            What::Stopped(_) | What::Continued => {}
            _ => continue,
        }
        let (next, next_on) = match event.what {
            What::Stopped(_) => (State::Stopped, ""),
            What::Continued => (awake, awake_on),
            _ if state == State::Stopped => (State::Stopped, ""),
            _ => (awake, awake_on),
        };
        let at = event.at.clamp(from, end);
        if (next, next_on) != (state, on) {
            spans.push(Span { from, to: at, state, on });
            (from, state, on) = (at, next, next_on);
        }
    }
    spans.push(Span { from, to: end, state, on });
    spans.retain(|span| span.to > span.from || span.from == process.forked);
    if let Some((ended, _)) = process.ended {
        let until = process.reaped.map(|(at, _)| at).or(if own { None } else { Some(family.until) });
        if let Some(until) = until.filter(|until| *until > ended) {
            spans.push(Span { from: ended, to: until, state: State::Zombie, on: "" });
        }
    }
    spans
}

impl State {
    /// Its word in a legend.
    pub fn word(self) -> &'static str {
        match self {
            State::Alive => "alive",
            State::Running => "running",
            State::Blocked => "waiting",
            State::Stopped => "stopped",
            State::Zombie => "zombie",
        }
    }
}
