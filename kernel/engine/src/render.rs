//! Errors as text: drawn by rustc's own renderer, with the lines of cells instead of evcxr's.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Patch, Renderer, Snippet};

use crate::diagnosis::{Child, Diagnosis, Mapper, Mark, split_message};
use crate::messages::Rejection;
use crate::origins::Cell;

const COMPILE: &str = "CompileError";
const COMMAND: &str = "CommandError";
const ENGINE: &str = "EngineError";

/// What an error of evcxr's means for the person. The newest cell is the last; `generated` is what
/// evcxr compiled last.
pub(crate) fn rejection(error: &evcxr::Error, cells: &[&Cell], generated: &str) -> Rejection {
    let (kind, found) = match error {
        evcxr::Error::CompilationErrors(errors) => {
            let mapper = Mapper::new(cells, generated);
            let found = errors.iter().filter(|error| error.level() == "error");
            let mut found: Vec<Diagnosis> = found.map(|error| mapper.diagnose(error)).collect();
            if found.is_empty() {
                found = unwritable_types(errors);
            }
            let command = errors.iter().all(|error| error.json.is_null()) && starts_with_command(cells);
            (if command { COMMAND } else { COMPILE }, presentable(found))
        }
        evcxr::Error::Message(message) => (COMPILE, vec![from_message(message, cells)]),
        evcxr::Error::TypeRedefinedVariablesLost(names) => {
            let message = format!("variables whose type was redefined are lost: {}", names.join(", "));
            (COMPILE, vec![Diagnosis { message, ..Diagnosis::default() }])
        }
        evcxr::Error::SubprocessTerminated(message) => {
            (ENGINE, vec![Diagnosis { message: message.clone(), ..Diagnosis::default() }])
        }
    };
    let message = found.first().map(|first| one_line(first, cells)).unwrap_or_default();
    let rendered = found.iter().flat_map(|diagnosis| draw(diagnosis, cells)).collect();
    Rejection { kind: kind.to_owned(), message, rendered }
}

/// What the compiler says about types of variables that evcxr has written into its own code. Where
/// only the compiler's advice has a place in the cell, evcxr keeps the advice and drops the error.
fn unwritable_types(errors: &[evcxr::CompilationError]) -> Vec<Diagnosis> {
    let message = "the type of a variable of this cell has a name that is not in scope here".to_owned();
    let lines = imports(errors);
    let which = if lines.len() == 1 { "import it" } else { "import the right one" };
    let advice = match lines.join("\n") {
        none if none.is_empty() => "give the variable a type with full paths, such as `Box<dyn std::error::Error>`, \
            or put the lines into `{ … }`; `:last_error_json` has the compiler's own words"
            .to_owned(),
        imports => format!("{which} and run the cell again:\n\n{imports}"),
    };
    let child = Child { help: true, message: advice, marks: Vec::new(), patches: Vec::new() };
    vec![Diagnosis { message, children: vec![child], ..Diagnosis::default() }]
}

/// The `use` lines that the compiler advises for names in code that evcxr has generated.
fn imports(errors: &[evcxr::CompilationError]) -> Vec<String> {
    let mut lines: Vec<String> = errors.iter().flat_map(advised).map(|line| line.trim().to_owned()).collect();
    lines.retain(|line| line.starts_with("use "));
    lines.sort();
    lines.dedup();
    lines
}

/// What one error advises to insert.
fn advised(error: &evcxr::CompilationError) -> Vec<&str> {
    let json = &error.json;
    let in_generated =
        matches!(error.code(), Some("E0405" | "E0412")) && error.spanned_messages().iter().all(|m| m.span.is_none());
    let advice: Vec<&serde_json::Value> = match error.level() {
        "help" => vec![json],
        _ if in_generated => json["children"].as_array().into_iter().flatten().collect(),
        _ => Vec::new(),
    };
    let spans = advice.into_iter().flat_map(|child| child["spans"].as_array().into_iter().flatten());
    spans.filter_map(|span| span["suggested_replacement"].as_str()).collect()
}

/// The imports from std with which a cell compiles whose only fault is that the type of one of its
/// variables has names that the cell did not need to import: `let q = f();` with
/// `f() -> Box<dyn std::error::Error>`. Only what the compiler is sure of: one candidate a name.
pub(crate) fn missing_imports(error: &evcxr::Error) -> Option<String> {
    let evcxr::Error::CompilationErrors(errors) = error else { return None };
    let candidates: Vec<Vec<&str>> = errors.iter().map(advised).filter(|lines| !lines.is_empty()).collect();
    let sure = candidates.iter().all(|lines| lines.len() == 1 && lines[0].trim().starts_with("use std::"));
    let lines = imports(errors);
    (sure && !lines.is_empty()).then(|| lines.join("\n"))
}

/// A command that is not carried out.
pub(crate) fn refused(message: &str) -> Rejection {
    alone(COMMAND, message)
}

/// The engine itself has panicked.
pub(crate) fn broken(message: &str) -> Rejection {
    alone(ENGINE, &format!("the engine failed on this cell and is replaced: {message}"))
}

/// The engine could not begin with the cell.
pub(crate) fn not_begun(error: &std::io::Error) -> Rejection {
    alone(ENGINE, &format!("the engine cannot work on this cell: {error}"))
}

/// An error that could not be drawn, in evcxr's own words.
pub(crate) fn undrawn(error: &evcxr::Error) -> Rejection {
    alone(COMPILE, &error.to_string())
}

fn alone(kind: &str, message: &str) -> Rejection {
    let diagnosis = Diagnosis { message: message.to_owned(), ..Diagnosis::default() };
    Rejection { kind: kind.to_owned(), message: one_line(&diagnosis, &[]), rendered: draw(&diagnosis, &[]) }
}

/// Errors in the order of the source, each once; those about no cell only when there are no others.
fn presentable(mut found: Vec<Diagnosis>) -> Vec<Diagnosis> {
    if found.iter().any(|one| !one.marks.is_empty()) {
        found.retain(|one| !one.marks.is_empty());
    }
    found.sort_by_key(|one| primary(one).map(|mark| (std::cmp::Reverse(mark.cell), mark.range.start)));
    found.dedup();
    found
}

fn primary(diagnosis: &Diagnosis) -> Option<&Mark> {
    diagnosis.marks.iter().find(|mark| mark.primary).or(diagnosis.marks.first())
}

/// evcxr's errors in words, about a variable or about nothing in particular.
fn from_message(message: &str, cells: &[&Cell]) -> Diagnosis {
    let marks = definition(message, cells).into_iter().collect();
    let (message, advice) = split_message(message);
    Diagnosis { code: None, message, marks, children: advice.into_iter().collect() }
}

/// Where the newest cell defines the variable that a message is about.
fn definition(message: &str, cells: &[&Cell]) -> Option<Mark> {
    let name = message.split_once("ariable `")?.1.split('`').next()?;
    let cell = cells.len().checked_sub(1)?;
    let code = &cells[cell].code;
    let bordered = |at: usize| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(|c| c == '_' || c.is_alphanumeric());
        !part(before) && !part(after)
    };
    let defined = |at: usize| {
        let before = code[..at].trim_end().trim_end_matches("mut").trim_end();
        before.ends_with("let") || before.ends_with(['(', ','])
    };
    let (at, _) = code.match_indices(name).find(|(at, _)| bordered(*at) && defined(*at))?;
    Some(Mark { cell, range: at..at + name.len(), label: None, primary: true })
}

fn starts_with_command(cells: &[&Cell]) -> bool {
    let code = cells.last().map(|cell| cell.code.as_str()).unwrap_or_default();
    let said = |line: &&str| !line.trim().is_empty() && !line.starts_with("//");
    code.lines().find(said).is_some_and(|line| line.trim_start().starts_with(':'))
}

fn one_line(diagnosis: &Diagnosis, cells: &[&Cell]) -> String {
    let code = diagnosis.code.as_ref().map(|code| format!("[{code}]")).unwrap_or_default();
    let place = primary(diagnosis).map(|mark| {
        let before = &cells[mark.cell].code[..mark.range.start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!(" (In [{}], line {line}, column {column})", cells[mark.cell].execution)
    });
    let message = diagnosis.message.lines().next().unwrap_or_default();
    format!("error{code}: {message}{}", place.unwrap_or_default())
}

fn draw(diagnosis: &Diagnosis, cells: &[&Cell]) -> Vec<String> {
    let mut title = Level::ERROR.primary_title(diagnosis.message.as_str());
    if let Some(code) = &diagnosis.code {
        title = title.id(code.as_str());
    }
    let mut main = Group::with_title(title).elements(snippets(&diagnosis.marks, cells));
    let mut groups = Vec::new();
    for child in &diagnosis.children {
        let level = if child.help { Level::HELP } else { Level::NOTE };
        if let Some((first, _)) = child.patches.first() {
            let patches = child.patches.iter().map(|(mark, text)| Patch::new(mark.range.clone(), text.as_str()));
            let snippet = Snippet::source(cells[first.cell].code.as_str()).path(path(cells[first.cell]));
            groups.push(level.secondary_title(child.message.as_str()).element(snippet.patches(patches)));
        } else if child.marks.is_empty() {
            main = main.element(level.message(child.message.as_str()));
        } else {
            groups.push(level.secondary_title(child.message.as_str()).elements(snippets(&child.marks, cells)));
        }
    }
    groups.insert(0, main);
    let renderer = Renderer::styled().decor_style(DecorStyle::Ascii);
    let mut lines: Vec<String> = renderer.render(&groups).lines().map(str::to_owned).collect();
    lines.push(String::new());
    lines
}

/// One snippet for each cell that has a mark, that of the first primary mark first.
fn snippets<'a>(marks: &'a [Mark], cells: &'a [&Cell]) -> Vec<Snippet<'a, Annotation<'a>>> {
    let mut order: Vec<usize> = Vec::new();
    for mark in marks.iter().filter(|mark| mark.primary).chain(marks) {
        if !order.contains(&mark.cell) {
            order.push(mark.cell);
        }
    }
    let snippet = |cell: usize| {
        let annotations = marks.iter().filter(|mark| mark.cell == cell).map(|mark| {
            let kind = if mark.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
            kind.span(mark.range.clone()).label(mark.label.as_deref())
        });
        Snippet::source(cells[cell].code.as_str()).path(path(cells[cell])).annotations(annotations)
    };
    order.into_iter().map(snippet).collect()
}

fn path(cell: &Cell) -> String {
    format!("In [{}]", cell.execution)
}
