//! The words in a picture of roomy lanes: what marks say, above their bars, and what a long wait was for,
//! within its own. They go where there is room, the rarer ones first.

use std::fmt::Write;

use super::lanes::Lanes;
use super::marks::{Kind, Mark};
use super::svg::{n, put};
use super::words;

/// How wide a letter of the labels is, at most fonts.
const LETTER: f64 = 6.5;
/// A label has at most this many letters, and is not worth writing with fewer than the second number.
const MOST: usize = 32;
const LEAST: usize = 4;

/// Where the labels may go.
pub struct Room<'a> {
    /// The lanes; those that are shared have no labels.
    pub lanes: &'a Lanes,
    /// The axis's beginning and end.
    pub sides: (f64, f64),
    /// For each lane the line on which letters stand.
    pub lines: Vec<f64>,
}

/// Writes what marks say.
pub fn draw(out: &mut String, marks: &[Mark], room: &Room) {
    let alone = |mark: &&Mark| room.lanes.list[mark.lane].members.len() == 1 && !mark.label.is_empty();
    let mut waiting: Vec<&Mark> = marks.iter().filter(alone).collect();
    waiting.sort_by(|a, b| {
        let place = (priority(a.kind), a.lane).cmp(&(priority(b.kind), b.lane));
        place.then(a.x.total_cmp(&b.x))
    });
    let mut taken: Vec<Vec<(f64, f64)>> = vec![Vec::new(); room.lanes.list.len()];
    for (position, mark) in waiting.iter().enumerate() {
        // Equals share the room: a label ends where the next one of its kind begins, unless that is so
        // near that one of the two must go.
        let equals = waiting[position + 1..]
            .iter()
            .take_while(|next| next.lane == mark.lane && priority(next.kind) == priority(mark.kind));
        let next = equals.map(|next| next.x - 3.0).find(|x| x - mark.x > LETTER * 9.0);
        let many = if mark.count > 1 { format!(" ×{}", words::grouped(mark.count)) } else { String::new() };
        let wanted = (words::width(&mark.label).min(MOST) + words::width(&many)) as f64 * LETTER;
        let taken = &mut taken[mark.lane];
        let Some((from, to)) = place(mark.x, wanted, next.unwrap_or(f64::MAX), taken, room.sides) else { continue };
        let letters = ((to - from) / LETTER + 0.01).floor() as usize;
        let Some(letters) =
            letters.checked_sub(words::width(&many)).filter(|letters| *letters >= LEAST.min(words::width(&mark.label)))
        else {
            continue;
        };
        let label = words::cut(&mark.label, letters.min(MOST)) + &many;
        let to = from + words::width(&label) as f64 * LETTER;
        taken.push((from - 3.0, to + 3.0));
        let class = match mark.kind {
            Kind::Stderr => "fl-bad",
            Kind::Signal => "fl-tip-signal",
            Kind::Exec | Kind::Adopted => "fl-soft",
            _ => "fl-text",
        };
        write(out, class, (from, room.lines[mark.lane], to - from), mark.lane, &label);
    }
}

/// A label with what it stands on: lines that cross it would make it hard to read.
fn write(out: &mut String, class: &str, (x, y, width): (f64, f64, f64), lane: usize, label: &str) {
    let ground = if lane.is_multiple_of(2) { "fl-stripe" } else { "fl-ground" };
    put!(
        out,
        r#"<rect class="{ground}" opacity=".85" x="{}" y="{}" width="{}" height="12"/>"#,
        n(x - 1.0),
        n(y - 9.5),
        n(width + 2.0)
    );
    put!(out, r#"<text class="{class} fl-mono" x="{}" y="{}">{}</text>"#, n(x), n(y), words::escape(label));
}

/// From where to where a label goes: beginning at its mark, or ending at it where it would not fit.
fn place(x: f64, wanted: f64, next: f64, taken: &[(f64, f64)], (left, right): (f64, f64)) -> Option<(f64, f64)> {
    let start = (x - 3.0).max(left);
    if taken.iter().any(|(from, to)| *from <= start && start < *to) {
        return None;
    }
    let end = taken.iter().map(|(from, _)| *from).filter(|from| *from > start).fold(right + 2.0, f64::min).min(next);
    if start + wanted <= end {
        return Some((start, start + wanted));
    }
    let before = taken.iter().map(|(_, to)| *to).filter(|to| *to <= start).fold(left, f64::max);
    let back = x + 4.0 - wanted;
    if end > right && back >= before { Some((back, x + 4.0)) } else { Some((start, end)) }
}

fn priority(kind: Kind) -> u8 {
    match kind {
        Kind::Signal => 0,
        Kind::Exec | Kind::Adopted => 1,
        Kind::Stderr => 2,
        _ => 3,
    }
}
