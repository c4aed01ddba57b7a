//! What the compiler had against a cell, as places in cells: rustc's JSON without what evcxr wrote.
//!
//! A place that no cell holds is left out, and so are notes about evcxr's names. Drawing is
//! `render`'s.

use std::ops::Range;

use evcxr::CompilationError;
use serde_json::Value;

use crate::origins::{Cell, Origins, Place};
use crate::source::Source;
use crate::wrapper::REWRITTEN;

/// One error, in terms of cells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Diagnosis {
    pub code: Option<String>,
    pub message: String,
    pub marks: Vec<Mark>,
    pub children: Vec<Child>,
}

/// A marked piece of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The cell's place among the cells.
    pub cell: usize,
    /// Bytes of its code.
    pub range: Range<usize>,
    pub label: Option<String>,
    pub primary: bool,
}

/// A note or a help below an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    pub help: bool,
    pub message: String,
    pub marks: Vec<Mark>,
    /// Pieces to put in the place of others.
    pub patches: Vec<(Mark, String)>,
}

/// Where a span is.
struct Found {
    cell: usize,
    range: Range<usize>,
    /// Whether all of it is the person's.
    whole: bool,
}

/// Maps what evcxr's errors say to cells.
pub(crate) struct Mapper<'a> {
    cells: &'a [&'a Cell],
    origins: Origins,
}

impl<'a> Mapper<'a> {
    /// `generated` is the source in which the errors were found; the newest cell is the last.
    pub fn new(cells: &'a [&'a Cell], generated: &str) -> Mapper<'a> {
        Mapper { cells, origins: Origins::of(&Source::read(generated), cells) }
    }

    /// One error. Without JSON it is evcxr's own, about the newest cell.
    pub fn diagnose(&self, error: &CompilationError) -> Diagnosis {
        if error.json.is_null() {
            return self.evcxrs_own(error);
        }
        let json = error_of_the_person(&error.json);
        let children = json["children"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut children: Vec<Child> = children.iter().filter_map(|child| self.child(child)).collect();
        if let Some(hint) = error.evcxr_extra_hint() {
            let message = hint.replace("in Evcxr", "that outlive their cell");
            children.push(Child { help: true, message, marks: Vec::new(), patches: Vec::new() });
        }
        let code = json["code"]["code"].as_str().map(str::to_owned);
        let mut marks = self.marks(&json["spans"]);
        let mut message = presentable(json["message"].as_str().unwrap_or_default());
        if message.starts_with("mismatched closing delimiter") && self.primary_is_evcxrs(&json["spans"]) {
            // The bracket that does not match closes evcxr's block; the cell left one open.
            message = "the cell contains an unclosed delimiter".to_owned();
            marks.extend(self.unclosed().filter(|_| marks.is_empty()));
        }
        Diagnosis { code, message, marks, children }
    }

    /// The innermost bracket that the newest cell leaves open.
    fn unclosed(&self) -> Option<Mark> {
        let cell = self.cells.len().checked_sub(1)?;
        let at = Source::read(&self.cells[cell].code).unclosed?;
        let label = Some("unclosed delimiter".to_owned());
        Some(Mark { cell, range: at..at + 1, label, primary: true })
    }

    fn primary_is_evcxrs(&self, spans: &Value) -> bool {
        let spans = spans.as_array().map(Vec::as_slice).unwrap_or_default();
        !spans.iter().any(|span| span["is_primary"] == true && self.mark(span).is_some())
    }

    fn evcxrs_own(&self, error: &CompilationError) -> Diagnosis {
        let newest = self.cells.len().checked_sub(1);
        let marks = error.spanned_messages().iter().filter_map(|message| {
            let (cell, span) = (newest?, message.span?);
            let start = self.byte(cell, span.start_line, span.start_column)?;
            let end = self.byte(cell, span.end_line, span.end_column)?;
            let label = Some(message.label.clone()).filter(|label| !label.is_empty());
            Some(Mark { cell, range: start..end.max(start), label, primary: message.is_primary })
        });
        let (message, advice) = split_message(&error.message());
        Diagnosis { code: None, message, marks: marks.collect(), children: advice.into_iter().collect() }
    }

    fn child(&self, json: &Value) -> Option<Child> {
        let message = json["message"].as_str()?;
        if speaks_of_evcxr(message) {
            return None;
        }
        let message = &notebooks_own(message);
        let help = json["level"] == "help";
        let spans = json["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
        let replacement = |span: &Value| span["suggested_replacement"].as_str().map(str::to_owned);
        if spans.iter().any(|span| replacement(span).is_some()) {
            let patches: Option<Vec<(Mark, String)>> =
                spans.iter().map(|span| Some((self.replaceable(span)?, replacement(span)?))).collect();
            return Some(suggestion(message, patches, spans.iter().filter_map(replacement).collect()));
        }
        let marks = self.marks(&json["spans"]);
        if !spans.is_empty() && marks.is_empty() && !help && message.ends_with("here") {
            return None;
        }
        Some(Child { help, message: presentable(message), marks, patches: Vec::new() })
    }

    fn marks(&self, spans: &Value) -> Vec<Mark> {
        let spans = spans.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut marks: Vec<Mark> = spans.iter().filter_map(|span| self.mark(span)).collect();
        if !marks.is_empty() && !marks.iter().any(|mark| mark.primary) {
            marks[0].primary = true;
        }
        marks
    }

    /// A span that can be replaced: no part of it is evcxr's.
    fn replaceable(&self, span: &Value) -> Option<Mark> {
        let found = self.range(span).filter(|found| found.whole)?;
        Some(Mark { cell: found.cell, range: found.range, label: None, primary: false })
    }

    /// One span, or where the macro that it stands in was called.
    fn mark(&self, span: &Value) -> Option<Mark> {
        let found = self.range(span).filter(|found| found.whole || span["is_primary"] == true);
        let label = span["label"].as_str().filter(|label| !speaks_of_evcxr(label)).map(presentable);
        let primary = span["is_primary"] == true;
        match found {
            Some(Found { cell, range, .. }) => Some(Mark { cell, range, label, primary }),
            None => {
                let call = &span["expansion"]["span"];
                let outer = if call.is_null() { None } else { self.range(call) };
                let outer = outer.filter(|found| found.whole || primary);
                let deeper = || if call.is_null() { None } else { self.mark(call) };
                outer
                    .map(|found| Mark { cell: found.cell, range: found.range, label: label.clone(), primary })
                    .or_else(|| Some(Mark { label, primary, ..deeper()? }))
            }
        }
    }

    /// The part of a span that one cell holds.
    fn range(&self, span: &Value) -> Option<Found> {
        span["file_name"].as_str().filter(|file| file.ends_with("src/lib.rs") || file.ends_with(REWRITTEN))?;
        let number = |name: &str| span[name].as_u64().map(|number| number as usize);
        let (first, last) = (number("line_start")?, number("line_end")?);
        let start = self.origins.place(first, number("column_start")?);
        let end = self.origins.place(last, number("column_end")?);
        // evcxr's own lines around an expression are cut off.
        let inner = |line: &usize| self.origins.place(*line, 1).is_some();
        let (start, cut_start) = match start {
            Some(place) => (place, false),
            None => (self.origins.place((first..=last).find(inner)?, 1)?, true),
        };
        let (end, cut_end) = match end {
            Some(place) if place.execution == start.execution => (place, false),
            _ => (self.origins.place((first..=last).rfind(inner)?, 1)?, true),
        };
        let cell = self.cells.iter().rposition(|cell| cell.execution == start.execution)?;
        let from = self.place(cell, start)?;
        let mut to = self.place(cell, end)?;
        let code = &self.cells[cell].code;
        if cut_end {
            to += code[to..].find('\n').unwrap_or(code.len() - to);
        }
        let from = if cut_start { from + code[from..].len() - code[from..].trim_start().len() } else { from };
        let to = if cut_end { code[..to].trim_end().len() } else { to };
        Some(Found { cell, range: from..to.max(from), whole: !cut_start && !cut_end })
    }

    fn place(&self, cell: usize, place: Place) -> Option<usize> {
        self.byte(cell, place.line, place.column)
    }

    /// The byte of a line and a column, both from 1. A column behind the line's end is its end.
    fn byte(&self, cell: usize, line: usize, column: usize) -> Option<usize> {
        let code = &self.cells[cell].code;
        let text = code.lines().nth(line.checked_sub(1)?)?;
        let start = text.as_ptr() as usize - code.as_ptr() as usize;
        let within = text.char_indices().nth(column.saturating_sub(1)).map_or(text.len(), |(byte, _)| byte);
        Some(start + within)
    }
}

/// rustc reports some errors within evcxr's lines with the person's own among the children.
fn error_of_the_person(json: &Value) -> &Value {
    let children = json["children"].as_array().map(Vec::as_slice).unwrap_or_default();
    children.iter().find(|child| child["level"] == "error").unwrap_or(json)
}

/// A help with something to put into the cell. Where it is not for a cell's place, or where it is a
/// choice, it says so in words.
fn suggestion(message: &str, patches: Option<Vec<(Mark, String)>>, texts: Vec<String>) -> Child {
    let message = presentable(message);
    let nothing = Child { help: true, message: message.clone(), marks: Vec::new(), patches: Vec::new() };
    match patches {
        Some(patches) if one_change(&patches) => Child { patches, ..nothing },
        _ => {
            let texts: Vec<&str> = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
            let shown = if texts.is_empty() { message } else { format!("{message}: `{}`", texts.join("`, `")) };
            Child { message: shown, ..nothing }
        }
    }
}

/// Whether the patches belong to one cell and do not overlap, as those of alternatives do.
fn one_change(patches: &[(Mark, String)]) -> bool {
    let mut ranges: Vec<(usize, usize, usize)> =
        patches.iter().map(|(mark, _)| (mark.cell, mark.range.start, mark.range.end)).collect();
    ranges.sort_unstable();
    ranges.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].2 <= pair[1].1 && pair[0] != pair[1])
}

fn speaks_of_evcxr(text: &str) -> bool {
    let told = text.replace("`evcxr_variable_store`", "").replace("EvcxrUserCodeError", "");
    told.contains("evcxr") || told.contains("forklab_") || told.contains("run_user_code")
}

/// evcxr's names in the person's terms.
fn presentable(text: &str) -> String {
    text.replace("`evcxr_variable_store`", "the end of the cell")
        .replace("EvcxrUserCodeError", "the cell's error")
        .replace("this file contains", "the cell contains")
        .replace("`*forklab_value`", "the value")
}

/// rustc's advice for projects, as one follows it in a notebook.
fn notebooks_own(advice: &str) -> String {
    let name = advice.split_once("use `cargo add ").and_then(|(_, rest)| rest.split_once('`'));
    match (name, advice.split_once(", use `cargo add ")) {
        (Some((name, _)), Some((wish, _))) => format!("{wish}, put a line `:dep {name} = \"*\"` before the code"),
        _ => advice.to_owned(),
    }
}

/// evcxr's errors in words: what is wrong, and the rest as a help below it.
pub(crate) fn split_message(message: &str) -> (String, Option<Child>) {
    let noise = |line: &&str| {
        let line = line.trim_start();
        !["Updating ", "Locking ", "Blocking ", "Downloading "].iter().any(|word| line.starts_with(word))
    };
    let lines: Vec<&str> = message.lines().filter(noise).collect();
    let text = lines.join("\n");
    let text = text.trim().trim_start_matches("error: ");
    // A sentence may go on in the next line; a list of facts, as cargo's, does not.
    let ends = [text.find(". "), text.find(".\n")];
    let sentence = ends.into_iter().flatten().min().map(|end| (&text[..end], &text[end + 2..]));
    let (first, rest) = match sentence {
        Some((first, rest)) if first.lines().count() <= 2 => (first.replace('\n', " "), rest),
        _ => text.split_once('\n').map_or((text.to_owned(), ""), |(first, rest)| (first.to_owned(), rest)),
    };
    let first = first.trim_end_matches('.');
    let mut letters = first.chars();
    let lower = letters.next().map(|c| c.to_lowercase().collect::<String>() + letters.as_str());
    let advice = rest
        .trim()
        .replace("prevent evcxr from attempting", "keep the kernel from trying")
        .replace("evcxr", "the kernel");
    let child = Child { help: true, message: advice, marks: Vec::new(), patches: Vec::new() };
    (lower.unwrap_or_default(), Some(child).filter(|child| !child.message.is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GENERATED: &str = "#![allow(unused_imports, unused_mut, dead_code)]\n\
        #[unsafe(no_mangle)]\npub extern \"C\" fn run_user_code_1(\n\
        evcxr_variable_store: *mut u8) -> *mut u8 {\nif std::panic::catch_unwind(||{\n\
        let ñ = 1; \n(\nñ.\n    b()\n).evcxr_display();\n}).is_err() {\n    \
        println!(\"EVCXR_PANIC_NOTIFICATION\");\n}\nevcxr_variable_store\n}\n";

    fn with_mapper<T>(work: impl FnOnce(&Mapper<'_>) -> T) -> T {
        let cell = Cell { execution: 7, code: "let ñ = 1; ñ.\n    b()".to_owned() };
        work(&Mapper::new(&[&cell], GENERATED))
    }

    /// The text of the cell that a span of the generated source marks.
    fn marked(file: &str, from: (usize, usize), to: (usize, usize)) -> Option<String> {
        let span = json!({"file_name": file, "line_start": from.0, "column_start": from.1,
            "line_end": to.0, "column_end": to.1, "is_primary": true, "label": null});
        with_mapper(|mapper| mapper.mark(&span).map(|mark| mapper.cells[mark.cell].code[mark.range].to_owned()))
    }

    #[test]
    fn spans_are_the_cells_text() {
        assert_eq!(marked("src/lib.rs", (6, 5), (6, 6)).as_deref(), Some("ñ"));
        assert_eq!(marked(REWRITTEN, (8, 1), (9, 8)).as_deref(), Some("ñ.\n    b()"));
        assert_eq!(marked("/elsewhere/src/main.rs", (8, 1), (8, 2)), None);
        assert_eq!(marked("src/lib.rs", (12, 1), (12, 3)), None, "evcxr's own line");
    }

    #[test]
    fn evcxrs_lines_around_a_span_are_cut_off() {
        assert_eq!(marked("src/lib.rs", (7, 1), (10, 2)).as_deref(), Some("ñ.\n    b()"));
    }

    #[test]
    fn a_suggestion_that_touches_evcxrs_lines_is_told_in_words() {
        let span = |line: usize, text: &str| {
            json!({"file_name": "src/lib.rs", "line_start": line, "column_start": 1, "line_end": line,
                "column_end": 1, "is_primary": true, "suggested_replacement": text})
        };
        let child = |spans: Value| json!({"level": "help", "message": "import this", "spans": spans});
        with_mapper(|mapper| {
            let told = mapper.child(&child(json!([span(2, "use a::B;\n"), span(2, "use c::B;\n")]))).expect("a help");
            assert_eq!((told.message.as_str(), told.patches.len()), ("import this: `use a::B;`, `use c::B;`", 0));
            let drawn = mapper.child(&child(json!([span(8, "self.")]))).expect("a help");
            assert_eq!((drawn.message.as_str(), drawn.patches.len()), ("import this", 1));
            assert_eq!(drawn.patches[0].0.range, 12..12);
        });
    }

    #[test]
    fn a_message_in_words_is_a_title_and_a_help() {
        let (title, help) = split_message("The variable `r` lives so\nshort. You can box it.\nOr not.");
        assert_eq!(title, "the variable `r` lives so short");
        assert_eq!(help.map(|child| child.message).as_deref(), Some("You can box it.\nOr not."));
        let (title, help) = split_message("    Updating index\nerror: no package\nsearched: there");
        assert_eq!(title, "no package");
        assert_eq!(help.map(|child| child.message).as_deref(), Some("searched: there"));
        assert_eq!(split_message("Nothing.").1, None);
    }

    #[test]
    fn advice_for_projects_becomes_advice_for_notebooks() {
        let advice = "if you wanted a crate named `x`, use `cargo add x` to add it to your `Cargo.toml`";
        assert_eq!(
            notebooks_own(advice),
            "if you wanted a crate named `x`, put a line `:dep x = \"*\"` before the code"
        );
    }
}
