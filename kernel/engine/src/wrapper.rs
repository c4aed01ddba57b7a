//! The role of rustc: cargo calls this binary in its place for the crate that evcxr generated, so
//! that the source can be changed before it is compiled. Everything else goes to rustc as it is.
//!
//! The changed source lies beside evcxr's, so that paths in a cell's `include_str!` mean the same,
//! and its name ends in `lib.rs`, by which evcxr knows its own file in rustc's messages.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::environment::WRAPPER_VARIABLE;
use crate::origins::{Cell, Origins};
use crate::rewrite;
use crate::source::Source;

/// The file beside `src/lib.rs` with the sources of all cells.
pub(crate) const CELLS: &str = "forklab_cells.json";
/// The changed source.
pub(crate) const REWRITTEN: &str = "src/forklab_lib.rs";
/// What evcxr generates, and what it calls the crate.
const GENERATED: &str = "src/lib.rs";
const CRATE: &str = "ctx";

/// Becomes rustc. The arguments are this binary, rustc, and rustc's own.
pub fn main() -> ! {
    let mut arguments = std::env::args_os().skip(1);
    let rustc = arguments.next().unwrap_or_else(|| "rustc".into());
    let mut arguments: Vec<OsString> = arguments.collect();
    if is_cell(&arguments) {
        match rewritten() {
            Ok(true) => arguments.iter_mut().filter(|one| *one == GENERATED).for_each(|one| *one = REWRITTEN.into()),
            Ok(false) => {}
            Err(error) => eprintln!("warning: the cell cannot be prepared: {error}"),
        }
    }
    let error = Command::new(&rustc).args(arguments).env_remove(WRAPPER_VARIABLE).exec();
    eprintln!("error: cannot run {}: {error}", rustc.display());
    std::process::exit(127)
}

fn is_cell(arguments: &[OsString]) -> bool {
    let named = |pair: &[OsString]| pair[0] == OsStr::new("--crate-name") && pair[1] == OsStr::new(CRATE);
    arguments.windows(2).any(named) && arguments.iter().any(|one| one == GENERATED)
}

/// Writes the changed source. `false` when evcxr's own is to be compiled.
fn rewritten() -> io::Result<bool> {
    let text = fs::read_to_string(GENERATED)?;
    // At the engine's start there are no cells yet.
    let cells = fs::read(Path::new("src").join(CELLS)).unwrap_or_default();
    let cells: Vec<Cell> = serde_json::from_slice(&cells).unwrap_or_default();
    let source = Source::read(&text);
    let origins = Origins::of(&source, &cells.iter().collect::<Vec<_>>());
    let Some(text) = rewrite::rewrite(&source, &origins) else { return Ok(false) };
    fs::write(REWRITTEN, text)?;
    Ok(true)
}
