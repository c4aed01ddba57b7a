//! The many orders of one cell: what happened in which order, so that runs can be compared, and what
//! many runs say together.
//!
//! [`order`] makes an [`Order`] of a record, in which nothing is left that differs from run to run for
//! no reason: roles stand for pids, also in the text that processes write, and times are gone.
//! [`Orders`] counts them. Everything here turns values into values; nothing runs a cell.
//!
//! ```
//! use forklab_record::orders::{By, Orders, Until};
//! # use forklab_record::{Record, builder::Builder, Ending, Event, Stream, What};
//! # fn run(pid: i32, child: i32) -> Record {
//! #     let mut builder = Builder::new(1, 0.0, pid, 0);
//! #     builder.add([Event { at: 1, pid, what: What::Forked(child) }], []);
//! #     builder.wrote(2, child, Stream::Stdout, format!("I am {child}\n"));
//! #     builder.build(Ending::Finished, 3)
//! # }
//!
//! let mut orders = Orders::new(By::Lines);
//! orders.add_record(&run(4711, 4712));
//! orders.add_record(&run(4720, 4721));
//! assert_eq!(orders.distinct(), 1);
//! assert_eq!(orders.most_frequent().unwrap().order.to_string(), "C1: I am ⟨C1⟩\n");
//! assert!(!orders.is_done(Until::Distinct(2)));
//! ```

mod collect;
mod diff;
mod estimate;
mod html;
mod read;
mod style;
mod text;

pub use collect::{Different, Orders, Run, Seen, Until};
pub use diff::{Row, diff};
pub use estimate::{Estimate, chao1};
pub use read::{ending, order};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Stream;

/// What an order is an order of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum By {
    /// Lines of output, each where it was finished. Lines of several writers that run into each other
    /// count as whole lines.
    #[default]
    Lines,
    /// Output as it came: who wrote which text until somebody else wrote.
    Bytes,
    /// Everything that happened: forks, programs, ends, reaps, signals, messages, and lines of output.
    Events,
}

/// One run's order: equal for two runs in which the same happened in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Order {
    /// What it is an order of.
    pub by: By,
    /// What happened, one after the other.
    pub tokens: Vec<Token>,
}

/// One thing that happened in an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token {
    /// The role of who did it: `P`, `C1`, …; `?` for a process that is not of the record.
    pub who: String,
    /// The stream, for a piece of output.
    pub stream: Option<Stream>,
    /// The text of the output, without a line's newline, or what happened in words: `forks C1`. Pids of the
    /// record's processes are roles in it: `I am ⟨C1⟩`.
    pub what: String,
}

/// How to draw the orders as HTML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many of the most frequent orders have a bar of their own.
    pub most_bars: usize,
    /// How many lines of two orders are shown side by side.
    pub most_rows: usize,
    /// What its ids begin with: letters, digits and dashes, a letter first. `None` makes one of the
    /// orders' own facts.
    pub id: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { most_bars: 20, most_rows: 60, id: None }
    }
}

/// The orders as HTML for a notebook's output, for light and dark pages, without scripts: how often each
/// was seen, how many are likely unseen, the most frequent and the rarest side by side, and the runs that
/// ended differently.
pub fn html(orders: &Orders, options: &Options) -> String {
    html::draw(orders, options)
}

/// The same as text for a terminal. No line is wider than `width` columns (at least 40).
pub fn text(orders: &Orders, width: usize) -> String {
    text::draw(orders, width)
}

/// One line while runs are under way: `37 of 100 runs · 12 orders · 1 run ended differently`. `wanted` is
/// the number of runs that were asked for, `None` where another rule ends them.
pub fn progress(orders: &Orders, wanted: Option<usize>) -> String {
    text::progress(orders, wanted)
}

impl By {
    /// `lines`, `bytes` or `events`, as a person writes it.
    pub fn name(self) -> &'static str {
        match self {
            By::Lines => "lines",
            By::Bytes => "bytes",
            By::Events => "events",
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> Result<By, String> {
        [By::Lines, By::Bytes, By::Events]
            .into_iter()
            .find(|by| by.name() == text)
            .ok_or_else(|| format!("{text:?} is no way to compare runs: write lines, bytes or events"))
    }
}

/// One line for each token.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.iter().try_for_each(|token| writeln!(f, "{token}"))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stream {
            None => write!(f, "{} {}", self.who, self.what),
            Some(Stream::Stdout) => write!(f, "{}: {}", self.who, self.what),
            Some(Stream::Stderr) => write!(f, "{} (stderr): {}", self.who, self.what),
        }
    }
}
