//! Changes what evcxr generated so that it talks to the worker through the host table instead of
//! printing markers. Every line keeps its number; what is new is appended after the last line.
//!
//! `layout` says which lines are evcxr's; the same words anywhere else are a person's and stay.
//! The table's layout is that of `forklab_worker::host`, as text, in `generated.rs.txt`.

use crate::layout::{Call, Layout, Shown};
use crate::origins::{Origins, Run};
use crate::source::Source;
use crate::wrapper::CELLS;

/// The code that every cell gets.
const GENERATED: &str = include_str!("generated.rs.txt");
/// The name of its module and of the cell's function, which no cell should have.
const MODULE: &str = "forklab_generated";
const BODY: &str = "forklab_generated_body";

/// The source to compile in place of this one. `None` when it is not code that is to be run, or when
/// its brackets do not match: rustc's errors are then to be about evcxr's text.
pub(crate) fn rewrite(source: &Source<'_>, origins: &Origins) -> Option<String> {
    let call = Layout::of(source)?.call?;
    let mut lines: Vec<String> = source.lines.iter().map(|line| (*line).to_owned()).collect();
    rename(&mut lines, &call);
    replace_panic(&mut lines, &call);
    replace_error(&mut lines, &call);
    replace_lost_variable(&mut lines, &call);
    replace_display(&mut lines, &call);
    let mut text = lines.join("\n");
    text.push('\n');
    text.push_str(&appended(&call.name, origins));
    Some(text)
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
            lines[close] = lines[close].replacen(
                "evcxr_send_text_plain(",
                &format!("crate::{MODULE}::shown(r); {send}"),
                1,
            );
        }
    }
}

/// What comes after evcxr's last line: the worker's entry, its symbols, and the code that they use.
///
/// The two `include_bytes` make cargo's fingerprint depend on what evcxr wrote and on the cells, and
/// not only on the file that this text goes into.
fn appended(name: &str, origins: &Origins) -> String {
    let runs: Vec<[usize; 5]> = origins.runs.iter().map(numbers).collect();
    let flat: Vec<String> = runs.iter().flatten().map(usize::to_string).collect();
    format!(
        "#[allow(warnings, clippy::all)] mod {MODULE} {{\n\
         const _: &[u8] = include_bytes!(\"lib.rs\");\n\
         const _: &[u8] = include_bytes!(\"{CELLS}\");\n\
         #[unsafe(no_mangle)] pub static FORKLAB_ORIGINS: [u32; {}] = [{}];\n\
         #[unsafe(no_mangle)] pub static FORKLAB_ORIGINS_LEN: usize = {};\n\
         #[unsafe(no_mangle)] pub extern \"C\" fn {name}(store: *mut ::core::ffi::c_void) -> *mut ::core::ffi::c_void {{\n\
         let cell = enter(); let store = crate::{BODY}(store.cast()); leave(cell); store.cast() }}\n\
         {GENERATED}}}\n",
        flat.len(),
        flat.join(", "),
        runs.len(),
    )
}

fn numbers(run: &Run) -> [usize; 5] {
    [run.line, run.count, run.execution as usize, run.cell_line, run.column_offset]
}
