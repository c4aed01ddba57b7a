//! Draws a record: what the processes of a cell did, one lane each, from left to right in time.
//!
//! Everything here turns a [`Record`] into text and does nothing else. The same record gives the same
//! text always. What a picture leaves out or puts together to stay readable, it says.

mod density;
mod family;
mod labels;
mod lanes;
mod legend;
mod life;
mod marks;
mod scale;
mod style;
mod svg;
mod table;
mod text;
pub(crate) mod words;

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::Record;
pub(crate) use family::Family;
pub(crate) use legend::wrapped;
pub(crate) use life::spans;

/// How to draw a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its width, in points of CSS; at least 480. Narrower pages shrink it.
    pub width: u32,
    /// How many lanes it may have: with more processes than this, some share a lane.
    pub most_lanes: usize,
    /// What its ids begin with: letters, digits and dashes, a letter first. Two pictures on one page need
    /// two. `None` makes one of the record's own facts.
    pub id: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { width: 960, most_lanes: 56, id: None }
    }
}

impl Options {
    fn id_for(&self, record: &Record) -> String {
        let allowed = |id: &&String| {
            let letter = id.starts_with(|c: char| c.is_ascii_alphabetic());
            letter && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        self.id.as_ref().filter(allowed).cloned().unwrap_or_else(|| {
            // Without keys: the same for the same record in every process.
            let mut hasher = DefaultHasher::new();
            (record.execution, record.started.to_bits(), record.duration, record.events.len(), self.width)
                .hash(&mut hasher);
            record.processes.iter().for_each(|process| (process.pid, process.forked).hash(&mut hasher));
            format!("forklab-{:08x}", hasher.finish() as u32)
        })
    }
}

/// The picture as SVG: one element, without scripts, with nothing from outside, for light and dark pages.
/// Less than 400 kB whatever the record: what is too close together becomes one mark with a count.
pub fn svg(record: &Record, options: &Options) -> String {
    svg::draw(record, options)
}

/// The same as text: a line with a bar for each process, and the events in order. No line is wider than
/// `width` columns (at least 40).
pub fn text(record: &Record, width: usize) -> String {
    text::draw(record, width)
}

/// The processes as an HTML table.
pub fn table_html(record: &Record) -> String {
    table::html(record)
}

/// The processes as a table for a terminal.
pub fn table_text(record: &Record) -> String {
    table::text(record)
}

/// Picture and table together, for a notebook's output. A long table is folded up.
pub fn html(record: &Record, options: &Options) -> String {
    let open = if record.processes.len() <= 12 { " open=\"\"" } else { "" };
    let processes = words::count(record.processes.len(), "process", "processes");
    format!(
        "<div class=\"forklab-record\">\n{}<details{open}><summary>{processes}</summary>\n{}</details>\n</div>\n",
        svg(record, options),
        table_html(record)
    )
}
