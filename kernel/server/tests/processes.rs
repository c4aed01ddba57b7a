//! What a person asks and orders about processes, and how a cell waits for its own.

mod client;

use std::time::{Duration, Instant};

use client::{Channel, Kernel, Options, children, data, eventually, is_alive, kill, start};

/// A shell line that leaves a process behind and says its pid.
const LEAVES: &str = "!setsid sleep 1000 & echo $!";

fn leave(kernel: &mut Kernel) -> u32 {
    kernel.client.execute(LEAVES).stdout().trim().parse().expect("a pid")
}

#[test]
fn processes_are_listed_and_ended() {
    let mut kernel = start();
    assert!(kernel.client.execute("%ps").stdout().starts_with("no processes"));
    let (first, second) = (leave(&mut kernel), leave(&mut kernel));
    let text = kernel.client.execute("%ps").stdout();
    let line = text.lines().find(|line| line.contains(&first.to_string())).expect("it is listed");
    assert!(line.contains("sleeping") && line.contains("[2]") && line.ends_with("sleep 1000"), "{text}");
    assert_eq!(kernel.client.execute(&format!("%kill {first}")).stdout(), format!("ended process {first}\n"));
    assert!(!is_alive(first) && is_alive(second));
    let run = kernel.client.execute("%kill 1");
    assert_eq!(run.error()["ename"], "NoSuchProcess");
    assert!(is_alive(1));
    let run = kernel.client.execute("%kill all\nlet x = 5;\nx");
    assert_eq!((run.stdout(), run.result()), (format!("ended process {second}\n"), Some("5")));
    assert!(!is_alive(second));
}

#[test]
fn without_checkpoints_a_crash_costs_the_variables_and_says_so() {
    let mut kernel = start();
    kernel.client.execute("let lost = 1;");
    assert!(kernel.client.execute("%checkpoint off").stdout().contains("checkpoints are off"));
    let run = kernel.client.execute("std::process::abort()");
    assert_eq!(run.error()["ename"], "SIGABRT");
    assert!(run.error()["traceback"].to_string().contains("%checkpoint on"), "{}", run.error());
    assert_eq!(kernel.client.execute("lost").status(), "error");
    kernel.client.execute("%checkpoint on\nlet kept = 2;");
    assert_eq!(kernel.client.execute("std::process::abort()").error()["ename"], "SIGABRT");
    assert_eq!(kernel.client.execute("kept").result(), Some("2"));
}

#[test]
fn a_cell_waits_for_its_processes() {
    let mut kernel = start();
    let run = kernel.client.execute("%%wait\n!(setsid sh -c 'sleep 0.3; echo late') & echo early");
    assert_eq!(run.stdout(), "early\nlate\n");
    let begun = Instant::now();
    let run = kernel.client.execute(&format!("%%wait 1\n{LEAVES}"));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(run.stdout().contains("waits no longer"), "{}", run.stdout());
    assert_eq!(run.status(), "ok");
    let pid: u32 = run.stdout().lines().next().and_then(|line| line.parse().ok()).expect("a pid");
    assert!(is_alive(pid), "it goes on");
    let id = kernel.client.send_execute(&format!("%%wait\nlet kept = 3;\n{LEAVES}"), &Options::default());
    kernel.client.wait_for("its pid", |m| m.parent_id() == id && m.msg_type() == "stream");
    kernel.client.interrupt();
    let run = kernel.client.finish(&id, &Options::default());
    assert_eq!(run.error()["ename"], "Interrupted");
    eventually("all are gone", || !is_alive(pid));
    assert!(kernel.client.execute("%ps").stdout().contains("no processes"));
}

#[test]
fn a_wait_ends_at_the_cells_limits() {
    let mut kernel = start();
    let run = kernel.client.execute("%%limit time=500ms\n%%wait\n!(setsid sleep 1000) &");
    assert_eq!(run.error()["ename"], "LimitReached");
    assert!(run.error()["evalue"].as_str().is_some_and(|text| text.contains("500 ms of time")), "{}", run.error());
    assert!(kernel.client.execute("%ps").stdout().contains("no processes"));
    let run = kernel.client.execute("%%wait 0\n%checkpoint");
    assert_eq!((run.status(), run.stdout().contains("go on")), ("ok", false), "there was nobody to wait for");
}

#[test]
fn a_graded_cell_waits_by_itself() {
    let mut kernel = Kernel::start_with(|command| {
        command.env("FORKLAB_DATA", data()).env("NBGRADER_EXECUTION", "autograde");
    });
    let run = kernel.client.execute("!(setsid sh -c 'sleep 0.3; echo late') & echo early");
    assert_eq!(run.stdout(), "early\nlate\n");
}

#[test]
fn an_interrupt_ends_one_cell_and_aborts_those_that_wait() {
    let mut kernel = start();
    kernel.client.execute("let kept = 1;");
    let options = Options::default();
    let ids = ["!trap '' INT; echo begun; sleep 1000; sleep 1000", "2", "3"]
        .map(|code| kernel.client.send_execute(code, &options));
    kernel.client.wait_for("it runs", |m| m.parent_id() == ids[0] && m.msg_type() == "stream");
    let begun = Instant::now();
    kernel.client.interrupt();
    kernel.client.interrupt();
    let statuses = ids.map(|id| kernel.client.finish(&id, &options).status().to_owned());
    assert_eq!(statuses, ["error", "aborted", "aborted"]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(kernel.client.execute("kept").result(), Some("1"));
}

#[test]
fn an_interrupt_during_a_compilation_ends_the_cell() {
    interrupt_a_compilation(true);
}

#[test]
fn an_interrupt_during_a_compilation_without_a_standby_ends_the_cell() {
    interrupt_a_compilation(false);
}

fn interrupt_a_compilation(standby: bool) {
    let mut kernel = start();
    kernel.client.execute("let kept = 1;");
    let server = kernel.process.id();
    // The engine has made its standby when it answers the next request.
    kernel.client.request(Channel::Shell, "complete_request", serde_json::json!({"code": "kep", "cursor_pos": 3}));
    if !standby {
        let engine = children(server, "engine").into_iter().min().expect("an engine");
        let standbys = children(engine, "engine");
        standbys.iter().copied().for_each(kill);
        eventually("they have died", || !standbys.iter().any(|pid| is_alive(*pid)));
    }
    let id = kernel.client.send_execute("println!(\"never\"); loop { std::hint::spin_loop() }", &Options::default());
    kernel.client.wait_for("its input", |m| m.parent_id() == id && m.msg_type() == "execute_input");
    kernel.client.interrupt();
    let run = kernel.client.finish(&id, &Options::default());
    assert_eq!(run.error()["ename"], "Interrupted");
    assert_eq!(run.stdout(), "");
    let after = kernel.client.execute("kept");
    assert_eq!(after.result(), Some("1"), "{:#?}", after.published);
}
