//! The processes of a record as a table.

use std::fmt::Write;

use super::family::Family;
use super::svg::put;
use super::words;
use crate::{Record, Status, What};

/// A table is read line by line: more lines than this are not.
const MOST_ROWS: usize = 200;

const HEADS: [&str; 10] =
    ["", "pid", "parent", "program", "forked", "lived", "ended", "zombie for", "reaped by", "wrote"];

/// For each process one row, in the order of the tree.
fn rows(family: &Family) -> Vec<[String; HEADS.len()]> {
    let roots = (0..family.record.processes.len()).filter(|index| family.parent[*index].is_none());
    let mut waiting: Vec<usize> = roots.collect();
    waiting.reverse();
    let mut rows = Vec::new();
    while let Some(index) = waiting.pop() {
        if rows.len() == MOST_ROWS {
            break;
        }
        rows.push(row(family, index));
        waiting.extend(family.children[index].iter().rev());
    }
    rows
}

fn row(family: &Family, index: usize) -> [String; HEADS.len()] {
    let process = family.process(index);
    // One whose fork was not seen has no parent either.
    let own = index == 0;
    let time = |value: Option<u64>| value.map_or(String::new(), words::time);
    let unknown = if own { "" } else { "not seen" };
    let mut parent = process.parent.map_or(unknown.to_owned(), |pid| family.role(pid, process.forked));
    if let Some((at, by)) = process.adopted {
        put!(parent, ", then {}", family.role(by, at));
    }
    let (mut pieces, mut bytes) = (0, 0);
    for event in &family.events[index] {
        if let What::Wrote { text, .. } = &event.what {
            pieces += 1;
            bytes += text.len() as u64;
        }
    }
    let ended = match process.ended {
        Some((_, status)) => words::status(status),
        None if own => String::new(),
        None => "not seen".to_owned(),
    };
    let reaped = match process.reaped {
        Some((at, by)) => family.role(by, at),
        None if process.ended.is_some() && !own => "nobody yet".to_owned(),
        None => String::new(),
    };
    [
        words::cut(&words::clean(&process.role), 12),
        process.pid.to_string(),
        parent,
        process.program().map_or(String::new(), |command| words::shown(command, 40)),
        if own { String::new() } else { words::time(process.forked) },
        time(process.lifetime()),
        ended,
        time(process.zombie_time().filter(|_| !own)),
        reaped,
        if pieces == 0 { String::new() } else { words::bytes(bytes) },
    ]
}

/// What a table of so many rows does not show.
fn more(record: &Record) -> Option<String> {
    let left = record.processes.len().checked_sub(MOST_ROWS).filter(|left| *left > 0)?;
    Some(format!("… and {}.", words::count(left, "more process", "more processes")))
}

/// Columns that say something for at least one process.
fn used(rows: &[[String; HEADS.len()]]) -> Vec<usize> {
    (0..HEADS.len()).filter(|column| *column < 2 || rows.iter().any(|row| !row[*column].is_empty())).collect()
}

/// Whether a column's texts are numbers, which stand at the right.
fn numeric(column: usize) -> bool {
    matches!(column, 1 | 4 | 5 | 7 | 9)
}

/// As HTML, with nothing but the table's own markup: the page's style applies.
pub fn html(record: &Record) -> String {
    let family = Family::new(record);
    let rows = rows(&family);
    let columns = used(&rows);
    let mut out = String::from("<table class=\"forklab-processes\">\n<thead><tr>");
    for column in &columns {
        let side = if numeric(*column) { "right" } else { "left" };
        put!(
            out,
            "<th scope=\"col\" style=\"text-align:{side}\">{}</th>",
            if *column == 0 { "process" } else { HEADS[*column] }
        );
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let ends = ended_badly(&family);
    for row in &rows {
        out.push_str("<tr>");
        for column in &columns {
            let side = if numeric(*column) { "right" } else { "left" };
            let text = words::escape(&row[*column]);
            match *column {
                0 => put!(out, "<th scope=\"row\" style=\"text-align:left\">{text}</th>"),
                6 if ends.contains(&row[6]) => put!(out, "<td style=\"text-align:left\"><strong>{text}</strong></td>"),
                _ => put!(out, "<td style=\"text-align:{side}\">{text}</td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    if let Some(more) = more(record) {
        put!(out, "<p>{more}</p>\n");
    }
    out
}

fn ended_badly(family: &Family) -> Vec<String> {
    let ends = family.record.processes.iter().filter_map(|process| process.ended);
    ends.filter(|(_, status)| *status != Status::Exited(0)).map(|(_, status)| words::status(status)).collect()
}

/// As text in columns.
pub fn text(record: &Record) -> String {
    let family = Family::new(record);
    let rows = rows(&family);
    let columns = used(&rows);
    let widest = |column: usize| {
        rows.iter().map(|row| words::width(&row[column])).chain([HEADS[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns.iter().map(|column| widest(*column)).collect();
    let heads = HEADS.map(str::to_owned);
    let mut out = String::new();
    for row in std::iter::once(&heads).chain(&rows) {
        let cells = columns.iter().zip(&widths).map(|(column, width)| {
            let text = &row[*column];
            let padding = " ".repeat(width - words::width(text).min(*width));
            if numeric(*column) { padding + text } else { text.clone() + &padding }
        });
        put!(out, "{}\n", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    if let Some(more) = more(record) {
        put!(out, "{more}\n");
    }
    out
}
