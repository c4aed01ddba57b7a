//! The build directory that is compiled once, when forklab is installed, and copied for each engine.
//!
//! Cargo decides by modification times whether a crate is fresh, so a copy keeps them.

use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};

/// A crate that every cell can use: name, and what stands behind `name =` in `Cargo.toml`.
pub(crate) type Dependency = (&'static str, String);

/// The crates that every cell can use, given the directory of the library's sources.
/// Empty when the library is not there.
pub(crate) fn dependencies(library: &Path) -> Vec<Dependency> {
    let forklab = library.join("forklab");
    if !forklab.join("Cargo.toml").is_file() {
        return Vec::new();
    }
    vec![
        ("forklab", format!("{{ path = {:?} }}", forklab.display().to_string())),
        ("nix", NIX.to_owned()),
        ("serde", SERDE.to_owned()),
    ]
}

/// All that nix has, since a lesson may need any call.
const NIX: &str = "{ version = \"0.31\", features = [\"acct\", \"aio\", \"dir\", \"env\", \"event\", \"fanotify\", \
    \"feature\", \"fs\", \"hostname\", \"inotify\", \"ioctl\", \"kmod\", \"mman\", \"mount\", \"mqueue\", \"net\", \
    \"personality\", \"poll\", \"process\", \"pthread\", \"ptrace\", \"quota\", \"reboot\", \"resource\", \"sched\", \
    \"signal\", \"socket\", \"term\", \"time\", \"ucontext\", \"uio\", \"user\", \"zerocopy\"] }";
const SERDE: &str = "{ version = \"1\", features = [\"derive\"] }";

/// Where the library's sources and the template are, below the installed data.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    pub library: PathBuf,
    pub template: PathBuf,
}

impl Data {
    pub(crate) fn at(directory: &Path) -> Data {
        Data { library: directory.join("library"), template: directory.join("template") }
    }
}

/// Copies a directory with everything in it; times of files and permissions are kept.
///
/// # Errors
/// Those of reading the one and of writing the other.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            let data = entry.metadata()?;
            let times = FileTimes::new().set_accessed(data.accessed()?).set_modified(data.modified()?);
            // Opened for reading: the copy may be read-only, and its owner may set its times still.
            File::open(&target)?.set_times(times)?;
        }
    }
    Ok(())
}
