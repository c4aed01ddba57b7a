//! Engines that are forked from the zygote: that they are as good as others, that nothing of one notebook
//! is in another, that every process ends with its kernel, and that a kernel needs no zygote.

mod client;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use client::{Channel, Kernel, Options, children, data, eventually, is_alive, kill};
use forklab_sys::process::{Pid, Signal};

/// A directory in which kernels and their zygote find each other, and nobody else.
struct Place {
    directory: tempfile::TempDir,
    data: PathBuf,
    idle: &'static str,
}

impl Place {
    fn new(data: &Path) -> Place {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("tmp")).expect("it is ours");
        Place { directory, data: data.to_owned(), idle: "600" }
    }

    /// Without the library for cells, which takes a second less to start.
    fn bare() -> Place {
        let mut place = Place::new(Path::new(""));
        place.data = place.path("data");
        fs::create_dir(&place.data).expect("it is ours");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn apply(&self, command: &mut Command) {
        command.env("FORKLAB_ZYGOTE", "on").env("FORKLAB_ZYGOTE_IDLE", self.idle).env("FORKLAB_DATA", &self.data);
        command.env("XDG_RUNTIME_DIR", self.directory.path()).env("TMPDIR", self.path("tmp"));
        command.env("RUST_LOG", "info");
    }

    fn warm(&self, options: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forklab"));
        command.args(["warm", "--as-is"]).args(options);
        self.apply(&mut command);
        command.output().expect("the binary starts")
    }

    /// Starts the zygote; its pid.
    fn zygote(&self) -> u32 {
        let output = self.warm(&[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let pid = text.strip_prefix("warm: process ").and_then(|rest| rest.split(',').next()?.parse().ok());
        pid.unwrap_or_else(|| {
            let logs = fs::read_dir(self.path("forklab")).into_iter().flatten().flatten();
            let logs: Vec<_> = logs.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
            panic!("no zygote: {text} {} {logs:?}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Starts a kernel whose log can be read.
    fn kernel_with(&self, change: impl FnOnce(&mut Command)) -> Kernel {
        Kernel::start_with(|command| {
            self.apply(command);
            let log = File::options().create(true).append(true).open(self.path("log"));
            command.stderr(log.expect("it is ours"));
            change(command);
        })
    }

    fn kernel(&self) -> Kernel {
        self.kernel_with(|_| {})
    }

    /// What the kernels' engines build in, while they live: forks of the zygote, and others.
    fn build_directories(&self) -> Vec<PathBuf> {
        let kernels = fs::read_dir(self.path("tmp")).expect("it is ours").flatten();
        let inside = kernels.filter_map(|kernel| fs::read_dir(kernel.path()).ok()).flat_map(Iterator::flatten);
        inside.map(|entry| entry.path()).filter(|path| path.join("Cargo.toml").is_file()).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that has failed may have left it as it is.
        self.warm(&["--stop"]);
    }
}

/// Has a zygote look at once whether it is needed. It may have done so already, and be gone.
fn nudge(zygote: u32) {
    let pid = Pid::from_raw(zygote as i32).expect("a pid");
    let _gone_already = forklab_sys::process::kill(pid, Signal::CHLD);
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a pid");
    forklab_sys::process::kill(pid, signal).expect("the process is there");
}

/// The engine and its standby: forks of the zygote, and forks of these.
fn engines(zygote: u32) -> Vec<u32> {
    let mut found = children(zygote, "engine");
    let standbys: Vec<u32> = found.iter().flat_map(|engine| children(*engine, "engine")).collect();
    found.extend(standbys);
    found
}

/// A cell in whose compilation rustc is silent for ever.
const ENDLESS: &str = "#[allow(long_running_const_eval)] const FOREVER: () = loop {};\nFOREVER";

fn rustcs(below: u32) -> Vec<u32> {
    let pid = Pid::from_raw(below as i32).expect("a pid");
    let all = forklab_sys::procfs::descendants(pid).into_iter().filter(|stat| !stat.zombie);
    let names = all.map(|stat| stat.identity.pid.as_raw() as u32);
    let is_rustc = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).next().is_some_and(|program| program.ends_with(b"rustc"))
            && command.windows(16).any(|part| part == b"--crate-name\0ctx")
    };
    names.filter(is_rustc).collect()
}

#[test]
fn engines_come_from_the_zygote_and_have_nothing_in_common() {
    let place = Place::new(data());
    let zygote = place.zygote();

    let begun = Instant::now();
    let mut one = place.kernel_with(|command| {
        command.env("OF_ONE", "secret");
    });
    one.client.kernel_info(Channel::Shell);
    println!("kernel_info after {:?}", begun.elapsed());
    assert_eq!(one.client.execute("println!(\"hola\");").stdout(), "hola\n");
    println!("first println! after {:?}", begun.elapsed());
    for cell in
        ["let words = vec![\"a\".to_owned()];", "let more = vec![\"b\".to_owned()];", "words.len() + more.len()"]
    {
        let start = Instant::now();
        assert_eq!(one.client.execute(cell).status(), "ok");
        println!("{cell} {:?}", start.elapsed());
    }
    assert_eq!(children(zygote, "engine").len(), 1);
    assert!(children(one.process.id(), "engine").is_empty(), "nothing was started cold");
    assert_eq!(one.client.execute("option_env!(\"OF_ONE\")").result(), Some("Some(\"secret\")"));

    // Two more at once.
    let other = std::thread::scope(|scope| {
        let started = [(); 2].map(|()| scope.spawn(|| place.kernel()));
        started.map(|kernel| kernel.join().expect("it starts"))
    });
    for (number, mut kernel) in other.into_iter().enumerate() {
        assert_eq!(kernel.client.execute(&format!("let words = {number};")).status(), "ok");
        assert_eq!(kernel.client.execute("words").result(), Some(number.to_string().as_str()));
        assert_eq!(kernel.client.execute("more").error()["ename"], "CompileError");
        assert_eq!(kernel.client.execute("option_env!(\"OF_ONE\")").result(), Some("None"));
        assert_eq!(
            kernel
                .client
                .execute("use forklab::Process; let mut p = Process::new(|| {}); p.start()?; p.join()?;")
                .status(),
            "ok"
        );
        assert!(children(kernel.process.id(), "engine").is_empty(), "nothing was started cold");
        assert!(kernel.shut_down().success());
    }
    assert_eq!(one.client.execute("words.len()").result(), Some("1"));
    assert!(one.shut_down().success());
    eventually("the end of all engines", || engines(zygote).is_empty());
    assert!(is_alive(zygote));
    let status = String::from_utf8(place.warm(&["--status"]).stdout).expect("it is text");
    assert!(status.contains("3 engines forked, 0 living"), "{status}");
    let left: Vec<_> =
        fs::read_dir(place.path("tmp")).expect("it is ours").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 1, "only the zygote's own directory stays: {left:?}");
    assert!(place.warm(&["--stop"]).status.success());
    eventually("the end of the zygote", || !is_alive(zygote));
    assert!(fs::read_dir(place.path("tmp")).expect("it is ours").next().is_none());
    assert!(!place.path("forklab").exists());
}

/// What has been noted for the real cargo since, see `engine/src/record.rs`: it is called right after.
fn asked_since(build: &Path, since: std::time::SystemTime) -> usize {
    let notes = fs::read_dir(build.join(".forklab-tools")).expect("an engine builds there").flatten();
    let notes = notes.filter(|note| note.path().extension().is_some_and(|ending| ending == "asked"));
    notes.filter(|note| note.metadata().and_then(|data| data.modified()).is_ok_and(|at| at > since)).count()
}

#[test]
fn the_first_cells_need_no_cargo_whatever_the_environment() {
    let place = Place::new(data());
    place.zygote();
    let begun = std::time::SystemTime::now();
    let mut kernel = place.kernel_with(|command| {
        command.env("LANG", "es_AR.UTF-8").env("SOMETHING", "else").env("FORKLAB_LIMIT_PROCS", "100");
    });
    for cell in ["println!(\"hola\")", "let words = vec![1, 2];", "words.len()", "use nix::unistd::getpid; getpid()"] {
        let run = kernel.client.execute(cell);
        assert_eq!(run.status(), "ok", "{cell}: {:#?}", run.published);
    }
    let build = place.build_directories().pop().expect("it lives");
    assert_eq!(build.file_name(), Some("warm-1".as_ref()));
    assert_eq!(asked_since(&build, begun), 0);
    // What the person sets is a matter of cargo's.
    assert_eq!(kernel.client.execute(":build_env SOMETHING=more").status(), "ok");
    assert_eq!(kernel.client.execute("env!(\"SOMETHING\")").result(), Some("\"more\""));
    assert_eq!(asked_since(&build, begun), 1);
    assert!(kernel.shut_down().success());
}

#[test]
fn a_removed_build_directory_is_made_again() {
    let place = Place::new(data());
    let zygote = place.zygote();
    let mut kernel = place.kernel();
    assert_eq!(kernel.client.execute("let kept = 1;").status(), "ok");
    let build = place.build_directories().pop().expect("it lives");
    let remove = format!("std::fs::remove_dir_all({:?}).is_ok()", build.parent().expect("the kernel's own"));
    for round in 2..4 {
        let run = kernel.client.execute(&remove);
        assert_eq!(run.result(), Some("true"), "{round}: {:#?}", run.published);
        let run = kernel.client.execute(&format!("kept + {round}"));
        assert_eq!(run.result(), Some(["3", "4"][round - 2]), "{round}: {:#?}", run.published);
        assert!(build.join("Cargo.toml").is_file());
        // And where a standby has to find the new one.
        kernel.client.request(Channel::Shell, "complete_request", serde_json::json!({"code": "ke", "cursor_pos": 2}));
        let engine = engines(zygote).into_iter().min().expect("there is one");
        kill(engine);
        eventually("the engine's end", || !is_alive(engine));
    }
    assert_eq!(kernel.client.execute("kept").result(), Some("1"));
    assert!(kernel.shut_down().success());
    eventually("the end of all engines", || engines(zygote).is_empty());
}

#[test]
fn all_of_a_kernel_ends_with_it_and_a_standby_takes_over() {
    let place = Place::new(data());
    let zygote = place.zygote();
    let mut kernel = place.kernel();
    kernel.client.execute("let kept = 5; fn double(x: i32) -> i32 { 2 * x }");
    kernel.client.request(Channel::Shell, "complete_request", serde_json::json!({"code": "dou", "cursor_pos": 3}));
    // The engine dies in a run; then its standby, which is the zygote's child by then.
    for round in 0..2 {
        let id = kernel.client.send_execute("println!(\"runs\"); loop { std::hint::spin_loop() }", &Options::default());
        kernel.client.wait_for("the run", |message| message.msg_type() == "stream");
        let engine = children(zygote, "engine").into_iter().min().expect("there is one");
        kill(engine);
        assert_eq!(kernel.client.finish(&id, &Options::default()).error()["ename"], "EngineError");
        assert_eq!(kernel.client.execute(&format!("double(kept) + {round}")).result(), Some(["10", "11"][round]));
        kernel.client.request(Channel::Shell, "complete_request", serde_json::json!({"code": "dou", "cursor_pos": 3}));
    }
    // An interrupt ends a compilation.
    let id = kernel.client.send_execute(ENDLESS, &Options::default());
    eventually("rustc starts", || !rustcs(zygote).is_empty());
    kernel.client.interrupt();
    assert_eq!(kernel.client.finish(&id, &Options::default()).error()["ename"], "Interrupted");
    assert_eq!(kernel.client.execute("kept").result(), Some("5"));
    // The server is killed while an engine waits for rustc.
    kernel.client.send_execute(ENDLESS, &Options::default());
    eventually("rustc starts", || !rustcs(zygote).is_empty());
    let all = [engines(zygote), rustcs(zygote)].concat();
    assert!(all.len() >= 3, "{all:?}");
    let begun = Instant::now();
    kill(kernel.process.id());
    let _reaped = kernel.process.wait();
    eventually("the end of everything", || !all.iter().any(|pid| is_alive(*pid)) && engines(zygote).is_empty());
    assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
    assert!(is_alive(zygote));
}

#[test]
fn a_kernel_needs_no_zygote() {
    let place = Place::new(data());
    let zygote = place.zygote();
    // It is stopped, and answers when nobody waits for it any more.
    signal(zygote, Signal::STOP);
    let mut kernel = place.kernel();
    assert_eq!(kernel.client.execute("1 + 1").result(), Some("2"));
    assert!(place.log().contains("the zygote does not answer: a cold start"), "{}", place.log());
    assert_eq!(children(kernel.process.id(), "engine").len(), 1);
    signal(zygote, Signal::CONT);
    eventually("the request is taken", || {
        String::from_utf8_lossy(&place.warm(&["--status"]).stdout).contains("1 engines forked, 0 living")
    });
    assert!(engines(zygote).is_empty());
    drop(kernel);
    // It is killed before it has answered.
    signal(zygote, Signal::STOP);
    let mut kernel = place.kernel();
    kill(zygote);
    assert_eq!(kernel.client.execute("1 + 1").result(), Some("2"));
    drop(kernel);
    // It is killed while engines of its are at work; they stay. The next kernel starts cold.
    let zygote = place.zygote();
    let mut kernel = place.kernel();
    assert_eq!(kernel.client.execute("let kept = 1;").status(), "ok");
    let mine = engines(zygote);
    kill(zygote);
    assert_eq!(kernel.client.execute("kept + 1").result(), Some("2"));
    assert!(mine.iter().any(|pid| is_alive(*pid)));
    let mut next = place.kernel();
    assert_eq!(next.client.execute("1 + 2").result(), Some("3"));
    assert_eq!(children(next.process.id(), "engine").len(), 1);
    assert!(kernel.shut_down().success());
    eventually("the end of the orphans", || !mine.iter().any(|pid| is_alive(*pid)));
    // The cold kernel has left one behind.
    let pid = place.zygote();
    assert!(next.shut_down().success());
    assert!(is_alive(pid), "it is no descendant of its kernel's");
}

#[test]
fn a_directory_of_somebody_elses_is_not_used() {
    let place = Place::bare();
    let directory = place.path("forklab");
    fs::create_dir(&directory).expect("it is ours");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let refused = place.warm(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("is not a directory of this user's alone"), "{said}");
    let mut kernel = place.kernel();
    assert_eq!(kernel.client.execute("1 + 1").result(), Some("2"));
    assert!(place.log().contains("is not a directory of this user's alone"), "{}", place.log());
    assert_eq!(fs::read_dir(&directory).expect("it is ours").count(), 0);
}

#[test]
fn it_leaves_when_it_is_idle_or_not_the_right_one() {
    let mut place = Place::bare();
    place.idle = "1";
    let zygote = place.zygote();
    eventually("it leaves", || !is_alive(zygote));
    eventually("nothing of it stays", || !place.path("forklab").exists());
    place.idle = "600";
    let zygote = place.zygote();
    assert_eq!(place.zygote(), zygote, "there is one");
    // As an installation does it.
    fs::create_dir(place.data.join("library")).expect("it is ours");
    assert!(!place.warm(&["--status"]).status.success());
    let next = place.zygote();
    assert_ne!(next, zygote);
    assert!(is_alive(next));
    // The old one leaves by itself, as soon as it looks; asked, it looks at once.
    nudge(zygote);
    eventually("the old one leaves", || !is_alive(zygote));
    // And so does one that cannot be found any more.
    fs::remove_dir_all(place.path("forklab")).expect("it is ours");
    nudge(next);
    eventually("the lost one leaves", || !is_alive(next));
}
