//! Limits: each is reached, by a control group's means and by the watchdog's.
//!
//! What a limit ends is ended within five seconds, restored, and said with the right limit; nobody
//! else's far side notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use forklab_worker::messages::{FromSupervisor, Limit, Limits, Outcome, Reached, Scope, Task, ToSupervisor};

use crate::harness::{Cell, FarSide, Keeper, task, until};

/// Contract: what goes beyond a limit is ended within this time.
const TIME_TO_END: Duration = Duration::from_secs(5);

/// One bomb at a time: what is measured is how soon it is ended, and not how many the machine bears.
fn alone(test: impl FnOnce()) {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that has failed has had its turn.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    test();
}

/// Each test runs with both keepers.
macro_rules! with_both_keepers {
    ($($name:ident)*) => {
        mod with_a_control_group {
            $(#[test] fn $name() { super::alone(|| super::$name(super::Keeper::Group)); })*
        }
        mod with_the_watchdog {
            $(#[test] fn $name() { super::alone(|| super::$name(super::Keeper::Watchdog)); })*
        }
    };
}

with_both_keepers! {
    fork_bombs_are_ended
    a_fork_bomb_of_shells_is_ended
    a_bomb_that_goes_off_between_tasks_is_ended_and_told
    memory_is_limited_for_all_processes_together
    memory_that_is_used_between_tasks_is_limited_too
    time_and_processor_time_are_limited
    open_files_are_limited_for_one_task
    so_many_processes_and_no_more
    others_are_undisturbed_by_a_bomb
    ten_thousand_pipes_do_no_harm
}

fn processes(most: u64) -> Limits {
    Limits { processes: Some(most), ..Limits::default() }
}

fn memory(megabytes: u64) -> Limits {
    Limits { memory: Some(megabytes << 20), ..Limits::default() }
}

fn cpu(ms: u64) -> Limits {
    Limits { cpu: Some(Duration::from_millis(ms)), ..Limits::default() }
}

fn time(ms: u64) -> Limits {
    Limits { time: Some(Duration::from_millis(ms)), ..Limits::default() }
}

fn of_cell(limit: Limit) -> Reached {
    Reached { limit, scope: Scope::Cell }
}

fn of_notebook(limit: Limit) -> Reached {
    Reached { limit, scope: Scope::Notebook }
}

fn call(far: &mut FarSide, function: &str, limits: Limits) -> Cell {
    far.begin_with(task(function), true, limits)
}

/// Runs a cell that is to be ended for a limit, and looks whether everything is as it was before.
fn ends(far: &mut FarSide, function: &str, limits: Limits, reached: Reached) {
    ends_task(far, task(function), limits, reached);
}

fn ends_task(far: &mut FarSide, what: Task, limits: Limits, reached: Reached) {
    let name = format!("{what:?}");
    let before = far.run("count").0.numbers()[0];
    let begun = Instant::now();
    let cell = far.begin_with(what, true, limits);
    assert_eq!(far.over_limit(&cell), reached, "{name}");
    let took = begun.elapsed();
    println!("{name}: {took:?}");
    assert!(took < TIME_TO_END, "{name} took {took:?}");
    assert_eq!(far.processes(), [0; 0], "{name}");
    assert_eq!(far.run("count").0.numbers(), [before + 1], "{name}");
}

/// Waits for the end of left-over processes for a limit.
fn leftovers_end(far: &mut FarSide, cell: &Cell, reached: Reached) {
    match far.next() {
        FromSupervisor::LeftoversEnded { reached: which, processes } => {
            assert_eq!(which, reached);
            assert!(!processes.is_empty());
            assert!(processes.iter().all(|(_, of)| *of == Some(cell.id)), "{processes:?}");
        }
        other => panic!("left-over processes were to be ended, not {other:?}"),
    }
}

fn fork_bombs_are_ended(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    for bomb in ["bomb", "bomb_of_children", "bomb_of_orphans"] {
        ends(&mut far, bomb, processes(60), of_cell(Limit::Processes));
    }
    far.send(&ToSupervisor::Limit { notebook: processes(40) });
    ends(&mut far, "bomb", processes(60), of_notebook(Limit::Processes));
    ends(&mut far, "bomb", Limits::default(), of_notebook(Limit::Processes));
}

fn a_fork_bomb_of_shells_is_ended(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    // Bounded in generations, and so in processes: a watchdog that fails must not cost the machine.
    let bomb = "b() { if [ $1 -lt 7 ]; then b $(($1+1)) | b $(($1+1)) & else sleep 0.3; fi; }; b 0; sleep 1";
    let what = Task::Shell { command: bomb.to_owned() };
    if keeper == Keeper::Watchdog {
        return ends_task(&mut far, what, processes(60), of_cell(Limit::Processes));
    }
    // A shell leaves when a fork is refused to it, so this bomb is over by itself.
    let mut cell = far.begin_with(what, true, processes(60));
    let (outcome, refused) = far.ended_with_refusals(&cell);
    assert!(matches!(outcome, Outcome::Returned(_)) && refused > 0, "{outcome:?}, {refused} refused");
    assert!(cell.stderr().contains("fork"), "{}", cell.stderr());
    until("the last are gone", || far.processes().is_empty());
}

fn a_bomb_that_goes_off_between_tasks_is_ended_and_told(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    far.run("count");
    let cell = call(&mut far, "bomb_later", processes(60));
    let begun = Instant::now();
    far.returned(&cell);
    leftovers_end(&mut far, &cell, of_cell(Limit::Processes));
    assert!(begun.elapsed() < TIME_TO_END, "{:?}", begun.elapsed());
    assert_eq!(far.processes(), [0; 0]);
    assert_eq!(far.run("count").0.stdout(), "2\n");
    far.run_to_death("crashes");
    assert_eq!(far.run("count").0.stdout(), "3\n");
}

fn memory_is_limited_for_all_processes_together(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    for hog in ["hog", "hog_child", "hogs"] {
        ends(&mut far, hog, memory(256), of_cell(Limit::Memory));
    }
    far.send(&ToSupervisor::Limit { notebook: memory(192) });
    ends(&mut far, "hog", memory(256), of_notebook(Limit::Memory));
    let cell = call(&mut far, "modest", memory(192));
    far.returned(&cell);
    let cell = call(&mut far, "modest", memory(32));
    let Outcome::NotRun { message } = far.ended(&cell) else { panic!("so much is in use already") };
    assert!(message.contains("the limit is 32 MiB"), "{message}");
    assert_eq!(far.run("nothing").1, Default::default(), "and without that limit there is room");
}

fn memory_that_is_used_between_tasks_is_limited_too(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    far.run("count");
    let cell = call(&mut far, "hog_later", memory(128));
    far.returned(&cell);
    leftovers_end_or_died(&mut far, &cell);
    until("the hog is gone", || far.processes().is_empty());
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

/// The system ends the hog itself where a control group is full, and then nobody may be left to end.
fn leftovers_end_or_died(far: &mut FarSide, cell: &Cell) {
    match far.next() {
        FromSupervisor::LeftoversEnded { reached, processes } => {
            assert_eq!(reached, of_cell(Limit::Memory));
            assert!(processes.iter().all(|(_, of)| *of == Some(cell.id)), "{processes:?}");
        }
        other => panic!("left-over processes were to be ended, not {other:?}"),
    }
}

fn time_and_processor_time_are_limited(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    ends(&mut far, "spins", time(200), of_cell(Limit::Time));
    let command = "trap '' INT TERM; sleep 1000".to_owned();
    ends_task(&mut far, Task::Shell { command }, time(200), of_cell(Limit::Time));
    for burner in ["burns", "burning_children", "short_lives", "short_orphans"] {
        ends(&mut far, burner, cpu(300), of_cell(Limit::Cpu));
    }
    // Counted for each cell anew, over all its tasks.
    for _ in 0..4 {
        let cell = call(&mut far, "burns_a_little", cpu(300));
        far.returned(&cell);
    }
    let cell = call(&mut far, "burns_a_little", time(600));
    far.returned(&cell);
    let cell = far.begin_as(cell.id, task("spins"), true, time(600));
    assert_eq!(far.over_limit(&cell), of_cell(Limit::Time));
    far.send(&ToSupervisor::Limit { notebook: cpu(1) });
    ends_without_count(&mut far, "burns", of_notebook(Limit::Cpu));
}

fn ends_without_count(far: &mut FarSide, function: &str, reached: Reached) {
    let cell = far.call(function);
    assert_eq!(far.over_limit(&cell), reached);
}

fn open_files_are_limited_for_one_task(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    let usual = far.run("counts_files").0.numbers();
    assert!(usual[0] > 100 && usual[1] == 1, "{usual:?}");
    let limits = Limits { files: Some(20), ..Limits::default() };
    for _ in 0..2 {
        let mut cell = call(&mut far, "counts_files", limits);
        far.returned(&cell);
        assert_eq!(cell.numbers(), [20, 1]);
    }
    let mut cell = far.begin_with(Task::Shell { command: "ulimit -n".to_owned() }, true, limits);
    far.returned(&cell);
    assert_eq!(cell.stdout(), "20\n");
    assert_eq!(far.run("counts_files").0.numbers(), usual, "the next cell has what it always had");
    let cell = call(&mut far, "crashes", limits);
    far.worker();
    assert!(matches!(far.ended(&cell), Outcome::Died { restored: true, .. }));
    assert_eq!(far.run("counts_files").0.numbers(), usual, "after a rollback, too");
}

fn so_many_processes_and_no_more(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    let cell = call(&mut far, "leaves_five", processes(7));
    far.returned(&cell);
    let cell = call(&mut far, "holds_twenty", processes(20));
    assert_eq!(far.returned(&cell), Default::default());
    if keeper == Keeper::Watchdog {
        let cell = call(&mut far, "holds_twenty_one", processes(20));
        assert_eq!(far.over_limit(&cell), of_cell(Limit::Processes));
    }
}

fn others_are_undisturbed_by_a_bomb(keeper: Keeper) {
    let (Some(mut far), Some(mut other)) = (keeper.start(), keeper.start()) else { return };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when an assertion fails here: the other thread must not go on for ever.
        let end = Raised(&over);
        let calm = scope.spawn(|| {
            let (mut rounds, mut longest) = (0, Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                rounds += 1;
                let begun = Instant::now();
                assert_eq!(other.run("count").0.numbers(), [rounds]);
                longest = longest.max(begun.elapsed());
            }
            (rounds, longest)
        });
        for bomb in ["bomb", "hogs"] {
            let limits = Limits { processes: Some(70), memory: Some(256 << 20), ..Limits::default() };
            let cell = call(&mut far, bomb, limits);
            far.over_limit(&cell);
        }
        drop(end);
        let (rounds, longest) = calm.join().expect("the other far side answers as always");
        println!("{rounds} tasks meanwhile, the longest {longest:?}");
        assert!(rounds > 3 && longest < Duration::from_secs(2), "{rounds} tasks, the longest {longest:?}");
    });
}

/// Raises its flag when it goes.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ten_thousand_pipes_do_no_harm(keeper: Keeper) {
    let Some(mut far) = keeper.start() else { return };
    far.run("count");
    let mut cell = far.run("ten_thousand_pipes").0;
    assert!(cell.numbers()[0] > 100);
    assert_eq!(far.run("count").0.stdout(), "2\n");
    far.run_to_death("crashes");
    assert_eq!(far.run("count").0.stdout(), "3\n");
    let limits = Limits { files: Some(30), ..Limits::default() };
    let mut cell = call(&mut far, "ten_thousand_pipes", limits);
    far.returned(&cell);
    assert_eq!(cell.stdout(), "0\n", "those of the cell before are open yet");
}

/// A fork beyond the limit fails; one within it does not, whatever earlier cells have left behind.
#[test]
fn a_fork_fails_at_exactly_the_limit() {
    let Some(mut far) = Keeper::Group.start() else { return };
    let forks = |far: &mut FarSide, most| {
        let mut cell = call(far, "counts_forks", processes(most));
        let (outcome, refused) = far.ended_with_refusals(&cell);
        assert!(matches!(outcome, Outcome::Returned(_)), "{outcome:?}");
        assert_eq!(refused, 1);
        let numbers = cell.numbers();
        assert_eq!(numbers[1], 1, "the error is EAGAIN");
        numbers[0]
    };
    assert_eq!(forks(&mut far, 20), 20);
    assert_eq!(forks(&mut far, 7), 7, "a lower one");
    assert_eq!(forks(&mut far, 20), 20, "a higher one again");
    assert_eq!(forks(&mut far, 0), 0);
    far.run_to_death("crashes");
    assert_eq!(forks(&mut far, 20), 20, "after a rollback");
    far.run("leaves_five");
    assert_eq!(forks(&mut far, 20), 20, "those of an earlier cell do not count");
    far.send(&ToSupervisor::Limit { notebook: processes(12) });
    assert_eq!(forks(&mut far, 20), 7, "but for the notebook they do");
    far.send(&ToSupervisor::Limit { notebook: processes(50) });
    assert_eq!(forks(&mut far, 20), 20);
    far.run("leaves_threads");
    assert_eq!(forks(&mut far, 20), 20, "neither do the threads of an earlier cell");
    let cell = call(&mut far, "leaves_five", processes(8));
    far.returned(&cell);
    let mut second = far.begin_as(cell.id, task("counts_forks"), true, processes(8));
    far.returned(&second);
    assert_eq!(second.numbers(), [3, 1], "a cell's second task has what the first has left");
}

/// The cell's processes have taken every place, and the worker needs one for its checkpoint.
#[test]
fn a_cell_that_leaves_no_place_has_a_checkpoint_all_the_same() {
    let Some(mut far) = Keeper::Group.start() else { return };
    far.run("count");
    let cell = call(&mut far, "leaves_twenty", processes(20));
    far.returned(&cell);
    let cell = call(&mut far, "crashes", processes(20));
    far.worker();
    let outcome = far.ended(&cell);
    assert!(matches!(outcome, Outcome::Died { restored: true, .. }), "{outcome:?}");
    assert_eq!(far.run("count").0.stdout(), "2\n");
    assert_eq!(far.kill(None).0.len(), 20);
}

/// As above, but the worker dies before another task comes.
#[test]
fn a_worker_that_dies_between_tasks_is_restored_when_no_place_was_left() {
    let Some(mut far) = Keeper::Group.start() else { return };
    let worker = far.run("own_pid").0.numbers()[0];
    far.run("count");
    let before = crate::harness::children(far.supervisor());
    let cell = call(&mut far, "leaves_twenty", processes(20));
    far.returned(&cell);
    let new = || crate::harness::children(far.supervisor()).into_iter().filter(|child| !before.contains(child)).count();
    until("there is a new checkpoint", || new() == 1);
    // It has told of it when it waits for a message: for its copy's word, it waits in read(2).
    let waits = || std::fs::read_to_string(format!("/proc/{worker}/syscall")).unwrap_or_default();
    // recvmsg(2)'s number here.
    let receives = if cfg!(target_arch = "x86_64") { "47 " } else { "212 " };
    until("the worker waits for its next task", || waits().starts_with(receives));
    crate::processes::signal(worker, "KILL");
    assert_ne!(far.worker(), worker);
    assert_eq!(far.run("count").0.stdout(), "2\n");
}
