//! Changes what evcxr generated so that it talks to the worker through the host table instead of
//! printing markers. Every line keeps its number; what is new is appended after the last line.
//!
//! `layout` says which lines are evcxr's; the same words anywhere else are a person's and stay.
//! The table's layout is that of `forklab_worker::host`, as text, in `generated.rs.txt`.

use std::collections::HashSet;
use std::ops::Range;

use crate::layout::{Call, Layout, Shown};
use crate::order;
use crate::source::Source;
use crate::superseded;

/// The code that every cell gets.
const GENERATED: &str = include_str!("generated.rs.txt");
/// The name of its module and of the cell's function, which no cell should have.
const MODULE: &str = "forklab_generated";
const BODY: &str = "forklab_generated_body";
/// The function that the worker calls. It has no number, unlike evcxr's: the same cell compiles to the
/// same object each time.
pub(crate) const ENTRY: &str = "forklab_cell";

/// How evcxr's lines begin that are about one variable each.
const VARIABLES: &[&str] =
    &["vars_ok &= evcxr_variable_store.check_variable::<", "let ", "evcxr_variable_store.put_variable::<"];

/// What is to be compiled in place of evcxr's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// The text. Its lines have evcxr's numbers.
    pub text: String,
    /// The text without what does not matter: two sources with the same key mean the same, given that
    /// nothing uses the superseded variables from outside.
    pub key: String,
    /// The variables that are taken out of the store only to be replaced.
    pub superseded: Vec<String>,
    /// The line, counted from 1, where they are taken out.
    pub taken_at: usize,
}

/// The source to compile in place of this one. `None` when it is not code that is to be run, or when
/// its brackets do not match: rustc's errors are then to be about evcxr's text.
///
/// `supersede`: a variable that the cell seems to define without looking at an older one of that name
/// is taken out of the store whether it is there or not, and whatever its type. So the cell's first
/// run and its second are one program. Whether the cell looks at it is for the compiler to say: the
/// line [`Rewritten::taken_at`] has it warn of each of these variables that it is not used.
pub(crate) fn rewrite(source: &Source<'_>, supersede: bool) -> Option<Rewritten> {
    let Layout { items, body, call } = Layout::of(source)?;
    let call = call?;
    let mut lines: Vec<String> = source.lines.iter().map(|line| (*line).to_owned()).collect();
    let superseded = if supersede { superseded::among(source, body.clone(), &call) } else { Vec::new() };
    let mut dropped = superseded::take_out(&mut lines, &call, &superseded);
    dropped.extend(repeated_imports(source, items.clone()));
    dropped.iter().for_each(|line| lines[*line].clear());
    rename(&mut lines, &call);
    replace_panic(&mut lines, &call);
    replace_error(&mut lines, &call);
    replace_lost_variable(&mut lines, &call);
    replace_display(&mut lines, &call);
    let mut key = key(source, &lines, &dropped, (items, &body, &call));
    let mut text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    for whole in [&mut text, &mut key] {
        whole.push_str(&appended());
    }
    let taken_at = call.around.map_or(0, |line| line + 1);
    Some(Rewritten { text, key, superseded, taken_at })
}

/// The text without the lines that were dropped, which are blank in this source and may be no lines in
/// another, and with items and variables in an order of their own.
fn key(
    source: &Source<'_>,
    lines: &[String],
    dropped: &HashSet<usize>,
    (items, body, call): (Range<usize>, &Range<usize>, &Call),
) -> String {
    let old = &source.lines;
    let mut order: Vec<usize> = (0..items.start).collect();
    order.extend(order::of_items(source, items.clone()));
    order.extend(items.end..call.attribute);
    order.extend(order::of_lines(old, call.attribute..body.start, VARIABLES));
    order.extend(body.clone());
    order.extend(order::of_lines(old, body.end..old.len(), VARIABLES));
    let matters = |line: &usize| !dropped.contains(line);
    order.into_iter().filter(matters).flat_map(|line| [&lines[line], "\n"]).collect()
}

/// The lines that import the names of a module once more: evcxr adds one each time such a cell is run.
pub(crate) fn repeated_imports(source: &Source<'_>, items: Range<usize>) -> Vec<usize> {
    let mut seen = HashSet::new();
    let is_import = |line: &usize| {
        let text = source.lines[*line];
        let whole = source.depth[*line] == Some(0) && source.depth.get(*line + 1) == Some(&Some(0));
        whole && text.starts_with("use ") && text.ends_with("::*;")
    };
    items.filter(is_import).filter(|line| !seen.insert(source.lines[*line])).collect()
}

/// The function that the worker calls is ours and calls evcxr's.
fn rename(lines: &mut [String], call: &Call) {
    lines[call.attribute].clear();
    lines[call.attribute + 1] = format!("pub extern \"C\" fn {BODY}(");
}

/// `println!` of the notification becomes a call with the panic's payload.
fn replace_panic(lines: &mut [String], call: &Call) {
    match call.panicked {
        Some((at, true)) => {
            lines[at - 1] = "  Err(forklab_payload) => {".to_owned();
            lines[at] = format!("    crate::{MODULE}::panicked(&*forklab_payload);");
        }
        Some((at, false)) => {
            lines[at - 1] =
                format!("}}).map_err(|forklab_payload| crate::{MODULE}::panicked(&*forklab_payload)).is_err() {{");
            lines[at].clear();
        }
        None => {}
    }
}

/// The error that `?` returned is told, not printed, and so is that it happened.
fn replace_error(lines: &mut [String], call: &Call) {
    let Some(at) = call.error_written else { return };
    let Some(arguments) = lines[at].trim().strip_prefix("eprintln!(").and_then(|rest| rest.strip_suffix(");")) else {
        return;
    };
    lines[at] = format!("crate::{MODULE}::failed(&format!({arguments}));");
    lines[at + 1].clear();
}

/// A variable whose type has changed is told, not printed.
fn replace_lost_variable(lines: &mut [String], call: &Call) {
    for line in call.runtime.clone().map(|runtime| &mut lines[runtime]).unwrap_or_default() {
        if line.trim_start().starts_with("eprintln!(\"The type of the variable {name}") {
            line.clear();
        } else if line.trim_start().starts_with("println!(\"{VARIABLE_CHANGED_TYPE}{name}\")") {
            *line = format!("crate::{MODULE}::lost_variable(name);");
        }
    }
}

/// The value of the last expression is told, not printed, and `()` not even that.
///
/// The expression is evaluated before its `evcxr_display` is bracketed: what it prints itself is
/// output, and children that it forks have the cell's stdout.
fn replace_display(lines: &mut [String], call: &Call) {
    let Some((open, close, shown)) = call.shown else { return };
    let send = format!("crate::{MODULE}::send_text(");
    match shown {
        Shown::Method => {
            lines[open] = "match &(".to_owned();
            lines[close] = format!(
                ") {{ forklab_value => {{ crate::{MODULE}::display_begin(); forklab_value.evcxr_display(); \
                 crate::{MODULE}::display_end(); }} }};"
            );
        }
        Shown::Format => {
            let line = lines[open].replacen("evcxr_send_text_plain(", &send, 1);
            lines[open] = match line.strip_suffix(",&(") {
                Some(head) => format!("{head},crate::{MODULE}::shown(&("),
                None => line,
            };
            lines[close] = "))));".to_owned();
        }
        Shown::Typed => {
            lines[close] =
                lines[close].replacen("evcxr_send_text_plain(", &format!("crate::{MODULE}::shown(r); {send}"), 1);
        }
    }
}

/// What comes after evcxr's last line: the worker's entry, its symbols, and the code that they use.
fn appended() -> String {
    format!(
        "#[allow(warnings, clippy::all)] mod {MODULE} {{\n\
         #[unsafe(no_mangle)] pub extern \"C\" fn {ENTRY}(store: *mut ::core::ffi::c_void) -> *mut ::core::ffi::c_void {{\n\
         let cell = enter(); let store = crate::{BODY}(store.cast()); leave(cell); store.cast() }}\n\
         {GENERATED}}}\n",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERRORS: &str = r#"
            struct EvcxrUserCodeError {}
            impl<T: std::fmt::Display> From<T> for EvcxrUserCodeError {
                fn from(error: T) -> Self {
                    eprintln!("{}", error);
                    println!("{}", evcxr_internal_runtime::USER_ERROR_OCCURRED);
                    EvcxrUserCodeError {}
                }
            }
        
"#;
    const RUNTIME: &str = r#"mod evcxr_internal_runtime {
pub const VARIABLE_CHANGED_TYPE: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
            eprintln!("The type of the variable {name} was redefined, so was lost.",);
            println!("{VARIABLE_CHANGED_TYPE}{name}");
    pub fn merge(&mut self, mut other: VariableStore) {
    }
}
"#;
    const HEAD: &str = r#"#[unsafe(no_mangle)]
pub extern "C" fn run_user_code_7(
mut evcxr_variable_store: *mut evcxr_internal_runtime::VariableStore)
  -> *mut evcxr_internal_runtime::VariableStore {
if evcxr_variable_store.is_null() {
  evcxr_variable_store = evcxr_internal_runtime::create_variable_store();
}
let evcxr_variable_store = unsafe {&mut *evcxr_variable_store};
{let mut vars_ok = true;
vars_ok &= evcxr_variable_store.check_variable::<u8>(stringify!(x));
if !vars_ok {return evcxr_variable_store;}}
let x = evcxr_variable_store.take_variable::<u8>(stringify!(x));
match std::panic::catch_unwind(
  std::panic::AssertUnwindSafe(||{
let _ = (|| -> std::result::Result<(), EvcxrUserCodeError> {
"#;
    const TAIL: &str = r#"evcxr_variable_store.put_variable::<u8>(stringify!(y), y);
Ok(())})();
})) { 
  Ok(_) => {}
  Err(_) => {
    println!("EVCXR_PANIC_NOTIFICATION");
}}
evcxr_variable_store.put_variable::<u8>(stringify!(x), x);
evcxr_variable_store
}
"#;

    /// What evcxr writes for a cell with variables and a `?`.
    fn full(items: &str, body: &str) -> String {
        let allow = "#![allow(unused_imports, unused_mut, dead_code)]\n";
        [allow, items, ERRORS, RUNTIME, HEAD, body, TAIL].concat()
    }

    /// The rewritten lines of `text` that are not as they were, without what is appended.
    fn changed(text: &str) -> Vec<(String, String)> {
        let source = Source::read(text);
        let new = rewrite(&source, false).expect("it is code to run").text;
        let pairs = source.lines.iter().zip(new.lines());
        pairs.filter(|(old, new)| *old != new).map(|(old, new)| (old.trim().to_owned(), new.to_owned())).collect()
    }

    /// The changes that every cell with variables and a `?` has.
    fn usual() -> Vec<(String, String)> {
        [
            ("eprintln!(\"{}\", error);", "crate::forklab_generated::failed(&format!(\"{}\", error));"),
            ("println!(\"{}\", evcxr_internal_runtime::USER_ERROR_OCCURRED);", ""),
            ("eprintln!(\"The type of the variable {name} was redefined, so was lost.\",);", ""),
            ("println!(\"{VARIABLE_CHANGED_TYPE}{name}\");", "crate::forklab_generated::lost_variable(name);"),
            ("#[unsafe(no_mangle)]", ""),
            ("pub extern \"C\" fn run_user_code_7(", "pub extern \"C\" fn forklab_generated_body("),
            ("Err(_) => {", "  Err(forklab_payload) => {"),
            ("println!(\"EVCXR_PANIC_NOTIFICATION\");", "    crate::forklab_generated::panicked(&*forklab_payload);"),
        ]
        .map(|(old, new)| (old.to_owned(), new.to_owned()))
        .to_vec()
    }

    #[test]
    fn only_evcxrs_own_lines_change() {
        assert_eq!(changed(&full("fn f() {}\n", "let y = f();\n")), usual());
    }

    #[test]
    fn the_same_lines_of_a_persons_stay() {
        // All of evcxr's own text, once as items and once within the function.
        let items = ["mod mine {\n", ERRORS, RUNTIME, "}\n", RUNTIME].concat();
        let items = format!("{items}#[unsafe(no_mangle)]\npub extern \"C\" fn run_user_code_7(\n) {{ }}\n");
        let body = format!("fn inner() {{\n{RUNTIME}{HEAD}{TAIL}}}\nlet text = r#\"\n{HEAD}\"#;\n");
        assert_eq!(changed(&full(&items, &body)), usual());
    }

    #[test]
    fn text_in_literals_and_comments_is_no_structure() {
        let items = format!("const A: &str = r##\"\n}}\n{HEAD}\"##;\n/*\n{RUNTIME}{TAIL}*/\n");
        let body = "let a = '{'; let b = \"}\"; // }\nlet c = b'}';\n";
        assert_eq!(changed(&full(&items, body)), usual());
    }

    #[test]
    fn a_value_is_shown_through_the_host() {
        let shown = |body: &str| {
            let usual = usual();
            changed(&full("", body)).into_iter().filter(|change| !usual.contains(change)).collect::<Vec<_>>()
        };
        let own = "(\nthing(\n(1)\n).evcxr_display();\n).evcxr_display();\n";
        let method = shown(own);
        assert_eq!(method.len(), 2, "{method:?}");
        assert_eq!(method[0].1, "match &(");
        assert!(method[1].1.contains("display_begin(); forklab_value.evcxr_display();"), "{method:?}");
        let format = shown("evcxr_send_text_plain(&format!(\"{:#?}\",&(\nx\n)));\n");
        assert_eq!(
            format[0].1,
            "crate::forklab_generated::send_text(&format!(\"{:#?}\",crate::forklab_generated::shown(&("
        );
        assert_eq!(format[1].1, "))));");
        assert!(shown("evcxr_send_text_plain(&format!(\"{:?}\",&(\nx\n)));\nlet z = 1;\n").is_empty());
    }

    #[test]
    fn a_value_of_an_async_cell_is_shown_through_the_host() {
        let start = "let mut mutex =\nevcxr_variable_store.lazy_arc(\"evcxr_tokio_runtime\", ||\n\
            std::sync::Mutex::new(tokio::runtime::Runtime::new().unwrap())); match\nmutex.lock() \
            { Ok(guard) => guard, Err(poisoned) => poisoned.into_inner(), }\n.block_on(async {\n";
        let end = "evcxr_variable_store.put_variable::<u8>(stringify!(y), y);\nOk::<(), EvcxrUserCodeError>(())\n});\n";
        let value = "let y = 1;\nevcxr_send_text_plain(&format!(\"{:?}\",&(\nx.await\n)));\n";
        let question = "let _ = (|| -> std::result::Result<(), EvcxrUserCodeError> {\n";
        let head = HEAD.strip_suffix(question).expect("HEAD ends so");
        let tail = TAIL.split_once("Ok(())})();\n").expect("TAIL has this").1;
        let text = ["#![allow(unused_imports)]\n", ERRORS, RUNTIME, head, start, value, end, tail].concat();
        let usual = usual();
        let shown: Vec<_> = changed(&text).into_iter().filter(|change| !usual.contains(change)).collect();
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert!(shown[0].1.contains("forklab_generated::send_text("), "{shown:?}");
    }

    #[test]
    fn what_is_not_to_be_run_or_not_closed_stays() {
        for text in [
            "fn a() {}\n".to_owned(),
            full("", "let a = (1;\n"),
            format!(
                "{}async fn evcxr_analysis_wrapper(\n) -> Result<(), EvcxrUserCodeError> {{\nOk(())\n}}\n",
                full("", "")
            ),
        ] {
            assert_eq!(rewrite(&Source::read(&text), true), None);
        }
    }

    #[test]
    fn the_entry_comes_after_the_last_line_and_has_no_number() {
        let text = full("", "");
        let new = rewrite(&Source::read(&text), false).expect("it is code to run");
        let appended = new.text.lines().skip(text.lines().count()).collect::<Vec<_>>().join("\n");
        assert!(appended.contains("pub extern \"C\" fn forklab_cell(store"));
        let later = rewrite(&Source::read(&text.replace("user_code_7", "user_code_8")), false);
        assert_eq!(later, Some(new));
    }

    /// The head of a cell that is run for the second time: `y` is in the store.
    const SECOND: &str = "vars_ok &= evcxr_variable_store.check_variable::<u8>(stringify!(y));\nif !vars_ok";

    fn second(text: &str) -> String {
        let take = "let x = evcxr_variable_store.take_variable::<u8>(stringify!(x));\n";
        let takes = format!("let mut y = evcxr_variable_store.take_variable::<u8>(stringify!(y));\n{take}");
        text.replace("if !vars_ok", SECOND).replace(take, &takes)
    }

    #[test]
    fn a_cells_first_and_second_run_are_one_program() {
        let text = full("", "let y = f();\ny.g();\n");
        let first = rewrite(&Source::read(&text), true).expect("it is code to run");
        let again = rewrite(&Source::read(&second(&text)), true).expect("it is code to run");
        assert!(first.key == again.key, "{}\n{}", first.key, again.key);
        assert_eq!(first.superseded, ["y"]);
        let line = again.text.lines().nth(again.taken_at - 1).unwrap_or_default();
        assert!(line.contains("#[warn(unused_variables)] let y = ") && line.ends_with("catch_unwind("), "{line}");
        assert!(again.text.contains("take_variable::<u8>(stringify!(x))"), "x is not replaced");
        assert_eq!(again.text.lines().count(), second(&text).lines().count() + appended().lines().count());
    }

    #[test]
    fn a_module_is_imported_once() {
        let once = rewrite(&Source::read(&full("use std::fs::*;\nfn f() {}\n", "")), true).expect("it is code to run");
        let text = full("use std::fs::*;\nfn f() {}\nuse std::fs::*;\nuse std::fs::*;\n", "");
        let thrice = rewrite(&Source::read(&text), true).expect("it is code to run");
        assert!(once.key == thrice.key && thrice.text.contains("fn f() {}\n\n\n"), "{}", thrice.text);
    }

    #[test]
    fn a_variable_that_may_be_looked_at_is_not_superseded() {
        for body in
            ["let y = y + 1;\n", "f(y); let y = 1;\n", "let z = |a| a + y; let y = z(1);\n", "g!(y); let y = 2;\n"]
        {
            let text = full("", body);
            let first = rewrite(&Source::read(&text), true).expect("it is code to run");
            let again = rewrite(&Source::read(&second(&text)), true).expect("it is code to run");
            assert!(first.superseded.is_empty() && first.key != again.key, "{body}");
        }
    }
}
