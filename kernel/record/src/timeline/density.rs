//! A lane that many processes share: how many of them lived at each moment, and how many were zombies.

use super::family::Family;
use super::life::{self, State};
use super::scale::Scale;
use super::svg::{n, put};
use crate::Nanoseconds;
use std::fmt::Write;

/// Columns of this width are counted.
const COLUMN: f64 = 2.0;

/// Where the lane's picture goes.
pub struct Room {
    /// The axis's beginning.
    pub left: f64,
    /// Its end.
    pub right: f64,
    /// The line on which it stands.
    pub base: f64,
    /// How high it may be.
    pub height: f64,
}

/// Draws the members' lives: the living below, the zombies above them. Gives how many there were
/// at most at one moment.
pub fn draw(out: &mut String, family: &Family, members: &[usize], scale: &Scale, room: &Room, id: &str) -> i64 {
    let columns = ((room.right - room.left) / COLUMN).ceil() as usize + 1;
    let (mut living, mut zombies) = (vec![0i64; columns + 1], vec![0i64; columns + 1]);
    let mut turns: Vec<(Nanoseconds, i64)> = Vec::new();
    for member in members {
        let spans = life::spans(family, *member);
        let column = |at| (((scale.x(at) - room.left) / COLUMN).max(0.0) as usize).min(columns - 1);
        let dead = spans.iter().find(|span| span.state == State::Zombie);
        let alive = spans.iter().filter(|span| span.state != State::Zombie);
        let Some((from, to)) = alive.clone().map(|span| span.from).min().zip(alive.map(|span| span.to).max()) else {
            continue;
        };
        // Nobody is in a column twice: it belongs to the life that ends in it, however short it was.
        let died = column(to).max(column(from) + 1);
        living[column(from)] += 1;
        living[died] -= 1;
        if let Some(reaped) = dead.map(|span| column(span.to)).filter(|reaped| *reaped > died) {
            zombies[died] += 1;
            zombies[reaped] -= 1;
        }
        let gone = dead.map_or(to, |span| span.to);
        // Who goes makes room for who comes at the same moment.
        turns.extend([(from, 1), (gone, -1)]);
    }
    let (living, zombies) = (summed(&living), summed(&zombies));
    let most = living.iter().zip(&zombies).map(|(a, b)| a + b).max().unwrap_or(0).max(1);
    let height = |count: i64| count as f64 / most as f64 * room.height;
    let nothing = vec![0; living.len()];
    let alive = area(&nothing, &living, room, height);
    put!(out, r#"<path class="fl-alive" d="{alive}"/>"#);
    let both: Vec<i64> = living.iter().zip(&zombies).map(|(a, b)| a + b).collect();
    let dead = area(&living, &both, room, height);
    if !dead.is_empty() {
        put!(out, r#"<path class="fl-zombie" style="stroke-width:.5" fill="url(#{id}-z)" d="{dead}"/>"#);
    }
    turns.sort_unstable();
    let counts = turns.iter().scan(0, |count, (_, change)| {
        *count += change;
        Some(*count)
    });
    counts.max().unwrap_or(0)
}

fn summed(changes: &[i64]) -> Vec<i64> {
    let mut sum = 0;
    changes
        .iter()
        .map(|change| {
            sum += change;
            sum
        })
        .collect()
}

/// Rectangles between two rows of heights, one for each stretch in which they do not change.
fn area(below: &[i64], above: &[i64], room: &Room, height: impl Fn(i64) -> f64) -> String {
    let mut path = String::new();
    let mut from = 0;
    for column in 1..=below.len() {
        let same = column < below.len() && (below[column], above[column]) == (below[from], above[from]);
        if same {
            continue;
        }
        if above[from] > below[from] {
            let (low, high) = (height(below[from]), height(above[from]));
            let (x, width) = (room.left + from as f64 * COLUMN, (column - from) as f64 * COLUMN);
            put!(path, "M{} {}h{}v{}h-{}z", n(x), n(room.base - high), n(width), n(high - low), n(width));
        }
        from = column;
    }
    path
}
