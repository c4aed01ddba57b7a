//! Real control groups, where this machine allows them. Where it does not, a test says so and passes.

#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forklab_sys::cgroup::{Abilities, Group, remove_abandoned, remove_folders};
use forklab_sys::process::{Fork, Pid, exit_now, fork, reap, wait};

/// What fork(2) fails with at a limit: its number on every Linux.
const EAGAIN: u8 = 11;

/// A group that goes with the test, also when that fails.
struct Own(Group);

impl Own {
    /// `None`, and said, where the machine does not give it.
    fn with(what: &str, has: impl Fn(Abilities) -> bool) -> Option<Own> {
        let name = format!("forklab-{}-{what}", std::process::id());
        match Group::create(&name) {
            Ok(group) if has(group.abilities()) => return Some(Own(group)),
            Ok(group) => {
                println!("skipped: {what} is not to be had in {}: {:?}", group.description(), group.missing());
                group.remove().expect("nothing has entered it");
            }
            Err(why) => println!("skipped: {why}"),
        }
        None
    }

    /// Starts a shell's script within the group: it waits for a line before it begins.
    fn run(&self, script: &str) -> Child {
        let script = format!("read line; {script}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sh is there");
        self.0.enter(pid_of(&child)).expect("it is ours");
        child.stdin.as_mut().expect("it is piped").write_all(b"go\n").expect("it reads");
        child
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let folders = self.0.folders();
        let removed = self.0.remove();
        if !std::thread::panicking() {
            removed.expect("it is empty");
            assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32).expect("a pid")
}

fn until(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_fork_beyond_the_limit_is_refused_and_counted() {
    let Some(group) = Own::with("processes", |able| able.processes) else { return };
    group.0.limit_processes(Some(3)).expect("it is able to");
    let (go, mut told) = UnixStream::pair().expect("two sockets");
    // SAFETY: the child makes system calls only, and allocates nothing.
    let child = match unsafe { fork() }.expect("a process") {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            // Or its own copy would keep the line open.
            drop(told);
            fork_until_refused(&go)
        }
    };
    drop(go);
    group.0.enter(child).expect("it is ours");
    told.set_read_timeout(Some(Duration::from_secs(20))).expect("not zero");
    told.write_all(b"go").expect("it reads");
    let mut answer = [0; 2];
    let read = told.read_exact(&mut answer);
    let (count, refused) = (group.0.processes(), group.0.refused_forks());
    drop(told);
    wait(child).and_then(|_| reap(child)).expect("it is ours");
    read.expect("it answers");
    assert_eq!(answer, [2, EAGAIN], "how many it could fork, and why no more");
    assert_eq!((count, refused), (Some(3), Some(1)));
    // Orphans die when their line is closed.
    until("all have left", || group.0.processes() == Some(0));
    group.0.limit_processes(None).expect("it is able to");
}

/// Waits for a word, forks, says how many times that went well and which error came then, and stays
/// with its children until the line is closed.
fn fork_until_refused(mut line: &UnixStream) -> ! {
    let mut word = [0; 2];
    let mut count = 0;
    if line.read_exact(&mut word).is_ok() {
        loop {
            // SAFETY: parent and child make system calls only.
            match unsafe { fork() } {
                Ok(Fork::Parent(_)) => count += 1,
                Ok(Fork::Child) => break,
                Err(error) => {
                    line.write_all(&[count, error.raw_os_error().unwrap_or(0) as u8]).ok();
                    break;
                }
            }
        }
    }
    line.read_exact(&mut word).ok();
    exit_now(0)
}

#[test]
fn a_hog_of_memory_is_ended_and_counted() {
    let Some(group) = Own::with("memory", |able| able.memory) else { return };
    group.0.limit_memory(Some(64 << 20)).expect("it is able to");
    group.0.limit_memory(Some(96 << 20)).expect("it can be raised");
    group.0.limit_memory(Some(48 << 20)).expect("it can be lowered");
    let mut child = group.run("x=0123456789abcdef; while :; do x=$x$x; done");
    let status = child.wait().expect("it is ours");
    assert_eq!(status.signal(), Some(9), "{status}");
    assert_eq!(group.0.out_of_memory_kills(), Some(1));
    assert!(group.0.memory().is_some_and(|bytes| bytes < 48 << 20));
    group.0.limit_memory(None).expect("it is able to");
}

#[test]
fn processor_time_of_the_dead_counts() {
    let Some(group) = Own::with("cpu", |able| able.cpu) else { return };
    let before = group.0.cpu().expect("it is able to");
    let mut child = group.run("(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done)");
    child.wait().expect("it is ours");
    let used = group.0.cpu().expect("it is able to") - before;
    assert!(used > Duration::from_millis(50) && used < Duration::from_secs(20), "{used:?}");
}

#[test]
fn only_empty_groups_of_the_dead_are_removed() {
    let Some(group) = Own::with("abandoned", |_| true) else { return };
    // A pid that is nobody's: its process has been reaped.
    let mut dead = Command::new("true").spawn().expect("true is there");
    dead.wait().expect("it is ours");
    let named = |rest: &str| Group::create(&format!("forklab-{}-{rest}", dead.id())).expect("as the one above");
    let (empty, inhabited) = (named("empty"), Own(named("inhabited")));
    let mut child = inhabited.run("read line");
    remove_abandoned();
    let there = |group: &Group| group.folders().iter().all(|folder| folder.exists());
    assert!(gone(&empty.folders()));
    assert!(there(&inhabited.0), "somebody lives there");
    assert!(there(&group.0), "its maker lives");
    drop(child.stdin.take());
    child.wait().expect("it is ours");
    remove_folders(&inhabited.0.folders());
    assert!(gone(&inhabited.0.folders()));
    empty.remove().expect("what is gone is fine");
}

fn gone(folders: &[PathBuf]) -> bool {
    folders.iter().all(|folder| !folder.exists())
}

#[test]
fn nobody_can_be_moved_who_is_not_there() {
    let Some(group) = Own::with("nobody", |_| true) else { return };
    let mut dead = Command::new("true").spawn().expect("true is there");
    dead.wait().expect("it is ours");
    let error = group.0.enter(pid_of(&dead)).expect_err("it has been reaped");
    assert_eq!(error.raw_os_error(), Some(3), "ESRCH");
}
