//! One engine, driven as the server drives it. The test binary plays all roles, as the forklab
//! binary does, and is therefore its own harness. Nothing is run here: that is the worker's
//! business, and the tests of the server have one.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use forklab_engine::messages::{FromEngine, FromRunner, Ran, ToEngine, ToRunner, Verdict};
use forklab_sys::channel::Channel;
use forklab_sys::events::readable;
use forklab_sys::inherit;
use forklab_sys::process::{self, Pid, Signal};
use forklab_sys::role;
use nix::poll::{PollFd, PollFlags, poll};

type Failure = Box<dyn std::error::Error>;

const ENGINES_CHANNEL: &str = "TEST_ENGINE";
const RUNNERS_CHANNEL: &str = "TEST_RUNNER";
/// After so long a test that hangs has failed.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if forklab_engine::tools::is_called() {
        forklab_engine::tools::main();
    }
    if std::env::var_os("FORKLAB_RUSTC_WRAPPER").is_some() {
        forklab_engine::wrapper::main();
    }
    let result = match std::env::args().nth(1).as_deref() {
        Some("engine") => engine(),
        Some("runner") => forklab_engine::runner::main().map_err(Failure::from),
        Some("prepare") => prepare(),
        Some("server") => doomed_server(),
        _ => tests(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn engine() -> Result<(), Failure> {
    let channel = UnixStream::from(inherit::take_over(ENGINES_CHANNEL)?);
    let runner = UnixStream::from(inherit::take_over(RUNNERS_CHANNEL)?);
    let build = PathBuf::from(std::env::args_os().nth(2).ok_or("no build directory")?);
    let data = std::env::var_os("FORKLAB_DATA").map(PathBuf::from);
    Ok(forklab_engine::main(channel, runner, build, data)?)
}

fn prepare() -> Result<(), Failure> {
    let data = PathBuf::from(std::env::args_os().nth(2).ok_or("no data directory")?);
    Ok(forklab_engine::template::prepare(&data.join("library"), &data.join("template"))?)
}

fn tests() -> Result<(), Failure> {
    watch();
    let directory = tempfile::tempdir()?;
    let mut server = Server::start(&directory.path().join("build"))?;
    let tests: &[(&str, Test)] = &[
        ("a cell is run once and committed", a_cell_is_committed),
        ("a dropped run leaves no definitions", a_dropped_run_leaves_nothing),
        ("an error is about the cell's lines", an_error_is_about_the_cell),
        ("names complete and explain themselves", names_are_known),
        ("a standby takes over from an idle engine", taking_over_when_idle),
        ("a standby takes over in the middle of a compilation", taking_over_in_a_compilation),
        ("a standby takes over in the middle of a run", taking_over_in_a_run),
        ("a standby can add a dependency", |server| a_dependency(server)),
        ("variables that the worker has lost are forgotten", lost_state),
        ("what goes wrong before evcxr is the cell's error", a_full_disk),
        ("an engine that cannot go on leaves", an_engine_that_cannot_go_on),
        ("rustc ends with its engine", an_endless_compilation),
        ("clear forgets everything and ends the old runner", clear),
        ("an engine is one thread and its runner when idle", idle_processes),
    ];
    for (name, test) in tests {
        let start = Instant::now();
        test(&mut server).map_err(|error| format!("{name}: {error}"))?;
        println!("ok: {name} ({:?})", start.elapsed());
    }
    server.end()?;
    let start = Instant::now();
    nothing_outlives_the_server().map_err(|error| format!("the server's end: {error}"))?;
    println!("ok: a compilation ends with the server ({:?})", start.elapsed());
    Ok(())
}

type Test = fn(&mut Server) -> Result<(), Failure>;

/// Ends the tests when they hang. The engine and its standbys end with the test's channels.
fn watch() {
    std::thread::spawn(|| {
        std::thread::sleep(PATIENCE);
        eprintln!("failed: the tests hang");
        process::exit_now(1);
    });
}

fn check(right: bool, what: impl std::fmt::Debug) -> Result<(), Failure> {
    if right { Ok(()) } else { Err(format!("unexpected: {what:?}").into()) }
}

/// The server's part.
struct Server {
    engine: Channel<ToEngine, FromEngine>,
    runner: Channel<ToRunner, FromRunner>,
    standby: Option<(Pid, Channel<ToEngine, FromEngine>)>,
    engine_pid: Pid,
    first: Child,
    directory: PathBuf,
    id: u64,
    epoch: u64,
}

impl Server {
    fn start(build: &Path) -> Result<Server, Failure> {
        let (ours, theirs) = UnixStream::pair()?;
        let (our_runner, their_runner) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("engine").arg(build).stdin(Stdio::null());
        inherit::hand_down(&mut command, OwnedFd::from(theirs), ENGINES_CHANNEL);
        inherit::hand_down(&mut command, OwnedFd::from(their_runner), RUNNERS_CHANNEL);
        let first = command.spawn()?;
        let mut server = Server {
            engine: Channel::new(ours),
            runner: Channel::new(our_runner),
            standby: None,
            engine_pid: Pid::from_raw(first.id() as i32).ok_or("no pid")?,
            first,
            directory: build.parent().ok_or("no parent")?.to_owned(),
            id: 0,
            epoch: 0,
        };
        let ready = server.next()?;
        check(ready == FromEngine::Ready, ready)?;
        Ok(server)
    }

    /// The engine's next message that is not about standbys and crates.
    fn next(&mut self) -> Result<FromEngine, Failure> {
        loop {
            if let Some(message) = self.hear()? {
                return Ok(message);
            }
        }
    }

    /// The engine's next message; `None` for one about standbys and crates.
    fn hear(&mut self) -> Result<Option<FromEngine>, Failure> {
        let received = self.engine.receive()?.ok_or("the engine is gone")?;
        match received.value {
            FromEngine::Standby { pid } => {
                let fd = received.descriptors.into_iter().next().ok_or("a standby without a channel")?;
                self.standby = Some((Pid::from_raw(pid).ok_or("no pid")?, Channel::new(UnixStream::from(fd))));
            }
            FromEngine::NoStandby { why } => {
                println!("no standby: {why}");
                self.standby = None;
            }
            FromEngine::Building { .. } => {}
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn ask(&mut self, code: &str) -> io::Result<()> {
        self.id += 1;
        self.engine.send(&ToEngine::Evaluate {
            id: self.id,
            execution: self.id as u32,
            code: code.to_owned(),
            losses: 0,
        })
    }

    fn verdict(&mut self) -> Result<Verdict, Failure> {
        match self.next()? {
            FromEngine::Evaluated { id, verdict } if id == self.id => Ok(verdict),
            other => Err(format!("no verdict: {other:?}").into()),
        }
    }

    fn wait_for_run(&self) -> Result<PathBuf, Failure> {
        let FromRunner::Run { library, epoch, .. } = self.runner.receive()?.ok_or("the runner is gone")?.value;
        check(epoch == self.epoch, (epoch, self.epoch))?;
        Ok(library)
    }

    fn ran() -> ToRunner {
        ToRunner::Ran(Ran::default())
    }

    /// Evaluates a cell that compiles; the worker says that it ran well. One that changes nothing of what evcxr
    /// knows is asked for by the engine itself when it is run again.
    fn evaluate(&mut self, code: &str) -> Result<(), Failure> {
        self.ask(code)?;
        let again = loop {
            if readable(&[self.runner.as_fd(), self.engine.as_fd()], None)?[0] {
                break None;
            }
            match self.hear()? {
                Some(FromEngine::Run { library, .. }) => break Some(library),
                None => {}
                other => return Err(format!("no run: {other:?}").into()),
            }
        };
        let is_object = |library: &Path| fs::read(library).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
        if let Some(library) = again {
            check(is_object(&library), &library)?;
            self.engine.send(&ToEngine::Answer(Server::ran()))?;
            let verdict = self.verdict()?;
            return check(verdict == Verdict::Repeated, verdict);
        }
        let library = self.wait_for_run()?;
        check(is_object(&library), &library)?;
        self.runner.send(&Server::ran())?;
        let verdict = self.verdict()?;
        check(matches!(verdict, Verdict::Committed { .. }), verdict)
    }

    /// Evaluates a cell that does not compile.
    fn reject(&mut self, code: &str) -> Result<forklab_engine::messages::Rejection, Failure> {
        self.ask(code)?;
        match self.verdict()? {
            Verdict::Rejected(rejection) => Ok(rejection),
            other => Err(format!("{other:?}").into()),
        }
    }

    /// Kills the engine, waits until it is gone, and goes on with the standby.
    fn take_over(&mut self) -> Result<(), Failure> {
        // The standby is announced after the answer: a round trip makes sure that it has been read.
        process::kill(self.engine_pid, Signal::KILL)?;
        while let Ok(Some(received)) = self.engine.receive() {
            if let (FromEngine::Standby { pid }, Some(fd)) = (received.value, received.descriptors.into_iter().next()) {
                self.standby = Some((Pid::from_raw(pid).ok_or("no pid")?, Channel::new(UnixStream::from(fd))));
            }
        }
        let (pid, channel) = self.standby.take().ok_or("there is no standby")?;
        self.epoch += 2;
        self.runner.send(&ToRunner::Reset { epoch: self.epoch })?;
        (self.engine_pid, self.engine) = (pid, channel);
        Ok(())
    }

    /// Waits for the standby that follows the last answer: a completion is answered after it. An
    /// engine that could make none tries again after the completion.
    fn settle(&mut self) -> Result<(), Failure> {
        for _ in 0..20 {
            self.engine.send(&ToEngine::Complete { id: 0, code: "st".to_owned(), position: 2 })?;
            let answer = self.next()?;
            check(matches!(answer, FromEngine::Completed { id: 0, .. }), answer)?;
            if self.standby.is_some() {
                return Ok(());
            }
        }
        Err("there is no standby after twenty answers".into())
    }

    fn runners(&self) -> Vec<Pid> {
        processes(&self.directory, |arguments| arguments.get(1) == Some(&b"runner".as_slice()))
    }

    /// Closes everything and waits until all processes are gone.
    fn end(mut self) -> Result<(), Failure> {
        let mut pids = self.runners();
        pids.push(self.engine_pid);
        pids.extend(self.standby.as_ref().map(|(pid, _)| *pid));
        let ended: Vec<OwnedFd> = pids.iter().filter_map(|pid| process::open_pidfd(*pid).ok()).collect();
        drop((self.engine, self.runner, self.standby));
        for fd in &ended {
            check(has_ended(fd)?, "a process stays behind")?;
        }
        self.first.wait()?;
        Ok(())
    }
}

/// The living processes that have to do with a directory, by their arguments or their environment, and
/// whose arguments are `wanted`.
fn processes(directory: &Path, wanted: impl Fn(&[&[u8]]) -> bool) -> Vec<Pid> {
    let here = directory.to_string_lossy();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter(|pid| {
        // Both are empty for a zombie.
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&[&arguments[..], &environment[..]].concat()).into_owned();
        text.contains(&*here) && wanted(&arguments.split(|byte| *byte == 0).collect::<Vec<_>>())
    })
    .collect()
}

/// Waits for a process's end.
fn has_ended(process: &OwnedFd) -> Result<bool, Failure> {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, 10_000u16)? == 1)
}

fn rustcs(directory: &Path) -> Vec<Pid> {
    // Not the wrapper: it has rustc as its second word.
    processes(directory, |arguments| arguments[0].ends_with(b"rustc") && arguments.contains(&b"ctx".as_slice()))
}

/// Looks again and again until it is so.
fn wait_until(what: &str, mut so: impl FnMut() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        if Instant::now() > deadline {
            return Err(what.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn a_cell_is_committed(server: &mut Server) -> Result<(), Failure> {
    server.evaluate("fn twice(x: u32) -> u32 { 2 * x }\nlet kept = twice(21);")?;
    server.evaluate("kept + twice(1)")
}

fn a_dropped_run_leaves_nothing(server: &mut Server) -> Result<(), Failure> {
    server.ask("let dropped = 1;")?;
    server.wait_for_run()?;
    server.runner.send(&ToRunner::Dropped)?;
    let verdict = server.verdict()?;
    check(verdict == Verdict::RolledBack, verdict)?;
    let why = server.reject("println!(\"{dropped}\");")?;
    check(why.message.starts_with("error[E0425]"), &why)?;
    server.evaluate("assert_eq!(kept, 42);")
}

fn an_error_is_about_the_cell(server: &mut Server) -> Result<(), Failure> {
    let why = server.reject("let fine = 1;\nlet bad: u8 = \"é\"; twice(\"x\");")?;
    let place = format!("(In [{}], line 2, column 15)", server.id);
    check(why.kind == "CompileError" && why.message == format!("error[E0308]: mismatched types {place}"), &why)?;
    let text = why.rendered.join("\n");
    check(text.contains("\x1b[") && !text.contains("evcxr") && !text.contains("forklab_"), &text)?;
    check(text.contains("In [1]") && text.contains("fn twice(x: u32)"), &text)?;
    let why = server.reject(":quit")?;
    check(why.kind == "CommandError", &why)
}

fn names_are_known(server: &mut Server) -> Result<(), Failure> {
    let code = "let text = String::new(); text.is_em".to_owned();
    let position = code.len();
    server.engine.send(&ToEngine::Complete { id: 7, code, position })?;
    match server.next()? {
        FromEngine::Completed { id: 7, start: 31, end: 36, matches } => {
            check(matches.iter().any(|(text, _)| text.starts_with("is_empty")), matches)?;
        }
        other => return Err(format!("{other:?}").into()),
    }
    server.engine.send(&ToEngine::Inspect { id: 8, code: "twice(1)".to_owned(), position: 2 })?;
    match server.next()? {
        FromEngine::Inspected { id: 8, found } => {
            check(found.get("text/plain").is_some_and(|text| text.contains("twice")), found)
        }
        other => Err(format!("{other:?}").into()),
    }
}

fn taking_over_when_idle(server: &mut Server) -> Result<(), Failure> {
    server.settle()?;
    server.take_over()?;
    server.evaluate("let after = twice(kept);")?;
    server.evaluate("after + kept")
}

fn taking_over_in_a_compilation(server: &mut Server) -> Result<(), Failure> {
    server.settle()?;
    server.ask("fn never() {}\nlet gone = 1;")?;
    server.take_over()?;
    let why = server.reject("never();")?;
    check(why.message.starts_with("error[E0425]"), &why)?;
    server.evaluate("after + kept")
}

fn taking_over_in_a_run(server: &mut Server) -> Result<(), Failure> {
    server.settle()?;
    server.ask("let gone = 1;")?;
    let first = server.wait_for_run()?;
    server.take_over()?;
    server.ask("let other = 1;")?;
    let second = server.wait_for_run()?;
    check(first != second, "a library's name was used twice")?;
    server.runner.send(&Server::ran())?;
    let verdict = server.verdict()?;
    check(matches!(verdict, Verdict::Committed { .. }), verdict)?;
    let why = server.reject("gone + other")?;
    check(why.message.starts_with("error[E0425]"), &why)
}

fn a_dependency(server: &mut Server) -> Result<(), Failure> {
    let path = server.directory.join("small");
    fs::create_dir_all(path.join("src"))?;
    fs::write(path.join("Cargo.toml"), "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n")?;
    fs::write(path.join("src/lib.rs"), "pub fn seven() -> Vec<u8> { vec![7] }\n")?;
    server.evaluate(&format!(":dep small = {{ path = {path:?} }}\nlet seven = small::seven();"))?;
    server.settle()?;
    server.take_over()?;
    server.evaluate("seven.len() + kept as usize")
}

fn lost_state(server: &mut Server) -> Result<(), Failure> {
    let before = server.runners();
    server.runner.send(&ToRunner::StateLost)?;
    // The runner is a child of an engine that is gone: its end shows in /proc only.
    let is_gone = |pid: &Pid| Path::new(&format!("/proc/{pid}/exe")).read_link().is_err();
    wait_until("the runner stays", || before.iter().all(is_gone))?;
    let why = server.reject("kept + 1")?;
    check(why.message.starts_with("error[E0425]"), &why)?;
    server.evaluate("let kept = twice(4);")?;
    server.evaluate("kept")
}

fn a_full_disk(server: &mut Server) -> Result<(), Failure> {
    // As good as a full disk: a file that cannot be written.
    let cells = server.directory.join("build/src/forklab_cells.json");
    fs::remove_file(&cells)?;
    fs::create_dir(&cells)?;
    let why = server.reject("let unwritten = 1;")?;
    check(why.kind == "EngineError" && why.message.contains("Is a directory"), &why)?;
    fs::remove_dir(&cells)?;
    let why = server.reject("unwritten")?;
    check(why.message.starts_with("error[E0425]"), &why)?;
    server.evaluate("kept")
}

fn an_engine_that_cannot_go_on(server: &mut Server) -> Result<(), Failure> {
    server.settle()?;
    let ended = process::open_pidfd(server.engine_pid)?;
    UnixStream::from(server.engine.as_fd().try_clone_to_owned()?).write_all(b"\x05\0\0\0what?")?;
    check(has_ended(&ended)?, "an engine stays that has been told nonsense")?;
    server.take_over()?;
    server.evaluate("kept")
}

/// A cell in whose compilation rustc is silent for ever.
const ENDLESS: &str = "#[allow(long_running_const_eval)] const FOREVER: () = loop {};\nFOREVER";

fn an_endless_compilation(server: &mut Server) -> Result<(), Failure> {
    server.settle()?;
    server.ask(ENDLESS)?;
    let directory = server.directory.clone();
    wait_until("rustc does not start", || !rustcs(&directory).is_empty())?;
    server.take_over()?;
    wait_until("rustc goes on", || rustcs(&directory).is_empty()).inspect_err(|_| end(&rustcs(&directory)))?;
    server.evaluate("kept")
}

/// The role of a server that is killed while its engine, which has been a standby, waits for rustc.
fn doomed_server() -> Result<(), Failure> {
    let build = PathBuf::from(std::env::args_os().nth(2).ok_or("no build directory")?);
    role::adopt_orphans()?;
    let mut server = Server::start(&build)?;
    server.settle()?;
    server.take_over()?;
    server.ask(ENDLESS)?;
    wait_until("rustc does not start", || !rustcs(&server.directory).is_empty())?;
    process::kill(Pid::this(), Signal::KILL)?;
    Ok(())
}

fn nothing_outlives_the_server() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let build = directory.path().join("build");
    let status = Command::new(std::env::current_exe()?).arg("server").arg(&build).status()?;
    check(status.code().is_none(), status)?;
    let left = || processes(directory.path(), |_| true);
    wait_until("a process outlives the server", || left().is_empty()).inspect_err(|_| end(&left()))
}

/// Ends processes that would go on for ever.
fn end(processes: &[Pid]) {
    for pid in processes {
        let _ = process::kill(*pid, Signal::KILL);
    }
}

fn clear(server: &mut Server) -> Result<(), Failure> {
    server.settle()?;
    server.take_over()?;
    server.ask(":clear")?;
    let verdict = server.verdict()?;
    check(matches!(verdict, Verdict::Committed { .. }), verdict)?;
    let why = server.reject("twice(1)")?;
    check(why.message.starts_with("error[E0425]"), &why)?;
    server.evaluate("let fresh = 1;")?;
    check(server.runners().len() == 1, server.runners())
}

fn idle_processes(server: &mut Server) -> Result<(), Failure> {
    server.settle()?;
    for pid in [Some(server.engine_pid), server.standby.as_ref().map(|(pid, _)| *pid)].into_iter().flatten() {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?.count();
        check(threads == 1, threads)?;
    }
    Ok(())
}
