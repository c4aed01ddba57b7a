//! Writes the orders of invented runs into a folder, to look at: `orders FOLDER`.
//!
//! For each of some programs NAME.html, NAME.txt and NAME.json.

use std::io::{Error, Result};
use std::path::PathBuf;

use forklab_record::builder::Builder;
use forklab_record::export::runs_json;
use forklab_record::orders::{self, By, Options, Orders};
use forklab_record::{Ending, Event, Pid, Record, Status, Stream, What};

/// Random numbers that are the same every time: Knuth's MMIX.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// So many workers say two lines each; an earlier one is likely to be earlier.
fn workers(random: &mut Random, first: Pid, count: usize, shuffle: usize) -> Record {
    let mut builder = Builder::new(4, 0.0, first, 0);
    let mut at = 0;
    let mut next = || {
        at += 10_000;
        at
    };
    let pids: Vec<Pid> = (1..=count as Pid).map(|number| first + number).collect();
    for pid in &pids {
        builder.add([Event { at: next(), pid: first, what: What::Forked(*pid) }], []);
    }
    let mut lines: Vec<(Pid, String)> = Vec::new();
    for pid in &pids {
        lines.push((*pid, format!("worker {pid} begins\n")));
        lines.push((*pid, format!("worker {pid} is done\n")));
    }
    for _ in 0..random.below(shuffle) {
        let place = random.below(lines.len() - 1);
        if lines[place].0 != lines[place + 1].0 {
            lines.swap(place, place + 1);
        }
    }
    for (pid, line) in lines {
        builder.wrote(next(), pid, Stream::Stdout, line);
    }
    for pid in &pids {
        builder.add([Event { at: next(), pid: *pid, what: What::Ended(Status::Exited(0)) }], []);
        builder.add([Event { at: next(), pid: first, what: What::Reaped(*pid) }], []);
    }
    let ending = match random.below(30) {
        0 => Ending::TimedOut,
        1 => Ending::Panicked(format!("worker {} did not answer & <left>", first + 1)),
        _ => Ending::Finished,
    };
    builder.build(ending, next() + random.below(300_000) as u64)
}

fn repeated(by: By, runs: i32, count: usize, shuffle: usize) -> Orders {
    let mut random = Random(7);
    let mut orders = Orders::new(by);
    for run in 0..runs {
        orders.add_record(&workers(&mut random, 4_000 + run * 20, count, shuffle));
    }
    orders
}

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or_else(|| Error::other("name a folder"))?;
    std::fs::create_dir_all(&folder)?;
    for (name, orders) in [
        ("lesson", repeated(By::Lines, 100, 5, 5)),
        ("many", repeated(By::Lines, 300, 6, 60)),
        ("events", repeated(By::Events, 50, 2, 4)),
        ("one", repeated(By::Bytes, 20, 1, 2)),
        ("none", Orders::new(By::Lines)),
    ] {
        std::fs::write(folder.join(format!("{name}.html")), orders::html(&orders, &Options::default()))?;
        std::fs::write(folder.join(format!("{name}.txt")), orders::text(&orders, 100))?;
        std::fs::write(folder.join(format!("{name}.json")), serde_json::to_vec(&runs_json(&orders))?)?;
    }
    Ok(())
}
