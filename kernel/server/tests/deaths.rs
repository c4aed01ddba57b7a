//! Interrupts and deaths at every stage of a cell: each cell gets its reply, the notebook goes on with
//! what it had, and no process stays behind.

mod client;

use client::{Channel, Kernel, Options, children, eventually, is_alive, kill, start};
use forklab_sys::process::{self, Pid, Signal};
use serde_json::json;

#[test]
fn an_interrupt_ends_the_cell_and_keeps_the_variables() {
    let mut kernel = start();
    kernel.client.execute("let kept = vec![1, 2, 3];");
    let id = kernel.client.send_execute(
        "let child = std::process::Command::new(\"setsid\").args([\"sleep\", \"1000\"]).spawn().unwrap();\n\
         println!(\"{}\", child.id()); loop { std::hint::spin_loop() }",
        &Options::default(),
    );
    let said = kernel.client.wait_for("the child's pid", |message| message.msg_type() == "stream");
    let pid: u32 = said.content["text"].as_str().and_then(|text| text.trim().parse().ok()).expect("a pid");
    assert!(is_alive(pid));
    assert_eq!(kernel.client.interrupt().content["status"], "ok");
    let run = kernel.client.finish(&id, &Options::default());
    assert_eq!(run.error()["ename"], "Interrupted");
    eventually("the child's end", || !is_alive(pid));
    assert_eq!(kernel.client.execute("kept.len()").result(), Some("3"));
}

#[test]
fn the_engines_death_is_an_error_of_its_cell_only() {
    let mut kernel = start();
    kernel.client.execute("let kept = 5; fn double(x: i32) -> i32 { 2 * x }");
    let server = kernel.process.id();
    // In the middle of a run: what the run did to the variables is taken back.
    let id = kernel
        .client
        .send_execute("let lost = kept; println!(\"runs\"); loop { std::hint::spin_loop() }", &Options::default());
    kernel.client.wait_for("the run", |message| message.msg_type() == "stream");
    let engines = children(server, "engine");
    assert!(!engines.is_empty());
    engines.into_iter().for_each(kill);
    let run = kernel.client.finish(&id, &Options::default());
    assert_eq!(run.error()["ename"], "EngineError");
    let after = kernel.client.execute("double(kept)");
    assert_eq!(after.result(), Some("10"), "{:#?}", after.published);
    // And once more, with nothing under way. The engine answers requests one after the other, and has
    // made its standby when it answers the next one.
    kernel.client.request(Channel::Shell, "complete_request", json!({"code": "dou", "cursor_pos": 3}));
    let engine = engine_of(server);
    kill(engine);
    eventually("the engine's end", || !is_alive(engine));
    assert_eq!(kernel.client.execute("double(kept) + 1").result(), Some("11"));
}

/// rust-analyzer has panicked on this completion; whether it does or not, the cell that follows at once runs.
#[test]
fn a_completion_that_breaks_the_compiler_costs_no_cell() {
    let mut kernel = start();
    kernel.client.execute("use nix::unistd::*;");
    for code in ["println!(\"x\");\n    ", "println!(\"x\");\n%%tr"] {
        let asked = json!({"code": code, "cursor_pos": code.len()});
        let reply = kernel.client.request(Channel::Shell, "complete_request", asked).content;
        assert_eq!(reply["status"], "ok");
        assert_eq!(kernel.client.execute("getpid().as_raw() > 0").result(), Some("true"), "after {code}");
    }
}

/// The engine that works now: of all processes of that role the oldest living below the server.
fn engine_of(server: u32) -> u32 {
    children(server, "engine").into_iter().min().expect("the standby took over and is the server's child")
}

#[test]
fn shutdown_and_the_servers_death_leave_nothing() {
    for how in [false, true] {
        let mut kernel = start();
        let stray = leave_behind(&mut kernel);
        let server = kernel.process.id();
        let directory = runtime_directory(server);
        let ours: Vec<u32> = [children(server, "supervisor"), children(server, "engine"), vec![stray]].concat();
        assert!(ours.len() >= 3 && ours.iter().all(|pid| is_alive(*pid)));
        if how {
            kill(server);
            let _reaped = kernel.process.wait();
        } else {
            assert!(kernel.shut_down().success());
        }
        eventually("the end of every process", || !ours.iter().any(|pid| is_alive(*pid)));
        eventually("the end of the kernel's directory", || !directory.exists());
    }
}

#[test]
fn an_interrupt_between_two_steps_of_a_cell_ends_it() {
    let mut kernel = start();
    kernel.client.execute("let kept = 1;");
    let id =
        kernel.client.send_execute("!echo begun; sleep 1000\nlet never = 5; println!(\"ran\");", &Options::default());
    kernel.client.wait_for("the shell line", |message| message.msg_type() == "stream");
    kernel.client.interrupt();
    let run = kernel.client.finish(&id, &Options::default());
    assert_eq!(run.error()["ename"], "Interrupted");
    assert_eq!(run.stdout(), "");
    assert_eq!(kernel.client.execute("never").error()["ename"], "CompileError", "nothing of the Rust code was kept");
    assert_eq!(kernel.client.execute("kept").result(), Some("1"));
}

#[test]
fn an_interrupt_at_any_moment_loses_nothing_that_was_answered() {
    let mut kernel = start();
    for n in 0..6u64 {
        assert_eq!(kernel.client.execute(&format!("let v{n} = {n};")).status(), "ok");
        let id =
            kernel.client.send_execute("println!(\"{}\", 1 + 1); loop { std::hint::spin_loop() }", &Options::default());
        // An interrupt that overtakes its cell is for no cell.
        kernel
            .client
            .wait_for("the cell's input", |message| message.parent_id() == id && message.msg_type() == "execute_input");
        // Moments from before the engine has its new standby to the middle of a compilation.
        std::thread::sleep(std::time::Duration::from_millis(n * 8));
        kernel.client.interrupt();
        let run = kernel.client.finish(&id, &Options::default());
        assert_eq!(run.error()["ename"], "Interrupted");
    }
    assert_eq!(kernel.client.execute("v0 + v1 + v2 + v3 + v4 + v5").result(), Some("15"));
}

#[test]
fn a_kernel_without_a_compiler_says_so_and_runs_shell_lines() {
    let mut kernel = Kernel::start_with(|command| {
        command.env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent").env_remove("CARGO").env_remove("RUSTC");
    });
    let said = kernel.client.execute("1 + 1");
    assert_eq!(said.error()["ename"], "EngineError");
    let evalue = said.error()["evalue"].as_str().unwrap_or_default().to_owned();
    assert!(evalue.contains("rustc") || evalue.contains("cargo"), "{evalue}");
    assert_eq!(kernel.client.execute("!echo still here").stdout(), "still here\n");
    assert_eq!(kernel.client.kernel_info(Channel::Control).content["status"], "ok");
    assert!(kernel.shut_down().success());
}

#[test]
fn the_supervisors_death_ends_its_processes_and_a_new_one_serves() {
    let mut kernel = start();
    let stray = leave_behind(&mut kernel);
    let server = kernel.process.id();
    let supervisor = children(server, "supervisor")[0];
    kill(supervisor);
    eventually("the end of what it owned", || !is_alive(stray));
    let told = kernel.client.execute("1");
    assert_eq!(told.error()["ename"], "KernelError");
    assert!(told.error()["evalue"].as_str().is_some_and(|text| text.contains("lost")));
    assert_eq!(kernel.client.execute("let new = 2; new + 1").result(), Some("3"));
    assert!(kernel.shut_down().success());
}

#[test]
fn a_runner_that_has_not_heard_of_the_supervisors_death_costs_no_cell() {
    let mut kernel = start();
    let stray = leave_behind(&mut kernel);
    let server = kernel.process.id();
    kernel.client.execute("let lost = 1;");
    let engine = engine_of(server);
    let runner = Pid::from_raw(children(engine, "runner")[0] as i32).expect("a pid");
    // As a busy machine does it, but for longer: it hears of nothing before the next cell needs it.
    process::kill(runner, Signal::STOP).expect("it is ours");
    kill(children(server, "supervisor")[0]);
    eventually("the end of what it owned", || !is_alive(stray));
    assert_eq!(kernel.client.execute("1").error()["ename"], "KernelError");
    let run = kernel.client.execute("let new = 2; new + 1");
    assert_eq!(run.result(), Some("3"), "{:#?}", run.published);
    assert_eq!(kernel.client.execute("lost").error()["ename"], "CompileError", "evcxr has forgotten it");
    assert_eq!(kernel.client.execute("new").result(), Some("2"));
    assert!(kernel.shut_down().success());
}

#[test]
fn a_cell_that_runs_at_shutdown_gets_its_reply() {
    let mut kernel = start();
    let running =
        kernel.client.send_execute("println!(\"runs\"); loop { std::hint::spin_loop() }", &Options::default());
    let queued = kernel.client.send_execute("1", &Options::default());
    kernel.client.wait_for("the run", |message| message.msg_type() == "stream");
    let id = kernel.client.send(Channel::Control, "shutdown_request", json!({"restart": false}));
    kernel.client.wait_for("the answer", |message| message.msg_type() == "shutdown_reply" && message.parent_id() == id);
    assert_eq!(kernel.client.finish(&queued, &Options::default()).status(), "aborted");
    assert_eq!(kernel.client.finish(&running, &Options::default()).status(), "error");
    assert!(kernel.wait(client::DEADLINE).is_some_and(|status| status.success()));
}

/// Has a cell start a process that outlives it, in a session of its own; returns its pid.
fn leave_behind(kernel: &mut Kernel) -> u32 {
    let run = kernel
        .client
        .execute("std::process::Command::new(\"setsid\").args([\"sleep\", \"1000\"]).spawn().unwrap().id()");
    run.result().and_then(|text| text.parse().ok()).expect("a pid")
}

/// The directory that a kernel works in, as its supervisor was told.
fn runtime_directory(server: u32) -> std::path::PathBuf {
    let supervisor = children(server, "supervisor")[0];
    let command = std::fs::read(format!("/proc/{supervisor}/cmdline")).expect("the supervisor lives");
    let words: Vec<&str> = command.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    let option = words.iter().position(|word| *word == "--runtime-dir").expect("it has the option");
    words[option + 1].into()
}
