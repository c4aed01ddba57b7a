//! The far side as the server sees it: tasks, deaths, rollbacks, input, interrupts.

mod endings;
mod harness;
mod interrupts;
mod limits;
mod nonsense;
mod processes;
mod records;
mod undo;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use forklab_worker::messages::{Exit, FromSupervisor, Outcome, ToSupervisor};
use harness::{FarSide, Keeper, alive, rust_task, task, until};

fn killed_by(signal: i32) -> impl Fn(Exit) -> bool {
    move |how| matches!(how, Exit::Signaled { signal: s, .. } if s == signal)
}

#[test]
fn a_cell_prints_and_returns() {
    let mut far = FarSide::start();
    let (mut cell, report) = far.run("hello");
    assert_eq!((cell.stdout().as_str(), cell.stderr().as_str()), ("partialbuffered", "oops\n"));
    assert_eq!(report, Default::default());
    assert_eq!(far.run("environment").0.stdout(), "quiet\n");
    assert_eq!(far.run("first_descriptor").0.stdout(), "3\n");
    let missing = far.call("no_such_function");
    assert!(matches!(far.ended(&missing), Outcome::NotRun { message } if message.contains("no_such_function")));
    far.run("nothing");
}

#[test]
fn the_workers_pid_is_stable_and_its_writes_are_its_own() {
    let mut far = FarSide::start();
    let pid = far.run("own_pid").0.numbers()[0];
    let mut second = far.run("own_pid").0;
    assert_eq!(second.pieces(), [(pid, format!("{pid}\n"))]);
}

#[test]
fn a_child_that_returns_leaves_and_does_not_come_back() {
    let mut far = FarSide::start();
    let mut cell = far.run("child_returns").0;
    let pieces = cell.pieces();
    let [(child, text), ..] = &pieces[..] else { panic!("nothing was written") };
    assert_eq!(text, "child\n");
    assert_eq!(cell.stdout(), format!("child\n{child}\n0\n"));
    assert!(far.says_nothing_for(Duration::ZERO));
    let mut cell = far.run("child_panics").0;
    let numbers = cell.numbers();
    assert_eq!(numbers[1], 101);
    assert_eq!(cell.stderr(), format!("process {} panicked at In [7], line 2, column 5:\nboom\n", numbers[0]));
}

#[test]
fn what_generated_code_tells_is_reported() {
    let mut far = FarSide::start();
    let (mut cell, report) = far.run("panics");
    let panic = report.panic.expect("a panic");
    let location = panic.location.expect("a location");
    assert_eq!((panic.message.as_str(), location.execution, location.line, location.column), ("boom", Some(7), 2, 5));
    assert_eq!(cell.stderr(), "");
    let (mut cell, report) = far.run("catches_a_panic");
    assert_eq!(report.panic, None);
    assert!(cell.stderr().ends_with("panicked at In [7], line 2, column 5:\ncaught\n"));
    assert_eq!(far.run("fails").1.error.as_deref(), Some("no such thing"));
    let (mut cell, report) = far.run("shows");
    let shown: Vec<_> = report.displays.iter().map(|(mime, content)| (mime.as_str(), content.as_str())).collect();
    assert_eq!(shown, [("text/plain", "one"), ("text/html", "<b>")]);
    assert_eq!(cell.stdout(), "noise\nEVCXR_BEGIN_CONTENT text/html\n");
    let (mut cell, report) = far.run("thread_panics");
    assert_eq!(report.panic, None);
    assert!(cell.stderr().starts_with("thread 'helper' of process "));
    assert!(cell.stderr().ends_with(" panicked at /other.rs:3:4:\nin a thread\n"));
}

#[test]
fn a_dead_worker_is_restored_with_its_variables() {
    let mut far = FarSide::start();
    let old = far.run("own_pid").0.numbers()[0];
    assert_eq!(far.run("count").0.stdout(), "1\n");
    assert_eq!(far.run("count").0.stdout(), "2\n");
    let (mut cell, how, new) = far.run_to_death("exits");
    assert_eq!((how, cell.stdout().as_str()), (Exit::Exited(3), "last words"));
    assert_ne!(old, new);
    assert_eq!(far.run("own_pid").0.numbers(), [new]);
    assert_eq!(far.run("count").0.stdout(), "3\n");
    assert!(killed_by(11)(far.run_to_death("count_then_crash").1));
    assert_eq!(far.run("count").0.stdout(), "4\n", "the crashed cell's own count is undone");
    for (function, signal) in
        [("crashes", 11), ("kills_itself", 9), ("kills_its_group", 9), ("killed_by_its_child", 15)]
    {
        assert!(killed_by(signal)(far.run_to_death(function).1), "{function}");
    }
    let (mut cell, how, _) = far.run_to_death("execs");
    assert_eq!((how, cell.stdout().as_str()), (Exit::Exited(0), "another program\n"));
    assert_eq!(far.run("count").0.stdout(), "5\n");
}

#[test]
fn a_caught_panic_is_printed_when_the_cell_exits() {
    let mut far = FarSide::start();
    let (mut cell, how, _) = far.run_to_death("catches_a_panic_and_exits");
    assert_eq!(how, Exit::Exited(3));
    let text = cell.stderr();
    assert_eq!(text.matches(" panicked at In [7], line 2, column 5:\ncaught\n").count(), 1, "{text}");
}

#[test]
fn without_a_checkpoint_the_state_is_gone_and_said_to_be() {
    let mut far = FarSide::start();
    far.run("count");
    let cell = far.begin(task("crashes"), false);
    far.worker();
    assert!(matches!(far.ended(&cell), Outcome::Died { restored: false, .. }));
    assert_eq!(far.run("count").0.stdout(), "1\n");
    let mut cell = far.begin(task("count"), false);
    far.returned(&cell);
    assert_eq!(cell.stdout(), "2\n");
    far.run_to_death("crashes");
    assert_eq!(far.run("count").0.stdout(), "3\n");
}

#[test]
fn a_worker_that_dies_between_cells_is_restored_too() {
    let mut far = FarSide::start();
    far.run("count");
    let cell = far.call("killed_later");
    far.ended_among_readers(&cell);
    far.wants_input();
    far.send(&ToSupervisor::Input { text: "now\n".to_owned() });
    let new = far.worker();
    assert_eq!(far.run("own_pid").0.numbers(), [new]);
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn a_crash_ends_what_its_cell_started_and_nothing_else() {
    let mut far = FarSide::start();
    let earlier = far.run("leaves_an_orphan").0.numbers()[0];
    let mut cell = far.run_to_death("orphan_then_crash").0;
    let own = cell.numbers()[0];
    assert!(!alive(own));
    assert!(alive(earlier));
    assert_eq!(far.processes(), [earlier]);
    assert_eq!(far.run("waits_for_all").0.stdout(), "1\n", "the worker has no child that is not the lesson's");
    far.send(&ToSupervisor::Interrupt);
    until("the orphan ends", || !alive(earlier));
    assert_eq!(far.processes(), [0; 0]);
    far.run("nothing");
}

#[test]
fn late_output_names_its_writer_and_comes_to_its_own_cell() {
    let mut far = FarSide::start();
    let mut first = far.call("late_writer");
    far.ended_among_readers(&first);
    let reader = far.wants_input();
    // A task begins and ends: what was said is taken back each time, and said anew.
    let mut second = far.call("nothing");
    assert!(matches!(far.next(), FromSupervisor::InputCancelled { pid } if pid.0 == reader));
    far.ended_among_readers(&second);
    assert_eq!(far.wants_input(), reader);
    far.send(&ToSupervisor::Input { text: "go\n".to_owned() });
    first.until_stdout(&format!("3\n{reader}\n"));
    assert!(first.pieces().iter().all(|(pid, _)| *pid == reader));
    assert_eq!(second.stdout(), "");
}

#[test]
fn an_interrupt_ends_everything_and_keeps_the_variables() {
    let mut far = FarSide::start();
    far.run("count");
    let orphan = far.run("leaves_an_orphan").0.numbers()[0];
    let mut cell = far.call("spins_with_company");
    cell.until_stdout("spinning");
    far.send(&ToSupervisor::Interrupt);
    far.worker();
    assert!(matches!(far.ended(&cell), Outcome::Interrupted { restored: true }));
    assert!(!alive(orphan));
    assert_eq!(far.processes(), [0; 0]);
    // Supervisor, worker, checkpoint.
    until("the old checkpoint is gone", || far.marked().len() == 3);
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn the_end_of_the_channel_ends_everything() {
    let mut far = FarSide::start();
    far.run("leaves_an_orphan");
    let mut cell = far.call("spins_with_company");
    cell.until_stdout("spinning");
    assert!(far.marked().len() > 5);
    far.close();
    assert!(far.marked().is_empty());
}

#[test]
fn a_killed_supervisor_takes_the_worker_along_and_leaves_room_for_another() {
    let mut far = FarSide::start();
    far.run("count");
    far.run_to_death("crashes");
    // A worker that computes on sees no channel close; and this one was a checkpoint before.
    far.call("spins").until_stdout("spinning");
    far.replace_supervisor();
    far.worker();
    until("the old worker and its checkpoint end", || far.marked().len() == 3);
    assert_eq!(far.run("count").0.stdout(), "1\n", "a fresh worker has no variables");
}

#[test]
fn a_path_too_long_for_a_socket_is_said() {
    let folder = std::env::temp_dir().join(format!("forklab-far-side-{}-{}", "long".repeat(30), std::process::id()));
    std::fs::create_dir(&folder).expect("a new directory");
    let mut far = FarSide::start_in(folder.clone(), "too-long".to_owned(), Keeper::Group);
    let FromSupervisor::Failed { message } = far.next() else { panic!("it cannot start") };
    assert!(message.contains(&*far.socket().to_string_lossy()), "{message}");
    assert!(message.ends_with("set TMPDIR to a directory with a shorter path"), "{message}");
}

#[test]
fn any_process_may_read_from_the_person() {
    let mut far = FarSide::start();
    let worker = far.run("own_pid").0.numbers()[0];
    for function in ["reads", "polls", "thread_reads"] {
        let mut cell = far.call(function);
        assert_eq!(far.wants_input(), worker, "{function}");
        far.send(&ToSupervisor::Input { text: format!("{function}\n") });
        far.returned(&cell);
        assert_eq!(cell.stdout(), format!("[{function}\n]\n"));
    }
    let mut cell = far.shell("cat; read a b; echo $b-$a");
    far.wants_input();
    far.send(&ToSupervisor::Input { text: "one\ntwo\n".to_owned() });
    far.wants_input();
    far.send(&ToSupervisor::EndOfInput);
    far.wants_input();
    far.send(&ToSupervisor::Input { text: "x y\n".to_owned() });
    assert_eq!(far.returned(&cell).shell, Some(Exit::Exited(0)));
    assert_eq!(cell.stdout(), "one\ntwo\ny-x\n");
}

#[test]
fn a_reader_is_told_with_the_cell_that_has_started_it() {
    let mut far = FarSide::start();
    let cell = far.shell("read x");
    assert_eq!(far.asked().1, Some(cell.id));
    far.send(&ToSupervisor::EndOfInput);
    far.returned(&cell);
    let family = far.call("late_family");
    far.ended_among_readers(&family);
    let (parent, of) = far.asked();
    assert_eq!(of, Some(family.id), "also when no task runs");
    let cell = far.shell("sleep 1000");
    assert!(matches!(far.next(), FromSupervisor::InputCancelled { pid } if pid.0 == parent));
    assert_eq!(far.asked(), (parent, Some(family.id)), "it was there before the task");
    far.send(&ToSupervisor::Input { text: "go\n".to_owned() });
    let (child, of) = far.asked();
    assert_ne!(child, parent);
    assert_eq!(of, Some(family.id), "a left-over has started it");
    let sleeps = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    until("the shell's program runs", || far.processes().iter().any(sleeps));
    far.send(&ToSupervisor::Interrupt);
    let cancelled = far.next();
    assert!(matches!(cancelled, FromSupervisor::InputCancelled { pid } if pid.0 == child), "{cancelled:?}");
    assert_eq!(far.returned(&cell).shell, Some(Exit::Signaled { signal: 2, core: false }));
}

#[test]
fn each_blocked_read_is_said_once_and_two_readers_one_after_the_other() {
    let mut far = FarSide::start();
    let mut cell = far.call("two_readers");
    let first = far.wants_input();
    assert!(far.says_nothing_for(Duration::from_millis(100)));
    far.send(&ToSupervisor::Input { text: "a\n".to_owned() });
    let second = far.wants_input();
    far.send(&ToSupervisor::EndOfInput);
    far.returned(&cell);
    assert!(first > 0 && second > 0);
    let mut lines: Vec<_> = cell.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["[]", "[a", "]"]);
}

#[test]
fn a_long_line_and_a_rapid_dialogue_arrive_whole() {
    let mut far = FarSide::start();
    let mut cell = far.shell("head -n 1 | wc -c; for i in $(seq 300); do read x; echo $x; done");
    far.wants_input();
    far.send(&ToSupervisor::Input { text: "y".repeat(20_000) + "\n" });
    for i in 0..300 {
        far.wants_input();
        cell.stdout(); // Read, or the shell would wait for room.
        far.send(&ToSupervisor::Input { text: format!("{i}\n") });
    }
    far.returned(&cell);
    let expected: String = std::iter::once(20_001).chain(0..300).map(|n| format!("{n}\n")).collect();
    assert_eq!(cell.stdout(), expected);
}

#[test]
fn a_reader_that_dies_cancels_and_unread_text_is_forgotten() {
    let mut far = FarSide::start();
    let cell = far.call("reader_dies");
    let reader = far.wants_input();
    assert!(matches!(far.next(), FromSupervisor::InputCancelled { pid } if pid.0 == reader));
    far.returned(&cell);
    let cell = far.call("reads");
    far.wants_input();
    far.send(&ToSupervisor::Input { text: "one\ntoo many\n".to_owned() });
    far.returned(&cell);
    let mut cell = far.call("reads");
    far.wants_input();
    far.send(&ToSupervisor::EndOfInput);
    far.returned(&cell);
    assert_eq!(cell.stdout(), "[]\n");
}

#[test]
fn a_shell_line_has_the_terminal_and_its_status_is_told() {
    let mut far = FarSide::start();
    let mut cell = far.shell("tty; ps -t $(tty) -o comm=; exit 7");
    assert_eq!(far.returned(&cell).shell, Some(Exit::Exited(7)));
    let output = cell.stdout();
    let lines: Vec<_> = output.lines().collect();
    assert!(lines[0].starts_with("/dev/pts/"));
    assert_eq!(lines[1..], ["forklab", "sh", "ps"]);
    // As a terminal's shell would start it: no signal ignored, none blocked.
    let mut cell = far.shell("grep -E 'Sig(Ign|Blk)' /proc/self/status | cut -f 2");
    far.returned(&cell);
    // Signals 32 and 33 are glibc's own, which its posix_spawn(3) always sets to be ignored.
    let masks = cell.stdout().lines().map(|mask| u64::from_str_radix(mask, 16)).collect::<Result<Vec<_>, _>>();
    assert_eq!(masks.map(|masks| masks.iter().map(|mask| mask & !(3 << 31)).collect()), Ok(vec![0, 0]));
    let cell = far.shell("kill -9 $$");
    assert!(killed_by(9)(far.returned(&cell).shell.expect("a status")));
}

#[test]
fn nobody_but_the_worker_can_report_for_it() {
    let mut far = FarSide::start();
    let cell = far.call("reads");
    far.wants_input();
    let mut stranger = UnixStream::connect(far.socket()).expect("a socket that listens");
    let report = r#"{"Ready":{"ended":{"NotRun":{"message":"a lie"}},"checkpoint":null}}"#;
    let frame = [&(report.len() as u32).to_le_bytes(), report.as_bytes()].concat();
    // It may be cut off before or after it has spoken.
    let _ = stranger.write_all(&frame);
    assert!(matches!(stranger.read(&mut [0]), Ok(0) | Err(_)));
    far.send(&ToSupervisor::EndOfInput);
    assert_eq!(far.returned(&cell), Default::default());
}

#[test]
fn a_cell_that_speaks_for_the_worker_dies_and_its_task_ends() {
    let mut far = FarSide::start();
    far.run("count");
    assert!(killed_by(9)(far.run_to_death("speaks_out_of_turn").1));
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn a_shell_line_can_be_interrupted_and_a_report_may_be_large() {
    let mut far = FarSide::start();
    let mut cell = far.shell("echo ready; sleep 1000 & sleep 1000");
    cell.until_stdout("ready");
    // A shell's child swallows a SIGINT that comes before it has become another program.
    let sleeps = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    until("both sleep", || far.processes().iter().filter(|pid| sleeps(pid)).count() == 2);
    far.send(&ToSupervisor::Interrupt);
    assert_eq!(far.returned(&cell).shell, Some(Exit::Signaled { signal: 2, core: false }));
    // The one in the background ignores SIGINT, and is killed soon after.
    until("the background process is gone", || far.processes().is_empty());
    assert_eq!(far.run("shows_much").1.displays[0].1.len(), 7 << 20);
}

#[test]
fn what_is_too_long_for_a_report_is_cut_and_says_so() {
    let mut far = FarSide::start();
    let report = far.run("shows_too_much").1;
    let [(first, image), (second, text), (third, rest)] = &report.displays[..] else { panic!("not three displays") };
    assert_eq!([first, second, third], ["text/plain"; 3]);
    assert!(image.starts_with("[not shown: the value's image/svg+xml has 314572800 bytes"), "{image}");
    let (shown, note) = text.rsplit_once('\n').expect("text and a note");
    assert_eq!(note, format!("… [cut: the value's text has 314572800 bytes, {} are shown]", shown.len()));
    assert!(shown.len() > 8_000_000 && text.len() <= 8 << 20);
    assert!(rest.starts_with("… [cut: 1 more"), "{rest}");
    let end = "… [cut: the error's text has 314572800 bytes, 65536 are shown]";
    assert!(report.error.is_some_and(|error| error.ends_with(end)));
    let end = "… [cut: the panic's message has 314572800 bytes, 65536 are shown]";
    assert!(report.panic.is_some_and(|panic| panic.message.ends_with(end)));
    assert_eq!(far.run("shows_much").1.displays.len(), 1, "each cell has its own limit");
}

#[test]
fn a_cell_may_use_up_or_close_every_descriptor() {
    let mut far = FarSide::start();
    far.run("count");
    far.run("uses_up_descriptors");
    assert_eq!(far.run("count").0.stdout(), "2\n");
    let mut far = FarSide::start();
    far.run("count");
    far.run("closes_everything");
    far.run("lowers_its_limit");
    assert_eq!(far.run("count").0.stdout(), "2\n");
    far.run_to_death("crashes");
    assert_eq!(far.run("count").0.stdout(), "3\n");
}

#[test]
fn two_hundred_forks_that_fall_off_the_end() {
    let mut far = FarSide::start();
    far.run("forks_much");
    assert_eq!(far.processes(), [0; 0]);
    assert!(far.says_nothing_for(Duration::ZERO));
}

#[test]
fn a_pipe_from_an_earlier_cell_has_an_end_and_survives_a_rollback() {
    let mut far = FarSide::start();
    far.run("makes_a_pipe");
    far.run_to_death("crashes");
    assert_eq!(far.run("writes_and_reads_the_pipe").0.stdout(), "5\n");
    assert_eq!(far.run("talks_through_the_pair").0.stdout(), "5\n4\n0\n");
    assert_eq!(far.run("reads_the_pipe_to_its_end").0.stdout(), "7\n");
}

#[test]
fn orphans_that_signal_their_parent_do_no_harm() {
    let mut far = FarSide::start();
    far.run("count");
    let mut cell = far.run("orphans_signal_their_parent").0;
    until("all have sent", || cell.stdout().matches("sent").count() == 6);
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn an_interrupt_catches_processes_that_fork_and_leave() {
    let mut far = FarSide::start();
    far.run("comets");
    far.send(&ToSupervisor::Interrupt);
    far.send(&ToSupervisor::Interrupt);
    assert_eq!(far.processes(), [0; 0], "the second interrupt kills");
    far.run("comets");
    far.send(&ToSupervisor::Interrupt);
    far.run("nothing");
    assert_eq!(far.processes(), [0; 0], "the next task has them killed");
    far.run("comets");
    far.send(&ToSupervisor::Interrupt);
    until("they are killed by and by", || far.processes().is_empty());
}

#[test]
fn cells_in_rust_have_threads_programs_and_an_end_of_the_stack() {
    let mut far = FarSide::start();
    for round in 0..2 {
        let mut cell = far.begin(rust_task("threads"), true);
        far.returned(&cell);
        // A last line without its newline would stay in the cells' own buffer: generated code flushes.
        assert_eq!(cell.stdout(), "600000\n", "round {round}");
        let mut cell = far.begin(rust_task("spawns"), true);
        far.returned(&cell);
        assert_eq!(cell.stdout(), "from sh\n5\n");
        let mut cell = far.begin(rust_task("overflows"), true);
        far.worker();
        let Outcome::Died { how, restored: true } = far.ended(&cell) else { panic!("it overflows") };
        assert!(killed_by(6)(how));
        assert!(cell.stderr().contains("overflowed its stack"), "{}", cell.stderr());
    }
}

/// An interrupt comes at every moment of a short task's life; each task ends once, and the count
/// goes on from what the last committed one left.
#[test]
fn an_interrupt_at_any_moment_ends_a_task_once() {
    let mut far = FarSide::start();
    far.run("count");
    let mut committed = 1;
    let deadline = std::time::Instant::now() + Duration::from_secs(1);
    let mut pause = 0;
    while std::time::Instant::now() < deadline {
        let mut cell = far.call("count");
        pause = (pause + 37) % 1500;
        std::thread::sleep(Duration::from_micros(pause)); // Where in its life the task is met.
        far.send(&ToSupervisor::Interrupt);
        let outcome = loop {
            match far.next() {
                FromSupervisor::Worker { .. } => {}
                FromSupervisor::Ended { cell: id, outcome, .. } if id == cell.id => break outcome,
                other => panic!("unexpected: {other:?}"),
            }
        };
        match outcome {
            Outcome::Returned(_) => {
                committed += 1;
                assert_eq!(cell.stdout(), format!("{committed}\n"));
            }
            Outcome::Interrupted { restored: true } => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    committed += 1;
    assert_eq!(far.run("count").0.stdout(), format!("{committed}\n"));
}
