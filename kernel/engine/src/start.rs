//! An engine's start: the build directory, evcxr in it, and the crates that every cell has.
//!
//! evcxr compiles and "runs" cells of its own here. The runner runs none of them: its rehearsal file
//! exists all the while.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use evcxr::{CommandContext, EvalContext};
use forklab_sys::alone::set_variable;
use forklab_sys::inherit;

use crate::environment::{self, Places, WRAPPER_VARIABLE};
use crate::runner;
use crate::standby;
use crate::template::{self, Data};

/// Makes rust-analyzer look at what nearly every cell uses.
const WARM_UP: &str = "let mut words: Vec<String> = Vec::new(); words.push(String::new()); words.";

/// evcxr, started.
pub(crate) struct Started {
    pub context: CommandContext,
    /// evcxr's handle of the runner that it started last.
    pub runner: Arc<Mutex<Child>>,
}

impl Started {
    /// Ends the runner, for which evcxr would wait otherwise.
    pub fn forget(self) {
        if let Ok(mut runner) = self.runner.lock() {
            let _ = runner.kill();
        }
        std::mem::forget(self.context);
    }
}

/// Fills the build directory from the template, if there is one and the directory is new.
pub(crate) fn fill(places: &Places, data: Option<&Data>) -> io::Result<bool> {
    // Where the kernel's directory has gone, too, it is nobody else's business again.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&places.build)?;
    let Some(data) = data.filter(|data| data.template.join("Cargo.toml").is_file()) else {
        return Ok(false);
    };
    if places.build.join("Cargo.toml").is_file() {
        return Ok(true);
    }
    template::copy(&data.template, &places.build)?;
    Ok(true)
}

/// Starts evcxr with the runner on `runner_channel`.
pub(crate) fn open(places: &Places, runner_channel: UnixStream) -> Result<EvalContext, evcxr::Error> {
    fs::write(places.rehearsal(), "")?;
    fs::create_dir_all(places.build.join("src"))?;
    fs::write(places.cells(), "[]")?;
    runner::Epoch::begin(&places.epoch())?;
    let command = runner_command(places, runner_channel)?;
    Ok(EvalContext::with_subprocess_command(command)?.0)
}

/// Gives evcxr the crates that every cell has.
///
/// `prepared`: they are all compiled in the build directory, so nothing is looked up.
pub(crate) fn complete(
    mut context: EvalContext,
    places: &Places,
    data: Option<&Data>,
    prepared: bool,
) -> Result<Started, evcxr::Error> {
    if let Some(data) = data.filter(|data| data.is_complete()) {
        add_dependencies(&mut context, data, prepared)?;
    }
    let runner = context.process_handle();
    fs::remove_file(places.rehearsal())?;
    Ok(Started { context: CommandContext::with_eval_context(context), runner })
}

/// Has rust-analyzer read and understand the standard library, so that the first `let` need not.
pub(crate) fn warm_up(context: &mut CommandContext) {
    // What it finds does not matter, and neither does an error: it will come again with a cell.
    let _ = context.completions(WARM_UP, WARM_UP.len());
}

/// The standard library, hidden from rust-analyzer until [`HiddenStd::show`].
///
/// rust-analyzer reads the library whenever `Cargo.toml` changes, which takes seconds: once in
/// evcxr's first cell, where nothing is known of our dependencies yet, and again with them. The
/// first time is for nothing. Hiding and showing are for a process with one thread.
pub(crate) struct HiddenStd {
    before: Option<OsString>,
}

impl HiddenStd {
    const VARIABLE: &str = "RUST_SRC_PATH";

    /// Puts an empty library in the place of the real one.
    pub fn hide(places: &Places) -> io::Result<HiddenStd> {
        let empty = places.build.join(".forklab-no-std");
        fs::create_dir_all(empty.join("core"))?;
        let before = std::env::var_os(Self::VARIABLE);
        set_variable(Self::VARIABLE, Some(empty.as_os_str()))?;
        Ok(HiddenStd { before })
    }

    /// Puts the real one back.
    pub fn show(self) -> io::Result<()> {
        standby::wait_until_alone(|| Ok(false))?;
        set_variable(Self::VARIABLE, self.before.as_deref())
    }
}

fn runner_command(places: &Places, channel: UnixStream) -> io::Result<Command> {
    let mut command = Command::new(environment::executable()?);
    command.arg("runner").env_remove(WRAPPER_VARIABLE);
    command.env(runner::REHEARSAL_VARIABLE, places.rehearsal()).env(runner::EPOCH_VARIABLE, places.epoch());
    inherit::hand_down(&mut command, OwnedFd::from(channel), runner::CHANNEL_VARIABLE);
    Ok(command)
}

/// Gives every cell the crates of the library. Without the network when they are compiled already.
fn add_dependencies(context: &mut EvalContext, data: &Data, prepared: bool) -> Result<(), evcxr::Error> {
    let mut state = context.state();
    state.set_offline_mode(prepared);
    let lock = lock_file(&data.template);
    for (name, config) in template::dependencies(&data.library) {
        state.add_dep(name, &config)?;
    }
    if let Some(lock) = lock.filter(|_| prepared) {
        // evcxr has cargo look at each dependency alone, which writes the lock file anew each time.
        fs::write(context_directory()?.join("Cargo.lock"), lock)?;
    }
    context.eval_with_state("();", state)?;
    let mut state = context.state();
    state.set_offline_mode(false);
    context.eval_with_state("", state)?;
    Ok(())
}

fn context_directory() -> io::Result<std::path::PathBuf> {
    std::env::var_os("EVCXR_TMPDIR")
        .map(Into::into)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the engine's environment is not set"))
}

fn lock_file(template: &Path) -> Option<Vec<u8>> {
    fs::read(template.join("Cargo.lock")).ok()
}
