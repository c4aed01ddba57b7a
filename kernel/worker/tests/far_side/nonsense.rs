//! User code at the supervisor's socket: whatever it says, the notebook is not what suffers.

use std::time::{Duration, Instant};

use forklab_worker::messages::{Hindrance, Outcome, ToSupervisor};

use crate::harness::FarSide;
use crate::killed_by;

#[test]
fn a_worker_that_says_nothing_or_half_a_word_goes_on() {
    let mut far = FarSide::start();
    far.run("count");
    for function in ["says_nothing", "says_half_a_length", "says_half_a_frame"] {
        far.run(function);
    }
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn a_worker_that_speaks_nonsense_is_replaced() {
    let mut far = FarSide::start();
    far.run("count");
    let nonsense = [
        "says_no_json",
        "says_no_utf8",
        "says_nothing_long",
        "says_that_it_will_be_long",
        "nests",
        "forges",
        "sends_descriptors",
    ];
    for function in nonsense {
        assert!(killed_by(9)(far.run_to_death(function).1), "{function}");
    }
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn a_worker_that_keeps_the_supervisor_busy_can_be_interrupted() {
    let mut far = FarSide::start();
    far.run("count");
    for function in ["knocks_forever", "drips"] {
        let mut cell = far.call(function);
        cell.until_stdout("ready\n");
        let begun = Instant::now();
        far.send(&ToSupervisor::Interrupt);
        far.interrupted(&cell);
        assert!(begun.elapsed() < Duration::from_secs(1), "{function}: {:?}", begun.elapsed());
    }
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn a_process_that_can_run_no_other_task_is_given_up() {
    let mut far = FarSide::start();
    far.run("count");
    for (function, expected) in
        [("leaves_no_memory", Hindrance::Memory), ("leaves_no_descriptors", Hindrance::Descriptors)]
    {
        let cell = far.call(function);
        far.worker();
        let outcome = far.ended(&cell);
        assert_eq!(outcome, Outcome::Stranded { hindrance: expected, restored: true }, "{function}");
    }
    assert_eq!(far.run("count").0.stdout(), "2\n");
}
