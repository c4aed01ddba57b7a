//! The engine's own environment: variables and descriptors, set once while it has one thread.
//!
//! evcxr and cargo take most of their configuration from variables. Those that a person's shell may
//! hold and that would change what a cell means are taken away here.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use forklab_sys::alone::set_variable;
use forklab_sys::process::Pid;

use crate::record::LIBRARY_VARIABLE;
use crate::tools;
use crate::wrapper;

/// Set for cargo's children: the binary is called in rustc's place.
pub const WRAPPER_VARIABLE: &str = "FORKLAB_RUSTC_WRAPPER";

/// The pid of the engine for which cargo works.
pub const ENGINE_VARIABLE: &str = "FORKLAB_ENGINE";

/// Taken away: they would make cargo build something else or elsewhere, or evcxr believe that it is
/// its own child.
const UNWANTED: &[&str] = &[
    "EVCXR_IS_RUNTIME",
    "EVCXR_RUSTC_WRAPPER",
    "EVCXR_FORCE_DYLIB",
    "EVCXR_CACHE_ENABLED",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_TERM_COLOR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
];

/// For rust-analyzer alone, which asks `cargo rustc --print cfg`: evcxr gives its own flags to each
/// compilation. These two are set by nix's build script, which rust-analyzer does not run, and without
/// them `Errno` is not there, and no variable can hold a `nix::Result`.
const ANALYSIS_FLAGS: &str = "--cfg linux --cfg linux_android";

/// Below the build directory.
pub(crate) const NOTED: &str = ".forklab-environment";

/// The places below the build directory that are ours and not evcxr's.
#[derive(Debug, Clone)]
pub struct Places {
    /// evcxr's directory: `Cargo.toml`, `src`, `target`.
    pub build: PathBuf,
}

impl Places {
    /// What evcxr generated last.
    pub fn generated(&self) -> PathBuf {
        self.build.join("src/lib.rs")
    }

    /// The sources of all cells, for the wrapper.
    pub fn cells(&self) -> PathBuf {
        self.build.join("src").join(crate::wrapper::CELLS)
    }

    /// While this exists the runner runs nothing.
    pub fn rehearsal(&self) -> PathBuf {
        self.build.join(".forklab-rehearsal")
    }

    /// Where runners keep the number of the last reset.
    pub fn epoch(&self) -> PathBuf {
        self.build.join(".forklab-epoch")
    }

    /// The environment with which the engine has begun, see [`note`].
    pub fn environment(&self) -> PathBuf {
        self.build.join(NOTED)
    }

    /// Where evcxr looks for a person's configuration, which would change what cells mean.
    fn configuration(&self) -> PathBuf {
        self.build.join(".forklab-configuration")
    }
}

/// Sets the environment of an engine that builds in `places` and has the library's sources in `library`.
///
/// # Errors
/// `ResourceBusy` when there is more than one thread, or those of finding the own executable.
pub fn set(places: &Places, library: Option<&Path>) -> io::Result<()> {
    for name in UNWANTED {
        set_variable(name, None)?;
    }
    let binary = executable()?;
    set_variable(LIBRARY_VARIABLE, library.map(Path::as_os_str))?;
    set_variable("PATH", Some(&tools::prepare(&places.build)?))?;
    set_variable("EVCXR_TMPDIR", Some(places.build.as_os_str()))?;
    set_variable("EVCXR_CONFIG_DIR", Some(places.configuration().as_os_str()))?;
    set_variable("RUSTC_WORKSPACE_WRAPPER", Some(binary.as_os_str()))?;
    set_variable(WRAPPER_VARIABLE, Some(OsStr::new("1")))?;
    set_variable("RUSTFLAGS", Some(OsStr::new(ANALYSIS_FLAGS)))?;
    set_variable("CARGO_TERM_PROGRESS_WHEN", Some(OsStr::new("never")))?;
    name_engine()
}

/// Tells cargo's children that they work for this process.
///
/// # Errors
/// `ResourceBusy` when there is more than one thread.
pub fn name_engine() -> io::Result<()> {
    set_variable(ENGINE_VARIABLE, Some(OsStr::new(&Pid::this().to_string())))
}

/// Notes this process's environment in its build directory, as `/proc/self/environ` would have it. What a
/// cargo finds in its own beyond that came later: from evcxr, or from a person's `:build_env`.
///
/// # Errors
/// Those of writing a file.
pub fn note(places: &Places) -> io::Result<()> {
    let mut noted = Vec::new();
    for (name, value) in std::env::vars_os() {
        noted.extend_from_slice(&[name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    let path = places.environment();
    // It holds what the kernel was given, tokens among it, and is no later reader's but ours.
    wrapper::remove(&path)?;
    File::options().create_new(true).write(true).mode(0o600).open(path)?.write_all(&noted)
}

/// The file that this process runs.
///
/// # Errors
/// Those of reading `/proc/self/exe`.
pub fn executable() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Lets nothing that evcxr or rust-analyzer print to stdout reach anybody.
///
/// # Errors
/// Those of opening `/dev/null` and of dup2(2).
pub fn silence_stdout() -> io::Result<()> {
    let nothing = File::options().write(true).open(Path::new("/dev/null"))?;
    nix::unistd::dup2_stdout(&nothing)?;
    Ok(())
}
