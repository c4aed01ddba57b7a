//! A record as a file. `docs/RECORD.md` documents what is in it.

use serde::{Deserialize, Serialize};

use crate::Record;
use crate::orders::Orders;

/// Names the format. The number changes when a reader of the old one could no longer read the new one;
/// new fields and new kinds of events leave it.
pub const SCHEMA: &str = "forklab-record/1";

/// A record with the name of its format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Export<R = Record> {
    /// [`SCHEMA`].
    pub schema: String,
    /// What happened.
    pub record: R,
}

/// What `%export FILE.json` writes.
pub fn json(record: &Record) -> Export<&Record> {
    Export { schema: SCHEMA.to_owned(), record }
}

/// Names the format of a file of many runs, as [`SCHEMA`] does for one.
pub const RUNS_SCHEMA: &str = "forklab-runs/1";

/// Many runs with the name of their format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportRuns<R = Orders> {
    /// [`RUNS_SCHEMA`].
    pub schema: String,
    /// What happened.
    pub runs: R,
}

/// The file of the runs of a cell that was repeated.
pub fn runs_json(orders: &Orders) -> ExportRuns<&Orders> {
    ExportRuns { schema: RUNS_SCHEMA.to_owned(), runs: orders }
}
