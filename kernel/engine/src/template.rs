//! The build directory that is compiled once, when forklab is installed, and copied for each engine.
//!
//! Cargo decides by modification times whether a crate is fresh, so a copy keeps them.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use forklab_sys::alone;
use forklab_sys::process::{self, Fork};

use crate::environment::{self, Places};
use crate::start;

/// Compiles the library whose sources lie in `library`, and what else every cell can use, in a new
/// build directory. Cargo says on stderr what it compiles. To be called by a process with one thread;
/// crates that are missing are downloaded.
///
/// # Errors
/// Those of fork(2), and `Other` with what cargo or evcxr say.
pub fn prepare(library: &Path, template: &Path) -> io::Result<()> {
    let (mut reader, mut writer) = io::pipe()?;
    // In a child, since the environment of an engine is not for the caller to keep.
    match alone::fork()? {
        Fork::Child => {
            let result = build(library, template);
            if let Err(message) = &result {
                let _ = writer.write_all(message.as_bytes());
            }
            process::exit_now(i32::from(result.is_err()))
        }
        Fork::Parent(child) => {
            drop(writer);
            let mut message = String::new();
            reader.read_to_string(&mut message)?;
            let status = process::wait(child)?;
            process::reap(child)?;
            match (status.success(), message.is_empty()) {
                (true, _) => Ok(()),
                (false, true) => Err(io::Error::other(format!("building the library ended with {status}"))),
                (false, false) => Err(io::Error::other(message)),
            }
        }
    }
}

/// Lets an engine start in the directory and compile a cell that uses everything.
fn build(library: &Path, template: &Path) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let places = Places { build: template.to_owned() };
    // No template lies there, so what the engine needs is compiled and not copied.
    let data = Data { library: library.to_owned(), template: template.join("no template") };
    fs::create_dir_all(template).map_err(text)?;
    environment::set(&places, Some(&data.library)).map_err(text)?;
    environment::silence_stdout().map_err(text)?;
    let (_server, runner) = UnixStream::pair().map_err(text)?;
    let context = start::open(&places, runner).map_err(|error| error.to_string())?;
    let started = start::complete(context, &places, Some(&data), false, |_| {}).map_err(|error| error.to_string())?;
    started.forget();
    clean(&places).map_err(text)
}

/// Removes what belongs to the engine that has just been there: its cells, which have no meaning in
/// another directory.
pub(crate) fn clean(places: &Places) -> io::Result<()> {
    fs::remove_file(places.cells())?;
    for triple in fs::read_dir(places.build.join("target"))?.flatten() {
        let debug = triple.path().join("debug");
        let _ = fs::remove_dir_all(debug.join("incremental"));
        for directory in [debug.clone(), debug.join("deps"), debug.join(".fingerprint")] {
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| is_a_cells(&entry.file_name().to_string_lossy())) {
                let path = entry.path();
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
    }
    Ok(())
}

fn is_a_cells(name: &str) -> bool {
    ["libctx.", "libctx-", "ctx-", "ctx.", "libcode_", "libcell_"].iter().any(|start| name.starts_with(start))
}

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

    /// Whether the library's sources are there.
    pub(crate) fn is_complete(&self) -> bool {
        !dependencies(&self.library).is_empty()
    }
}

/// Copies a directory with everything in it; times of files and permissions are kept.
///
/// # Errors
/// Those of reading the one and of writing the other.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    copy_with(from, to, &|_| false)
}

/// As [`copy`], but what rustc has made, which cargo replaces and never changes, is one file with two names
/// where that is possible: compiled crates and build scripts. For directories of one owner.
///
/// # Errors
/// As [`copy`].
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    let compiled = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ending = path.extension().is_some_and(|ending| ["rlib", "rmeta", "so"].iter().any(|one| ending == *one));
        ending || name.starts_with("build_script_build-") || name == "build-script-build"
    };
    copy_with(from, to, &compiled)
}

fn copy_with(from: &Path, to: &Path, may_be_linked: &dyn Fn(&Path) -> bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_with(&entry.path(), &target, may_be_linked)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else if !(may_be_linked(&target) && fs::hard_link(entry.path(), &target).is_ok()) {
            fs::copy(entry.path(), &target)?;
            let data = entry.metadata()?;
            let times = FileTimes::new().set_accessed(data.accessed()?).set_modified(data.modified()?);
            // Opened for reading: the copy may be read-only, and its owner may set its times still.
            File::open(&target)?.set_times(times)?;
        }
    }
    Ok(())
}
