//! The role of rustc: cargo calls this binary in its place for the crate that evcxr generated, so
//! that the source can be changed before it is compiled. Everything else goes to rustc as it is.
//!
//! The changed source lies beside evcxr's, so that paths in a cell's `include_str!` mean the same,
//! and its name ends in `lib.rs`, by which evcxr knows its own file in rustc's messages.
//!
//! rustc runs in a child of this process, which ends it when the engine or cargo have ended: nobody
//! else would end an endless constant, and cargo waits for rustc, whatever becomes of the engine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use forklab_sys::events::readable;
use forklab_sys::process::{self, ExitStatus, Fork, Pid, Signal};
use forklab_sys::{alone, role};

use crate::environment::WRAPPER_VARIABLE;
use crate::origins::{Cell, Origins};
use crate::record::Record;
use crate::rewrite;
use crate::rustc::{self, ABANDONED};
use crate::source::Source;

/// The file beside `src/lib.rs` with the sources of all cells.
pub(crate) const CELLS: &str = "forklab_cells.json";
/// The changed source.
pub(crate) const REWRITTEN: &str = "src/forklab_lib.rs";
/// Of what rustc compiles incrementally it uses some objects again. With its optimisation across the
/// units of one crate, these may name symbols that the newly made ones do not have any more, and the
/// linker finds them undefined: seen twice in a thousand cells.
const NO_IMPORTS: [&str; 2] = ["-C", "lto=off"];

/// A fork copies every mapping of the process that forks, 1.7 µs for each, and each cell's object stays
/// loaded. It has nothing to protect: without a part that is read-only after it has been loaded it has three
/// mappings instead of four, and two if constants stand beside the code.
const FEW_MAPPINGS: [&str; 2] = ["-C", "link-arg=-Wl,-z,norelro"];
const FEWER_MAPPINGS: [&str; 2] = ["-C", "link-arg=-Wl,--no-rosegment"];

/// What evcxr generates, and what it calls the crate.
pub(crate) const GENERATED: &str = "src/lib.rs";
const CRATE: &str = "ctx";

/// Becomes rustc. The arguments are this binary, rustc, and rustc's own.
pub fn main() -> ! {
    let mut arguments = std::env::args_os().skip(1);
    let rustc = arguments.next().unwrap_or_else(|| "rustc".into());
    let mut arguments: Vec<OsString> = arguments.collect();
    if is_cell(&arguments) {
        let fewer = if has_lld(&rustc, &arguments) { FEWER_MAPPINGS.as_slice() } else { &[] };
        arguments.extend([&NO_IMPORTS, &FEW_MAPPINGS, fewer].concat().iter().map(OsString::from));
        if let Err(error) = Record::keep(&rustc, &arguments) {
            eprintln!("warning: the next cell will need cargo again: {error}");
        }
        match rewritten(&arguments) {
            Ok(true) => arguments.iter_mut().filter(|one| *one == GENERATED).for_each(|one| *one = REWRITTEN.into()),
            Ok(false) => {}
            Err(error) => {
                eprintln!("error: the cell cannot be prepared: {error}");
                std::process::exit(ABANDONED)
            }
        }
    }
    if let Err(error) = attend() {
        eprintln!("warning: rustc is not attended: {error}");
    }
    let error = Command::new(&rustc).args(arguments).env_remove(WRAPPER_VARIABLE).exec();
    eprintln!("error: cannot run {}: {error}", rustc.display());
    std::process::exit(127)
}

/// Returns in a child, which is to become rustc. This process waits for the child's end and leaves as
/// it has; if the engine ends before, it leaves at once, and the child with it. So it does when the
/// thread of cargo's that waits for it ends.
///
/// # Errors
/// Why this process has no child; it is to become rustc itself then.
fn attend() -> io::Result<()> {
    let Some(engine) = rustc::engine()? else { return Ok(()) };
    role::receive_when_parent_dies(Signal::KILL)?;
    let this = Pid::this();
    let child = match alone::fork()? {
        Fork::Parent(child) => child,
        Fork::Child => return rustc::die_with(this),
    };
    let status = process::open_pidfd(child).and_then(|ended| first_end(&engine, &ended)).and_then(|engine_first| {
        // This process's end is the child's.
        if engine_first { process::exit_now(ABANDONED) } else { process::wait(child) }
    });
    process::exit_now(match status {
        Ok(ExitStatus::Exited(status)) => status,
        // As a shell says it.
        Ok(ExitStatus::Signaled { signal, .. }) => 128 + signal.as_raw(),
        Err(_) => ABANDONED,
    })
}

/// Waits until one of two processes has ended. `true` when it is the first alone.
fn first_end(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    Ok(!readable(&[one.as_fd(), other.as_fd()], None)?[1])
}

/// Whether the linker is certainly LLVM's, which rustc has brought along since 1.90 on this one target;
/// older ones of GNU's refuse an option of its.
fn has_lld(rustc: &OsStr, arguments: &[OsString]) -> bool {
    let chosen = |one: &OsString| one.to_str().is_none_or(|one| one.contains("linker") || one.contains("-fuse-ld"));
    let target = arguments.iter().any(|one| one == "x86_64-unknown-linux-gnu");
    target
        && !arguments.iter().any(chosen)
        && Command::new(rustc).arg("--version").output().is_ok_and(|output| {
            let version = String::from_utf8_lossy(&output.stdout);
            let mut numbers = version.split([' ', '.']).filter_map(|word| word.parse::<u32>().ok());
            (numbers.next(), numbers.next()) >= (Some(1), Some(90))
        })
}

fn is_cell(arguments: &[OsString]) -> bool {
    let named = |pair: &[OsString]| pair[0] == OsStr::new("--crate-name") && pair[1] == OsStr::new(CRATE);
    arguments.windows(2).any(named) && arguments.iter().any(|one| one == GENERATED)
}

/// Writes the changed source, and beside where cargo will put the object, whose lines are whose.
/// `false` when evcxr's own source is to be compiled.
fn rewritten(arguments: &[OsString]) -> io::Result<bool> {
    let text = fs::read_to_string(GENERATED)?;
    let source = Source::read(&text);
    let Some(rewritten) = rewrite::rewrite(&source, false) else { return Ok(false) };
    fs::write(REWRITTEN, rewritten.text)?;
    let out = arguments.windows(2).find(|pair| pair[0] == "--out-dir").map(|pair| PathBuf::from(&pair[1]));
    if let Some(directory) = out.as_deref().and_then(Path::parent) {
        Origins::of(&source, &cells().iter().collect::<Vec<_>>()).write(&directory.join("libctx.origins"))?;
    }
    Ok(true)
}

/// The sources of all cells. At the engine's start there are none yet.
pub(crate) fn cells() -> Vec<Cell> {
    let cells = fs::read(Path::new("src").join(CELLS)).unwrap_or_default();
    serde_json::from_slice(&cells).unwrap_or_default()
}

/// Removes the objects that cargo has made below a target directory: it takes one for fresh when no
/// file has changed that it knows of, and it does not know of cells.
pub(crate) fn forget_objects(target: &Path) {
    for triple in fs::read_dir(target).into_iter().flatten().flatten() {
        // That it cannot be removed shows when it is to be written.
        let _ = remove(&triple.path().join("debug/deps/libctx.so"));
    }
}

/// Removes a file that may not be there.
///
/// # Errors
/// Those of unlink(2).
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
