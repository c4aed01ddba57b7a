//! Where a point in time stands in a picture. The axis is broken where nothing happens for so long that
//! what does happen would be too small to see.

use super::words;
use crate::Nanoseconds;

/// At most this many quiet times are cut short: more breaks than this make a picture hard to read.
const MOST_BREAKS: usize = 5;
/// Quiet times are cut short when all the rest would have less than one part in this many of the width.
const WORTH_BREAKING: u64 = 10;
/// What is left must be this many times as many steps from event to event as there are breaks: a few
/// events that are far from each other are seen well as they are.
const CROWDED: usize = 3;
/// What a tick with its label needs.
const TICK_ROOM: f64 = 66.0;

/// Points in time on a line, piece by piece.
pub struct Scale {
    pieces: Vec<Piece>,
}

/// A part of the axis in which lengths are times at one rate.
struct Piece {
    from: Nanoseconds,
    to: Nanoseconds,
    left: f64,
    right: f64,
    /// The first thing that happens here.
    first: Nanoseconds,
    /// Nothing happens here, and its rate is another than that of what is around it.
    quiet: bool,
}

/// A place on the axis with a label.
pub struct Tick {
    /// Where.
    pub x: f64,
    /// What time is there; empty for a line without a label.
    pub label: String,
    /// Whether the label is centred at its place, or begins there.
    pub centred: bool,
}

/// A quiet time that is cut short.
pub struct Break {
    /// Where it begins.
    pub left: f64,
    /// Where it ends.
    pub right: f64,
    /// How long it is in truth.
    pub duration: Nanoseconds,
}

impl Scale {
    /// An axis from `left` to `right` for everything that happens at these times. `minimal` is the least
    /// length of a piece.
    pub fn new(times: impl Iterator<Item = Nanoseconds>, left: f64, right: f64, minimal: f64) -> Self {
        let mut times: Vec<Nanoseconds> = times.chain([0]).collect();
        times.sort_unstable();
        times.dedup();
        let end = times.last().copied().unwrap_or(0).max(1_000);
        let mut pieces = cut_at(&quiet_times(&times, end), end, &times);
        place(&mut pieces, left, right, minimal);
        Scale { pieces }
    }

    /// Where a time stands. What is later than the end stands at the end.
    pub fn x(&self, at: Nanoseconds) -> f64 {
        let index = self.pieces.partition_point(|piece| piece.to < at).min(self.pieces.len() - 1);
        let piece = &self.pieces[index];
        let share = (at.min(piece.to).saturating_sub(piece.from)) as f64 / (piece.to - piece.from) as f64;
        piece.left + share * (piece.right - piece.left)
    }

    /// The quiet times that are cut short.
    pub fn breaks(&self) -> impl Iterator<Item = Break> {
        let quiet = self.pieces.iter().filter(|piece| piece.quiet);
        quiet.map(|piece| Break { left: piece.left, right: piece.right, duration: piece.to - piece.from })
    }

    /// Round times with labels. Behind a break they count from the first one after it.
    pub fn ticks(&self) -> Vec<Tick> {
        self.ticks_every(TICK_ROOM)
    }

    /// As [`Scale::ticks`], for labels that need this much room.
    pub fn ticks_every(&self, room: f64) -> Vec<Tick> {
        let mut ticks = Vec::new();
        for (index, piece) in self.pieces.iter().enumerate().filter(|(_, piece)| !piece.quiet) {
            let width = piece.right - piece.left;
            let length = piece.to - piece.from;
            let step = round_step(length, (width / room).floor().max(1.0));
            let first = index == 0;
            let begin = if first { 0 } else { piece.first };
            if !first {
                ticks.push(Tick { x: self.x(begin), label: words::precise(begin), centred: false });
            }
            let mut passed = if first { 0 } else { step };
            while begin + passed <= piece.to {
                let x = self.x(begin + passed);
                // The label of the first thing after a break, and the next break, need their room.
                let crowded = !first && (x - self.x(begin) < room || piece.right - x < room / 3.5);
                let label = words::time_in(passed, step, length);
                let label = if first { label } else { format!("+{label}") };
                ticks.push(Tick { x, label: if crowded { String::new() } else { label }, centred: true });
                passed += step;
            }
        }
        ticks
    }
}

/// The stretches in which nothing happens and that are worth cutting short, in order of time.
fn quiet_times(times: &[Nanoseconds], end: Nanoseconds) -> Vec<(Nanoseconds, Nanoseconds)> {
    let mut gaps: Vec<(Nanoseconds, Nanoseconds)> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
    gaps.sort_by_key(|(from, to)| (std::cmp::Reverse(to - from), *from));
    let mut rest = end;
    let mut taken = 0;
    // Again with what is left: between a second's sleep and a microsecond's work there may be milliseconds.
    loop {
        let (mut remaining, mut index) = (rest, 0);
        let enough = gaps[taken..].iter().take(MOST_BREAKS - taken).position(|(from, to)| {
            remaining -= to - from;
            index += 1;
            remaining.saturating_mul(WORTH_BREAKING) <= rest && gaps.len() >= (taken + index) * (1 + CROWDED)
        });
        let Some(more) = enough else { break };
        taken += more + 1;
        rest = remaining;
    }
    let mut quiet: Vec<_> = gaps[..taken].to_vec();
    // What happens at the edges of a break keeps a little time around it.
    for (from, to) in &mut quiet {
        let margin = (rest / 24).max(1_000).min((*to - *from) / 8);
        *from += margin;
        *to -= margin;
    }
    quiet.retain(|(from, to)| to > from);
    quiet.sort_unstable();
    quiet
}

fn cut_at(quiet: &[(Nanoseconds, Nanoseconds)], end: Nanoseconds, times: &[Nanoseconds]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut from = 0;
    let piece = |from, to, quiet| {
        let first = times.get(times.partition_point(|time| *time < from)).copied().unwrap_or(from).clamp(from, to);
        Piece { from, to, first, left: 0.0, right: 0.0, quiet }
    };
    for (begin, stop) in quiet {
        if *begin > from {
            pieces.push(piece(from, *begin, false));
        }
        pieces.push(piece(*begin, *stop, true));
        from = *stop;
    }
    if end > from || pieces.is_empty() {
        pieces.push(piece(from, end.max(from + 1), false));
    }
    pieces
}

/// Shares the width out: among the quiet pieces by their durations, and among the others by theirs.
fn place(pieces: &mut [Piece], left: f64, right: f64, minimal: f64) {
    let width = right - left;
    let breaks = pieces.iter().filter(|piece| piece.quiet).count();
    let quiet_width = if breaks == 0 { 0.0 } else { width * (0.12 + 0.08 * breaks as f64) };
    let share = |quiet: bool| {
        let lengths = pieces.iter().filter(|piece| piece.quiet == quiet).map(|piece| piece.to - piece.from);
        let (count, total) = lengths.fold((0, 0), |(count, total), length| (count + 1, total + length));
        let room = if quiet { quiet_width } else { width - quiet_width };
        let least = minimal.min(room / (count.max(1)) as f64 / 2.0);
        (least, (room - least * f64::from(count)) / (total.max(1)) as f64)
    };
    let (busy, quiet) = (share(false), share(true));
    let mut x = left;
    for piece in pieces.iter_mut() {
        let (least, rate) = if piece.quiet { quiet } else { busy };
        piece.left = x;
        x += least + rate * (piece.to - piece.from) as f64;
        piece.right = x;
    }
}

/// The least of 1, 2, 5, 10, 20, 50, … nanoseconds that gives no more than so many steps.
fn round_step(length: Nanoseconds, most: f64) -> Nanoseconds {
    let mut decade = 1;
    loop {
        for factor in [1, 2, 5] {
            let step = decade * factor;
            if length as f64 / step as f64 <= most {
                return step;
            }
        }
        decade *= 10;
    }
}
