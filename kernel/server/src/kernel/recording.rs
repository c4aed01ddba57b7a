//! What the processes of a cell do, kept for whoever asks: `%%trace`, `%timeline`, `%export`, and the next
//! cell's `forklab::last_run()`.
//!
//! There is one record at a time: of the cell that runs, and after its end of that cell until another one
//! runs something. Output with its writers is always in it; forks, programs, ends and signals only where
//! the supervisor records, because that costs, and keeps `strace` and `gdb` out (see
//! `docs/ARCHITECTURE.md`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forklab_record::builder::Builder;
use forklab_record::orders::Orders;
use forklab_record::{Ending, Event, Record, Status, Stream, colour, export, timeline};
use forklab_sys::trace::now;
use forklab_worker::messages::{CellId, Exit, Limit, Outcome, Reached, Used};
use serde::Serialize;

use super::compiler::Bundle;
use super::output::{self, Heard, Piece};

/// The columns of the text forms.
pub const WIDTH: usize = 100;

/// Coloured output waits this long for the recorder to say whose it is.
pub const HOLD_COLOUR: Duration = Duration::from_millis(200);

/// What a record of a cell that was not recorded lacks.
const NOT_RECORDED: &str = "forks, programs, ends and signals: the cell was not recorded";

/// What is said above such a timeline.
pub const HOW_TO_RECORD: &str = "[forklab: this cell was not recorded, so forks and ends are missing: write %%trace above it, or %record on once]\n";

/// The one cell that is watched, or was last.
#[derive(Debug)]
struct Watched {
    cell: CellId,
    builder: Builder,
    recorded: bool,
    /// How and when its last task ended.
    end: Option<(Ending, u64)>,
    /// Something has happened since it was written to the file.
    news: bool,
}

/// The records that there are.
#[derive(Debug)]
pub struct Recording {
    /// `%record on`
    pub always: bool,
    watched: Option<Watched>,
    /// Of the last cell that was repeated.
    pub orders: Option<Orders>,
    last_run: PathBuf,
    runs: PathBuf,
}

impl Recording {
    /// With files for the cells in the kernel's runtime directory.
    pub fn new(runtime: &Path) -> Recording {
        let [last_run, runs] = files(runtime).map(|(_, file)| file);
        Recording { always: false, watched: None, orders: None, last_run, runs }
    }

    /// A task of this cell begins; what an earlier task of the same cell did stays.
    pub fn begin(&mut self, cell: CellId, execution: u32, worker: i32, recorded: bool) {
        if let Some(watched) = self.watched.as_mut().filter(|watched| watched.cell == cell) {
            watched.recorded &= recorded;
            return;
        }
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let builder = Builder::new(execution, started, worker, now());
        self.watched = Some(Watched { cell, builder, recorded, end: None, news: true });
    }

    fn of(&mut self, cell: CellId) -> Option<&mut Watched> {
        self.watched.as_mut().filter(|watched| watched.cell == cell)
    }

    /// Whether this is the cell that is watched.
    pub fn is_of(&self, cell: CellId) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.cell == cell)
    }

    /// What the supervisor has recorded.
    pub fn add(&mut self, cell: CellId, events: Vec<Event>, gaps: Vec<String>) {
        if let Some(watched) = self.of(cell) {
            watched.news |= !events.is_empty() || !gaps.is_empty();
            watched.builder.add(events, gaps);
        }
    }

    /// What was read of a cell's output.
    pub fn hear(&mut self, cell: CellId, heard: Vec<Heard>) {
        let Some(watched) = self.of(cell) else { return };
        watched.news |= !heard.is_empty();
        for Heard { at, pid, stream, text } in heard {
            let stream = match stream {
                output::Stream::Stdout => Stream::Stdout,
                output::Stream::Stderr => Stream::Stderr,
            };
            watched.builder.wrote(at, pid, stream, text);
        }
    }

    /// A task of the cell has ended. When it began and ended is what its own process says: between that and
    /// what is heard of it here, checkpoints are made.
    pub fn end(&mut self, cell: CellId, ending: Ending, used: Option<Used>) {
        let Some(watched) = self.of(cell) else { return };
        if let (Some(used), None) = (used, &watched.end) {
            watched.builder.began(used.began);
        }
        let ended = used.map(|used| used.began + used.wall.as_nanos() as u64);
        if let Some(ended) = ended {
            watched.builder.ended(ended);
        }
        watched.end = Some((ending, ended.unwrap_or_else(now)));
        watched.news = true;
    }

    /// Whether the cell that is watched, or was last, is recorded.
    pub fn is_recorded(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.recorded)
    }

    /// The record as it is known now; `None` before the first cell.
    pub fn record(&self) -> Option<Record> {
        let watched = self.watched.as_ref()?;
        let (ending, ended) = watched.end.clone().unwrap_or_else(|| (Ending::Interrupted, now()));
        let mut record = watched.builder.build(ending, ended);
        if !watched.recorded {
            // Whatever else is missing is missing for that reason.
            record.gaps = vec![NOT_RECORDED.to_owned()];
        }
        Some(record)
    }

    /// Whose writing has a colour by now.
    pub fn knows(&self, pid: i32) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.builder.role(pid).is_some())
    }

    /// A piece of output in its writer's colour.
    pub fn colour(&self, piece: &mut Piece) {
        if let Some(role) = self.watched.as_ref().and_then(|watched| watched.builder.role(piece.pid)) {
            piece.text = colour::wrap(role, &piece.text);
        }
    }

    /// Writes the file of `forklab::last_run()`, if there is news.
    pub fn write_last_run(&mut self) {
        if !self.watched.as_ref().is_some_and(|watched| watched.news) {
            return;
        }
        if let Some(record) = self.record() {
            put(&self.last_run, &export::json(&record));
        }
        if let Some(watched) = &mut self.watched {
            watched.news = false;
        }
    }

    /// Keeps the runs of a repeated cell, and writes the file of `forklab::runs()`.
    pub fn keep_runs(&mut self, orders: Orders) {
        put(&self.runs, &export::runs_json(&orders));
        self.orders = Some(orders);
    }
}

/// The files for the cells, each with the variable that names it.
pub fn files(runtime: &Path) -> [(&'static str, PathBuf); 2] {
    [("FORKLAB_LAST_RUN", runtime.join("last-run.json")), ("FORKLAB_RUNS", runtime.join("runs.json"))]
}

/// Writes a file that a cell may be reading: it finds the old one or the new one, and never half of one.
fn put(file: &Path, content: &impl Serialize) {
    let write = || -> io::Result<()> {
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(content)?)?;
        std::fs::rename(new, file)
    };
    if let Err(error) = write() {
        tracing::warn!(%error, file = %file.display(), "the next cell finds no record of this one");
    }
}

/// What a task has used, if it has lived to tell.
pub fn used(outcome: &Outcome) -> Option<Used> {
    match outcome {
        Outcome::Returned(report) => report.used,
        _ => None,
    }
}

/// How a task's end is recorded.
pub fn ending(outcome: &Outcome) -> Ending {
    match outcome {
        Outcome::Returned(report) => match (&report.panic, &report.error) {
            (Some(panic), _) => Ending::Panicked(panic.message.clone()),
            (None, Some(error)) => Ending::Failed(error.clone()),
            (None, None) => Ending::Finished,
        },
        Outcome::NotRun { message } => Ending::Failed(message.clone()),
        Outcome::Died { how: Exit::Exited(status), .. } => Ending::Died(Status::Exited(*status)),
        Outcome::Died { how: Exit::Signaled { signal, .. }, .. } => Ending::Died(Status::Killed(*signal)),
        Outcome::Interrupted { .. } => Ending::Interrupted,
        Outcome::Stranded { .. } => Ending::Failed("the cell has left its process unable to run another one".into()),
        Outcome::OverLimit { reached: Reached { limit: Limit::Time, .. }, .. } => Ending::TimedOut,
        Outcome::OverLimit { reached, .. } => Ending::OverLimit(format!("{:?}", reached.limit).to_lowercase()),
    }
}

/// A record's timeline with its table of processes.
pub fn timeline(record: &Record) -> Bundle {
    let text = format!("{}\n{}", timeline::text(record, WIDTH), timeline::table_text(record));
    // The same record may be on the page already.
    let id = format!("forklab-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let html = timeline::html(record, &timeline::Options { id: Some(id), ..timeline::Options::default() });
    Bundle::from([("text/html".to_owned(), html), ("text/plain".to_owned(), text)])
}
