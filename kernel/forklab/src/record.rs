//! What the processes of an earlier cell did, as plain values for the next one: to count, to check, to draw.
//!
//! While a cell runs, forklab records its processes: forks, programs, ends, reaps, orphans, signals, and
//! every piece of output with its writer. [`last_run`] gives that record to the next cell, and [`runs`] the
//! orders that the runs of a `%%repeat` had. What could not be seen is in the record's `gaps`.
//!
//! Every process has a *role*: `P` is the cell's own process, `C1`, `C2`, … are the others in the order in
//! which they were forked. Times are nanoseconds since the cell's beginning.
//!
//! For how long was each child a zombie?
//!
//! ```no_run
//! let run = forklab::last_run()?;
//! for process in &run.processes {
//!     if let Some(time) = process.zombie_time() {
//!         println!("{} was a zombie for {} ms", process.role, time as f64 / 1e6);
//!     }
//! }
//! # Ok::<(), forklab::Error>(())
//! ```
//!
//! Who wrote what, and in which order did things happen?
//!
//! ```no_run
//! use forklab::record::{Stream, What};
//!
//! let run = forklab::last_run()?;
//! for child in run.children(run.processes[0].pid) {
//!     println!("{} wrote {:?}", child.role, run.output(child.pid, Stream::Stdout));
//! }
//! for event in &run.events {
//!     if let What::Reaped(child) = event.what {
//!         println!("{} ns: {} reaps {}", event.at, run.role(event.pid), run.role(child));
//!     }
//! }
//! # Ok::<(), forklab::Error>(())
//! ```
//!
//! After a `%%repeat 100`, how often was each order seen?
//!
//! ```no_run
//! let runs = forklab::runs()?;
//! for seen in runs.seen() {
//!     println!("{} times:\n{}", seen.count, seen.order);
//! }
//! let most_likely = runs.estimate().map_or(0.0, |estimate| estimate.total);
//! println!("{} orders seen, of likely {most_likely}", runs.distinct());
//! # Ok::<(), forklab::Error>(())
//! ```
//!
//! A [`Run`] or [`Runs`] as the last expression of a cell is drawn: the timeline with its table, or the bars of
//! the orders. `println!("{run}")` writes the same as text.

mod display;

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Deref;

use serde::de::DeserializeOwned;

pub use forklab_record::orders::{self, By, Different, Estimate, Order, Orders, Seen, Token};
pub use forklab_record::{Ending, Event, Nanoseconds, Process, Record, Status, Stream, What};

use forklab_record::export::{Export, ExportRuns, RUNS_SCHEMA, SCHEMA};

use crate::{Error, Result};

/// Names the file of the last cell's record. The kernel sets it.
const LAST_RUN: &str = "FORKLAB_LAST_RUN";

/// Names the file of the runs of the last cell that was repeated. The kernel sets it.
const RUNS: &str = "FORKLAB_RUNS";

/// The columns of `println!("{run}")`.
const WIDTH: usize = 100;

/// What the processes of the last cell did that ran before this one; of a `%%repeat`, those of its last run.
///
/// ```no_run
/// let run = forklab::last_run()?;
/// assert!(run.processes.iter().all(|process| process.reaped.is_some() || process.parent.is_none()), "a zombie");
/// # Ok::<(), forklab::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotInNotebook`] in a program that no forklab kernel runs; [`Error::NothingRecorded`] in the first cell;
/// [`Error::System`] when the record cannot be read.
pub fn last_run() -> Result<Run> {
    let wanted = "the record of the last run";
    let text = read(LAST_RUN, wanted, "no cell has run yet")?;
    let export: Export = parsed(&text, SCHEMA, "read the record of the last run")?;
    Ok(Run { record: export.record })
}

/// The orders that the runs of the last repeated cell had: `%%repeat 100` repeats one.
///
/// ```no_run
/// let runs = forklab::runs()?;
/// assert_eq!(runs.different_runs(), 0, "a run hung or panicked");
/// # Ok::<(), forklab::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotInNotebook`] in a program that no forklab kernel runs; [`Error::NothingRecorded`] when no cell was
/// repeated yet; [`Error::System`] when the record cannot be read.
pub fn runs() -> Result<Runs> {
    let reason = "no cell has been repeated yet; write %%repeat 100 above one";
    let text = read(RUNS, "the record of repeated runs", reason)?;
    let export: ExportRuns = parsed(&text, RUNS_SCHEMA, "read the record of repeated runs")?;
    Ok(Runs { orders: export.runs })
}

/// One run of a cell: a [`Record`], with its fields and methods.
///
/// `{:?}` is one line; `{:#?}` is everything.
#[derive(Clone, PartialEq)]
pub struct Run {
    record: Record,
}

/// The runs of a cell that was repeated: [`Orders`], with its methods.
///
/// `{:?}` is one line; `{:#?}` is everything.
#[derive(Clone, PartialEq)]
pub struct Runs {
    orders: Orders,
}

impl Run {
    /// The record, to keep or to change.
    pub fn into_record(self) -> Record {
        self.record
    }
}

impl Runs {
    /// The orders, to keep, or to add others to.
    pub fn into_orders(self) -> Orders {
        self.orders
    }
}

impl From<Record> for Run {
    fn from(record: Record) -> Run {
        Run { record }
    }
}

impl From<Orders> for Runs {
    fn from(orders: Orders) -> Runs {
        Runs { orders }
    }
}

impl Deref for Run {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl Deref for Runs {
    type Target = Orders;

    fn deref(&self) -> &Orders {
        &self.orders
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { self.record.fmt(f) } else { write!(f, "Run({})", self.record.summary()) }
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { self.orders.fmt(f) } else { write!(f, "Runs({})", self.orders.summary()) }
    }
}

/// The timeline as text, and a table of the processes.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use forklab_record::timeline;
        write!(f, "{}\n{}", timeline::text(&self.record, WIDTH), timeline::table_text(&self.record))
    }
}

/// The orders as bars, and the most frequent beside the rarest.
impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&orders::text(&self.orders, WIDTH))
    }
}

/// The text of the file that a variable of the environment names.
fn read(variable: &str, wanted: &'static str, nothing: &'static str) -> Result<String> {
    let file = env::var_os(variable).filter(|file| !file.is_empty()).ok_or(Error::NotInNotebook { wanted })?;
    match fs::read_to_string(file) {
        Ok(text) if text.is_empty() => Err(Error::NothingRecorded { reason: nothing }),
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NothingRecorded { reason: nothing }),
        Err(error) => Err(Error::system("read what the kernel has recorded")(error)),
    }
}

/// A file's content, if it is of the format that this library knows: kernel and library may be of two versions
/// when a notebook's kernel was not restarted after an installation.
fn parsed<T: DeserializeOwned>(text: &str, schema: &str, doing: &'static str) -> Result<T> {
    #[derive(serde::Deserialize)]
    struct Head {
        schema: String,
    }
    let wrong = |error: serde_json::Error| Error::system(doing)(error.into());
    let head: Head = serde_json::from_str(text).map_err(wrong)?;
    if head.schema != schema {
        let message =
            format!("it is of the format {:?}, and this library reads {schema:?}; restart the kernel", head.schema);
        return Err(Error::system(doing)(io::Error::new(io::ErrorKind::InvalidData, message)));
    }
    serde_json::from_str(text).map_err(wrong)
}
