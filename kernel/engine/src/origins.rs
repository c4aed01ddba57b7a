//! Which line of what evcxr generated came from which line of which cell.
//!
//! evcxr copies statements and items as they are, moves items before statements, and keeps the items
//! of earlier cells in no order. It does not say where anything came from (only for the newest cell,
//! and only in errors), so lines are recognised: a run of generated lines belongs to the longest run
//! of a cell's lines that reads the same. A statement may begin and end within a line, so the first
//! line of a run is part of the cell's line and the last one is the beginning of it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::source::Source;

/// A cell as the person wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// The `n` of `In [n]`.
    pub execution: u32,
    /// Its code.
    pub code: String,
}

/// Generated lines that came from a cell's lines, one after the other. Lines count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first generated line.
    pub line: usize,
    /// How many lines.
    pub count: usize,
    /// The cell.
    pub execution: u32,
    /// The first line in the cell.
    pub cell_line: usize,
    /// What to add to a column of the first line, in characters.
    pub column_offset: usize,
}

/// A place in a cell. Line and column count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The `n` of `In [n]`.
    pub execution: u32,
    pub line: usize,
    pub column: usize,
}

/// All runs of a generated source, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origins {
    pub runs: Vec<Run>,
}

impl Origins {
    /// Finds the runs. `cells` are oldest first; the last one is the newest.
    pub fn of(source: &Source<'_>, cells: &[&Cell]) -> Origins {
        let mut runs = Vec::new();
        let book = Book::of(cells);
        let newest = cells.len().checked_sub(1).map_or(0..0, |last| last..cells.len());
        match Layout::of(source) {
            Some(layout) => {
                book.find(source, std::slice::from_ref(&layout.items), Among::Anyhow(0..cells.len()), &mut runs);
                // The lines by which evcxr shows a value are not the person's, even where they read so.
                let shown = layout.call.and_then(|call| call.shown);
                let (before, value) = match shown {
                    Some((open, close, _)) => (layout.body.start..open, open + 1..close),
                    None => (layout.body, 0..0),
                };
                book.find(source, &[before, value], Among::Ordered(newest), &mut runs);
            }
            None => {
                book.find(
                    source,
                    std::slice::from_ref(&(0..source.lines.len())),
                    Among::Anyhow(0..cells.len()),
                    &mut runs,
                );
                // A bracket alone on its line is anybody's.
                let worded = |run: &Run| {
                    let lines = &source.lines[run.line - 1..run.line - 1 + run.count];
                    lines.iter().any(|line| line.contains(char::is_alphanumeric))
                };
                runs.retain(worded);
            }
        }
        Origins { runs }
    }

    /// Writes the runs to a file, as the worker reads them: for each `line, count, execution, cell_line,
    /// column_offset` as 32 bits, in this machine's order of bytes.
    ///
    /// # Errors
    /// Those of writing a file.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let numbers = |run: &Run| [run.line, run.count, run.execution as usize, run.cell_line, run.column_offset];
        let bytes = self.runs.iter().flat_map(numbers).flat_map(|number| (number as u32).to_ne_bytes());
        std::fs::write(file, bytes.collect::<Vec<u8>>())
    }

    /// Where a place in the generated source came from.
    pub fn place(&self, line: usize, column: usize) -> Option<Place> {
        let run = self.runs.iter().find(|run| (run.line..run.line + run.count).contains(&line))?;
        let offset = if line == run.line { run.column_offset } else { 0 };
        let cell_line = run.cell_line + line - run.line;
        Some(Place { execution: run.execution, line: cell_line, column: column + offset })
    }
}

/// The lines of all cells, with an index.
struct Book<'a> {
    cells: Vec<(u32, Source<'a>)>,
    /// Where a line stands, as it is: cell and line.
    whole: HashMap<&'a str, Vec<(usize, usize)>>,
}

/// In which cells lines are looked for.
enum Among {
    /// They stand there in the same order.
    Ordered(Range<usize>),
    /// They stand there in any order.
    Anyhow(Range<usize>),
}

/// A place where a run may have come from, and how good it is.
struct Candidate {
    cell: usize,
    line: usize,
    offset: usize,
    count: usize,
    /// Whether a statement can begin there, as far as the text before it says.
    begins: bool,
    /// Whether the line starts outside all brackets of the cell, as statements and items do.
    outside: bool,
}

impl<'a> Book<'a> {
    fn of(cells: &[&'a Cell]) -> Book<'a> {
        let cells: Vec<(u32, Source<'_>)> =
            cells.iter().map(|cell| (cell.execution, Source::read(&cell.code))).collect();
        let mut whole: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        for (number, (_, cell)) in cells.iter().enumerate() {
            for (line, text) in cell.lines.iter().enumerate() {
                whole.entry(text).or_default().push((number, line));
            }
        }
        Book { cells, whole }
    }

    /// Finds the runs of some parts of a source in some of the cells.
    fn find(&self, source: &Source<'_>, parts: &[Range<usize>], among: Among, runs: &mut Vec<Run>) {
        // Where the last run ended: cell, line, column of its last line's start.
        let mut last = (usize::MAX, 0, 0);
        for part in parts {
            let mut at = part.start;
            while at < part.end {
                let Some(found) = self.best(source, at..part.end, &among, last) else {
                    at += 1;
                    continue;
                };
                runs.push(Run {
                    line: at + 1,
                    count: found.count,
                    execution: self.cells[found.cell].0,
                    cell_line: found.line + 1,
                    column_offset: found.offset,
                });
                let offset = if found.count == 1 { found.offset } else { 0 };
                last = (found.cell, found.line + found.count - 1, offset);
                at += found.count;
            }
        }
    }

    /// The most likely place of the run that begins with the first of these lines.
    ///
    /// Statements come from one cell and stay in order, so theirs is the first that fits after the
    /// last run. An item is one piece and never comes from two cells, though what follows it may be
    /// another's: the longest run, and of equals the newest cell.
    fn best(
        &self,
        source: &Source<'_>,
        part: Range<usize>,
        among: &Among,
        last: (usize, usize, usize),
    ) -> Option<Candidate> {
        let piece = piece_length(source, part.clone());
        let (ordered, among) = match among {
            Among::Ordered(cells) => (true, cells),
            Among::Anyhow(cells) => (false, cells),
        };
        self.candidates(&source.lines[part], among).max_by_key(|found| {
            let goes_on = last.0 == found.cell && (last.1, last.2) < (found.line, found.offset);
            let first = Reverse((found.line, found.offset));
            // Whether anything of this part has been found does not matter to its first statement.
            let in_order = ordered && (last.0 == usize::MAX || goes_on);
            let count = if ordered { 0 } else { found.count.min(piece) };
            (in_order, found.outside, count, found.cell, found.begins, goes_on, first)
        })
    }

    /// Every place where the first of these lines may have come from.
    fn candidates(&self, lines: &[&str], among: &Range<usize>) -> impl Iterator<Item = Candidate> {
        let text = lines[0].trim_end();
        let mut found = Vec::new();
        if !text.is_empty() {
            let whole = self.whole.get(lines[0]).into_iter().flatten();
            found.extend(whole.filter(|(cell, _)| among.contains(cell)).map(|(cell, line)| (*cell, *line, 0)));
        }
        if found.is_empty() && !text.is_empty() {
            for cell in among.clone() {
                let within = self.cells[cell].1.lines.iter().enumerate();
                found.extend(within.flat_map(|(number, line)| {
                    line.match_indices(text).map(move |(byte, _)| (cell, number, line[..byte].chars().count()))
                }));
            }
        }
        found.into_iter().map(|(cell, line, offset)| {
            let before: String = self.cells[cell].1.lines[line].chars().take(offset).collect();
            let outside = self.cells[cell].1.depth[line] == Some(0);
            let begins = before.trim_end().is_empty() || before.trim_end().ends_with([';', '}', ']', ')', '/']);
            Candidate { cell, line, offset, count: self.run_length(lines, cell, line), begins, outside }
        })
    }

    /// How many of the lines read as the cell's from `line` on.
    fn run_length(&self, lines: &[&str], cell: usize, line: usize) -> usize {
        let mut rest = self.cells[cell].1.lines[line + 1..].iter();
        let mut count = 1;
        for text in &lines[1..] {
            match rest.next() {
                Some(own) if own == text => count += 1,
                Some(own) if !text.trim().is_empty() && own.starts_with(text.trim_end()) => return count + 1,
                _ => break,
            }
        }
        count
    }
}

/// How many lines the statement or item has that begins with the first of these lines.
fn piece_length(source: &Source<'_>, part: Range<usize>) -> usize {
    let level = source.depth[part.start];
    for line in part.clone() {
        let closed = source.depth.get(line + 1).is_none_or(|depth| *depth == level);
        if closed && source.lines[line].trim_end().ends_with([';', '}']) {
            return line + 1 - part.start;
        }
    }
    part.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(execution: u32, code: &str) -> Cell {
        Cell { execution, code: code.to_owned() }
    }

    /// A source as evcxr writes it for a cell without variables.
    fn generated(items: &str, body: &str) -> String {
        format!(
            "#![allow(unused_imports, unused_mut, dead_code)]\n{items}#[unsafe(no_mangle)]\n\
             pub extern \"C\" fn run_user_code_1(\nevcxr_variable_store: *mut u8) -> *mut u8 {{\n\
             if std::panic::catch_unwind(||{{\n{body}}}).is_err() {{\n    println!(\"EVCXR_PANIC_NOTIFICATION\");\n}}\n\
             evcxr_variable_store\n}}\n"
        )
    }

    /// For each generated line that came from a cell: its text, the cell, the line, the column of its start.
    fn origins<'a>(text: &'a str, cells: &[Cell]) -> Vec<(&'a str, u32, usize, usize)> {
        let source = Source::read(text);
        let cells: Vec<&Cell> = cells.iter().collect();
        let origins = Origins::of(&source, &cells);
        let lines = source.lines.iter().enumerate();
        lines
            .filter_map(|(at, line)| {
                let place = origins.place(at + 1, 1)?;
                Some((*line, place.execution, place.line, place.column))
            })
            .collect()
    }

    #[test]
    fn items_are_moved_and_statements_share_a_line() {
        let cells = [cell(3, "use std::fs; let a = 1; é(a);\nfn f() {\n    g();\n}\nf();")];
        let text = generated("use std::fs;\nfn f() {\n    g();\n}\n", "let a = 1; \né(a);\nf();\n");
        let expected = [
            ("use std::fs;", 3, 1, 1),
            ("fn f() {", 3, 2, 1),
            ("    g();", 3, 3, 1),
            ("}", 3, 4, 1),
            ("let a = 1; ", 3, 1, 14),
            ("é(a);", 3, 1, 25),
            ("f();", 3, 5, 1),
        ];
        assert_eq!(origins(&text, &cells), expected);
    }

    #[test]
    fn a_short_statement_is_not_a_part_of_a_word() {
        let cells = [cell(1, "struct P; P")];
        let text = generated("struct P; \n", "(\nP\n).evcxr_display();\n");
        assert_eq!(origins(&text, &cells), [("struct P; ", 1, 1, 1), ("P", 1, 1, 11)]);
    }

    #[test]
    fn a_value_is_the_last_of_equal_lines() {
        let cells = [cell(1, "f(); f()")];
        let text = generated("", "f(); \n(\nf()\n).evcxr_display();\n");
        assert_eq!(origins(&text, &cells), [("f(); ", 1, 1, 1), ("f()", 1, 1, 6)]);
    }

    #[test]
    fn statements_keep_their_order_around_items() {
        let cells = [cell(1, "x();\nfn f() {\nx();\n}\ny();\nx();\ny();")];
        let text = generated("fn f() {\nx();\n}\n", "x();\ny();\nx();\ny();\n");
        let lines: Vec<usize> = origins(&text, &cells).iter().map(|one| one.2).collect();
        assert_eq!(lines, [2, 3, 4, 1, 5, 6, 7]);
    }

    #[test]
    fn repeated_lines_keep_their_order() {
        let cells = [cell(1, "say();\nsay();\nfn say() {}\nsay();")];
        let text = generated("fn say() {}\n", "say();\nsay();\nsay();\n");
        let lines: Vec<usize> = origins(&text, &cells).iter().map(|one| one.2).collect();
        assert_eq!(lines, [3, 1, 2, 4]);
    }

    #[test]
    fn items_of_earlier_cells_keep_their_cell() {
        let cells = [
            cell(1, "fn a() {\n    one();\n}\nfn b() {\n    two();\n}"),
            cell(2, "fn b() {\n    three();\n}"),
            cell(5, "a();\nb();"),
        ];
        let text = generated("fn b() {\n    three();\n}\nfn a() {\n    one();\n}\n", "a();\nb();\n");
        let found: Vec<(u32, usize)> = origins(&text, &cells).iter().map(|one| (one.1, one.2)).collect();
        assert_eq!(found, [(2, 1), (2, 2), (2, 3), (1, 1), (1, 2), (1, 3), (5, 1), (5, 2)]);
    }

    #[test]
    fn statements_come_from_the_newest_cell_only() {
        let cells = [cell(1, "x();\ny();"), cell(2, "x();\nfn f() {}\ny();")];
        let text = generated("fn f() {}\n", "x();\ny();\n");
        let found: Vec<(u32, usize)> = origins(&text, &cells).iter().map(|one| (one.1, one.2)).collect();
        assert_eq!(found, [(2, 2), (2, 1), (2, 3)]);
    }

    #[test]
    fn a_statement_of_many_lines_may_begin_within_one() {
        let cells = [cell(4, "a(); if b {\n    c();\n} d();")];
        let text = generated("", "a(); \nif b {\n    c();\n} \nd();\n");
        let found: Vec<(usize, usize)> = origins(&text, &cells).iter().map(|one| (one.2, one.3)).collect();
        assert_eq!(found, [(1, 1), (1, 6), (2, 1), (3, 1), (3, 3)]);
    }

    #[test]
    fn a_line_that_looks_generated_is_the_persons_where_it_stands() {
        let own = "println!(\"{}\", 1);\n    println!(\"EVCXR_PANIC_NOTIFICATION\");";
        let cells = [cell(1, own)];
        let text = generated("", &format!("{own}\n"));
        let found: Vec<usize> = origins(&text, &cells).iter().map(|one| one.2).collect();
        assert_eq!(found, [1, 2], "and evcxr's own line after them is nobody's");
    }
}
