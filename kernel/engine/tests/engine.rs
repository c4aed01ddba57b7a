//! One engine, driven as the server drives it. The test binary plays all roles, as the forklab
//! binary does, and is therefore its own harness.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use forklab_engine::messages::{FromEngine, FromRunner, ToEngine, ToRunner, Verdict};
use forklab_sys::channel::Channel;
use forklab_sys::inherit;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    if std::env::var_os("FORKLAB_RUSTC_WRAPPER").is_some() {
        forklab_engine::wrapper::main();
    }
    let result = match std::env::args().nth(1).as_deref() {
        Some("engine") => engine(),
        Some("runner") => forklab_engine::runner::main().map_err(Failure::from),
        Some("play") => play(),
        Some("prepare") => prepare(),
        _ => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn engine() -> Result<(), Failure> {
    let channel = UnixStream::from(inherit::take_over("TEST_CHANNEL")?);
    let runner = UnixStream::from(inherit::take_over("TEST_RUNNER")?);
    let build = PathBuf::from(std::env::var_os("TEST_BUILD").ok_or("no build directory")?);
    let data = std::env::var_os("FORKLAB_DATA").map(PathBuf::from);
    Ok(forklab_engine::main(channel, runner, build, data)?)
}

/// The server's part.
struct Server {
    engine: Channel<ToEngine, FromEngine>,
    runner: Channel<ToRunner, FromRunner>,
    standby: Option<(i32, Channel<ToEngine, FromEngine>)>,
    process: std::process::Child,
}

impl Server {
    fn start(build: &Path) -> Result<Server, Failure> {
        let (ours, theirs) = UnixStream::pair()?;
        let (our_runner, their_runner) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("engine").env("TEST_BUILD", build);
        inherit::hand_down(&mut command, OwnedFd::from(theirs), "TEST_CHANNEL");
        inherit::hand_down(&mut command, OwnedFd::from(their_runner), "TEST_RUNNER");
        let process = command.spawn()?;
        let mut server =
            Server { engine: Channel::new(ours), runner: Channel::new(our_runner), standby: None, process };
        match server.next()? {
            FromEngine::Ready => Ok(server),
            other => Err(format!("{other:?}").into()),
        }
    }

    /// The engine's next message that is not about standbys and crates.
    fn next(&mut self) -> Result<FromEngine, Failure> {
        loop {
            let received = self.engine.receive()?.ok_or("the engine is gone")?;
            match received.value {
                FromEngine::Standby { pid } => {
                    let fd = received.descriptors.into_iter().next().ok_or("a standby without a channel")?;
                    self.standby = Some((pid, Channel::new(UnixStream::from(fd))));
                }
                FromEngine::Building { name } => eprintln!("building {name}"),
                other => return Ok(other),
            }
        }
    }
}

fn prepare() -> Result<(), Failure> {
    let data = PathBuf::from(std::env::args().nth(2).ok_or("a data directory")?);
    Ok(forklab_engine::template::prepare(&data.join("library"), &data.join("template"))?)
}

fn play() -> Result<(), Failure> {
    let build = PathBuf::from(std::env::args().nth(2).ok_or("a build directory")?);
    let start = std::time::Instant::now();
    let mut server = Server::start(&build)?;
    println!("ready {:?}", start.elapsed());
    let text = std::fs::read_to_string(std::env::args().nth(3).ok_or("a file of cells")?)?;
    let runner = server.runner.into_stream();
    let copy = runner.try_clone()?;
    server.runner = Channel::new(runner);
    let player = std::env::args().nth(4);
    std::thread::spawn(move || {
        let channel: Channel<ToRunner, FromRunner> = Channel::new(copy);
        let mut player = player.map(|program| {
            Command::new("python3").arg(program).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().expect("a player")
        });
        while let Ok(Some(received)) = channel.receive() {
            let FromRunner::Run { library, function } = received.value;
            println!("  run {} {function}", library.display());
            let (mut panicked, mut failed) = (false, false);
            if let Some(player) = &mut player {
                use std::io::{BufRead, Write};
                let stdin = player.stdin.as_mut().expect("piped");
                writeln!(stdin, "{} {function}", library.display()).expect("player");
                let mut reader = std::io::BufReader::with_capacity(1, player.stdout.as_mut().expect("piped"));
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).expect("player") == 0 { break; }
                    if line == "END\n" { break; }
                    panicked |= line.starts_with("HOST panicked");
                    failed |= line.starts_with("HOST failed");
                    print!("  | {line}");
                }
            }
            let answer = ToRunner::Ran { panicked, failed, lost_variables: vec![] };
            channel.send(&answer).expect("the runner is there");
        }
    });
    for (id, cell) in text.split("\n---\n").enumerate() {
        let start = std::time::Instant::now();
        println!("In [{id}]: {cell}");
        server.engine.send(&ToEngine::Evaluate { id: id as u64, execution: id as u32, code: cell.to_owned() })?;
        match server.next()? {
            FromEngine::Evaluated { verdict: Verdict::Rejected(why), .. } => {
                println!("{} {}", why.kind, why.message);
                println!("{}", why.rendered.join("\n"));
            }
            other => println!("{other:?}"),
        }
        println!("  {:?}", start.elapsed());
    }
    Ok(())
}
