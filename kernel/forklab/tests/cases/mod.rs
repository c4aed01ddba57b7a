//! A test harness for programs that fork. Each case runs in a process of its own, with one thread
//! and its own process group, and is over when everybody who holds its stdout has left: a case that
//! leaves a process behind, or that hangs, runs into its time limit and fails.

use std::env;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use forklab_sys::ready::wait_readable;
use nix::sys::signal::{Signal, killpg};

/// Longer than any case takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// One test.
pub struct Case {
    /// Its name, for the command line.
    pub name: &'static str,
    /// What it does, in a process of its own. It fails by a panic.
    pub body: fn(),
    /// What it finds on stdin.
    pub input: &'static [u8],
    /// What stdout must hold at the end; `None` where the body checks what matters.
    pub output: Option<&'static [u8]>,
    /// What stderr must hold somewhere.
    pub complaint: &'static str,
}

impl Case {
    /// A case whose body checks everything.
    pub const fn new(name: &'static str, body: fn()) -> Case {
        Case { name, body, input: b"", output: None, complaint: "" }
    }
}

/// Runs the cases that the command line asks for (`cargo test -- part-of-a-name`).
pub fn main(cases: &[Case]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == "--case"
    {
        let case = cases.iter().find(|case| case.name == name).expect("the harness names its own cases");
        (case.body)();
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut failed = 0;
    for case in cases.iter().filter(|case| filter.is_none_or(|part| case.name.contains(part.as_str()))) {
        match run(case) {
            Ok(()) => println!("test {} ... ok", case.name),
            Err(why) => {
                failed += 1;
                println!("test {} ... FAILED\n{why}", case.name);
            }
        }
    }
    println!("{failed} of {} failed", cases.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(case: &Case) -> Result<(), String> {
    let mut child = Command::new(env::current_exe().map_err(|e| e.to_string())?)
        .args(["--case", case.name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| e.to_string())?;
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A case that reads nothing may be over before this is written.
    let _ = stdin.write_all(case.input);
    drop(stdin);
    let deadline = Instant::now() + LIMIT;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    // What goes to stderr in these tests fits into the pipe, so it can be read afterwards.
    let in_time = read_until(stdout, &mut out, deadline).and_then(|a| Ok(a && read_until(stderr, &mut err, deadline)?));
    if !matches!(in_time, Ok(true)) {
        let _ = killpg(group, Signal::SIGKILL);
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let (text, complaint) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    let told = format!("{status}\n--- stdout\n{text}\n--- stderr\n{complaint}");
    if !matches!(in_time, Ok(true)) {
        return Err(format!("it, or a process that it left behind, did not end in {LIMIT:?}: {told}"));
    }
    if !status.success() {
        return Err(told);
    }
    if let Some(output) = case.output
        && output != out
    {
        return Err(format!("expected {:?} on stdout: {told}", String::from_utf8_lossy(output)));
    }
    if !complaint.contains(case.complaint) {
        return Err(format!("expected {:?} on stderr: {told}", case.complaint));
    }
    Ok(())
}

/// Reads to the end of the file. `false` when the deadline is first.
fn read_until(mut from: impl Read + AsFd, into: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
    let mut piece = vec![0; 1 << 16];
    while wait_readable(from.as_fd(), Some(deadline.saturating_duration_since(Instant::now())))? {
        match from.read(&mut piece)? {
            0 => return Ok(true),
            read => into.extend_from_slice(&piece[..read]),
        }
    }
    Ok(false)
}
