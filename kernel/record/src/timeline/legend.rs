//! What the colours and shapes mean that are in a picture, and what the picture does not show.

use std::fmt::Write;

use super::family::Family;
use super::lanes::Lanes;
use super::life::{self, State};
use super::marks::{Kind, Link, Marks};
use super::svg::{n, put};
use super::words;

/// A line of the legend.
const LINE: f64 = 18.0;
/// More gaps than this are counted only.
const MOST_NOTES: usize = 5;

/// What the legend is made of.
pub struct Legend<'a> {
    /// The processes.
    pub family: &'a Family<'a>,
    /// Their lanes.
    pub lanes: &'a Lanes,
    /// What is drawn on them.
    pub marks: &'a Marks,
    /// The picture's id.
    pub id: &'a str,
}

impl Legend<'_> {
    /// Draws it from `left` to `right`. Gives where the picture ends.
    pub fn draw(&self, out: &mut String, left: f64, top: f64, right: f64) -> f64 {
        let (mut x, mut y) = (left, top + LINE / 2.0 + 2.0);
        out.push_str("<g class=\"fl-legend\">");
        for (sample, word) in self.entries() {
            let width = 34.0 + word.chars().count() as f64 * 6.4;
            if x + width > right && x > left {
                (x, y) = (left, y + LINE);
            }
            put!(
                out,
                r#"<g transform="translate({} {})">{sample}<text class="fl-soft fl-small" x="22" y="3.5">{word}</text></g>"#,
                n(x),
                n(y)
            );
            x += width;
        }
        out.push_str("</g>\n");
        y += LINE;
        for note in self.notes(((right - left) / 6.2) as usize) {
            put!(
                out,
                r#"<text class="fl-soft fl-small" x="{}" y="{}">{}</text>"#,
                n(left),
                n(y + 3.0),
                words::escape(&note)
            );
            y += LINE - 3.0;
        }
        y + 4.0
    }

    fn entries(&self) -> Vec<(String, &'static str)> {
        let mut entries = Vec::new();
        let shared = self.lanes.list.iter().any(|lane| lane.members.len() > 1);
        let single = self.lanes.list.iter().filter(|lane| lane.members.len() == 1);
        let mut states: Vec<State> =
            single.flat_map(|lane| life::spans(self.family, lane.members[0])).map(|span| span.state).collect();
        if shared {
            states.push(State::Alive);
            let members = self.lanes.list.iter().flat_map(|lane| &lane.members);
            let mut dead = members
                .map(|index| life::spans(self.family, *index))
                .filter(|spans| spans.iter().any(|span| span.state == State::Zombie));
            states.extend(dead.next().map(|_| State::Zombie));
        }
        states.sort_unstable();
        states.dedup();
        // Both have one colour: of some it is known whether they waited, of the others not.
        let both = states.contains(&State::Alive) && states.contains(&State::Running);
        states.retain(|state| !(both && *state == State::Alive));
        let rect = r#"x="0" y="-5" width="17" height="10""#;
        for state in states {
            let sample = match state {
                State::Alive => format!(r#"<rect class="fl-alive" {rect}/>"#),
                State::Running => format!(r#"<rect class="fl-running" {rect}/>"#),
                State::Blocked => format!(r#"<rect class="fl-blocked" {rect}/>"#),
                State::Stopped => format!(r#"<rect class="fl-stopped" {rect}/>"#),
                State::Zombie => format!(
                    r#"<rect class="fl-zombie" fill="url(#{}-z)" x="0" y="-4" width="17" height="8"/>"#,
                    self.id
                ),
            };
            entries
                .push((sample, if both && state == State::Running { "running, or not known" } else { state.word() }));
        }
        for (link, name, word) in [
            (Link::Fork, "fork", "fork"),
            (Link::Reap, "reap", "reaped"),
            (Link::Message, "message", "message"),
            (Link::Signal, "signal", "signal"),
        ] {
            if self.marks.arrows.iter().any(|arrow| arrow.link == link) {
                entries.push((format!(r#"<path class="fl-line fl-{name}" stroke-width="1.4" marker-end="url(#{}-{name})" d="M0 0H18"/>"#, self.id), word));
            }
        }
        for (kind, sample, word) in MARKS {
            if self.marks.marks.iter().any(|mark| mark.kind == kind) {
                entries.push((sample.to_owned(), word));
            }
        }
        entries
    }

    fn notes(&self, letters: usize) -> Vec<String> {
        let mut notes: Vec<String> = self.lanes.note().into_iter().collect();
        let gaps = &self.family.record.gaps;
        notes.extend(gaps.iter().take(MOST_NOTES).map(|gap| format!("Note: {}", words::shown(gap, 400))));
        if gaps.len() > MOST_NOTES {
            notes.push(format!("… and {} more notes.", gaps.len() - MOST_NOTES));
        }
        notes.iter().flat_map(|note| wrapped(note, letters)).collect()
    }
}

const MARKS: [(Kind, &str, &str); 7] = [
    (Kind::Stdout, r#"<circle class="fl-out" cx="9" r="3.8"/>"#, "writes"),
    (Kind::Stderr, r#"<path class="fl-err" d="M9 -5l4.8 8.8h-9.6z"/>"#, "writes to stderr"),
    (Kind::Exec, r#"<path class="fl-end" d="M6 -6v12M8 -3l4 3l-4 3"/>"#, "new program"),
    (Kind::Adopted, r#"<path class="fl-out" d="M9 -4.5l4 4.5v4h-8v-4z"/>"#, "orphan adopted"),
    (Kind::Stop, r#"<path class="fl-end" d="M7.5 -3v6M10.5 -3v6"/>"#, "stop, continue"),
    (Kind::Exited, r#"<path class="fl-end" d="M9 -7v14"/>"#, "exit"),
    (Kind::Killed, r#"<path class="fl-killed" d="M5.5 -3.5l7 7m0 -7l-7 7"/>"#, "ended by a signal"),
];

/// A text in lines of at most so many columns, broken between words.
pub fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let word = words::cut(word, most);
        match lines.last_mut() {
            Some(line) if words::width(line) + 1 + words::width(&word) <= most => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}
