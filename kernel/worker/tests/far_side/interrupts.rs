//! Interrupts: Ctrl-C first, and half a second later the end of whoever is left.

use std::time::{Duration, Instant};

use forklab_worker::messages::{FromSupervisor, Outcome, ToSupervisor};

use crate::harness::{FarSide, alive, task, until};

/// Contract: an interrupt has ended everything within this time.
const TIME_TO_END: Duration = Duration::from_secs(1);

#[test]
fn a_child_may_clean_up() {
    let mut far = FarSide::start();
    far.run("count");
    let mut cell = far.call("child_cleans_up");
    cell.until_stdout("ready\n");
    far.send(&ToSupervisor::Interrupt);
    far.interrupted(&cell);
    assert_eq!(cell.stdout(), "ready\ncleaned up\n");
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn a_function_that_handles_the_interrupt_returns_and_is_committed() {
    let mut far = FarSide::start();
    let worker = far.run("own_pid").0.numbers()[0];
    far.run("count");
    let mut cell = far.call("handles_interrupt");
    cell.until_stdout("ready\n");
    far.send(&ToSupervisor::Interrupt);
    far.returned(&cell);
    assert_eq!(far.run("count").0.stdout(), "3\n", "what it counted is kept");
    assert_eq!(far.run("own_pid").0.numbers(), [worker]);
}

#[test]
fn whoever_does_not_listen_is_gone_within_a_second() {
    let mut far = FarSide::start();
    far.run("count");
    let mut cell = far.call("deaf_company");
    until("all of them are there", || cell.stdout().ends_with("\n0\n"));
    let company: Vec<i32> = cell.numbers().into_iter().filter(|pid| *pid > 0).collect();
    assert_eq!(company.len(), 4);
    assert!(company.iter().all(|pid| alive(*pid)));
    let begun = Instant::now();
    far.send(&ToSupervisor::Interrupt);
    far.interrupted(&cell);
    let took = begun.elapsed();
    assert!(took < TIME_TO_END, "{took:?}");
    assert!(!company.iter().any(|pid| alive(*pid)));
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn left_over_processes_are_gone_within_a_second() {
    let mut far = FarSide::start();
    let worker = far.run("own_pid").0.numbers()[0];
    let company = far.run("leaves_deaf_company").0.numbers();
    assert!(company.iter().all(|pid| alive(*pid)));
    let begun = Instant::now();
    far.send(&ToSupervisor::Interrupt);
    until("they are gone", || !company.iter().any(|pid| alive(*pid)));
    let took = begun.elapsed();
    assert!(took < TIME_TO_END, "{took:?}");
    assert_eq!(far.run("own_pid").0.numbers(), [worker], "the notebook's process is none of them");
    assert!(far.says_nothing_for(Duration::ZERO));
}

#[test]
fn a_second_interrupt_does_not_wait() {
    let mut far = FarSide::start();
    // The best of some: the machine may be busy.
    let fastest = (0..5).map(|_| {
        let mut cell = far.call("deaf_company");
        until("all of them are there", || cell.stdout().ends_with("\n0\n"));
        let begun = Instant::now();
        far.send(&ToSupervisor::Interrupt);
        far.send(&ToSupervisor::Interrupt);
        far.interrupted(&cell);
        begun.elapsed()
    });
    let fastest = fastest.min().expect("five");
    assert!(fastest < Duration::from_millis(300), "{fastest:?}");
}

/// An interrupt comes about when its task ends; the task after it is not meant and runs to its end.
#[test]
fn an_interrupt_at_the_end_of_a_task_never_meets_the_next() {
    let mut far = FarSide::start();
    let mut committed = far.run("count").0.numbers()[0];
    let deadline = Instant::now() + Duration::from_secs(1);
    let (mut pause, mut returned, mut interrupted) = (0, 0, 0);
    while Instant::now() < deadline {
        let cell = far.call("count");
        pause = (pause + 53) % 2500;
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
            Outcome::Returned(_) => (committed, returned) = (committed + 1, returned + 1),
            Outcome::Interrupted { restored: true } => interrupted += 1,
            other => panic!("unexpected: {other:?}"),
        }
        let next = far.begin(task("naps"), true);
        far.returned(&next);
    }
    println!("{returned} returned, {interrupted} were interrupted");
    assert_eq!(far.run("count").0.numbers(), [committed + 1]);
}
