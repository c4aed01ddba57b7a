//! A far side to talk to, as the server does, and the outside facts about it.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use forklab_record::Event;
use forklab_sys::capture::{self, Capture, Piece};
use forklab_sys::channel::Channel;
use forklab_sys::events::readable;
use forklab_worker::messages::{
    CellId, Exit, FromSupervisor, Limits, Outcome, ProcessId, ProcessInfo, Reached, Report, Task, ToSupervisor,
};

/// Nothing here takes that long; whoever waits longer waits in vain.
pub const DEADLINE: Duration = Duration::from_secs(30);

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct FarSide {
    channel: Option<Channel<ToSupervisor, FromSupervisor>>,
    supervisor: Child,
    directory: PathBuf,
    mark: String,
    cells: u64,
    /// How the supervisor keeps limits.
    pub limiting: Option<String>,
    /// The folders of its control group.
    pub groups: Vec<PathBuf>,
    /// Whether tasks are recorded; `FORKLAB_TEST_RECORD` in the environment has all of them be.
    pub record: bool,
    /// Whether tasks are undone.
    pub undo: bool,
    /// To how many processors tasks are pinned.
    pub cpus: Option<usize>,
    /// By which seed tasks are delayed.
    pub perturb: Option<u64>,
    recorded: HashMap<CellId, (Vec<Event>, Vec<String>)>,
}

/// Who keeps limits of processes and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// A control group, where this machine gives one.
    Group,
    /// The supervisor alone.
    Watchdog,
}

impl Keeper {
    /// Starts a far side with limits kept in this way; nothing where that cannot be had here.
    pub fn start(self) -> Option<FarSide> {
        let far = FarSide::start_kept(self);
        let how = far.limiting.clone().expect("a supervisor says how it keeps limits");
        match self {
            Keeper::Watchdog => assert!(how.starts_with("watchdog (switched off"), "{how}"),
            Keeper::Group if how.contains("pids") => {}
            Keeper::Group => {
                println!("not tried, this machine gives no control group: {how}");
                return None;
            }
        }
        Some(far)
    }
}

/// A cell under way, and what it has written so far.
pub struct Cell {
    pub id: CellId,
    stdout: Stream,
    stderr: Stream,
}

#[derive(Default)]
struct Stream {
    capture: Option<Capture>,
    pieces: Vec<(i32, String)>,
}

impl Stream {
    fn open() -> (Stream, OwnedFd) {
        let (capture, writer) = capture::pair().expect("a socket pair");
        (Stream { capture: Some(capture), pieces: Vec::new() }, writer)
    }

    fn take_in(&mut self) -> &[(i32, String)] {
        let capture = self.capture.as_ref().expect("an open stream");
        let mut buffer = [0; 65536];
        while let Piece::Data { len, pid } = capture.read(&mut buffer).expect("a readable stream") {
            let pid = pid.expect("a pid of this namespace").as_raw();
            self.pieces.push((pid, String::from_utf8_lossy(&buffer[..len]).into_owned()));
        }
        &self.pieces
    }

    fn text(&mut self) -> String {
        self.take_in().iter().map(|(_, text)| text.as_str()).collect()
    }
}

impl Cell {
    pub fn stdout(&mut self) -> String {
        self.stdout.text()
    }

    pub fn stderr(&mut self) -> String {
        self.stderr.text()
    }

    /// Who wrote what to stdout.
    pub fn pieces(&mut self) -> Vec<(i32, String)> {
        self.stdout.take_in().to_vec()
    }

    /// The numbers in the cell's stdout.
    pub fn numbers(&mut self) -> Vec<i32> {
        self.stdout().split_whitespace().map(|n| n.parse().expect("a number")).collect()
    }

    /// Waits until stdout holds a text.
    pub fn until_stdout(&mut self, text: &str) {
        until(text, || self.stdout().contains(text));
    }
}

impl FarSide {
    pub fn start() -> FarSide {
        FarSide::start_kept(Keeper::Group)
    }

    pub fn start_kept(keeper: Keeper) -> FarSide {
        let mark = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("forklab-far-side-{mark}"));
        std::fs::create_dir(&directory).expect("a new directory");
        let mut far = FarSide::start_in(directory, mark, keeper);
        far.worker();
        far
    }

    /// Starts a supervisor in a directory that is there, and waits for nothing.
    pub fn start_in(directory: PathBuf, mark: String, keeper: Keeper) -> FarSide {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forklab-far-side"));
        if keeper == Keeper::Watchdog {
            command.env("FORKLAB_CGROUP", "off");
        }
        let supervisor = command
            .arg("supervisor")
            .arg(&directory)
            .env("FORKLAB_TEST_MARK", &mark)
            .env("FORKLAB_TEST_SOCKET", directory.join("supervisor.sock"))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("the supervisor starts");
        let channel = Some(Channel::new(ours));
        let record = std::env::var_os("FORKLAB_TEST_RECORD").is_some();
        let (limiting, groups, recorded) = (None, Vec::new(), HashMap::new());
        let (undo, cpus, perturb) = (false, None, None);
        FarSide {
            channel,
            supervisor,
            directory,
            mark,
            cells: 0,
            limiting,
            groups,
            record,
            undo,
            cpus,
            perturb,
            recorded,
        }
    }

    /// The supervisor's pid.
    pub fn supervisor(&self) -> i32 {
        self.supervisor.id() as i32
    }

    /// Kills the supervisor and waits for its end.
    pub fn kill_supervisor(&mut self) {
        self.supervisor.kill().expect("it is ours");
        self.supervisor.wait().expect("it is ours");
    }

    /// Kills the supervisor, and starts another in the same place.
    pub fn replace_supervisor(&mut self) {
        self.kill_supervisor();
        let left = std::mem::take(&mut self.directory);
        // What is replaced looks for processes of its mark and removes its directory: it has none.
        let mark = std::mem::replace(&mut self.mark, "none".to_owned());
        *self = FarSide::start_in(left, mark, Keeper::Group);
    }

    /// Where the worker reports.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("supervisor.sock")
    }

    pub fn send(&self, message: &ToSupervisor) {
        self.channel.as_ref().expect("an open channel").send(message).expect("a supervisor that listens");
    }

    /// The next message.
    pub fn next(&mut self) -> FromSupervisor {
        loop {
            let channel = self.channel.as_ref().expect("an open channel");
            assert!(readable(&[channel.as_fd()], Some(DEADLINE)).expect("poll")[0], "the supervisor says nothing");
            let message = channel.receive().expect("a message").expect("a supervisor that lives").value;
            // Once, at the start; of no test's concern but its own.
            if let FromSupervisor::Limiting { how, groups } = message {
                (self.limiting, self.groups) = (Some(how), groups);
                continue;
            }
            // Beside everything else; whoever wants it asks for it by `record_of`.
            if let FromSupervisor::Recorded { cell, events, gaps } = message {
                let known = self.recorded.entry(cell).or_default();
                known.0.extend(events);
                known.1.extend(gaps);
                continue;
            }
            return message;
        }
    }

    /// Whether nothing is said, records left out.
    pub fn says_nothing_for(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let channel = self.channel.as_ref().expect("an open channel");
            let left = deadline.saturating_duration_since(Instant::now());
            if !readable(&[channel.as_fd()], Some(left)).expect("poll")[0] {
                return true;
            }
            match channel.receive().expect("a message").expect("a supervisor that lives").value {
                FromSupervisor::Recorded { cell, events, gaps } => {
                    let known = self.recorded.entry(cell).or_default();
                    known.0.extend(events);
                    known.1.extend(gaps);
                }
                _ => return false,
            }
        }
    }

    /// What was recorded of a cell until now: events and gaps.
    pub fn record_of(&self, cell: CellId) -> (Vec<Event>, Vec<String>) {
        let (mut events, gaps) = self.recorded.get(&cell).cloned().unwrap_or_default();
        // Each message is in the order of time; what was seen late comes with a later one.
        events.sort_by_key(|event| event.at);
        (events, gaps)
    }

    /// Waits for a new worker's pid.
    pub fn worker(&mut self) -> i32 {
        match self.next() {
            FromSupervisor::Worker { pid } => pid.0,
            other => panic!("a worker was to come, not {other:?}"),
        }
    }

    pub fn wants_input(&mut self) -> i32 {
        self.asked().0
    }

    /// Waits for a reader: its pid, and the cell that has started it.
    pub fn asked(&mut self) -> (i32, Option<CellId>) {
        match self.next() {
            FromSupervisor::WantsInput { pid, cell } => (pid.0, cell),
            other => panic!("a reader was to be found, not {other:?}"),
        }
    }

    pub fn begin(&mut self, task: Task, checkpoint: bool) -> Cell {
        self.begin_with(task, checkpoint, Limits::default())
    }

    pub fn begin_with(&mut self, task: Task, checkpoint: bool, limits: Limits) -> Cell {
        self.cells += 1;
        self.begin_as(CellId(self.cells), task, checkpoint, limits)
    }

    /// A further task of a cell.
    pub fn begin_as(&mut self, id: CellId, task: Task, checkpoint: bool, limits: Limits) -> Cell {
        let ((stdout, out), (stderr, err)) = (Stream::open(), Stream::open());
        let channel = self.channel.as_ref().expect("an open channel");
        let (record, undo, cpus, perturb) = (self.record, self.undo, self.cpus, self.perturb);
        let run = ToSupervisor::Run { cell: id, task, checkpoint, limits, record, undo, cpus, perturb };
        channel.send_with(&run, &[out.as_fd(), err.as_fd()]).expect("a supervisor that listens");
        Cell { id, stdout, stderr }
    }

    pub fn call(&mut self, function: &str) -> Cell {
        self.begin(task(function), true)
    }

    pub fn shell(&mut self, command: &str) -> Cell {
        self.begin(Task::Shell { command: command.to_owned() }, true)
    }

    /// Waits for the end of a cell, as the next message.
    pub fn ended(&mut self, cell: &Cell) -> Outcome {
        self.ended_with_refusals(cell).0
    }

    /// Waits for the end of a cell, and for how many of its forks were refused.
    pub fn ended_with_refusals(&mut self, cell: &Cell) -> (Outcome, u64) {
        match self.next() {
            FromSupervisor::Ended { cell: id, outcome, refused_forks } if id == cell.id => (outcome, refused_forks),
            other => panic!("the cell was to end, not {other:?}"),
        }
    }

    /// Waits for a cell's end by a limit, restored: which.
    pub fn over_limit(&mut self, cell: &Cell) -> Reached {
        match self.next() {
            FromSupervisor::Worker { .. } => {}
            other => panic!("the cell was to be ended for a limit, not {other:?}"),
        }
        match self.ended(cell) {
            Outcome::OverLimit { reached, restored: true } => reached,
            other => panic!("the cell was to be ended for a limit, not {other:?}"),
        }
    }

    /// Waits for a cell's end by an interrupt, restored.
    pub fn interrupted(&mut self, cell: &Cell) {
        self.worker();
        let outcome = self.ended(cell);
        assert!(matches!(outcome, Outcome::Interrupted { restored: true }), "{outcome:?}");
    }

    /// Waits for a cell's return.
    pub fn returned(&mut self, cell: &Cell) -> Report {
        match self.ended(cell) {
            // What it has used is never the same twice; who wants to know looks at the outcome.
            Outcome::Returned(report) => Report { used: None, ..report },
            other => panic!("the cell was to return, not {other:?}"),
        }
    }

    /// Waits for the end of a cell whose children read: they may be found waiting before the cell
    /// has ended, and are then said anew after it.
    pub fn ended_among_readers(&mut self, cell: &Cell) {
        loop {
            match self.next() {
                FromSupervisor::Ended { cell: id, .. } if id == cell.id => return,
                FromSupervisor::WantsInput { .. } | FromSupervisor::InputCancelled { .. } => {}
                other => panic!("the cell was to end, not {other:?}"),
            }
        }
    }

    /// Runs a cell that returns.
    pub fn run(&mut self, function: &str) -> (Cell, Report) {
        let cell = self.call(function);
        let report = self.returned(&cell);
        (cell, report)
    }

    /// Runs a cell in which the worker dies; its end, and the new worker's pid.
    pub fn run_to_death(&mut self, function: &str) -> (Cell, Exit, i32) {
        let cell = self.call(function);
        let worker = self.worker();
        match self.ended(&cell) {
            Outcome::Died { how, restored: true } => (cell, how, worker),
            other => panic!("the worker was to die and come back, not {other:?}"),
        }
    }

    /// What lives below the supervisor, worker, checkpoint and zombies left out.
    pub fn processes(&mut self) -> Vec<i32> {
        let living = self.listed().into_iter().filter(|process| process.state != 'Z');
        living.map(|process| process.pid.0).collect()
    }

    /// What `%ps` shows.
    pub fn listed(&mut self) -> Vec<ProcessInfo> {
        self.send(&ToSupervisor::ListProcesses);
        match self.next() {
            FromSupervisor::Processes { processes } => processes,
            other => panic!("a list was to come, not {other:?}"),
        }
    }

    /// Ends processes; who has ended, and who was nobody to end.
    pub fn kill(&mut self, pids: Option<&[i32]>) -> (Vec<i32>, Vec<i32>) {
        let pids = pids.map(|pids| pids.iter().map(|pid| ProcessId(*pid)).collect());
        self.send(&ToSupervisor::Kill { pids });
        match self.next() {
            FromSupervisor::Killed { pids, strangers } => {
                let raw = |pids: Vec<ProcessId>| pids.into_iter().map(|pid| pid.0).collect();
                (raw(pids), raw(strangers))
            }
            other => panic!("the end of processes was to be told, not {other:?}"),
        }
    }

    /// Every process that descends from this far side, by what it inherited.
    pub fn marked(&self) -> HashSet<i32> {
        let mark = format!("FORKLAB_TEST_MARK={}", self.mark);
        let entries = std::fs::read_dir("/proc").expect("a /proc");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let has_mark = |pid: &i32| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|all| all.split(|&b| b == 0).any(|entry| entry == mark.as_bytes()))
        };
        pids.filter(has_mark).collect()
    }

    /// Closes the channel and waits for the supervisor's end.
    pub fn close(&mut self) {
        self.channel = None;
        let supervisor = &mut self.supervisor;
        until("the supervisor leaves", || supervisor.try_wait().expect("it is ours").is_some());
    }
}

impl Drop for FarSide {
    fn drop(&mut self) {
        self.close();
        let left = self.marked();
        let _ = std::fs::remove_dir_all(&self.directory);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "processes are left: {left:?}");
        }
    }
}

/// Waits until a fact holds.
pub fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !fact() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The children of a process, zombies left out.
pub fn children(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| alive(*pid)).collect()
}

pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The call of a victim in C.
pub fn task(function: &str) -> Task {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        compile("c", &["cells", "bombs", "records", "nonsense", "undo"], "cc", &["-shared", "-fPIC", "-O1", "-pthread"])
    });
    Task::Call { library: library.clone(), function: function.to_owned() }
}

/// The call of a victim in Rust.
pub fn rust_task(function: &str) -> Task {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let options = ["--crate-type=cdylib", "--edition=2024", "-Cprefer-dynamic", "-Crpath"];
    let library = LIBRARY.get_or_init(|| compile("rs", &["cells"], "rustc", &options));
    Task::Call { library: library.clone(), function: function.to_owned() }
}

/// Compiles the victims of a language to a shared object.
fn compile(language: &str, sources: &[&str], compiler: &str, options: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/far_side");
    let sources = sources.iter().map(|name| place.join(name).with_extension(language));
    let fresh = folder.join(format!("cells-{}-{language}.so", std::process::id()));
    let status = Command::new(compiler).args(options).arg("-o").arg(&fresh).args(sources).status();
    assert!(status.is_ok_and(|status| status.success()), "{compiler} does not compile the victims");
    // Another run of these tests may be at the same, or may have the old one loaded.
    let target = folder.join(format!("cells-{language}.so"));
    std::fs::rename(fresh, &target).expect("both are in one folder");
    target
}
