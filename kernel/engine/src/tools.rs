//! Stand-ins for `cargo` and `rustup`: links to this binary that come first in the engine's PATH.
//!
//! evcxr runs cargo for each cell and finds it through rustup. What the stand-ins have nothing to say
//! about goes to the real tools, which are looked for behind them in PATH.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;
use crate::environment;
use crate::wrapper;

/// Below the build directory.
pub(crate) const DIRECTORY: &str = ".forklab-tools";
const CARGO: &str = "cargo";
const RUSTUP: &str = "rustup";
/// Beside the link `cargo`: where the real one is, when rustup has said so.
const REAL_CARGO: &str = "cargo.path";

/// Whether this process was called as one of the tools.
pub fn is_called() -> bool {
    called().is_some()
}

/// Is the tool as which this process was called.
pub fn main() -> ! {
    let Some((directory, name)) = called() else { std::process::exit(127) };
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if name == RUSTUP {
        rustup(&directory, &arguments)
    }
    cargo::main(&arguments, || real_cargo(&directory))
}

/// The directory of the link and its name, which is in the directory that the engine has made.
fn called() -> Option<(PathBuf, &'static str)> {
    let path = PathBuf::from(std::env::args_os().next()?);
    let name = [CARGO, RUSTUP].into_iter().find(|name| path.file_name() == Some(OsStr::new(name)))?;
    let directory = path.parent()?;
    directory.components().any(|part| part.as_os_str() == DIRECTORY).then(|| (directory.to_owned(), name))
}

/// Makes the links below a build directory. What PATH is to be with them.
///
/// # Errors
/// Those of making a directory and links.
pub(crate) fn prepare(build: &Path) -> io::Result<OsString> {
    let directory = build.join(DIRECTORY);
    std::fs::create_dir_all(&directory)?;
    for name in [CARGO, RUSTUP] {
        link(&directory, name)?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let behind = std::env::split_paths(&path).filter(|one| !one.ends_with(DIRECTORY));
    std::env::join_paths([directory].into_iter().chain(behind)).map_err(io::Error::other)
}

fn link(directory: &Path, name: &str) -> io::Result<()> {
    let link = directory.join(name);
    wrapper::remove(&link)?;
    std::os::unix::fs::symlink(environment::executable()?, link)
}

/// rustup as it is, except that the cargo it knows is one of ours. `rustup which cargo`, or with a
/// toolchain before it.
fn rustup(directory: &Path, arguments: &[OsString]) -> ! {
    let Some(real) = behind_us(RUSTUP) else { std::process::exit(127) };
    let words: Vec<&str> = arguments.iter().filter_map(|one| one.to_str()).collect();
    let toolchain = match words[..] {
        ["which", CARGO] => Some(""),
        [toolchain, "which", CARGO] => toolchain.strip_prefix('+').filter(|name| !name.contains('/')),
        _ => None,
    };
    let mut command = Command::new(real);
    command.args(arguments);
    if let Some(toolchain) = toolchain {
        match stand_in(&mut command, &directory.join(toolchain)) {
            Ok(Some(link)) => {
                println!("{}", link.display());
                std::process::exit(0)
            }
            Ok(None) => std::process::exit(1),
            Err(error) => eprintln!("warning: cargo is not stood in for: {error}"),
        }
    }
    let error = command.exec();
    eprintln!("error: cannot run rustup: {error}");
    std::process::exit(127)
}

/// Makes our cargo for the one that rustup names; `None` when it names none.
fn stand_in(which: &mut Command, directory: &Path) -> io::Result<Option<PathBuf>> {
    let output = which.output()?;
    if !output.status.success() {
        return Ok(None);
    }
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join(REAL_CARGO), output.stdout.trim_ascii_end())?;
    link(directory, CARGO)?;
    Ok(Some(directory.join(CARGO)))
}

fn real_cargo(directory: &Path) -> PathBuf {
    let named = std::fs::read_to_string(directory.join(REAL_CARGO)).ok().map(PathBuf::from);
    named.filter(|path| path.is_file()).or_else(|| behind_us(CARGO)).unwrap_or_else(|| CARGO.into())
}

/// A tool in PATH that is not one of ours.
fn behind_us(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).filter(|one| !one.ends_with(DIRECTORY));
    places.map(|place| place.join(name)).find(|file| file.is_file())
}
