//! What evcxr knows after a cell, read from the source that it has generated for the cell.
//!
//! evcxr's source shows all of its state: every item is in it, every variable is taken out of the store
//! before the cell's code and put back after it, and what evcxr has switched on (a place for `?`, an async
//! runtime) has lines of its own. So two cells after which these are the same leave evcxr in the same
//! state, and a cell that leaves evcxr as it found it can be run again without evcxr (`again`).
//!
//! Where the source does not say something, nothing is claimed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::layout::Layout;
use crate::order;
use crate::rewrite::{self, Rewritten};
use crate::source::{Source, without_literals};
use crate::superseded::{occurrences, pattern_before};
use crate::wrapper;

/// Below the build directory: what will be known if the cell that was compiled last runs to its end. Then
/// the runner gives it its second name.
const COMPILED: &str = ".forklab-compiled.json";
const RUN: &str = ".forklab-run.json";

const TAKE: &str = " = evcxr_variable_store.take_variable::<";
const PUT: &str = "evcxr_variable_store.put_variable::<";
const NAME: &str = ">(stringify!(";

/// What is known after a cell that has been compiled, if it then runs to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct After {
    /// The cell's entry in the cache, and the digest of its key.
    pub entry: PathBuf,
    pub key: String,
    /// The digest of evcxr's state. Two that are the same mean the same.
    pub state: String,
    /// Whether the same cell, run in that state, is the same source and leaves that state.
    pub steady: bool,
}

/// What evcxr keeps of a variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Variable<'a> {
    name: &'a str,
    type_name: &'a str,
    mutable: bool,
}

impl After {
    /// After a cell whose source is this. `configuration`: all that decides how it was compiled.
    pub fn of(
        source: &Source<'_>,
        rewritten: &Rewritten,
        configuration: &str,
        entry: &Path,
        key: &str,
    ) -> Option<After> {
        let layout = Layout::of(source)?;
        let call = layout.call.as_ref()?;
        let head = &source.lines[call.attribute..layout.body.start];
        let before: Vec<Variable<'_>> = head.iter().filter_map(|line| taken(line)).collect();
        let after = variables(source, &layout, &before)?;
        let is_kept = |one: &&Variable<'_>| rewritten.superseded.iter().all(|name| name != one.name);
        let steady = before.iter().filter(is_kept).collect::<BTreeSet<_>>() == after.iter().filter(is_kept).collect();
        let mut state = Sha256::new();
        let mut add = |text: &str| {
            state.update(text.len().to_le_bytes());
            state.update(text);
        };
        add(configuration);
        let repeated = rewrite::repeated_imports(source, layout.items.clone());
        let items = order::of_items(source, layout.items.clone());
        items.into_iter().filter(|line| !repeated.contains(line)).for_each(|line| add(source.lines[line]));
        let is_async = head.contains(&".block_on(async {");
        add(&format!("{} {is_async}", call.error_written.is_some()));
        add(&format!("{after:?}"));
        Some(After { entry: entry.to_owned(), key: digest(key), state: hex::encode(state.finalize()), steady })
    }

    /// Leaves it in the build directory.
    ///
    /// # Errors
    /// Those of writing a file.
    pub fn write(&self, build: &Path) -> io::Result<()> {
        std::fs::write(build.join(COMPILED), serde_json::to_vec(self)?)
    }

    /// Takes it out of the build directory, if it is there and the cell has run to its end.
    pub fn take(build: &Path) -> Option<After> {
        let text = std::fs::read(build.join(RUN)).ok();
        Self::forget(build).ok()?;
        serde_json::from_slice(&text?).ok()
    }

    /// Forgets the last cell.
    ///
    /// # Errors
    /// Those of removing files.
    pub fn forget(build: &Path) -> io::Result<()> {
        wrapper::remove(&build.join(COMPILED))?;
        wrapper::remove(&build.join(RUN))
    }

    /// Says that the cell has run to its end. Where nothing was written, there is nothing to say.
    pub fn confirm(build: &Path) {
        let _ = std::fs::rename(build.join(COMPILED), build.join(RUN));
    }
}

/// A digest by which a text is known.
pub(crate) fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// The variables after a cell. `None` when the source does not say everything about them.
fn variables<'a>(source: &Source<'a>, layout: &Layout, before: &[Variable<'a>]) -> Option<BTreeSet<Variable<'a>>> {
    let call = layout.call.as_ref()?;
    let stores = |range: std::ops::Range<usize>| source.lines[range].iter().filter_map(|line| put(line));
    let mut after = BTreeSet::new();
    if call.around.is_none() {
        // Then old and new cannot be told apart.
        return stores(layout.body.end..source.lines.len()).next().is_none().then_some(after);
    }
    let code = without_literals(&source.lines[layout.body.clone()].join("\n"));
    for (name, type_name) in stores(call.new_variables.clone()) {
        after.insert(Variable { name, type_name, mutable: defined_mutable(&code, name)? });
    }
    for (name, type_name) in stores(call.new_variables.end..source.lines.len()) {
        let old = before.iter().find(|one| one.name == name)?;
        after.insert(Variable { name, type_name, mutable: old.mutable });
    }
    Some(after)
}

/// Of `let mut x = evcxr_variable_store.take_variable::<u8>(stringify!(x));`.
fn taken(line: &str) -> Option<Variable<'_>> {
    let (pattern, rest) = line.strip_prefix("let ")?.split_once(TAKE)?;
    let (type_name, _) = rest.rsplit_once(NAME)?;
    let name = pattern.strip_prefix("mut ");
    Some(Variable { name: name.unwrap_or(pattern), type_name, mutable: name.is_some() })
}

/// Name and type of `evcxr_variable_store.put_variable::<u8>(stringify!(x), x);`.
fn put(line: &str) -> Option<(&str, &str)> {
    let (type_name, rest) = line.strip_prefix(PUT)?.rsplit_once(NAME)?;
    Some((rest.split_once(')')?.0, type_name))
}

/// Whether the one `let` that has this name in its pattern makes it mutable. `None` if there are several
/// or none, or where it is not clear.
fn defined_mutable(code: &str, name: &str) -> Option<bool> {
    let patterns = occurrences(code, name).filter_map(|at| pattern_before(code, at));
    let [pattern] = patterns.collect::<Vec<_>>()[..] else { return None };
    let mut words = pattern.trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '_');
    match words.next() {
        Some("mut") => words.next().is_none_or(|before| before != "ref").then_some(true),
        Some("ref") => None,
        _ => Some(false),
    }
}
