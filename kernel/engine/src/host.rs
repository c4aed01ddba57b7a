//! The engine's process: takes requests from the server, has evcxr work on them, and answers.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use evcxr::{CommandContext, EvalContext, EvalOutputs};
use forklab_sys::alone;
use forklab_sys::channel::{Channel, Received};
use forklab_sys::pages::Pages;
use forklab_sys::process::{self, Pid, Signal};
use forklab_sys::role;

use crate::after::After;
use crate::again::Again;
use crate::environment::{self, Places};
use crate::messages::{FromEngine, Ran, Rejection, ToEngine, ToRunner, Verdict};
use crate::noise::{Noise, panic_message};
use crate::origins::Cell;
use crate::render;
use crate::rewrite::ENTRY;
use crate::runner::DROPPED_MESSAGE;
use crate::standby::{self, Standby};
use crate::start::{self, HiddenStd, Started};
use crate::template::Data;
use crate::wrapper;
use crate::zygote::Place;

/// How long the server may take to send a cell that waits for the engine.
const TIME_FOR_A_WAITING_CELL: Duration = Duration::from_millis(50);

/// After so long without a request, an engine gives memory back; another time in seconds stands in the
/// variable.
const REST: Duration = Duration::from_secs(60);
const REST_VARIABLE: &str = "FORKLAB_ENGINE_REST";

/// How much memory is copied between two looks for a request: about 2 ms.
const COPIED_AT_ONCE: usize = 4 << 20;

/// More than a cell writes; then it is not known what it has written.
const MOST_COPIED: usize = 256 << 20;

/// How long a runner that was killed may take to be gone.
const RUNNER_ENDS: Duration = Duration::from_secs(5);

/// The status with which an engine leaves that cannot go on, and that of one whose state may be
/// broken by a panic.
const FAILED: i32 = 1;
const BROKEN: i32 = 101;

pub(crate) type Peer = Channel<FromEngine, ToEngine>;

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
    // An engine that waits for cargo does not see the channel close.
    role::receive_when_parent_dies(Signal::KILL)?;
    let channel = Channel::new(channel);
    match Engine::start(&channel, runner_channel, build_dir, data_dir, |_| {}) {
        Ok(engine) => engine.serve(channel),
        Err(message) => channel.send(&FromEngine::Failed { message }),
    }
}

pub(crate) struct Engine {
    pub(crate) places: Places,
    data: Option<Data>,
    /// The runner's epoch, as its file had it when a cell was last begun.
    pub(crate) epoch: Option<Vec<u8>>,
    pub(crate) context: CommandContext,
    pub(crate) runner: Arc<Mutex<Child>>,
    pub(crate) noise: Noise,
    /// How it ends with its server.
    pub(crate) leash: Leash,
    /// Where it builds, if it came from a zygote. Its rust-analyzer knows the standard library already then.
    pub(crate) place: Option<Place>,
    /// The cells whose code is part of evcxr's state, oldest first.
    cells: Vec<Cell>,
    again: Again,
    standbys: Vec<Pid>,
    /// The server has no standby that knows what this engine knows.
    lacks_standby: bool,
    /// What the last cell has written of the memory that is shared with the standby now.
    shared: Pages,
    /// Some of it is not shared any more.
    has_copied: bool,
}

/// How an engine, which waits for cargo for seconds, ends at once when its server dies.
pub(crate) enum Leash {
    /// It is the server's child, or will be when the engine that it came from is gone.
    Parent,
    /// It came from a zygote. The other end of this is the server's, and closes with it.
    Line(UnixStream),
}

/// What evcxr says of a cell, or its panic.
type Evaluated = thread::Result<Result<EvalOutputs, evcxr::Error>>;

impl Engine {
    /// Starts evcxr. Before cells are let in, `rehearse` may have it evaluate some that are not run.
    pub(crate) fn start(
        channel: &Peer,
        runner_channel: UnixStream,
        build: PathBuf,
        data: Option<PathBuf>,
        rehearse: impl FnOnce(&mut EvalContext),
    ) -> Result<Engine, String> {
        let places = Places { build };
        let data = data.as_deref().map(Data::at);
        let unable = |error: io::Error| format!("the engine cannot start: {error}");
        let evcxrs = |error: evcxr::Error| format!("evcxr cannot start: {error}");
        let panicked =
            |payload: Box<dyn Any + Send>| format!("evcxr cannot start: {}", panic_message(payload.as_ref()));
        let prepared = start::fill(&places, data.as_ref()).map_err(unable)?;
        environment::set(&places, data.as_ref().map(|data| data.library.as_path()))
            .and_then(|()| environment::note(&places))
            .and_then(|()| environment::silence_stdout())
            .map_err(unable)?;
        let noise = Noise::capture().map_err(unable)?;
        // Without dependencies `Cargo.toml` stays as it is, and so does what rust-analyzer has read.
        let hidden =
            data.as_ref().filter(|data| standby::POSSIBLE && data.is_complete()).map(|_| HiddenStd::hide(&places));
        let hidden = hidden.transpose().map_err(unable)?;
        let copy = duplicate(channel).map_err(unable)?;
        let opened = noise.during(copy, || start::open(&places, runner_channel)).map_err(unable)?;
        hidden.map_or(Ok(()), HiddenStd::show).map_err(unable)?;
        let context = opened.map_err(panicked)?.map_err(evcxrs)?;
        let copy = duplicate(channel).map_err(unable)?;
        let started = noise.during(copy, || start::complete(context, &places, data.as_ref(), prepared, rehearse));
        let Started { context, runner } = started.map_err(unable)?.map_err(panicked)?.map_err(evcxrs)?;
        Ok(Engine {
            places,
            data,
            epoch: None,
            context,
            runner,
            noise,
            leash: Leash::Parent,
            place: None,
            cells: Vec::new(),
            again: Again::default(),
            standbys: Vec::new(),
            lacks_standby: true,
            shared: Pages::default(),
            has_copied: false,
        })
    }

    /// Serves and leaves.
    ///
    /// Neither by returning nor by unwinding: what is dropped on the way waits. The engine's end of
    /// the channel closes, evcxr drops its child and waits for the runner to end, the runner waits for
    /// the end of its stdin, and the standby, asleep, holds the other end of that.
    pub(crate) fn serve(mut self, mut channel: Peer) -> ! {
        let served = panic::catch_unwind(AssertUnwindSafe(|| self.run(&mut channel)));
        self.noise.release();
        process::exit_now(match served {
            Ok(Ok(())) => 0,
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Ok(Err(error)) => {
                tracing::error!(%error, "the engine cannot go on");
                FAILED
            }
            Err(payload) => {
                tracing::error!(message = panic_message(payload.as_ref()), "the engine has panicked");
                BROKEN
            }
        })
    }

    fn run(&mut self, channel: &mut Peer) -> io::Result<()> {
        channel.send(&FromEngine::Ready)?;
        // A cell that has been waiting comes as soon as the server knows that it can; it goes first.
        if self.place.is_none() && !standby::is_waiting_within(channel, TIME_FOR_A_WAITING_CELL)? {
            // What a panic breaks here breaks again in a cell, where somebody sees it.
            let _ = self.noise.during(duplicate(channel)?, || start::warm_up(&mut self.context));
            alone::trim_memory();
        }
        let mut asleep = self.make_standby(channel)?;
        while let Some(request) = self.next(channel, asleep.is_some())? {
            if let Some(engine) = asleep.take() {
                self.wake(engine)?;
                // The engine that this one came from has died, perhaps of this very request: there
                // is to be another one before it is tried again.
                asleep = self.make_standby(channel)?;
                if asleep.is_some() {
                    // This is the new standby; the request is its parent's.
                    continue;
                }
            }
            match request.value {
                ToEngine::Evaluate { id, execution, code, losses } => {
                    self.hear_of_losses(losses)?;
                    self.evaluate(channel, (id, losses), Cell { execution, code })?;
                }
                // To a run that was another engine's, or to a standby's call.
                ToEngine::Answer(_) | ToEngine::Wake => {}
                ToEngine::Complete { id, code, position } => self.complete(channel, id, &code, position)?,
                ToEngine::Inspect { id, code, position } => self.inspect(channel, id, &code, position)?,
                ToEngine::Quit => break,
            }
            // After the answer, so that nobody waits for it.
            if self.lacks_standby {
                asleep = self.make_standby(channel)?;
            }
        }
        Ok(())
    }

    /// The next request. While there is none, the engine does what would keep the next cell.
    fn next(&mut self, channel: &Peer, is_asleep: bool) -> io::Result<Option<Received<ToEngine>>> {
        if !is_asleep {
            while !standby::is_waiting(channel)? && self.shared.unshare(COPIED_AT_ONCE) {
                self.has_copied = true;
            }
            if self.has_copied && !standby::is_waiting_within(channel, time_to_rest())? {
                // Said once: where the server has a reason against it, there will be another request.
                self.has_copied = false;
                channel.send(&FromEngine::Rested)?;
            }
        }
        channel.receive()
    }

    /// Makes a standby, if it can. In the standby: the engine that has made it.
    fn make_standby(&mut self, channel: &mut Peer) -> io::Result<Option<Pid>> {
        if !standby::POSSIBLE {
            return Ok(None);
        }
        standby::reap(&mut self.standbys);
        let engine = Pid::this();
        // rust-analyzer marks in each cell all that it knows of std, and what it marks it has to copy,
        // since the standby has it too: 80 to 120 ms. It marks the same places each time.
        let written = if self.standbys.is_empty() { Ok(Pages::default()) } else { Pages::unshared() };
        match standby::make(channel) {
            Ok(Standby::Made(pid)) => {
                self.shared = written.ok().filter(|pages| pages.bytes() <= MOST_COPIED).unwrap_or_default();
                self.standbys.push(pid);
                self.lacks_standby = false;
                Ok(None)
            }
            Ok(Standby::Asleep(own)) => {
                self.standbys.clear();
                *channel = own;
                Ok(Some(engine))
            }
            Err(error) => {
                channel.send(&FromEngine::NoStandby { why: error.to_string() })?;
                Ok(None)
            }
        }
    }

    /// A standby's first request has come: it is the engine from here on.
    fn wake(&mut self, engine: Pid) -> io::Result<()> {
        self.lacks_standby = true;
        self.noise.renew()?;
        environment::name_engine()?;
        match &self.leash {
            Leash::Parent => standby::live_with_server(engine),
            Leash::Line(line) => live_with(line),
        }
    }

    /// The server says how often the worker's variables were lost. evcxr forgets those that it knows when
    /// its child is gone, so the runner is ended (and the standby of an engine that dies right after this
    /// does the same). It is not told to leave by itself, for then this is possible: the server tells the
    /// runner, the next cell comes here and finds that the runner lives, the runner leaves, and evcxr has
    /// nobody who runs the cell.
    fn hear_of_losses(&mut self, losses: u64) -> io::Result<()> {
        if self.again.hear_of_losses(losses) { end_runner(&self.runner) } else { Ok(()) }
    }

    fn evaluate(&mut self, channel: &Peer, (id, losses): (u64, u64), cell: Cell) -> io::Result<()> {
        // An engine that has died may have left it, and then nothing would be run.
        wrapper::remove(&self.places.rehearsal())?;
        let verdict = match refused_command(&cell) {
            Some(rejection) => Verdict::Rejected(rejection),
            None => match self.run_again(channel, (id, losses), &cell)? {
                Some(verdict) => verdict,
                None => self.evaluate_with_evcxr(channel, id, &cell)?,
            },
        };
        let committed = matches!(verdict, Verdict::Committed { .. });
        if committed || verdict == Verdict::Repeated {
            // Lines that are in several cells are taken for the newest one's; one of the same text is enough.
            self.cells.retain(|one| one.code != cell.code);
            self.cells.push(cell);
            self.lacks_standby |= committed;
        }
        channel.send(&FromEngine::Evaluated { id, verdict })
    }

    /// Has a cell run that changes nothing of what evcxr knows. `None` when evcxr is to do it.
    fn run_again(&mut self, channel: &Peer, (id, losses): (u64, u64), cell: &Cell) -> io::Result<Option<Verdict>> {
        if is_verifying() || !runner_lives(&self.runner) {
            return Ok(None);
        }
        let sources: Vec<&Cell> = self.cells.iter().filter(|one| one.code != cell.code).chain([cell]).collect();
        // The worker opens it, for which a zygote's fork's path of it means nothing.
        let directory = self.place.as_ref().map_or(&self.places.build, Place::directory).clone();
        let Some(object) = self.again.object(&directory, &sources) else { return Ok(None) };
        let (library, function) = (object.path.clone(), ENTRY.to_owned());
        channel.send(&FromEngine::Run { library, function, losses })?;
        let answer = channel.receive()?.map(|received| received.value);
        match answer {
            Some(ToEngine::Answer(ToRunner::Ran(ran))) if ran.is_clean() => Ok(Some(Verdict::Repeated)),
            Some(ToEngine::Answer(ToRunner::Ran(ran))) if ran.lost_variables.is_empty() => {
                self.make_known(channel, id, cell, &ran).map(Some)
            }
            // Nothing of it has run, and evcxr has to find out without them.
            Some(ToEngine::Answer(ToRunner::Ran(_))) => {
                self.again.forget();
                Ok(None)
            }
            Some(ToEngine::Answer(ToRunner::StateLost)) => {
                self.again.forget();
                Ok(Some(Verdict::RolledBack))
            }
            Some(ToEngine::Answer(_)) => Ok(Some(Verdict::RolledBack)),
            // There is nothing else that the server says meanwhile.
            Some(_) | None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Has evcxr take in a cell that was run without it and has not come to its end.
    fn make_known(&mut self, channel: &Peer, id: u64, cell: &Cell, ran: &Ran) -> io::Result<Verdict> {
        let part = self.places.rehearsal();
        fs::write(&part, serde_json::to_vec(ran)?)?;
        let verdict = self.evaluate_with_evcxr(channel, id, cell);
        fs::remove_file(&part)?;
        verdict
    }

    fn evaluate_with_evcxr(&mut self, channel: &Peer, id: u64, cell: &Cell) -> io::Result<Verdict> {
        let evaluated = match self.execute_with_imports(channel, cell) {
            Ok(evaluated) => evaluated,
            Err(error) => return Ok(Verdict::Rejected(render::not_begun(&error))),
        };
        match evaluated {
            Ok(Ok(outputs)) => {
                let mut display: BTreeMap<String, String> = outputs.content_by_mime_type.into_iter().collect();
                if display.get("text/plain").is_some_and(String::is_empty) {
                    display.clear();
                }
                Ok(Verdict::Committed { display })
            }
            Ok(Err(evcxr::Error::Message(message))) if message == DROPPED_MESSAGE => Ok(Verdict::RolledBack),
            Ok(Err(error)) => Ok(Verdict::Rejected(self.rejection(&error, cell))),
            Err(payload) => {
                let verdict = Verdict::Rejected(render::broken(&panic_message(payload.as_ref())));
                channel.send(&FromEngine::Evaluated { id, verdict })?;
                process::exit_now(BROKEN)
            }
        }
    }

    /// As `execute`. evcxr writes the types of variables into code of its own, by their short names;
    /// a name of std's that the cell had no need to import is imported for it.
    fn execute_with_imports(&mut self, channel: &Peer, cell: &Cell) -> io::Result<Evaluated> {
        let evaluated = self.execute(channel, cell)?;
        let Ok(Err(error)) = &evaluated else { return Ok(evaluated) };
        let Some(code) = render::missing_imports(error) else { return Ok(evaluated) };
        let imports = Cell { execution: cell.execution, code };
        match self.execute(channel, &imports)? {
            Ok(Ok(_)) => self.execute(channel, cell),
            _ => Ok(evaluated),
        }
    }

    /// Has evcxr evaluate a cell: what it says, or its panic.
    ///
    /// # Errors
    /// What came in the way before evcxr was given the cell; nothing has changed then.
    fn execute(&mut self, channel: &Peer, cell: &Cell) -> io::Result<Evaluated> {
        self.bring_back_removed_files()?;
        let sources: Vec<&Cell> = self.cells.iter().chain([cell]).collect();
        fs::write(self.places.cells(), serde_json::to_vec(&sources)?)?;
        let context = &mut self.context;
        if !runner_lives(&self.runner) {
            // evcxr starts another and forgets all variables when a run fails for want of a child. So
            // this fails, and that is what it is for; a panic will come again with the cell itself.
            drop(self.noise.during(duplicate(channel)?, || context.execute("();").is_ok())?);
            self.again.forget();
        }
        let clears = commands(cell).any(|name| name == ":clear");
        After::forget(&self.places.build)?;
        let foretold = self.again.foretold(&cell.code).filter(|_| is_verifying()).cloned();
        let evaluated = self.noise.during(duplicate(channel)?, || {
            if clears {
                end_foreign_runner(&self.runner);
            }
            context.execute(&cell.code)
        })?;
        match &evaluated {
            Ok(Ok(_)) => {
                let after = After::take(&self.places.build);
                if let (Some(foretold), Some(after)) = (foretold, &after) {
                    assert_eq!(foretold, *after, "this cell, run again without evcxr, would be another program");
                }
                self.again.committed(cell, commands(cell).next().is_some(), after);
            }
            Ok(Err(evcxr::Error::CompilationErrors(_))) => {
                assert!(foretold.is_none(), "this cell, run again without evcxr, would be compiled");
            }
            // The server says whether variables were lost with it.
            Ok(Err(evcxr::Error::Message(message))) if message == DROPPED_MESSAGE => {}
            _ => self.again.forget(),
        }
        Ok(evaluated)
    }

    /// A cell runs as the same user, and may have removed or renamed what it found in the directory for
    /// temporary files. evcxr writes what is its own anew with each cell; the compiled crates come from
    /// the template once more, and an epoch that began again would be taken for a dead engine's.
    fn bring_back_removed_files(&mut self) -> io::Result<()> {
        let places = &self.places;
        let is_whole =
            || places.build.join("Cargo.toml").is_file() && places.generated().parent().is_some_and(Path::is_dir);
        if let Some(place) = self.place.as_mut().filter(|_| !is_whole()) {
            // Another fork of the same kernel's may have done so before this one.
            place.make_again()?;
        }
        if is_whole() {
            self.epoch = fs::read(self.places.epoch()).ok();
            return Ok(());
        }
        tracing::warn!("the build directory has been removed, and is made again");
        start::fill(&self.places, self.data.as_ref())?;
        fs::create_dir_all(self.places.build.join("src"))?;
        environment::note(&self.places)?;
        if let Some(epoch) = &self.epoch {
            fs::write(self.places.epoch(), epoch)?;
        }
        Ok(())
    }

    /// An error of evcxr's as the person is to read it. One that cannot be drawn is told in evcxr's words.
    fn rejection(&self, error: &evcxr::Error, cell: &Cell) -> Rejection {
        let generated = fs::read_to_string(self.places.generated()).unwrap_or_default();
        let sources: Vec<&Cell> = self.cells.iter().chain([cell]).collect();
        let drawn = panic::catch_unwind(AssertUnwindSafe(|| render::rejection(error, &sources, &generated)));
        drawn.unwrap_or_else(|_| render::undrawn(error))
    }

    fn complete(&mut self, channel: &Peer, id: u64, code: &str, position: usize) -> io::Result<()> {
        let nothing = FromEngine::Completed { id, start: position, end: position, matches: Vec::new() };
        self.analyse(channel, nothing, |context| {
            let found = context.completions(code, position).ok()?;
            let matches = found.completions.into_iter().map(|one| (one.code, one.kind.to_owned())).collect();
            Some(FromEngine::Completed { id, start: found.start_offset, end: found.end_offset, matches })
        })
    }

    fn inspect(&mut self, channel: &Peer, id: u64, code: &str, position: usize) -> io::Result<()> {
        let nothing = FromEngine::Inspected { id, found: BTreeMap::new() };
        self.analyse(channel, nothing, |context| {
            let (plain, html) = context.hover_at(code, end_of_word(code, position)).ok()?;
            let texts = [("text/plain", plain), ("text/html", html)];
            let known = texts[0].1 != "No documentation found";
            let found = texts.map(|(mime, text)| (mime.to_owned(), text)).into();
            known.then_some(FromEngine::Inspected { id, found })
        })
    }

    /// Answers with what rust-analyzer finds, else with `nothing`. An engine in which it panics leaves.
    fn analyse(
        &mut self,
        channel: &Peer,
        nothing: FromEngine,
        look: impl FnOnce(&mut CommandContext) -> Option<FromEngine>,
    ) -> io::Result<()> {
        let looked = duplicate(channel).and_then(|copy| self.noise.during(copy, || look(&mut self.context)));
        if matches!(looked, Ok(Err(_))) {
            // Without an answer, which the server gives: with one, the next cell would be sent to this engine
            // and end with it.
            process::exit_now(BROKEN)
        }
        let found = looked.ok().and_then(Result::ok).flatten();
        channel.send(&found.unwrap_or(nothing))
    }
}

fn time_to_rest() -> Duration {
    let seconds = std::env::var(REST_VARIABLE).ok().and_then(|text| text.parse().ok());
    seconds.map_or(REST, Duration::from_secs)
}

/// Whether every cell is evcxr's, to see whether what would be run again without it is what it would run.
/// For tests.
fn is_verifying() -> bool {
    std::env::var_os("FORKLAB_VERIFY_RERUNS").is_some()
}

/// Ends this process when the server does, whatever it does then.
///
/// # Errors
/// Those of fcntl(2), or `BrokenPipe` when the server has ended.
pub(crate) fn live_with(line: &UnixStream) -> io::Result<()> {
    if role::receive_when_peer_closes(line.as_fd(), Signal::KILL)? {
        Ok(())
    } else {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// Whether the runner is there. It is a child of the engine that started it and not of this one,
/// if this one has been a standby.
fn runner_lives(runner: &Mutex<Child>) -> bool {
    let Ok(mut child) = runner.lock() else { return false };
    match child.try_wait() {
        Ok(ended) => ended.is_none(),
        Err(_) => is_runner(child.id()),
    }
}

/// Ends the runner if another engine has started it, for evcxr is about to start its own: evcxr
/// ends its child only, and two runners would take each other's answers from the channel.
fn end_foreign_runner(runner: &Mutex<Child>) {
    let Ok(mut child) = runner.lock() else { return };
    if child.try_wait().is_err()
        && is_runner(child.id())
        && let Some(pid) = Pid::from_raw(child.id() as i32)
    {
        // It may have left meanwhile, which is as good.
        let _ = process::kill(pid, Signal::KILL);
    }
}

/// Ends the runner, whoever has started it, and waits until it is gone.
///
/// # Errors
/// Those of kill(2) and wait(2); `TimedOut` when it does not end.
fn end_runner(runner: &Mutex<Child>) -> io::Result<()> {
    if let Ok(mut child) = runner.lock()
        && child.try_wait().is_ok()
    {
        child.kill()?;
        return child.wait().map(drop);
    }
    end_foreign_runner(runner);
    let deadline = Instant::now() + RUNNER_ENDS;
    while runner_lives(runner) {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the runner does not end"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub(crate) fn duplicate(channel: &Peer) -> io::Result<UnixStream> {
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
