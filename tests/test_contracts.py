"""The contracts, asked from a notebook's side: what a person can see must be what happened."""

import json
import os
import signal
import time

import pytest

from kernels import descendants, eventually, is_alive, processes

USE = "use nix::{sys::wait::{waitpid, wait}, unistd::{fork, ForkResult}};\n"

# Children of earlier tests may be there, dead and not waited for: they are the lesson's as well.
REAP = USE + "while wait().is_ok() {}"


def test_two_thousand_forks(kernel):
    code = USE + """
    let mut reaped = 0;
    for _ in 0..20 {
        for _ in 0..100 {
            if let ForkResult::Child = unsafe { fork() }.unwrap() { unsafe { nix::libc::_exit(0) } }
        }
        for _ in 0..100 { wait().unwrap(); reaped += 1; }
    }
    println!("{reaped} reaped");
    """
    assert kernel.run(code).good().stdout == "2000 reaped\n"


def test_sixteen_megabytes_arrive_whole_and_in_order(kernel):
    code = """
    let mut text = String::new();
    for number in 0..1_048_576u32 { text.push_str(&format!("{number:015}\\n")); }
    print!("{text}");
    """
    result = kernel.run(code).good()
    assert len(result.stdout) == 16 << 20
    assert result.stdout == "".join(f"{number:015}\n" for number in range(1 << 20))
    assert len(result.outputs) < 2000, "a flood is few large messages"


def test_a_child_that_falls_off_the_end_does_not_come_back(kernel):
    code = USE + """
    let before = std::process::id();
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Child => { print!("child "); 0 }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).unwrap();
            print!("{status:?} ");
            child.as_raw()
        }
    };
    let _ = (before, child);
    """
    result = kernel.run(code).good()
    assert result.stdout.count("child") == 1
    assert ", 0)" in result.stdout, "the child left with status 0"
    assert kernel.run("1 + 1").good().value == "2"


def test_a_child_that_panics_leaves_with_101(kernel):
    code = USE + """
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => panic!("in the child"),
        ForkResult::Parent { child } => println!("{:?}", waitpid(child, None).unwrap()),
    }
    """
    result = kernel.run(code).good()
    assert ", 101)" in result.stdout
    assert "in the child" in result.stderr


def test_a_child_reads_input(kernel):
    code = USE + """
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            use std::io::Write;
            print!("name? ");
            std::io::stdout().flush().unwrap();
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            println!("child read {line:?}");
        }
        ForkResult::Parent { child } => { waitpid(child, None).unwrap(); }
    }
    """
    result = kernel.run(code, answers=["Ana"]).good()
    assert result.prompts == ["name? "]
    assert 'child read "Ana\\n"' in result.stdout


def test_a_program_reads_input(kernel):
    result = kernel.run("!bash -c 'read -r line; echo \"got $line\"'", answers=["one word"]).good()
    assert "got one word" in result.stdout


def test_no_input_is_end_of_file_and_an_error_that_says_so(kernel):
    code = """
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).unwrap();
    println!("{read} bytes");
    """
    result = kernel.run(code, allow_stdin=False)
    assert "0 bytes" in result.stdout
    assert result.reply["status"] == "error"
    assert "input" in json.dumps(result.errors).lower()


MARKERS = [
    "EVCXR_EXECUTION_COMPLETE",
    "EVCXR_PANIC_NOTIFICATION",
    "EVCXR_BEGIN_CONTENT text/plain",
    "EVCXR_END_CONTENT",
    "EVCXR_VARIABLE_CHANGED_TYPE:x",
    "EVCXR_ERROR_OCCURRED",
]


def test_evcxrs_markers_are_text(kernel):
    code = "".join(f'println!("{marker}");' for marker in MARKERS)
    assert kernel.run(code).good().stdout == "".join(marker + "\n" for marker in MARKERS)
    child = USE + "match unsafe { fork() }.unwrap() { ForkResult::Child => {" + code
    child += "} ForkResult::Parent { child } => { waitpid(child, None).unwrap(); } }"
    assert kernel.run(child).good().stdout == "".join(marker + "\n" for marker in MARKERS)


def test_a_partial_line_shows_before_the_cell_goes_on(kernel, tmp_path):
    pipe = tmp_path / "go"
    os.mkfifo(pipe)
    seen = []

    def go(kind, content):
        if kind == "stream" and not seen:
            seen.append(content["text"])
            pipe.write_text("x")

    code = f"""
    {{ use std::io::Write; print!("half"); std::io::stdout().flush().unwrap(); }}
    std::fs::read({json.dumps(str(pipe))}).unwrap();
    println!(" and half");
    """
    result = kernel.run(code, on_output=go).good()
    assert seen == ["half"]
    assert result.stdout == "half and half\n"


def test_bytes_that_are_no_text_cost_themselves_only(kernel):
    code = r"""
    { use std::io::Write; let mut out = std::io::stdout();
      out.write_all(b"a\xffb\xc3").unwrap(); out.flush().unwrap();
      out.write_all(b"\xb1c\n").unwrap(); }
    """
    assert kernel.run(code).good().stdout == "a\ufffdb\u00f1c\n"


def test_a_panic_is_an_error(kernel):
    result = kernel.run('std::panic::set_hook(Box::new(|_| {})); panic!("as it is");')
    (error,) = result.errors
    assert result.reply["status"] == "error"
    assert "as it is" in error["evalue"]
    assert [error[key] for key in ("ename", "evalue", "traceback")] == [
        result.reply[key] for key in ("ename", "evalue", "traceback")
    ]
    kernel.run("let _ = std::panic::take_hook();").good()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("std::process::abort();", "SIGABRT"),
        ("std::process::exit(3);", "3"),
        ("std::process::exit(0);", "0"),
        ("unsafe { *(8 as *mut i32) = 1 };", "SIGSEGV"),
        ("nix::sys::signal::raise(nix::sys::signal::SIGKILL).unwrap();", "SIGKILL"),
    ],
)
def test_a_cell_that_ends_its_process_leaves_the_variables(kernel, code, said):
    kernel.run("let kept = vec![1, 2, 3];").good()
    result = kernel.run(code)
    (error,) = result.errors
    assert result.reply["status"] == "error"
    assert said in error["evalue"] + error["ename"], error
    assert kernel.run("kept.len()").good().value == "3"


def test_a_compile_error_names_the_line(kernel):
    result = kernel.run("let a = 1;\nlet b: i32 = \"no\";")
    (error,) = result.errors
    assert "E0308" in error["ename"] + error["evalue"]
    assert any(":2:" in line or "line 2" in line for line in [*error["traceback"], error["evalue"]])


def test_late_output_comes_under_the_cell_that_started_it(kernel, tmp_path):
    pipe = tmp_path / "go"
    os.mkfifo(pipe)
    code = USE + f"""
    if let ForkResult::Child = unsafe {{ fork() }}.unwrap() {{
        std::fs::read({json.dumps(str(pipe))}).unwrap();
        println!("late");
        unsafe {{ nix::libc::_exit(0) }}
    }}
    """.replace('println!("late");', 'nix::unistd::write(std::io::stdout(), b"late\\n").unwrap();')
    first = kernel.run(code).good()
    kernel.run("2").good()
    pipe.write_text("x")
    deadline = time.monotonic() + 10
    while True:
        assert time.monotonic() < deadline
        message = kernel.client.get_iopub_msg(timeout=10)
        if message["msg_type"] == "stream":
            break
    assert message["content"]["text"] == "late\n"
    assert message["parent_header"]["msg_id"] == first.message_id


def test_ps_shows_the_lesson_only(own_kernel):
    kernel = own_kernel
    kernel.run(REAP).good()
    worker = kernel.run("std::process::id()").good().value
    header, *lines = kernel.run("!ps ft").good().stdout.splitlines()
    assert header.split()[0] == "PID"
    assert lines[0].split()[0] == worker
    assert [line.split()[-2:] for line in lines[1:]] == [["ps", "ft"]] * (len(lines) - 1), lines


def test_wait_finds_no_child_that_is_not_the_lessons(kernel):
    kernel.run(REAP).good()
    code = USE + "println!(\"{:?}\", wait());"
    assert kernel.run(code, limit=20).good().stdout == "Err(ECHILD)\n"


def test_the_workers_pid_is_stable(kernel):
    pids = {kernel.run("std::process::id()").good().value for _ in range(3)}
    assert len(pids) == 1


def test_cells_after_an_error_are_aborted(kernel):
    first = kernel.submit('panic!("stop");')
    second, third = kernel.submit("1"), kernel.submit("2", stop_on_error=False)
    assert kernel.collect(first).reply["status"] == "error"
    assert kernel.collect(second).reply["status"] == "aborted"
    kernel.collect(third)
    kept = kernel.submit('panic!("go on");', stop_on_error=False)
    after = kernel.submit("3")
    assert kernel.collect(kept).reply["status"] == "error"
    assert kernel.collect(after).reply["status"] == "ok"


def test_an_interrupt_ends_a_cell_and_all_below_it(own_kernel):
    kernel = own_kernel
    kernel.run("1").good()
    started = []

    def interrupt(kind, content):
        if kind == "stream" and not started:
            started.append(int(content["text"]))
            kernel.manager.interrupt_kernel()

    code = """
    let child = std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    println!("{}", child.id());
    loop { std::hint::spin_loop() }
    """
    result = kernel.run(code, on_output=interrupt, limit=30)
    assert result.reply["status"] == "error"
    assert "nterrupt" in result.errors[0]["ename"] + result.errors[0]["evalue"]
    eventually(lambda: not is_alive(started[0]))
    assert kernel.run("40 + 2").good().value == "42"


LEFT_BEHIND = """
let child = std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
child.id()
"""


def test_shutdown_ends_every_process(own_kernel):
    stray = int(own_kernel.run(LEFT_BEHIND).good().value)
    below = [own_kernel.pid, *descendants(own_kernel.pid)]
    assert stray in below
    own_kernel.manager.shutdown_kernel(now=False)
    eventually(lambda: not any(is_alive(pid) for pid in below))


def test_the_servers_death_ends_every_process(own_kernel):
    stray = int(own_kernel.run(LEFT_BEHIND).good().value)
    below = descendants(own_kernel.pid)
    assert stray in below
    os.kill(own_kernel.pid, signal.SIGKILL)
    # Two seconds by contract; the third is for a machine that is busy with other tests.
    eventually(lambda: not any(is_alive(pid) for pid in below), limit=3)


def test_the_engines_death_costs_nothing_between_cells(own_kernel):
    own_kernel.run("let kept = 5; fn double(x: i32) -> i32 { 2 * x }").good()
    # The engine answers one request after the other: by then it has made its standby.
    own_kernel.client.complete("dou", reply=True, timeout=60)
    table = processes()
    engines = [pid for pid in descendants(own_kernel.pid) if "engine" in table.get(pid, (0, []))[1][1:2]]
    assert engines
    os.kill(min(engines), signal.SIGKILL)
    eventually(lambda: not is_alive(min(engines)))
    assert own_kernel.run("double(kept)").good().value == "10"


def test_kernel_info_answers_while_a_cell_runs(kernel, tmp_path):
    pipe = tmp_path / "go"
    os.mkfifo(pipe)
    cell = kernel.submit(f"std::fs::read({json.dumps(str(pipe))}).unwrap().len()")
    asked = kernel.client.session.msg("kernel_info_request", {})
    kernel.client.control_channel.send(asked)
    reply = kernel.client.get_control_msg(timeout=10)
    assert reply["content"]["language_info"]["name"] == "rust"
    assert reply["content"]["protocol_version"].startswith("5.")
    pipe.write_text("x")
    assert kernel.collect(cell).good().value == "1"


def test_a_cell_sent_after_an_errors_reply_is_not_aborted(kernel):
    """The race: the reply is out, the next request comes, and only then the queue is emptied."""
    for _ in range(15):
        assert kernel.collect(kernel.submit('panic!("once");')).reply["status"] == "error"
        assert kernel.run(":vars").reply["status"] == "ok"
