//! Variables that a cell defines without looking at an older one of that name.
//!
//! evcxr takes every variable out of the store before the cell's code and puts it back after it. One
//! that the cell defines anew is taken out, is not looked at, and is dropped when the function ends.
//! That makes a cell's second run another program than its first, when the variable was not there
//! yet. Here both are made one: the variable is taken out if it is there, whatever its type, in the
//! place and with the name that evcxr's line would give it, so that it ends as and when it would.
//!
//! Whether the cell looks at it is guessed here and proven by the compiler (`cache`): a wrong guess
//! costs a compilation and nothing else.

use std::collections::HashSet;
use std::ops::Range;

use crate::layout::Call;
use crate::source::Source;

const CHECK: &str = "vars_ok &= evcxr_variable_store.check_variable::<";
const STORE_METHOD: &str = "    pub fn merge(&mut self, mut other: VariableStore) {";
const TAKE_OUT: &str = "pub fn forklab_take(&mut self, name: &str) -> \
    ::std::option::Option<::std::boxed::Box<dyn ::std::any::Any>> { self.variables.remove(name) } ";

/// The names of these variables, in order.
pub(crate) fn among(source: &Source<'_>, body: Range<usize>, call: &Call) -> Vec<String> {
    let (Some(_), Some(runtime)) = (call.around, call.runtime.clone()) else { return Vec::new() };
    if !source.lines[runtime].contains(&STORE_METHOD) {
        return Vec::new();
    }
    let stores = &source.lines[call.new_variables.clone()];
    let body = source.lines[body].join("\n");
    let mut names: Vec<String> = stores.iter().filter_map(|line| named(line)).map(str::to_owned).collect();
    // Which of equals comes first in evcxr's tables is chance.
    names.sort();
    names.retain(|name| is_defined_first(&body, name));
    names
}

/// Has the variables taken out in the line where the body begins. The lines of evcxr's that would do
/// so are returned, to be dropped.
pub(crate) fn take_out(lines: &mut [String], call: &Call, names: &[String]) -> HashSet<usize> {
    let (Some(around), Some(runtime)) = (call.around, call.runtime.clone()) else { return HashSet::new() };
    if names.is_empty() {
        return HashSet::new();
    }
    for line in &mut lines[runtime] {
        if *line == STORE_METHOD {
            line.insert_str(0, TAKE_OUT);
        }
    }
    let is_theirs = |line: &str| {
        let taken = line.starts_with("let ") && line.contains(" = evcxr_variable_store.take_variable::<");
        (taken || line.starts_with(CHECK)) && named(line).is_some_and(|name| names.iter().any(|one| one == name))
    };
    let dropped = (call.attribute + 2..around).filter(|line| is_theirs(&lines[*line])).collect();
    let statement = |name: &String| {
        format!("#[warn(unused_variables)] let {name} = evcxr_variable_store.forklab_take(stringify!({name})); ")
    };
    let statements: String = names.iter().map(statement).collect();
    lines[around].insert_str(0, &statements);
    dropped
}

/// The variable that a line of evcxr's is about.
fn named(line: &str) -> Option<&str> {
    let (_, rest) = line.rsplit_once("(stringify!(")?;
    rest.split_once(')').map(|(name, _)| name)
}

/// Whether the first place where the name stands is the pattern of a `let`, and its value does not
/// have the name. A name that begins with `_` is never warned of.
fn is_defined_first(body: &str, name: &str) -> bool {
    if name.starts_with('_') || name.starts_with("r#") {
        return false;
    }
    let mut words = occurrences(body, name);
    let Some(first) = words.next().filter(|at| pattern_before(body, *at).is_some()) else { return false };
    // The value ends before the first line that does not belong to it; up to the next `;` is no more.
    let end = body[first..].find(';').map_or(body.len(), |offset| first + offset);
    words.next().is_none_or(|second| second > end)
}

/// What a `let` has before this place in its pattern, if the place is in one.
pub(crate) fn pattern_before(code: &str, at: usize) -> Option<&str> {
    let is_pattern = |c: char| c.is_alphanumeric() || " _,()&:{}\n".contains(c);
    let start = code[..at].rfind("let ")? + "let ".len();
    Some(&code[start..at]).filter(|pattern| pattern.chars().all(is_pattern))
}

/// Where a word stands in a text, in literals and comments too.
pub(crate) fn occurrences<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !text[..*at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}
