//! The role of rustc: cargo calls this binary in its place, so that what evcxr generated can be
//! changed before it is compiled.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The file beside `src/lib.rs` with the sources of all cells.
pub(crate) const CELLS: &str = "forklab_cells.json";

/// Becomes rustc. The arguments are this binary, rustc, and rustc's own.
pub fn main() -> ! {
    let mut arguments = std::env::args_os().skip(1);
    let rustc = arguments.next().unwrap_or_else(|| "rustc".into());
    let error = Command::new(&rustc).args(arguments).env_remove(crate::environment::WRAPPER_VARIABLE).exec();
    eprintln!("error: cannot run {}: {error}", rustc.display());
    std::process::exit(127)
}
