//! An engine's start: the build directory, evcxr in it, and the crates that every cell has.
//!
//! evcxr compiles and "runs" cells of its own here. The runner runs none of them: its rehearsal file
//! exists all the while.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use evcxr::{CommandContext, EvalContext};
use forklab_sys::alone::set_variable;
use forklab_sys::descriptors::{self, Pipe, put_in_place_of};
use forklab_sys::inherit;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::environment::{self, Places, WRAPPER_VARIABLE};
use crate::runner;
use crate::standby;
use crate::template::{self, Data};

/// Makes rust-analyzer look at what nearly every cell uses.
const WARM_UP: &str = "let mut words: Vec<String> = Vec::new(); words.push(String::new()); words.";

/// A variable, a line of output, a value that is shown, and an error.
const REHEARSED: [&str; 4] = [
    "let mut words: Vec<String> = Vec::new(); let number = words.len();",
    "println!(\"{number}\");",
    "number + 1",
    "let wrong: u8 = words.nothing();",
];

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
    let mut command = runner_command(places)?;
    inherit::hand_down(&mut command, OwnedFd::from(runner_channel), runner::CHANNEL_VARIABLE);
    Ok(EvalContext::with_subprocess_command(command)?.0)
}

/// Gives evcxr the crates that every cell has.
///
/// `prepared`: they are all compiled in the build directory, so nothing is looked up. What `rehearse`
/// has evcxr evaluate is not run.
pub(crate) fn complete(
    mut context: EvalContext,
    places: &Places,
    data: Option<&Data>,
    prepared: bool,
    rehearse: impl FnOnce(&mut EvalContext),
) -> Result<Started, evcxr::Error> {
    if let Some(data) = data.filter(|data| data.is_complete()) {
        add_dependencies(&mut context, data, prepared)?;
    }
    rehearse(&mut context);
    let runner = context.process_handle();
    fs::remove_file(places.rehearsal())?;
    Ok(Started { context: CommandContext::with_eval_context(context), runner })
}

/// Has rust-analyzer read and understand the standard library, so that the first `let` need not.
pub(crate) fn warm_up(context: &mut CommandContext) {
    // What it finds does not matter, and neither does an error: it will come again with a cell.
    let _ = context.completions(WARM_UP, WARM_UP.len());
}

/// Has evcxr evaluate cells such as people write, without running them, and takes their variables back.
/// Whatever takes longer the first time is done then.
pub(crate) fn rehearse(context: &mut EvalContext) {
    let before = context.state();
    for cell in REHEARSED {
        // An error comes again with a person's cell, where somebody sees it.
        let _ = context.eval(cell);
    }
    let _ = context.eval_with_state("", before);
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

/// evcxr's ends of the two pipes to its runner, and the number of the runner's channel, which evcxr's
/// command for starting another holds. In a fork of this process they are where the fork's own go.
pub(crate) struct RunnersPlace {
    stdin: i32,
    stdout: i32,
    channel: i32,
}

impl RunnersPlace {
    /// Finds them in a process with one thread: of all pipes that it has, only these two have their other
    /// ends elsewhere. The runner's own descriptors cannot be looked at, except by root. `channel` is the
    /// number that `open` was given.
    ///
    /// # Errors
    /// `NotFound` when it is not clear which they are, or those of reading `/proc`.
    pub fn find(channel: i32) -> io::Result<RunnersPlace> {
        let pipes = descriptors::pipes()?;
        let mut far: Vec<&Pipe> =
            pipes.iter().filter(|one| pipes.iter().filter(|other| other.inode == one.inode).count() == 1).collect();
        // Reading ends first.
        far.sort_by_key(|one| one.writes);
        match far[..] {
            [stdout, stdin] if !stdout.writes && stdin.writes => {
                Ok(RunnersPlace { stdin: stdin.number, stdout: stdout.number, channel })
            }
            _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("which pipes are evcxr's is not clear: {far:?}"))),
        }
    }

    /// Starts a runner on `channel` and puts it into evcxr's hands in the place of the one that was there.
    ///
    /// # Errors
    /// Those of starting it and of dup3(2).
    pub fn fill(&self, places: &Places, channel: UnixStream, runner: &Mutex<Child>) -> io::Result<()> {
        put_in_place_of(self.channel, channel.as_fd(), true)?;
        // Inherited under its number: nobody else can start a child of this process meanwhile. The other
        // way, by what a child does before it becomes the runner, a copy of all page tables is made first.
        fcntl(&channel, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let mut command = runner_command(places)?;
        command.env(runner::CHANNEL_VARIABLE, channel.as_raw_fd().to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        drop(channel);
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).ok_or(io::ErrorKind::NotFound)?;
        put_in_place_of(self.stdin, stdin.as_fd(), true)?;
        put_in_place_of(self.stdout, stdout.as_fd(), true)?;
        *runner.lock().map_err(|_| io::ErrorKind::NotFound)? = child;
        Ok(())
    }
}

fn runner_command(places: &Places) -> io::Result<Command> {
    let mut command = Command::new(environment::executable()?);
    command.arg("runner").env_remove(WRAPPER_VARIABLE);
    command.env(runner::REHEARSAL_VARIABLE, places.rehearsal()).env(runner::EPOCH_VARIABLE, places.epoch());
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
