//! `Process`, seen from outside: `/proc`, exit statuses, bytes.

mod cases;

use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cases::Case;
use forklab::{Error, ExitStatus, ExitValue, Pid, Pipe, Process, Signal};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::waitpid;

fn main() -> ExitCode {
    cases::main(&[
        Case::new("a child is another process", a_child_is_another_process),
        Case::new("a zombie stays until it is joined", a_zombie_stays_until_it_is_joined),
        Case { complaint: "Error: 7", ..Case::new("what a function returns is the status", statuses) },
        Case { complaint: "on purpose", ..Case::new("a panic ends with 101", a_panic_ends_with_101) },
        Case { output: Some(b"before child after"), ..Case::new("output appears once", output_appears_once) },
        Case { output: Some(b"one two"), ..Case::new("exit flushes as well", exit_flushes_as_well) },
        Case::new("signals are told", signals_are_told),
        Case::new("a process starts once", a_process_starts_once),
        Case::new("a failed start can be repeated", a_failed_start_can_be_repeated),
        Case::new("waiting has a limit", waiting_has_a_limit),
        Case::new("dropping neither waits nor leaks", dropping_neither_waits_nor_leaks),
        Case::new("only the parent joins", only_the_parent_joins),
        Case::new("somebody else may reap", somebody_else_may_reap),
        Case::new("names count", names_count),
        Case::new("what is moved in is dropped here", what_is_moved_in_is_dropped_here),
        Case::new("two thousand leave nothing", two_thousand_leave_nothing),
        Case::new("a thread that prints is no trap", a_thread_that_prints_is_no_trap),
    ])
}

/// A process that stays until a signal ends it.
fn sleeper() -> Process {
    let mut sleeper = Process::new(|| {
        loop {
            nix::unistd::pause();
        }
    });
    sleeper.start().expect("it starts");
    sleeper
}

fn status_of<T: ExitValue>(function: impl FnOnce() -> T + 'static) -> ExitStatus {
    let mut process = Process::new(function);
    process.start().expect("it starts");
    process.join().expect("it ends")
}

/// The state letter and the parent of a process, as `ps` shows them; `None` when it is gone.
fn stat(pid: Pid) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

fn a_child_is_another_process() {
    let (from_child, to_parent) = Pipe::one_way().expect("a pipe");
    let mut value = 1;
    let mut child = Process::new(move || {
        value += 1;
        to_parent.send(&(std::process::id(), nix::unistd::getppid().as_raw(), value))
    });
    assert_eq!(child.pid(), None);
    assert!(!child.is_alive());
    child.start().expect("it starts");
    let told: Option<(i32, i32, i32)> = from_child.recv().expect("it sends");
    let pid = child.pid().expect("it was started");
    assert_eq!(told, Some((pid.as_raw(), Pid::this().as_raw(), 2)));
    assert_eq!(value, 1, "the child changed its own copy");
    assert_eq!(child.join().expect("it ends").to_string(), "exit status 0");
}

fn a_zombie_stays_until_it_is_joined() {
    let mut child = Process::new(|| 3);
    child.start().expect("it starts");
    let pid = child.pid().expect("it was started");
    eventually("the child ends", || !child.is_alive());
    assert_eq!(child.exit_status(), Some(ExitStatus::Exited(3)));
    assert_eq!(stat(pid), Some(('Z', Pid::this().as_raw())), "looking does not reap");
    assert_eq!(format!("{child:?}"), format!("Process(\"Process-1\", pid {pid}, zombie, exit status 3)"));
    assert_eq!(child.join().expect("it ended"), ExitStatus::Exited(3));
    assert_eq!(stat(pid), None, "joining does");
    assert_eq!(child.join().expect("asking twice is asking once"), ExitStatus::Exited(3));
    assert_eq!(child.exitcode(), Some(3));
    assert_eq!(format!("{child:?}"), format!("Process(\"Process-1\", pid {pid}, exit status 3)"));
}

fn statuses() {
    assert_eq!(status_of(|| ()).code(), Some(0));
    assert_eq!(status_of(|| 3).code(), Some(3));
    assert_eq!(status_of(|| 256 + 5).code(), Some(5));
    assert_eq!(status_of(|| ExitCode::from(200)).code(), Some(200));
    assert_eq!(status_of(|| Ok::<i32, String>(4)).code(), Some(4));
    assert_eq!(status_of(|| Err::<(), i32>(7)).code(), Some(1));
    assert_eq!(status_of(|| std::process::exit(9)).code(), Some(9));
    assert_eq!(status_of(|| std::process::abort()).signal(), Some(Signal::ABRT));
}

fn a_panic_ends_with_101() {
    assert_eq!(status_of(|| panic!("on purpose")).code(), Some(101));
}

fn output_appears_once() {
    print!("before ");
    assert!(status_of(|| print!("child ")).success());
    print!("after");
    std::io::stdout().flush().expect("stdout is open");
}

fn exit_flushes_as_well() {
    print!("one ");
    assert!(
        status_of(|| {
            print!("two");
            std::process::exit(0)
        })
        .success()
    );
}

fn signals_are_told() {
    let child = sleeper();
    assert!(child.is_alive());
    assert_eq!(child.exit_status(), None);
    child.terminate().expect("it is ours");
    assert_eq!(child.join().expect("it ends").to_string(), "killed by SIGTERM");
    assert_eq!(child.exitcode(), Some(-15));
    child.kill().expect("nothing is left to do");

    let child = sleeper();
    child.signal(nix::sys::signal::Signal::SIGSTOP).expect("it is ours");
    let pid = child.pid().expect("it was started");
    eventually("the child stops", || stat(pid).is_some_and(|(state, _)| state == 'T'));
    assert!(child.is_alive(), "a stopped child lives");
    child.kill().expect("it is ours");
    assert_eq!(child.join().expect("it ends").signal(), Some(Signal::KILL));
}

fn a_process_starts_once() {
    let mut child = Process::new(|| ());
    assert!(matches!(child.join(), Err(Error::NotStarted { .. })));
    assert!(matches!(child.kill(), Err(Error::NotStarted { .. })));
    child.start().expect("it starts");
    let error = child.start().expect_err("it was started");
    assert!(error.to_string().starts_with("Process-1 has been started already"), "{error}");
    assert!(matches!(child.run(), Err(Error::AlreadyStarted { .. })));
    assert!(child.join().expect("it ends").success());

    let (this, (from, to)) = (Pid::this().as_raw(), Pipe::one_way().expect("a pipe"));
    let mut here = Process::new(move || {
        to.send(&(Pid::this().as_raw() == this)).expect("there is room");
        3
    });
    assert_eq!(here.run().expect("it runs").code(), Some(3));
    assert_eq!(from.recv().expect("it sent"), Some(true), "run() is this process");
    assert_eq!(here.pid(), None);
    assert!(matches!(here.start(), Err(Error::AlreadyStarted { .. })));
}

fn a_failed_start_can_be_repeated() {
    let (from_child, to_parent) = Pipe::one_way().expect("a pipe");
    let mut child = Process::new(move || to_parent.send(&1));
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("lower is allowed");
    let error = child.start().expect_err("there is no descriptor left to agree about the pipe");
    assert!(error.to_string().starts_with("cannot start a process: "), "{error}");
    assert_eq!(child.pid(), None);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("back to where it was");
    child.start().expect("it starts now");
    assert_eq!(from_child.recv().expect("it sends"), Some(1));
    assert!(child.join().expect("it ends").success());
}

fn waiting_has_a_limit() {
    let child = sleeper();
    let begin = Instant::now();
    assert_eq!(child.join_timeout(Duration::from_millis(30)).expect("it is ours"), None);
    assert!(begin.elapsed() >= Duration::from_millis(30));
    // Without a descriptor for a pidfd the way is another one, the answers are the same.
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("lower is allowed");
    assert_eq!(child.join_timeout(Duration::from_millis(30)).expect("it is ours"), None);
    child.kill().expect("it is ours");
    let status = child.join_timeout(Duration::MAX).expect("it is ours");
    assert_eq!(status.and_then(ExitStatus::signal), Some(Signal::KILL));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("back to where it was");

    let child = sleeper();
    child.kill().expect("it is ours");
    assert!(child.join_timeout(Duration::MAX).expect("it is ours").is_some());
    assert_eq!(stat(child.pid().expect("it was started")), None, "reaped");
    assert!(child.join_timeout(Duration::ZERO).expect("known").is_some());
}

fn dropping_neither_waits_nor_leaks() {
    let child = sleeper();
    let pid = child.pid().expect("it was started");
    drop(child);
    assert!(stat(pid).is_some_and(|(state, _)| state != 'Z'), "it goes on");
    forklab_sys::process::kill(pid, Signal::KILL).expect("it is there");
    eventually("it is a zombie", || stat(pid).is_some_and(|(state, _)| state == 'Z'));
    assert!(status_of(|| ()).success());
    assert_eq!(stat(pid), None, "reaped at the next start or join");

    let mut child = Process::new(|| ());
    child.start().expect("it starts");
    eventually("it ends", || !child.is_alive());
    let pid = child.pid().expect("it was started");
    drop(child);
    assert_eq!(stat(pid), None, "reaped at once");
}

fn only_the_parent_joins() {
    let child = sleeper();
    let pid = child.pid().expect("it was started");
    let mut other = Process::new(move || {
        assert!(matches!(child.kill(), Err(Error::NotTheParent { .. })));
        let shown = format!("{child:?}");
        assert!(shown.contains("started by process"), "{shown}");
        match child.join() {
            Err(Error::NotTheParent { parent, .. }) if Some(parent) == Pid::parent() => 0,
            _ => 1,
        }
    });
    other.start().expect("it starts");
    assert_eq!(other.join().expect("it ends").to_string(), "exit status 0");
    assert!(stat(pid).is_some_and(|(state, _)| state != 'Z'), "nobody has harmed it");
    forklab_sys::process::kill(pid, Signal::KILL).expect("it is there");
}

fn somebody_else_may_reap() {
    let mut child = Process::new(|| 3);
    child.start().expect("it starts");
    let pid = child.pid().expect("it was started");
    waitpid(nix::unistd::Pid::from(pid), None).expect("it is our child");
    child.kill().expect("no signal is sent: the pid may be a stranger's");
    assert!(!child.is_alive());
    assert_eq!(child.exit_status(), None);
    assert!(matches!(child.join(), Err(Error::ReapedElsewhere { .. })));
}

fn names_count() {
    assert_eq!(Process::new(|| ()).name(), "Process-1");
    let mut second = Process::new(|| {
        assert_eq!(Process::new(|| ()).name(), "Process-2:1");
        assert_eq!(Process::named("grandchild", || ()).name(), "grandchild");
        assert_eq!(Process::new(|| ()).name(), "Process-2:3");
    });
    assert_eq!(format!("{second:?}"), "Process(\"Process-2\", not started)");
    second.start().expect("it starts");
    assert!(second.join().expect("it ends").success());
    assert_eq!(Process::new(|| ()).name(), "Process-3");
}

fn what_is_moved_in_is_dropped_here() {
    let owned = std::rc::Rc::new(5);
    let seen = std::rc::Rc::downgrade(&owned);
    let mut child = Process::new(move || *owned);
    assert_eq!(seen.strong_count(), 1);
    child.start().expect("it starts");
    assert_eq!(seen.strong_count(), 0);
    assert_eq!(child.join().expect("it ends").code(), Some(5));
}

fn two_thousand_leave_nothing() {
    let open = || fs::read_dir("/proc/self/fd").expect("proc is there").count();
    let before = open();
    let (from, to) = Pipe::one_way().expect("a pipe");
    let mut children: Vec<Process> = (0..2000)
        .map(|n: u32| {
            let to = to.try_clone().expect("a descriptor");
            let mut child = Process::new(move || to.send(&n));
            child.start().expect("it starts");
            child
        })
        .collect();
    to.close();
    let mut sum = 0;
    while let Some(n) = from.recv::<u32>().expect("whole messages") {
        sum += n;
    }
    assert_eq!(sum, 1999 * 2000 / 2);
    let joined = children.split_off(1000);
    assert!(joined.iter().all(|child| child.join().expect("it ends").success()));
    // The first thousand are dropped unjoined.
    drop(children);
    drop(from);
    eventually("all are reaped", || {
        assert!(status_of(|| ()).success());
        matches!(waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)), Err(nix::errno::Errno::ECHILD))
    });
    assert_eq!(open(), before);
}

/// A thread that prints holds the lock of stdout most of the time; a child of a fork in such a
/// moment could never print.
fn a_thread_that_prints_is_no_trap() {
    let end = Instant::now() + Duration::from_secs(1);
    let printer = std::thread::spawn(move || {
        while Instant::now() < end {
            println!("a line of the thread's");
        }
    });
    while Instant::now() < end {
        assert!(status_of(|| println!("a line of the child's")).success());
    }
    printer.join().expect("it only prints");
}
