//! An engine's start: the build directory, evcxr in it, the crates that every cell has, and a
//! rust-analyzer that has read the standard library before the first cell asks for it.
//!
//! evcxr compiles and "runs" cells of its own here. The runner runs none of them: its rehearsal file
//! exists all the while.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use evcxr::{CommandContext, EvalContext};
use forklab_sys::inherit;

use crate::environment::{self, Places, WRAPPER_VARIABLE};
use crate::runner;
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
    fs::create_dir_all(&places.build)?;
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
///
/// `prepared`: all dependencies are compiled in the build directory, so nothing is looked up.
pub(crate) fn start(
    places: &Places,
    data: Option<&Data>,
    runner_channel: UnixStream,
    prepared: bool,
) -> Result<Started, evcxr::Error> {
    fs::write(places.rehearsal(), "")?;
    fs::create_dir_all(places.build.join("src"))?;
    fs::write(places.cells(), "[]")?;
    let (mut context, _) = EvalContext::with_subprocess_command(runner_command(places, runner_channel)?)?;
    if let Some(data) = data {
        add_dependencies(&mut context, data, prepared)?;
    }
    let runner = context.process_handle();
    let mut context = CommandContext::with_eval_context(context);
    // What it finds does not matter, and neither does an error: it will come again with a cell.
    let _ = context.completions(WARM_UP, WARM_UP.len());
    fs::remove_file(places.rehearsal())?;
    Ok(Started { context, runner })
}

fn runner_command(places: &Places, channel: UnixStream) -> io::Result<Command> {
    let mut command = Command::new(environment::executable()?);
    command.arg("runner").env(runner::REHEARSAL_VARIABLE, places.rehearsal()).env_remove(WRAPPER_VARIABLE);
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
