//! The record against what is known: who forked whom, ended how, and was reaped when.

use std::time::Duration;

use forklab_record::{Event, Status, What};
use forklab_worker::messages::{Limit, Limits, Outcome, ToSupervisor};

use crate::harness::{Cell, FarSide, until};

fn recording() -> FarSide {
    let mut far = FarSide::start();
    far.record = true;
    far
}

/// The events of a process, without their times.
fn of(events: &[Event], pid: i32) -> Vec<What> {
    events.iter().filter(|event| event.pid == pid).map(|event| event.what.clone()).collect()
}

fn at(events: &[Event], pid: i32, what: &What) -> u64 {
    let found = events.iter().find(|event| event.pid == pid && event.what == *what);
    found.unwrap_or_else(|| panic!("{what:?} of {pid} is not in {events:#?}")).at
}

/// Runs a cell that returns: the worker, what the cell said, and its record.
fn record(far: &mut FarSide, function: &str) -> (i32, Cell, Vec<Event>, Vec<String>) {
    let worker = far.run("own_pid").0.numbers()[0];
    let (cell, _) = far.run(function);
    let (events, gaps) = far.record_of(cell.id);
    (worker, cell, events, gaps)
}

fn in_order(events: &[Event]) {
    assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at), "{events:#?}");
}

#[test]
fn a_fork_an_end_and_a_reaping() {
    let mut far = recording();
    let (worker, mut cell, events, gaps) = record(&mut far, "one_life");
    let [before, after, child, status] =
        cell.stdout().split_whitespace().map(|n| n.parse().expect("a number")).collect::<Vec<i64>>()[..]
    else {
        panic!("four")
    };
    let child = child as i32;
    assert_eq!(status, 7 << 8);
    assert_eq!(of(&events, worker), [What::Forked(child), What::Reaped(child)]);
    assert_eq!(of(&events, child), [What::Ended(Status::Exited(7))]);
    in_order(&events);
    assert!(events.iter().all(|event| (before as u64..=after as u64).contains(&event.at)), "{events:#?}");
    assert_eq!(gaps, [""; 0]);
}

#[test]
fn a_zombie_is_one_for_as_long_as_it_was() {
    let mut far = recording();
    let (worker, mut cell, events, gaps) = record(&mut far, "a_zombie");
    let [dead, before, after, child] =
        cell.stdout().split_whitespace().map(|n| n.parse().expect("a number")).collect::<Vec<u64>>()[..]
    else {
        panic!("four")
    };
    let child = child as i32;
    let ended = at(&events, child, &What::Ended(Status::Exited(0)));
    let reaped = at(&events, worker, &What::Reaped(child));
    assert!(ended <= dead, "{ended} {dead}");
    // Heard of by a descriptor that the loop watches: a moment later, and never earlier.
    assert!(reaped >= before && reaped < after + 20_000_000, "{before} {reaped} {after}");
    assert_eq!(gaps, [""; 0]);
}

#[test]
fn an_orphan_is_adopted_and_recorded_after_its_cell() {
    let mut far = recording();
    let (worker, mut cell, _, _) = record(&mut far, "an_orphan");
    let [orphan, middle] = cell.numbers()[..] else { panic!("two") };
    let supervisor = far.supervisor();
    until("the orphan's end is recorded", || {
        far.says_nothing_for(Duration::from_millis(5));
        of(&far.record_of(cell.id).0, supervisor) == [What::Reaped(orphan)]
    });
    let (events, _) = far.record_of(cell.id);
    assert_eq!(of(&events, worker), [What::Forked(middle), What::Reaped(middle)]);
    assert_eq!(of(&events, middle), [What::Forked(orphan), What::Ended(Status::Exited(0))]);
    assert_eq!(of(&events, orphan), [What::Adopted(supervisor), What::Ended(Status::Exited(3))]);
    in_order(&events);
}

#[test]
fn programs_are_named() {
    let mut far = recording();
    let (_, mut cell, events, _) = record(&mut far, "execs_true");
    let child = cell.stdout().lines().nth(1).and_then(|line| line.parse().ok()).expect("a pid");
    let expected = [What::Execed("echo one two".to_owned()), What::Ended(Status::Exited(0))];
    assert_eq!(of(&events, child), expected);
    let (worker, mut cell, events, gaps) = record(&mut far, "spawns_a_shell");
    let [child, status] = cell.numbers()[..] else { panic!("two") };
    assert_eq!(status, 5);
    assert_eq!(of(&events, worker), [What::Forked(child), What::Reaped(child)]);
    let shell = of(&events, child);
    assert_eq!(shell[0], What::Execed("sh -c true | cat | cat; exit 5".to_owned()));
    assert_eq!(shell.last(), Some(&What::Ended(Status::Exited(5))));
    let forked: Vec<i32> =
        shell.iter().filter_map(|what| if let What::Forked(pid) = what { Some(*pid) } else { None }).collect();
    let cats = forked.iter().filter(|pid| of(&events, **pid).contains(&What::Execed("cat".to_owned()))).count();
    assert_eq!((forked.len(), cats), (3, 2), "{events:#?}");
    assert!(forked.iter().all(|pid| shell.contains(&What::Reaped(*pid))), "{events:#?}");
    assert_eq!(gaps, [""; 0]);
}

#[test]
fn signals_stops_and_a_kill() {
    let mut far = recording();
    let (worker, mut cell, events, gaps) = record(&mut far, "signals");
    let text = cell.stdout();
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        ["heard", "stopped", "heard", "killed"],
        "as without a record"
    );
    let child: i32 = text.lines().next().and_then(|line| line.parse().ok()).expect("a pid");
    let received = |signal| What::SignalReceived { signal, from: Some(worker) };
    let expected = [
        What::SignalSent { signal: 18, to: worker },
        received(10),
        received(19),
        What::Stopped(19),
        What::Continued,
        received(10),
        What::Ended(Status::Killed(9)),
    ];
    let seen: Vec<What> = of(&events, child).into_iter().filter(|what| *what != received(18)).collect();
    assert_eq!(seen, expected, "{events:#?}");
    let sent: Vec<i32> = of(&events, worker)
        .iter()
        .filter_map(
            |what| if let What::SignalSent { signal, to } = what { (*to == child).then_some(*signal) } else { None },
        )
        .filter(|signal| *signal != 18)
        .collect();
    assert_eq!(sent, [10, 19, 10]);
    in_order(&events);
    assert_eq!(gaps, ["who sends a SIGKILL is not seen"]);
    let (worker, mut cell, events, gaps) = record(&mut far, "stopped_and_killed");
    let text = cell.stdout();
    assert!(text.lines().all(|line| line.parse::<i32>().is_ok()), "not asleep: {text} {events:#?}");
    let children = cell.numbers();
    assert_eq!(children.len(), 6);
    for child in &children {
        let seen = of(&events, *child);
        let expected = [What::Stopped(19), What::Ended(Status::Killed(9))];
        assert_eq!(seen[1..], expected, "{child} {gaps:?} {events:#?}");
        assert!(of(&events, worker).contains(&What::Reaped(*child)), "{child} {gaps:?} {events:#?}");
    }
    assert_eq!(of(&events, worker).last(), Some(&What::Reaped(children[5])));
}

#[test]
fn threads_fork_and_exec_and_are_no_processes() {
    let mut far = recording();
    let (worker, mut cell, events, gaps) = record(&mut far, "threads_fork");
    let child = cell.numbers()[0];
    let count = |pid, of_kind: fn(&What) -> bool| of(&events, pid).iter().filter(|what| of_kind(what)).count();
    let forked = |what: &What| matches!(what, What::Forked(_));
    let reaped = |what: &What| matches!(what, What::Reaped(_));
    assert_eq!((count(worker, forked), count(worker, reaped)), (9, 9), "{events:#?}");
    assert_eq!((count(child, forked), count(child, reaped)), (2, 2), "{events:#?}");
    assert_eq!(of(&events, child).last(), Some(&What::Ended(Status::Exited(4))));
    assert_eq!(events.iter().filter(|event| matches!(event.what, What::Ended(_))).count(), 11);
    assert_eq!(gaps, [""; 0]);
    let (_, mut cell, events, _) = record(&mut far, "a_thread_execs");
    let [child, status] = cell.numbers()[..] else { panic!("two") };
    assert_eq!(status, 6);
    assert_eq!(of(&events, child), [What::Execed("sh -c exit 6".to_owned()), What::Ended(Status::Exited(6))]);
}

#[test]
fn a_dead_workers_record_is_told_before_its_cell_ends() {
    let mut far = recording();
    let worker = far.run("own_pid").0.numbers()[0];
    let (cell, _, new) = far.run_to_death("kills_itself");
    let (events, _) = far.record_of(cell.id);
    assert_eq!(of(&events, worker).last(), Some(&What::Ended(Status::Killed(9))), "{events:#?}");
    assert_eq!(of(&events, far.supervisor()), [What::Reaped(worker)]);
    // The woken one is recorded as any.
    let (worker, mut cell, events, _) = record(&mut far, "one_life");
    assert_eq!(worker, new);
    let child = cell.stdout().lines().nth(2).and_then(|line| line.parse().ok()).expect("a pid");
    assert_eq!(of(&events, worker), [What::Forked(child), What::Reaped(child)]);
}

#[test]
fn a_record_is_bounded_and_says_so() {
    let mut far = recording();
    let (worker, cell, events, gaps) = record(&mut far, "lives_4000");
    assert_eq!(events.len(), 10_000);
    assert!(gaps.contains(&"more than 10000 events; what came after them is not recorded".to_owned()), "{gaps:?}");
    assert!(far.record_of(cell.id).0.iter().all(|event| event.at > 0));
    let (_, mut cell, events, _) = record(&mut far, "one_life");
    let child: i32 = cell.stdout().lines().nth(2).and_then(|line| line.parse().ok()).expect("a pid");
    assert_eq!(of(&events, worker), [What::Forked(child), What::Reaped(child)], "the next cell is recorded again");
}

#[test]
fn tracers_work_where_nothing_is_recorded() {
    let mut far = recording();
    far.run("one_life");
    far.record = false;
    for (program, command, expected) in [
        ("strace", "strace -f -o /dev/null sh -c 'true; echo traced'", "traced"),
        ("gdb", "gdb -q -batch -ex run -ex 'print 6*7' --args true 2>&1", "exited normally"),
    ] {
        let there = std::process::Command::new(program).arg("--version").output();
        if there.is_err() {
            println!("not tried, {program} is not there");
            continue;
        }
        let mut cell = far.shell(command);
        far.returned(&cell);
        assert!(cell.stdout().contains(expected), "{program}: {} {}", cell.stdout(), cell.stderr());
        assert!(far.record_of(cell.id).0.is_empty());
    }
    far.record = true;
    assert!(!record(&mut far, "one_life").2.is_empty());
}

#[test]
fn left_over_processes_are_let_go_by_a_task_without_a_record() {
    let mut far = recording();
    let pids = far.run("leaves_five").0.numbers();
    let tracer = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse::<i32>().ok()).expect("a line")
    };
    assert!(pids.iter().all(|pid| tracer(*pid) != 0));
    far.record = false;
    far.run("nothing");
    until("they are let go", || pids.iter().all(|pid| tracer(*pid) == 0));
}

#[test]
fn a_recorded_fork_bomb_ends_at_its_limit() {
    let mut far = recording();
    far.run("count");
    let limits = Limits { processes: Some(50), ..Limits::default() };
    let cell = far.begin_with(crate::harness::task("bomb"), true, limits);
    assert_eq!(far.over_limit(&cell).limit, Limit::Processes);
    assert_eq!(far.run("count").0.stdout(), "2\n");
    assert!(!far.record_of(cell.id).0.is_empty());
}

#[test]
fn a_recorded_cell_is_interrupted() {
    let mut far = recording();
    far.run("count");
    let mut cell = far.call("deaf_company");
    until("all of them are there", || cell.stdout().ends_with("\n0\n"));
    let begun = std::time::Instant::now();
    far.send(&ToSupervisor::Interrupt);
    far.interrupted(&cell);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(far.processes(), [0; 0]);
    let (events, _) = far.record_of(cell.id);
    // One that is asked before it is deaf dies of that.
    let killed = |pid: &i32| of(&events, *pid).iter().any(|what| matches!(what, What::Ended(Status::Killed(_))));
    assert!(cell.numbers().iter().filter(|pid| **pid > 0).all(killed), "{events:#?}");
    assert_eq!(far.run("count").0.stdout(), "2\n");
    let mut cell = far.call("handles_interrupt");
    cell.until_stdout("ready\n");
    far.send(&ToSupervisor::Interrupt);
    assert!(matches!(far.ended(&cell), Outcome::Returned(_)));
}

/// What it costs: to be read, and not judged, on a machine that does other things too.
#[test]
#[ignore = "a measurement"]
fn what_it_costs() {
    let mut far = FarSide::start();
    for function in ["lives_2000", "signals_itself", "makes_threads", "system_calls"] {
        let mut best = [i32::MAX; 2];
        for _ in 0..7 {
            for record in [false, true] {
                far.record = record;
                let figure = far.run(function).0.numbers()[0];
                best[usize::from(record)] = best[usize::from(record)].min(figure);
            }
        }
        println!("{function}: {} ns without, {} ns with a record", best[0], best[1]);
    }
}
