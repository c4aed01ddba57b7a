//! A lane that many processes share: how many of them lived at each moment, and how many were zombies.

use super::family::Family;
use super::life::{self, State};
use super::scale::Scale;
use super::svg::{n, put};
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

/// Draws the members' lives: the living below, the zombies above them. Gives how many there were at most.
pub fn draw(out: &mut String, family: &Family, members: &[usize], scale: &Scale, room: &Room, id: &str) -> i64 {
    let columns = ((room.right - room.left) / COLUMN).ceil() as usize + 1;
    let (mut living, mut zombies) = (vec![0i64; columns + 1], vec![0i64; columns + 1]);
    for member in members {
        let spans = life::spans(family, *member);
        let alive = spans.iter().filter(|span| span.state != State::Zombie);
        let ends = alive.clone().map(|span| span.from).min().zip(alive.map(|span| span.to).max());
        let dead = spans.iter().find(|span| span.state == State::Zombie).map(|span| (span.from, span.to));
        for (counts, life) in [(&mut living, ends), (&mut zombies, dead)] {
            let Some((from, to)) = life else { continue };
            let column = |at| (((scale.x(at) - room.left) / COLUMN).max(0.0) as usize).min(columns - 1);
            counts[column(from)] += 1;
            counts[column(to) + 1] -= 1;
        }
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
    most
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
