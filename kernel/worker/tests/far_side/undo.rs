//! Runs that are undone: whatever they do, the next one begins where they have begun.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use forklab_record::{Status, What};
use forklab_worker::messages::{Exit, FromSupervisor, Limit, Limits, Outcome, Scope, ToSupervisor};

use crate::harness::{Cell, FarSide, alive, children, task, until};

fn undoing(record: bool) -> FarSide {
    let mut far = FarSide::start();
    far.run("count");
    (far.undo, far.record) = (true, record);
    far
}

/// Waits for a run's end; the outcome, and the worker that has taken over.
fn undone(far: &mut FarSide, cell: &Cell) -> (Outcome, i32) {
    let worker = far.worker();
    (far.ended(cell), worker)
}

fn run(far: &mut FarSide, function: &str) -> Cell {
    let cell = far.call(function);
    let (outcome, _) = undone(far, &cell);
    assert!(matches!(outcome, Outcome::Returned(_)), "{outcome:?}");
    cell
}

fn open_files(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").count()
}

/// Of the heap and the stack, in kB.
fn memory(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Nobody but a worker and its checkpoint is below, zombies counted.
fn nobody_else(far: &FarSide) -> bool {
    let supervisor = far.supervisor();
    let path = format!("/proc/{supervisor}/task/{supervisor}/children");
    let below: Vec<i32> = std::fs::read_to_string(path)
        .expect("it lives")
        .split_whitespace()
        .map(|pid| pid.parse().expect("a pid"))
        .collect();
    below.len() == 2 && below.iter().all(|pid| alive(*pid) && children(*pid).is_empty())
}

#[test]
fn each_run_finds_what_the_first_has_found() {
    for record in [false, true] {
        let mut far = undoing(record);
        let runs: Vec<Vec<i32>> = (0..20).map(|_| run(&mut far, "changes_itself").numbers()).collect();
        let pids: HashSet<i32> = runs.iter().map(|run| run[0]).collect();
        assert_eq!(pids.len(), 20);
        assert!(runs.iter().all(|run| run[1..] == [2, 1, 0, 0, 0, 0]), "{runs:?}");
        far.undo = false;
        assert_eq!(far.run("count").0.stdout(), "2\n");
        assert_eq!(far.run("count").0.stdout(), "3\n", "a run that is not undone is kept");
    }
}

#[test]
fn left_over_processes_are_gone_when_the_end_is_told() {
    for record in [false, true] {
        let mut far = undoing(record);
        for function in ["family", "leaves_deaf_company", "leaves_five", "leaves_a_pretender", "leaves_threads"] {
            let mut cell = run(&mut far, function);
            let left: Vec<i32> = cell
                .numbers()
                .into_iter()
                .filter(|pid| std::fs::exists(format!("/proc/{pid}")).unwrap_or(true))
                .collect();
            assert!(left.is_empty(), "{function}: {left:?}");
            assert!(nobody_else(&far), "{function}");
        }
        for _ in 0..5 {
            run(&mut far, "comets");
            assert!(nobody_else(&far), "they fork while they are killed");
        }
    }
}

#[test]
fn what_was_there_before_stays() {
    for record in [false, true] {
        let mut far = FarSide::start();
        far.run("count");
        let mut before = far.run("leaves_deaf_company").0.numbers();
        before.sort_unstable();
        let listed = |far: &mut FarSide| {
            let mut living = far.processes();
            living.sort_unstable();
            living
        };
        (far.undo, far.record) = (true, record);
        run(&mut far, "leaves_five");
        assert_eq!(listed(&mut far), before);
        let limits = Limits { time: Some(Duration::from_millis(50)), ..Limits::default() };
        let cell = far.begin_with(task("deaf_company"), true, limits);
        let reached = far.over_limit(&cell);
        assert_eq!((reached.limit, reached.scope), (Limit::Time, Scope::Cell));
        assert_eq!(listed(&mut far), before, "its own limit is not theirs");
        let cell = far.call("deaf_company");
        far.send(&ToSupervisor::EndCell { cell: cell.id, reached });
        far.over_limit(&cell);
        assert_eq!(listed(&mut far), before);
        far.kill(None);
    }
}

#[test]
fn every_ending_is_told_as_it_was() {
    for record in [false, true] {
        let mut far = undoing(record);
        let cell = far.call("panics");
        let Outcome::Returned(report) = undone(&mut far, &cell).0 else { panic!("it returns") };
        assert_eq!(report.panic.expect("a panic").message, "boom");
        let cell = far.call("no_such_function");
        assert!(matches!(undone(&mut far, &cell).0, Outcome::NotRun { .. }));
        let cell = far.call("exits");
        let (outcome, _) = undone(&mut far, &cell);
        assert_eq!(outcome, Outcome::Died { how: Exit::Exited(3), restored: true });
        let cell = far.call("count_then_crash");
        assert!(matches!(undone(&mut far, &cell).0, Outcome::Died { restored: true, .. }));
        let mut cell = far.call("deaf_company");
        until("all of them are there", || cell.stdout().ends_with("\n0\n"));
        far.send(&ToSupervisor::Interrupt);
        far.interrupted(&cell);
        let mut cell = far.call("handles_interrupt");
        cell.until_stdout("ready\n");
        far.send(&ToSupervisor::Interrupt);
        assert!(matches!(undone(&mut far, &cell).0, Outcome::Returned(_)));
        let cell = far.call("closes_everything");
        assert!(matches!(undone(&mut far, &cell).0, Outcome::Returned(_)), "it needs not be fit for another");
        let mut shell = far.shell("cat /proc/self/status | grep -c Name; sleep 100 & exit 4");
        let Outcome::Returned(report) = undone(&mut far, &shell).0 else { panic!("it returns") };
        assert_eq!((report.shell, shell.stdout().as_str()), (Some(Exit::Exited(4)), "1\n"));
        assert!(nobody_else(&far));
        assert_eq!(run(&mut far, "count").stdout(), "2\n");
    }
}

#[test]
fn an_interrupt_between_two_runs_ends_neither() {
    let mut far = undoing(true);
    for pause in 0..60 {
        let cell = far.call("five_workers");
        // The interrupt comes at any moment of the run, of its undoing, and of the checkpoint's waking.
        std::thread::sleep(Duration::from_micros(150 * pause));
        far.send(&ToSupervisor::Interrupt);
        let (outcome, _) = undone(&mut far, &cell);
        assert!(matches!(outcome, Outcome::Returned(_) | Outcome::Interrupted { restored: true }), "{outcome:?}");
        let mut cell = run(&mut far, "five_workers");
        assert_eq!(cell.numbers().len(), 5);
        assert!(nobody_else(&far));
    }
    assert_eq!(run(&mut far, "count").stdout(), "2\n");
}

#[test]
fn the_record_ends_where_the_run_does() {
    let mut far = undoing(true);
    let mut worker = None;
    for _ in 0..50 {
        let cell = far.call("five_workers");
        let (_, next) = undone(&mut far, &cell);
        let (events, gaps) = far.record_of(cell.id);
        // Who comes to wait after the last of them has ended reaps it unseen.
        assert!(gaps.iter().all(|gap| gap.contains("some milliseconds")), "{gaps:?}");
        let forked = events.iter().filter(|event| matches!(event.what, What::Forked(_)));
        assert!(forked.clone().all(|event| worker.is_none_or(|worker| event.pid == worker)), "{events:#?}");
        assert_eq!(forked.count(), 5);
        let ended = |status| events.iter().filter(|event| event.what == What::Ended(Status::Exited(status))).count();
        assert_eq!((0..5).map(ended).collect::<Vec<_>>(), [1; 5], "{events:#?}");
        assert_eq!(events.iter().filter(|event| matches!(event.what, What::Reaped(_))).count(), 5);
        assert_eq!(events.len(), 15);
        worker = Some(next);
    }
    for function in ["leaves_five", "leaves_deaf_company"] {
        let mut cell = run(&mut far, function);
        let pids = cell.numbers();
        let (events, gaps) = far.record_of(cell.id);
        for pid in pids {
            assert!(events.iter().any(|event| event.what == What::Forked(pid)), "{events:#?}");
            let ended = |what: &What| matches!(what, What::Ended(Status::Killed(_)));
            assert!(!events.iter().any(|event| event.pid == pid && ended(&event.what)), "{events:#?}");
        }
        assert!(gaps.iter().all(|gap| !gap.contains("SIGKILL")), "{gaps:?}");
        far.says_nothing_for(Duration::from_millis(100));
        assert_eq!(far.record_of(cell.id).0, events, "nothing comes afterwards");
    }
    let cell = far.call("kills_itself");
    let (_, next) = undone(&mut far, &cell);
    let (events, _) = far.record_of(cell.id);
    assert!(events.iter().any(|event| event.what == What::Ended(Status::Killed(9))), "its own end is the run's");
    assert!(events.iter().all(|event| event.pid != next));
}

#[test]
fn without_a_checkpoint_it_is_refused() {
    let mut far = undoing(false);
    let cell = far.begin(task("count"), false);
    let refused = far.ended(&cell);
    assert!(matches!(&refused, Outcome::NotRun { message } if message.contains("`%checkpoint on`")), "{refused:?}");
    far.undo = false;
    let cell = far.begin(task("count"), false);
    far.returned(&cell);
    far.undo = true;
    assert_eq!(run(&mut far, "count").stdout(), "3\n", "one is made when it is wanted again");
    assert_eq!(run(&mut far, "count").stdout(), "3\n");
}

#[test]
fn a_run_that_ends_its_checkpoint_says_what_is_lost() {
    let mut far = undoing(true);
    let cell = far.call("kills_its_checkpoint");
    assert!(matches!(undone(&mut far, &cell).0, Outcome::Returned(_)));
    let next = far.next();
    assert!(matches!(next, FromSupervisor::StateLost { .. }), "{next:?}");
    assert_eq!(run(&mut far, "count").stdout(), "1\n");
    assert_eq!(run(&mut far, "count").stdout(), "1\n");
}

#[test]
fn a_run_is_pinned_and_the_next_is_not() {
    let mut far = undoing(false);
    let all = run(&mut far, "counts_processors").numbers();
    for undo in [true, false] {
        far.undo = undo;
        far.cpus = Some(1);
        let cell = far.call("counts_processors");
        let mut cell = if undo {
            undone(&mut far, &cell);
            cell
        } else {
            far.returned(&cell);
            cell
        };
        assert_eq!(cell.numbers(), [1, 1]);
        far.cpus = None;
        far.undo = false;
        assert_eq!(far.run("counts_processors").0.numbers(), all);
    }
    far.cpus = Some(1);
    far.run_to_death("exits");
    far.cpus = None;
    assert_eq!(far.run("counts_processors").0.numbers(), all, "a checkpoint never has it");
    far.cpus = Some(0);
    let cell = far.call("nothing");
    assert!(matches!(far.ended(&cell), Outcome::NotRun { .. }));
}

#[test]
fn a_thousand_runs_leave_nothing() {
    for record in [false, true] {
        let mut far = undoing(record);
        let warm = |far: &mut FarSide, times: usize| {
            for _ in 0..times / 4 {
                for function in ["five_workers", "family", "nothing", "leaves_five"] {
                    run(far, function);
                }
            }
        };
        warm(&mut far, 200);
        let (files, kilobytes) = (open_files(far.supervisor()), memory(far.supervisor()));
        warm(&mut far, 1000);
        assert_eq!(open_files(far.supervisor()), files);
        let grown = memory(far.supervisor()) - kilobytes;
        assert!(grown < 300, "{grown} kB");
        assert!(nobody_else(&far));
        assert_eq!(far.marked().len(), 3);
        assert_eq!(run(&mut far, "count").stdout(), "2\n");
    }
}

/// What it costs: to be read, and not judged, on a machine that does other things too.
#[test]
#[ignore = "a measurement"]
fn what_an_undone_run_costs() {
    for (record, perturb) in [(false, None), (true, None), (true, Some(7))] {
        let mut far = undoing(record);
        far.perturb = perturb;
        for function in ["nothing", "five_workers", "leaves_five"] {
            let mut times: Vec<Duration> = (0..300)
                .map(|_| {
                    let begun = Instant::now();
                    run(&mut far, function);
                    begun.elapsed()
                })
                .collect();
            times.sort_unstable();
            let sum: Duration = times.iter().sum();
            println!(
                "{function}, record: {record}, perturb: {perturb:?}: mean {:?}, median {:?}, 99 % {:?}",
                sum / 300,
                times[150],
                times[297]
            );
        }
    }
}

/// The line's writers, by order of fork.
fn order(cell: &mut Cell, events: &[forklab_record::Event]) -> Vec<usize> {
    let forked: Vec<i32> =
        events.iter().filter_map(|event| if let What::Forked(pid) = event.what { Some(pid) } else { None }).collect();
    let place = |pid: &i32| forked.iter().position(|forked| forked == pid).expect("a child");
    cell.numbers().iter().map(place).collect()
}

#[test]
fn a_perturbed_run_shows_more_orders_and_ends_the_same() {
    let mut far = undoing(true);
    let mut orders = [HashSet::new(), HashSet::new()];
    for (disturbed, seed) in (0..60).flat_map(|seed| [(0, None), (1, Some(seed))]) {
        far.perturb = seed;
        let mut cell = run(&mut far, "five_workers");
        let (events, _) = far.record_of(cell.id);
        assert_eq!(events.len(), 15, "{events:#?}");
        orders[disturbed].insert(order(&mut cell, &events));
        assert!(nobody_else(&far));
    }
    let [left_alone, disturbed] = orders.map(|orders| orders.len());
    println!("{left_alone} orders without delays, {disturbed} with");
    assert!(disturbed > 12, "{left_alone} {disturbed}");
    far.record = false;
    for function in ["family", "leaves_deaf_company", "comets", "threads_fork", "spawns_a_shell", "signals"] {
        run(&mut far, function);
        assert!(nobody_else(&far), "{function}");
    }
    let mut cell = far.call("deaf_company");
    until("all of them are there", || cell.stdout().ends_with("\n0\n"));
    far.send(&ToSupervisor::Interrupt);
    far.interrupted(&cell);
    // Without undoing, and after each other; then nobody is delayed any more.
    far.undo = false;
    let worker = far.run("own_pid").0.numbers()[0];
    for _ in 0..3 {
        let (cell, _) = far.run("five_workers");
        assert_eq!(far.record_of(cell.id).0.len(), 15);
    }
    far.perturb = None;
    assert_eq!(far.run("own_pid").0.numbers()[0], worker);
    assert!(far.run("lives_2000").0.numbers()[0] > 0);
    far.record = true;
    let (cell, _) = far.run("five_workers");
    assert_eq!(far.record_of(cell.id).0.len(), 15);
}
