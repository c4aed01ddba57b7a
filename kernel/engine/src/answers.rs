//! Compile errors that are known before the compiler is asked.
//!
//! evcxr finds out by compile errors what a cell needs: it tries `(value).evcxr_display();` and takes
//! `{:?}` when there is no such method; it tries without a place for `?` and makes one when that does
//! not compile. Where the answer is certain, it is given here and costs no compilation. Where it is
//! not, the compiler is asked as before. evcxr never shows these errors: it acts on them.

use serde_json::{Value, json};

use crate::layout::{Call, Layout, Shown};
use crate::source::{Source, without_literals};

/// rustc's answer to a source, in its words, as far as evcxr reads them; `None` where only rustc knows.
///
/// `displays`: some crate that the cell can use may have a method `evcxr_display`.
pub(crate) fn known(source: &Source<'_>, displays: bool) -> Option<String> {
    let layout = Layout::of(source)?;
    let call = layout.call.as_ref()?;
    let line = display_error(source, call, displays).map(|line| (line, "E0599", "no method named `evcxr_display`"));
    let line = line.or_else(|| {
        let line = question_error(source, &layout, call)?;
        Some((line, "E0277", "the `?` operator can only be used in a function that returns `Result`"))
    });
    let (line, code, message) = line?;
    Some(format!("{}\n", error(line, source.lines[line].chars().count(), code, message)))
}

/// The words without one of which no value is the library's that shows itself.
const SHOW_THEMSELVES: [&str; 4] = ["last_run", "runs", "Run", "Runs"];

/// The line of a call of `evcxr_display` that nothing has.
fn display_error(source: &Source<'_>, call: &Call, displays: bool) -> Option<usize> {
    let (_, close, Shown::Method) = call.shown? else { return None };
    let words =
        |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| SHOW_THEMSELVES.contains(&word));
    let elsewhere = |(at, line): (usize, &&str)| at != close && (line.contains("evcxr_display") || words(line));
    (!displays && !source.lines.iter().enumerate().any(elsewhere)).then_some(close)
}

/// A line of the person's with a `?` that belongs to the cell itself, when there is no place for it.
fn question_error(source: &Source<'_>, layout: &Layout, call: &Call) -> Option<usize> {
    if call.error_written.is_some() {
        return None;
    }
    let shown = call.shown.map(|(open, close, _)| (open, close));
    let own = |line: &usize| shown.is_none_or(|(open, close)| *line != open && *line != close);
    let lines: Vec<usize> = layout.body.clone().filter(own).collect();
    let text: String = lines.iter().flat_map(|line| [source.lines[*line], "\n"]).collect();
    let at = own_question(&text)?;
    lines.get(text[..at].matches('\n').count()).copied()
}

/// Where the first `?` stands that is not within a closure. `None` where there is none, and where it
/// takes more than a look at words and brackets to tell.
fn own_question(text: &str) -> Option<usize> {
    let code = without_closures(without_literals(text))?;
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let unsure = ["fn", "async", "return", "try", "impl", "include", "macro_rules"];
    if code.split(|c| !is_part(c)).any(|word| unsure.contains(&word)) {
        return None;
    }
    code.match_indices('?')
        .map(|(at, _)| at)
        .find(|at| code[..*at].ends_with(|c| is_part(c) || matches!(c, ')' | ']' | '}' | '?')))
}

/// The text with blanks in the place of closures whose body is a block; `None` if there are others.
fn without_closures(code: String) -> Option<String> {
    let mut bytes = code.into_bytes();
    while let Some(start) = bytes.iter().position(|byte| *byte == b'|') {
        let end = start + 1 + bytes[start + 1..].iter().position(|byte| *byte == b'|')?;
        let open = end + 1 + bytes[end + 1..].iter().position(|byte| !byte.is_ascii_whitespace())?;
        if bytes[open] != b'{' {
            return None;
        }
        let mut depth = 0;
        let close = open
            + bytes[open..].iter().position(|byte| {
                depth += i32::from(*byte == b'{') - i32::from(*byte == b'}');
                depth == 0
            })?;
        bytes[start..=close].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    String::from_utf8(bytes).ok()
}

fn error(line: usize, width: usize, code: &str, message: &str) -> Value {
    json!({
        "$message_type": "diagnostic",
        "message": message,
        "code": { "code": code, "explanation": null },
        "level": "error",
        "spans": [{
            "file_name": "src/lib.rs",
            "byte_start": 0, "byte_end": 0,
            "line_start": line + 1, "line_end": line + 1,
            "column_start": 1, "column_end": width + 1,
            "is_primary": true,
            "text": [], "label": null, "suggested_replacement": null, "suggestion_applicability": null,
            "expansion": null
        }],
        "children": [],
        "rendered": null
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_of_the_cells_own_is_found() {
        for text in ["f()?;", "let a = g(b?)?;", "x.map(|y| { y? })?", "Process::spawn(|| { return; })?", "f(\"?\")?"] {
            assert!(own_question(text).is_some(), "{text}");
        }
        for text in [
            "\"what?\"",
            "x.map(|y| y?)",
            "spawn(|| { f()?; });",
            "fn f() { g()? }",
            "f()?; return;",
            "dyn ?Sized",
            "// a?",
        ] {
            assert_eq!(own_question(text), None, "{text}");
        }
    }

    /// What evcxr writes for `f()?` at first.
    const CELL: &str = "#![allow(unused_imports)]\n#[unsafe(no_mangle)]\npub extern \"C\" fn run_user_code_1(\n\
        evcxr_variable_store: *mut u8) -> *mut u8 {\nif std::panic::catch_unwind(||{\n(\nf()?\n).evcxr_display();\n\
        }).is_err() {\n    println!(\"EVCXR_PANIC_NOTIFICATION\");\n}\nevcxr_variable_store\n}\n";

    #[test]
    fn the_line_is_that_of_what_is_missing() {
        let answer = |text: &str, displays| {
            let answer = known(&Source::read(text), displays)?;
            let answer: Value = serde_json::from_str(&answer).ok()?;
            Some((answer["code"]["code"].as_str()?.to_owned(), answer["spans"][0]["line_start"].as_u64()?))
        };
        assert_eq!(answer(CELL, false), Some(("E0599".to_owned(), 8)));
        let shown =
            CELL.replace("(\nf()?\n).evcxr_display();", "evcxr_send_text_plain(&format!(\"{:?}\",&(\nf()?\n)));");
        assert_eq!(answer(&shown, false), Some(("E0277".to_owned(), 7)));
        assert_eq!(answer(&shown.replace("f()?", "f()"), false), None);
        let has = CELL.replace("unused_imports)]\n", "unused_imports)]\nfn evcxr_display() {}\n");
        assert_ne!(answer(&has, false), Some(("E0599".to_owned(), 9)));
        let named = CELL.replace("unused_imports)]\n", "unused_imports)]\nuse forklab::record::Run;\n");
        assert_ne!(answer(&named, false), Some(("E0599".to_owned(), 9)), "it may show itself");
    }
}
