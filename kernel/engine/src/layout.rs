//! The parts of a source that evcxr generated: which lines are the person's and which are evcxr's.
//!
//! Nothing that a person writes can be taken for evcxr's, whatever words it has: a part is known by
//! where it stands. What evcxr generates at the top level after the items comes last there, and
//! nothing follows the function; so the last such line outside all brackets is evcxr's. Within the
//! function, evcxr's lines come before and after the person's, and are counted off from both ends.
//!
//! Sources whose brackets do not match have no layout; the compiler refuses them anyway.

use std::ops::Range;

use crate::source::Source;

const PANICKED: &str = "    println!(\"EVCXR_PANIC_NOTIFICATION\");";
const RUNTIME: &str = "mod evcxr_internal_runtime {";
const FUNCTION: &str = "pub extern \"C\" fn run_user_code_";
const ANALYSIS: &str = "async fn evcxr_analysis_wrapper(";
const STRUCT: &str = "            struct EvcxrUserCodeError {}";
/// How many lines evcxr's conversion of errors has, with the blank ones around it.
const ERROR_LINES: usize = 10;
/// Where in them the error is written, counted from the blank one at their head.
const ERROR_WRITTEN: usize = 4;
const STORE: &str = "evcxr_variable_store.put_variable::<";
const SHOWN: &str = ").evcxr_display();";
const CATCH: &str = "match std::panic::catch_unwind(";

/// Where the parts are. Lines count from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Items of all cells.
    pub items: Range<usize>,
    /// Statements of the newest cell, with the lines around its last expression.
    pub body: Range<usize>,
    /// What code that is to be run has; code for analysis has none.
    pub call: Option<Call>,
}

/// The generated parts of code that is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The line of `#[unsafe(no_mangle)]`; the function's own is the next.
    pub attribute: usize,
    /// The function's name.
    pub name: String,
    /// The module with the variable store, where there is one: its first line and the line after it.
    pub runtime: Option<Range<usize>>,
    /// The line in which an error that `?` returned is written to stderr, where there is one.
    pub error_written: Option<usize>,
    /// The line in which the panic is reported, and whether it is that of a `match`.
    pub panicked: Option<(usize, bool)>,
    /// The first line around the body that catches panics, if any does and there is a store.
    pub around: Option<usize>,
    /// The lines that put the variables of this cell into the store, where they can be told from
    /// those that put back what was there.
    pub new_variables: Range<usize>,
    /// How the last expression is shown, if it is: the lines before and after it.
    pub shown: Option<(usize, usize, Shown)>,
}

/// The three ways in which evcxr shows a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// By its own `evcxr_display`.
    Method,
    /// By a format, such as `{:?}`.
    Format,
    /// By a format, with its type before it.
    Typed,
}

impl Layout {
    /// Finds the parts, or nothing when brackets do not match or evcxr did not write this.
    pub fn of(source: &Source<'_>) -> Option<Layout> {
        if !source.balanced {
            return None;
        }
        let top = |line: usize| source.depth[line] == Some(0);
        let function = (1..source.lines.len()).rfind(|line| {
            top(*line) && source.lines[*line].starts_with(FUNCTION) && source.lines[*line - 1] == "#[unsafe(no_mangle)]"
        });
        let analysis = (0..source.lines.len()).rfind(|line| top(*line) && source.lines[*line] == ANALYSIS);
        match (function, analysis) {
            (Some(function), analysis) if analysis.is_none_or(|line| line < function) => run(source, function),
            (_, Some(analysis)) => analysed(source, analysis),
            _ => None,
        }
    }
}

/// Code that only the analyser and `cargo check` see.
fn analysed(source: &Source<'_>, function: usize) -> Option<Layout> {
    let lines = &source.lines;
    let start = function + 1 + lines[function..].iter().position(|line| line.starts_with(") -> Result<(), Evcxr"))?;
    let mut end = lines.len().checked_sub(2)?;
    while end > start && lines[end - 1].starts_with("evcxr_variable_store(") {
        end -= 1;
    }
    let items = 1..error_lines(lines, function.checked_sub(2)?).map_or(function - 2, |error| error.start);
    Some(Layout { items, body: start..end, call: None })
}

/// Code that is to be run.
fn run(source: &Source<'_>, function: usize) -> Option<Layout> {
    let lines = &source.lines;
    let name = lines[function].strip_prefix("pub extern \"C\" fn ")?.strip_suffix('(')?.to_owned();
    let attribute = function - 1;
    let runtime = (0..attribute)
        .rfind(|line| source.depth[*line] == Some(0) && lines[*line] == RUNTIME)
        .filter(|_| lines.get(function + 1).is_some_and(|line| line.contains("evcxr_internal_runtime::")))
        .map(|start| start..attribute);
    let before = runtime.as_ref().map_or(attribute, |runtime| runtime.start);
    let error = error_lines(lines, before);
    let items = 1..error.as_ref().map_or(before, |error| error.start);
    let start = body_start(lines, function + 1);
    let (end, panicked) = body_end(lines, start);
    let body = start..end.max(start);
    let shown = shown(source, &body);
    let error_written = error.map(|error| error.start + ERROR_WRITTEN);
    let caught = panicked.is_some_and(|(_, is_match)| is_match);
    let around = (attribute..body.start).rev().find(|line| caught && lines[*line] == CATCH);
    let stores = lines[body.end..].iter().take_while(|line| line.starts_with(STORE)).count();
    let new_variables = body.end..body.end + if around.is_some() { stores } else { 0 };
    let call = Call { attribute, name, runtime, error_written, panicked, around, new_variables, shown };
    Some(Layout { items, body, call: Some(call) })
}

/// evcxr's conversion of errors, if it stands right before `end`.
fn error_lines(lines: &[&str], end: usize) -> Option<Range<usize>> {
    let start = end.checked_sub(ERROR_LINES)?;
    let same = lines[start].is_empty()
        && lines[start + 1] == STRUCT
        && lines[start + ERROR_WRITTEN].trim_start().starts_with("eprintln!(");
    same.then_some(start..end)
}

/// The first line after evcxr's at the function's head.
fn body_start(lines: &[&str], mut at: usize) -> usize {
    const HEAD: &[&str] = &[
        "mut evcxr_variable_store: *mut evcxr_internal_runtime::VariableStore)",
        "  -> *mut evcxr_internal_runtime::VariableStore {",
        "evcxr_variable_store: *mut u8) -> *mut u8 {",
        "mut x: *mut std::os::raw::c_void)",
        "if evcxr_variable_store.is_null() {",
        "  evcxr_variable_store = evcxr_internal_runtime::create_variable_store();",
        "}",
        "let evcxr_variable_store = unsafe {&mut *evcxr_variable_store};",
        "{let mut vars_ok = true;",
        "vars_ok &= evcxr_variable_store.check_variable::<",
        "if !vars_ok {return evcxr_variable_store;}}",
    ];
    const AROUND: &[&str] = &[
        CATCH,
        "  std::panic::AssertUnwindSafe(||{",
        "if std::panic::catch_unwind(||{",
        "let _ = (|| -> std::result::Result<(), EvcxrUserCodeError> {",
    ];
    let starts =
        |at: usize, words: &[&str]| lines.get(at).is_some_and(|line| words.iter().any(|word| line.starts_with(word)));
    while starts(at, HEAD) {
        at += 1;
    }
    while starts(at, &["let "]) && lines[at].contains(" = evcxr_variable_store.take_variable::<") {
        at += 1;
    }
    while starts(at, AROUND) {
        at += 1;
    }
    at + runtime_lines(&lines[at.min(lines.len())..])
}

/// How many lines evcxr has before an async cell's. How they are broken is rustc's choice.
fn runtime_lines(lines: &[&str]) -> usize {
    const BLOCK: &str = ".block_on(async {";
    const RUNTIME: &str = "letmutmutex=evcxr_variable_store.lazy_arc(\"evcxr_tokio_runtime\",";
    let end = lines.iter().position(|line| *line == BLOCK).map_or(0, |block| block + 1);
    let text: String = lines[..end].iter().flat_map(|line| line.split_whitespace()).collect();
    if text.starts_with(RUNTIME) { end } else { 0 }
}

/// The end of the person's lines, and the line that reports a panic. Counted off from the end.
fn body_end(lines: &[&str], start: usize) -> (usize, Option<(usize, bool)>) {
    let mut end = lines.len().saturating_sub(2);
    let back = |end: &mut usize, words: &[&str]| {
        while *end > start && words.iter().any(|word| lines[*end - 1].starts_with(word)) {
            *end -= 1;
        }
    };
    back(&mut end, &[STORE]);
    let mut panicked = None;
    let ends_in = |end: usize, tail: &[&str]| end >= start + tail.len() && lines[end - tail.len()..end] == *tail;
    for (tail, is_match) in [
        (["})) { ", "  Ok(_) => {}", "  Err(_) => {", PANICKED, "}}"].as_slice(), true),
        (["}).is_err() {", PANICKED, "}"].as_slice(), false),
    ] {
        if panicked.is_none() && ends_in(end, tail) {
            panicked = Some((end - 2, is_match));
            end -= tail.len();
        }
    }
    let tails: &[&str] = match start.checked_sub(1).map(|at| lines[at]) {
        Some(".block_on(async {") => &["});", "Ok::<(), EvcxrUserCodeError>(())"],
        Some("let _ = (|| -> std::result::Result<(), EvcxrUserCodeError> {") => &["Ok(())})();"],
        _ => &[],
    };
    for tail in tails {
        if ends_in(end, &[tail]) {
            end -= 1;
        }
    }
    back(&mut end, &[STORE]);
    (end, panicked)
}

/// How the last expression of a body is shown.
fn shown(source: &Source<'_>, body: &Range<usize>) -> Option<(usize, usize, Shown)> {
    let close = body.end.checked_sub(1)?;
    let way = match source.lines[close] {
        SHOWN => Shown::Method,
        ")));" => Shown::Format,
        line if line.starts_with("); evcxr_send_text_plain(&format!(\": {} = ") => Shown::Typed,
        _ => return None,
    };
    let (open, column) = *source.opening.get(&(close, 0))?;
    let line = source.lines[open];
    let right = match way {
        Shown::Method => line == "(",
        Shown::Format => line.starts_with("evcxr_send_text_plain(&format!(\"") && line.ends_with(",&("),
        Shown::Typed => line == "{ let r = &(",
    };
    (right && body.contains(&open) && column + 1 == line.len()).then_some((open, close, way))
}
