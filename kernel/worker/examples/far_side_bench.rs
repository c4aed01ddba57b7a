//! What a checkpoint costs, and a fork in the worker: a supervisor that is driven as the server does
//! it, with a shared object that was compiled before, so that no compiler is in the figures.
//!
//! `far_side_bench [--repeats N]` prints one JSON line for each sample. It judges nothing;
//! `tests/bench/run.sh` puts the figures into its table. Needs `forklab-far-side` beside the folder
//! of this program, and `cc`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use forklab_sys::capture::{self, Capture, Piece};
use forklab_sys::channel::Channel;
use forklab_worker::messages::{CellId, FromSupervisor, Limits, Outcome, Task, ToSupervisor};
use serde_json::json;

/// Tasks in one block; a sample is a block's median.
const BLOCK: usize = 20;

/// Megabytes of state.
const SIZES: [u32; 4] = [0, 10, 100, 500];

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let repeats = match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => 5,
        (Some("--repeats"), Some(number)) => number.parse()?,
        _ => return Err("usage: far_side_bench [--repeats N]".into()),
    };
    let mut far = FarSide::start()?;
    for size in SIZES {
        far.run(&format!("state_{size}"), true)?;
        for _ in 0..repeats {
            checkpoint(&mut far, size)?;
        }
        for _ in 0..repeats {
            say(&format!("fork + wait in the worker beside {size} MB"), far.said("forks")?, "µs");
        }
    }
    far.end()
}

fn say(measure: &str, value: f64, unit: &str) {
    println!("{}", json!({ "measure": measure, "value": value, "unit": unit }));
}

/// One sample of everything that depends on the state's size.
fn checkpoint(far: &mut FarSide, size: u32) -> Result<(), Error> {
    let with = far.block(true)?;
    let without = far.block(false)?;
    say(&format!("an empty task with a checkpoint, {size} MB of state"), with, "µs");
    say(&format!("an empty task without, {size} MB of state"), without, "µs");
    say(&format!("checkpoint, {size} MB of state (the difference)"), with - without, "µs");
    // A checkpoint is there after this one; the next task is the first that writes.
    far.run("nothing", true)?;
    say(&format!("first write to one page after it, {size} MB"), far.said("touch_one")?, "µs");
    if size > 0 {
        far.run("nothing", true)?;
        say(&format!("first write to every page after it, {size} MB"), far.said("touch_all")? / 1e3, "ms");
    }
    Ok(())
}

/// A supervisor and its worker.
struct FarSide {
    channel: Channel<ToSupervisor, FromSupervisor>,
    supervisor: Child,
    directory: PathBuf,
    library: PathBuf,
    cells: u64,
}

impl FarSide {
    fn start() -> Result<FarSide, Error> {
        let directory = std::env::temp_dir().join(format!("forklab-bench-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let library = directory.join("cells.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/far_side_bench.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source).status()?;
        if !compiled.success() {
            return Err("cc does not compile the cells".into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        let supervisor = Command::new(far_side_program()?)
            .arg("supervisor")
            .arg(&directory)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let mut far = FarSide { channel: Channel::new(ours), supervisor, directory, library, cells: 0 };
        while !matches!(far.next()?, FromSupervisor::Worker { .. }) {}
        Ok(far)
    }

    fn next(&mut self) -> io::Result<FromSupervisor> {
        let received = self.channel.receive()?;
        received.map(|received| received.value).ok_or_else(|| io::Error::other("the supervisor has gone"))
    }

    /// Runs a function to its end, and returns what it wrote to stdout.
    fn run(&mut self, function: &str, checkpoint: bool) -> Result<Capture, Error> {
        self.cells += 1;
        let cell = CellId(self.cells);
        let task = Task::Call { library: self.library.clone(), function: function.to_owned() };
        let (output, out) = capture::pair()?;
        let (_errors, err) = capture::pair()?;
        let request = ToSupervisor::Run {
            cell,
            task,
            checkpoint,
            limits: Limits::default(),
            record: false,
            undo: false,
            cpus: None,
            perturb: None,
        };
        self.channel.send_with(&request, &[out.as_fd(), err.as_fd()])?;
        loop {
            match self.next()? {
                FromSupervisor::Ended { outcome: Outcome::Returned(_), .. } => return Ok(output),
                FromSupervisor::Ended { outcome, .. } => return Err(format!("{function}: {outcome:?}").into()),
                _ => {}
            }
        }
    }

    /// The number that a function says.
    fn said(&mut self, function: &str) -> Result<f64, Error> {
        let output = self.run(function, true)?;
        let mut buffer = [0; 64];
        match output.read(&mut buffer)? {
            Piece::Data { len, .. } => Ok(std::str::from_utf8(&buffer[..len])?.trim().parse()?),
            other => Err(format!("{function} says nothing: {other:?}").into()),
        }
    }

    /// Microseconds of one empty task among others that follow at once, so that whatever is done after
    /// an answer and before the next task counts.
    fn block(&mut self, checkpoint: bool) -> Result<f64, Error> {
        // What the one before has left is no longer there after two.
        for _ in 0..2 {
            self.run("nothing", checkpoint)?;
        }
        let mut times = Vec::with_capacity(BLOCK);
        let mut begun = Instant::now();
        for _ in 0..BLOCK {
            self.run("nothing", checkpoint)?;
            times.push(begun.elapsed().as_secs_f64() * 1e6);
            begun = Instant::now();
        }
        times.sort_by(f64::total_cmp);
        Ok(times[BLOCK / 2])
    }

    fn end(mut self) -> Result<(), Error> {
        self.channel.send(&ToSupervisor::Shutdown)?;
        self.supervisor.wait()?;
        Ok(std::fs::remove_dir_all(&self.directory)?)
    }
}

/// `forklab-far-side`, one folder above the examples.
fn far_side_program() -> Result<PathBuf, Error> {
    let this = std::env::current_exe()?;
    let folder = this.parent().and_then(Path::parent).ok_or("this program has no folder above it")?;
    Ok(folder.join("forklab-far-side"))
}
