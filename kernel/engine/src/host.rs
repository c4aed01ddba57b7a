//! The engine's process: takes requests from the server, has evcxr work on them, and answers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex};

use evcxr::CommandContext;
use forklab_sys::alone;
use forklab_sys::channel::Channel;
use forklab_sys::process::{self, Pid, Signal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::environment::{self, Places};
use crate::messages::{FromEngine, Rejection, ToEngine, Verdict};
use crate::noise::Noise;
use crate::origins::Cell;
use crate::render;
use crate::runner::DROPPED_MESSAGE;
use crate::standby::{self, Standby};
use crate::start::{self, HiddenStd, Started};
use crate::template::Data;

/// The status with which an engine leaves whose state may be broken by a panic.
const BROKEN: i32 = 101;

/// The role `engine`: serves until the channel closes. To be called while the process has one thread.
///
/// `build_dir` is made if it is missing and filled from the template below `data_dir`. Both channels
/// have the server at their other end; the second is the runner's.
///
/// # Errors
/// Those of the channel. What keeps evcxr from starting is told to the server as `Failed`.
pub fn main(
    channel: UnixStream,
    runner_channel: UnixStream,
    build_dir: PathBuf,
    data_dir: Option<PathBuf>,
) -> io::Result<()> {
    let channel = Channel::new(channel);
    match Engine::start(&channel, runner_channel, build_dir, data_dir) {
        Ok(start) => start.run(channel),
        Err(message) => channel.send(&FromEngine::Failed { message }),
    }
}

struct Engine {
    places: Places,
    context: CommandContext,
    runner: Arc<Mutex<Child>>,
    noise: Noise,
    /// The cells whose code is part of evcxr's state, oldest first.
    cells: Vec<Cell>,
    standbys: Vec<Pid>,
}

impl Engine {
    fn start(
        channel: &Channel<FromEngine, ToEngine>,
        runner_channel: UnixStream,
        build: PathBuf,
        data: Option<PathBuf>,
    ) -> Result<Engine, String> {
        let places = Places { build };
        let data = data.as_deref().map(Data::at);
        let unable = |error: io::Error| format!("the engine cannot start: {error}");
        let evcxrs = |error: evcxr::Error| format!("evcxr cannot start: {error}");
        let prepared = start::fill(&places, data.as_ref()).map_err(unable)?;
        environment::set(&places).and_then(|()| environment::silence_stdout()).map_err(unable)?;
        let noise = Noise::capture().map_err(unable)?;
        // Without dependencies `Cargo.toml` stays as it is, and so does what rust-analyzer has read.
        let hidden =
            data.as_ref().filter(|data| standby::POSSIBLE && data.is_complete()).map(|_| HiddenStd::hide(&places));
        let hidden = hidden.transpose().map_err(unable)?;
        let copy = duplicate(channel).map_err(unable)?;
        let opened = noise.during(copy, || start::open(&places, runner_channel)).map_err(unable)?;
        hidden.map_or(Ok(()), HiddenStd::show).map_err(unable)?;
        let context = opened.map_err(evcxrs)?;
        let copy = duplicate(channel).map_err(unable)?;
        let started = noise.during(copy, || start::complete(context, &places, data.as_ref(), prepared));
        let Started { context, runner } = started.map_err(unable)?.map_err(evcxrs)?;
        Ok(Engine { places, context, runner, noise, cells: Vec::new(), standbys: Vec::new() })
    }

    fn run(mut self, mut channel: Channel<FromEngine, ToEngine>) -> io::Result<()> {
        channel.send(&FromEngine::Ready)?;
        if !is_waiting(&channel)? {
            let context = &mut self.context;
            let _ = attempt(&self.noise, &channel, || start::warm_up(context))?;
            alone::trim_memory();
        }
        let mut asleep = self.make_standby(&mut channel);
        while let Some(request) = channel.receive()? {
            if std::mem::take(&mut asleep) {
                // The engine that this one came from has died, perhaps of this very request: there
                // is to be another one before it is tried again.
                self.noise = Noise::capture()?;
                if self.make_standby(&mut channel) {
                    // This is the new standby; the request is its parent's.
                    asleep = true;
                    continue;
                }
            }
            match request.value {
                ToEngine::Evaluate { id, execution, code } => {
                    asleep = self.evaluate(&mut channel, id, Cell { execution, code })?;
                }
                ToEngine::Complete { id, code, position } => self.complete(&channel, id, &code, position)?,
                ToEngine::Inspect { id, code, position } => self.inspect(&channel, id, &code, position)?,
                ToEngine::Quit => break,
            }
        }
        // Not by returning: evcxr would wait for the runner, which may have another engine to serve.
        process::exit_now(0)
    }

    /// Makes a standby, if it can. `true` in the standby.
    fn make_standby(&mut self, channel: &mut Channel<FromEngine, ToEngine>) -> bool {
        if !standby::POSSIBLE {
            return false;
        }
        standby::reap(&mut self.standbys);
        match standby::make(channel) {
            Ok(Standby::Made(pid)) => {
                self.standbys.push(pid);
                false
            }
            Ok(Standby::Asleep(own)) => {
                self.standbys.clear();
                *channel = own;
                true
            }
            Err(error) => {
                // An end of the channel is seen at the next receive.
                let _ = channel.send(&FromEngine::NoStandby { why: error.to_string() });
                false
            }
        }
    }

    /// Answers one `Evaluate`. `true` in the standby that has been made after it.
    fn evaluate(&mut self, channel: &mut Channel<FromEngine, ToEngine>, id: u64, cell: Cell) -> io::Result<bool> {
        let verdict = match refused_command(&cell) {
            Some(rejection) => Verdict::Rejected(rejection),
            None => self.evaluate_with_evcxr(channel, id, &cell)?,
        };
        let changed = matches!(verdict, Verdict::Committed { .. });
        if changed {
            self.cells.push(cell);
        }
        channel.send(&FromEngine::Evaluated { id, verdict })?;
        // After the answer, so that nobody waits for it.
        Ok(changed && self.make_standby(channel))
    }

    fn evaluate_with_evcxr(
        &mut self,
        channel: &Channel<FromEngine, ToEngine>,
        id: u64,
        cell: &Cell,
    ) -> io::Result<Verdict> {
        let sources: Vec<&Cell> = self.cells.iter().chain([cell]).collect();
        fs::write(self.places.cells(), serde_json::to_vec(&sources)?)?;
        if !self.runner_lives() {
            self.replace_runner(channel)?;
        }
        if commands(cell).any(|name| name == ":clear") {
            self.end_foreign_runner();
        }
        let (noise, context) = (&self.noise, &mut self.context);
        let work = || panic::catch_unwind(AssertUnwindSafe(|| context.execute(&cell.code)));
        match noise.during(duplicate(channel)?, work)? {
            Ok(Ok(outputs)) => {
                let mut display: BTreeMap<String, String> = outputs.content_by_mime_type.into_iter().collect();
                if display.get("text/plain").is_some_and(String::is_empty) {
                    display.clear();
                }
                Ok(Verdict::Committed { display })
            }
            Ok(Err(evcxr::Error::Message(message))) if message == DROPPED_MESSAGE => Ok(Verdict::RolledBack),
            Ok(Err(error)) => {
                let generated = fs::read_to_string(self.places.generated()).unwrap_or_default();
                let sources: Vec<&Cell> = self.cells.iter().chain([cell]).collect();
                Ok(Verdict::Rejected(render::rejection(&error, &sources, &generated)))
            }
            Err(payload) => {
                let verdict = Verdict::Rejected(render::broken(&panic_message(payload.as_ref())));
                channel.send(&FromEngine::Evaluated { id, verdict })?;
                process::exit_now(BROKEN)
            }
        }
    }

    fn complete(
        &mut self,
        channel: &Channel<FromEngine, ToEngine>,
        id: u64,
        code: &str,
        position: usize,
    ) -> io::Result<()> {
        let context = &mut self.context;
        let found = attempt(&self.noise, channel, || context.completions(code, position).ok())?;
        let nothing = FromEngine::Completed { id, start: position, end: position, matches: Vec::new() };
        let (answer, broken) = match found {
            Ok(Some(found)) => {
                let matches = found.completions.into_iter().map(|one| (one.code, one.kind.to_owned())).collect();
                let (start, end) = (found.start_offset, found.end_offset);
                (FromEngine::Completed { id, start, end, matches }, false)
            }
            Ok(None) => (nothing, false),
            Err(()) => (nothing, true),
        };
        channel.send(&answer)?;
        if broken { process::exit_now(BROKEN) } else { Ok(()) }
    }

    fn inspect(
        &mut self,
        channel: &Channel<FromEngine, ToEngine>,
        id: u64,
        code: &str,
        position: usize,
    ) -> io::Result<()> {
        let context = &mut self.context;
        let end = end_of_word(code, position);
        let found = attempt(&self.noise, channel, || context.hover_at(code, end).ok())?;
        let mut answer = BTreeMap::new();
        if let Ok(Some((plain, html))) = &found
            && plain != "No documentation found"
        {
            answer.insert("text/plain".to_owned(), plain.clone());
            answer.insert("text/html".to_owned(), html.clone());
        }
        channel.send(&FromEngine::Inspected { id, found: answer })?;
        if found.is_err() { process::exit_now(BROKEN) } else { Ok(()) }
    }

    /// Whether the runner is there. It is a child of the engine that started it and not of this one,
    /// if this one has been a standby.
    fn runner_lives(&self) -> bool {
        let Ok(mut child) = self.runner.lock() else { return false };
        match child.try_wait() {
            Ok(ended) => ended.is_none(),
            Err(_) => is_runner(child.id()),
        }
    }

    /// Ends the runner if another engine has started it, for evcxr is about to start its own: evcxr
    /// ends its child only, and two runners would take each other's answers from the channel.
    fn end_foreign_runner(&self) {
        let Ok(mut child) = self.runner.lock() else { return };
        if child.try_wait().is_err()
            && is_runner(child.id())
            && let Some(pid) = Pid::from_raw(child.id() as i32)
        {
            // It may have left meanwhile, which is as good.
            let _ = process::kill(pid, Signal::KILL);
        }
    }

    /// Has evcxr start another runner after the old one has left, and forget all variables.
    ///
    /// evcxr does so when a run fails for want of a child, so one is attempted.
    fn replace_runner(&mut self, channel: &Channel<FromEngine, ToEngine>) -> io::Result<()> {
        let context = &mut self.context;
        // It fails, and that is what it is for; a panic will come again with the cell itself.
        let _ = attempt(&self.noise, channel, || context.execute("();").is_ok())?;
        Ok(())
    }
}

/// Does work that may panic. `Err` when it did.
fn attempt<T>(
    noise: &Noise,
    channel: &Channel<FromEngine, ToEngine>,
    work: impl FnOnce() -> T,
) -> io::Result<Result<T, ()>> {
    noise.during(duplicate(channel)?, || panic::catch_unwind(AssertUnwindSafe(work)).map_err(drop))
}

/// Whether a request has come that nobody has read.
fn is_waiting(channel: &Channel<FromEngine, ToEngine>) -> io::Result<bool> {
    let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

fn duplicate(channel: &Channel<FromEngine, ToEngine>) -> io::Result<UnixStream> {
    Ok(UnixStream::from(channel.as_fd().try_clone_to_owned()?))
}

/// Whether this pid is a living runner of ours.
fn is_runner(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !zombie && arguments.split(|byte| *byte == 0).nth(1) == Some(b"runner".as_slice())
}

/// evcxr's commands in a cell. evcxr looks for them before the first line of code only.
fn commands(cell: &Cell) -> impl Iterator<Item = &str> {
    let is_comment = |line: &&str| line.trim().is_empty() || line.starts_with("//");
    let is_command = |line: &&str| line.trim_start_matches(' ').starts_with(':');
    let lines = cell.code.lines().filter(move |line| !is_comment(line)).take_while(is_command);
    lines.filter_map(|line| line.split_whitespace().next())
}

/// Refuses evcxr's commands that end or replace processes which are not its own here.
fn refused_command(cell: &Cell) -> Option<Rejection> {
    let advice = |name| match name {
        ":quit" => Some("shut the kernel down from the notebook"),
        ":restart" => Some("restart the kernel from the notebook"),
        _ => None,
    };
    let (name, advice) = commands(cell).find_map(|name| Some((name, advice(name)?)))?;
    Some(render::refused(&format!("{name} is not for notebooks: {advice}")))
}

/// Where the word at `position` ends: evcxr explains what ends at the cursor.
fn end_of_word(code: &str, position: usize) -> usize {
    let rest = code.get(position..).unwrap_or_default();
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    position.min(code.len()) + word
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".to_owned())
}
