//! Records of raw events, as the recorder sends them: late, out of order, incomplete.

use forklab_record::builder::Builder;
use forklab_record::{Ending, Event, Pid, Record, Status, Stream, What};
use proptest::prelude::*;

const P: Pid = 4711;
const SUPERVISOR: Pid = 4700;
/// When the cell began, by the monotonic clock.
const BEGAN: u64 = 1_000_000;

fn event(at: u64, pid: Pid, what: What) -> Event {
    Event { at: BEGAN + at, pid, what }
}

fn built(events: impl IntoIterator<Item = Event>) -> Record {
    let mut builder = Builder::new(7, 1_750_000_000.0, P, BEGAN);
    builder.add(events, []);
    builder.build(Ending::Finished, BEGAN + 1_000)
}

fn roles(record: &Record) -> Vec<(&str, Pid, Option<Pid>)> {
    record.processes.iter().map(|one| (one.role.as_str(), one.pid, one.parent)).collect()
}

const OVER: What = What::Ended(Status::Exited(0));

#[test]
fn a_child_has_its_whole_life() {
    let record = built([
        event(10, P, What::Forked(4712)),
        event(20, 4712, What::Execed("/bin/echo hello".to_owned())),
        event(30, 4712, What::Ended(Status::Exited(3))),
        event(40, P, What::Reaped(4712)),
    ]);
    assert_eq!((record.execution, record.duration, record.started), (7, 1_000, 1_750_000_000.0));
    assert_eq!(roles(&record), [("P", P, None), ("C1", 4712, Some(P))]);
    let child = &record.processes[1];
    assert_eq!(child.forked, 10);
    assert_eq!(child.programs, [(20, "/bin/echo hello".to_owned())]);
    assert_eq!(child.ended, Some((30, Status::Exited(3))));
    assert_eq!(child.reaped, Some((40, P)));
    assert_eq!(record.gaps, [""; 0]);
    assert_eq!(record.events.iter().map(|event| event.at).collect::<Vec<u64>>(), [10, 20, 30, 40]);
}

#[test]
fn roles_are_by_order_of_fork_in_whichever_order_batches_come() {
    let mut builder = Builder::new(1, 0.0, P, BEGAN);
    builder.add([event(30, 4713, What::Forked(4714)), event(40, 4713, OVER)], []);
    builder.add([event(10, P, What::Forked(4720)), event(20, P, What::Forked(4713))], []);
    let record = builder.build(Ending::Finished, BEGAN + 50);
    assert_eq!(
        roles(&record),
        [("P", P, None), ("C1", 4720, Some(P)), ("C2", 4713, Some(P)), ("C3", 4714, Some(4713))]
    );
    assert!(record.events.is_sorted_by_key(|event| event.at));
    assert_eq!(record.gaps, [""; 0]);
}

#[test]
fn an_orphan_is_adopted_and_its_reaper_is_no_process_of_the_cell() {
    let record = built([
        event(1, P, What::Forked(4712)),
        event(2, 4712, What::Forked(4713)),
        event(3, 4712, OVER),
        event(3, 4713, What::Adopted(SUPERVISOR)),
        event(4, P, What::Reaped(4712)),
        event(5, 4713, OVER),
        event(6, SUPERVISOR, What::Reaped(4713)),
    ]);
    assert_eq!(roles(&record).len(), 3);
    assert_eq!(record.processes[2].adopted, Some((3, SUPERVISOR)));
    assert_eq!(record.processes[2].reaped, Some((6, SUPERVISOR)));
    assert_eq!(record.gaps, [""; 0]);
}

#[test]
fn a_pid_that_is_given_again_is_another_process() {
    let life =
        |at: u64| [event(at, P, What::Forked(4712)), event(at + 1, 4712, OVER), event(at + 2, P, What::Reaped(4712))];
    let record = built(life(10).into_iter().chain(life(20)).chain(life(30)));
    assert_eq!(roles(&record), [("P", P, None), ("C1", 4712, Some(P)), ("C2", 4712, Some(P)), ("C3", 4712, Some(P))]);
    let ends: Vec<u64> = record.processes[1..].iter().map(|one| one.ended.expect("it ended").0).collect();
    assert_eq!(ends, [11, 21, 31]);
    assert_eq!(record.gaps, [""; 0]);
}

#[test]
fn an_end_without_a_fork_is_a_process_and_a_gap() {
    let record = built([event(5, 4712, OVER), event(6, P, What::Reaped(4712))]);
    // Only a parent reaps.
    assert_eq!(roles(&record), [("P", P, None), ("C1", 4712, Some(P))]);
    assert_eq!(record.gaps, ["who forked C1 (pid 4712), and when"]);
    // The supervisor reaps orphans of anybody.
    let record = built([event(5, 4712, OVER), event(6, SUPERVISOR, What::Reaped(4712))]);
    assert_eq!(roles(&record)[1], ("C1", 4712, None));
}

#[test]
fn a_reap_without_an_end_is_a_gap() {
    let record = built([event(5, P, What::Forked(4712)), event(6, P, What::Reaped(4712))]);
    assert_eq!(record.processes[1].ended, None);
    assert_eq!(record.gaps, ["how C1 (pid 4712) ended"]);
}

#[test]
fn a_second_end_of_one_pid_is_that_of_another_process() {
    let record = built([
        event(1, P, What::Forked(4712)),
        event(2, 4712, OVER),
        event(3, P, What::Reaped(4712)),
        event(4, 4712, What::Ended(Status::Killed(9))),
    ]);
    assert_eq!(record.processes[2].ended, Some((4, Status::Killed(9))));
    assert_eq!(record.gaps, ["who forked C2 (pid 4712), and when"]);
}

#[test]
fn a_child_that_is_heard_of_before_its_fork_is_one_process() {
    let record = built([event(1, 4712, OVER), event(2, P, What::Forked(4712)), event(3, P, What::Reaped(4712))]);
    assert_eq!(roles(&record), [("P", P, None), ("C1", 4712, Some(P))]);
    assert_eq!(record.processes[1].ended, Some((1, Status::Exited(0))));
    assert_eq!(record.gaps, [""; 0]);
}

#[test]
fn many_gaps_of_a_kind_are_one_sentence() {
    let record = built((1..=9).map(|number| event(number, 5000 + number as Pid, OVER)));
    assert_eq!(
        record.gaps,
        ["who forked C1 (pid 5001), C2 (pid 5002), C3 (pid 5003), C4 (pid 5004) and 5 more, and when"]
    );
    let record = built((1..=3).map(|number| event(number, 5000 + number as Pid, OVER)));
    assert_eq!(record.gaps, ["who forked C1 (pid 5001), C2 (pid 5002) and C3 (pid 5003), and when"]);
}

#[test]
fn output_is_among_the_events_and_of_a_flood_the_beginning() {
    let mut builder = Builder::new(1, 0.0, P, BEGAN);
    builder.wrote(BEGAN + 5, P, Stream::Stdout, "one\n");
    builder.add([event(3, P, What::Forked(4712))], ["a gap".to_owned()]);
    builder.wrote(BEGAN + 4, 4712, Stream::Stderr, "two\n");
    builder.add([], ["a gap".to_owned()]);
    let record = builder.build(Ending::TimedOut, BEGAN + 9);
    assert_eq!(record.events.iter().map(|event| event.at).collect::<Vec<u64>>(), [3, 4, 5]);
    assert_eq!(record.output(4712, Stream::Stderr), "two\n");
    assert_eq!(record.gaps, ["a gap"]);
    assert_eq!(record.ending, Ending::TimedOut);
    let piece = "x".repeat(1 << 20);
    for _ in 0..10 {
        builder.wrote(BEGAN + 10, P, Stream::Stdout, piece.as_str());
    }
    builder.wrote(BEGAN + 11, P, Stream::Stdout, "late");
    let record = builder.build(Ending::Finished, BEGAN + 12);
    let kept = record.output(P, Stream::Stdout);
    assert!(kept.starts_with("one\nxxx") && kept.ends_with('x') && kept.len() <= 4 << 20, "{}", kept.len());
    assert_eq!(record.gaps.len(), 2);
}

#[test]
fn what_is_no_pid_makes_no_process() {
    let mut builder = Builder::new(1, 0.0, P, BEGAN);
    builder.wrote(BEGAN, 0, Stream::Stdout, "from another pid namespace\n");
    let record = builder.build(Ending::Finished, BEGAN);
    assert_eq!(record.processes.len(), 1);
    assert_eq!(record.events.len(), 1);
}

#[test]
fn roles_are_known_while_the_cell_runs() {
    let mut builder = Builder::new(1, 0.0, P, BEGAN);
    assert_eq!((builder.role(P), builder.role(4712)), (Some("P"), None));
    builder.add([event(3, P, What::Forked(4712))], []);
    assert_eq!(builder.role(4712), Some("C1"));
}

#[test]
fn what_was_before_the_cell_is_at_its_beginning() {
    let record = built([Event { at: 3, pid: P, what: What::Forked(4712) }]);
    assert_eq!(record.processes[1].forked, 0);
}

/// Any event whatever, of a few pids.
fn any_event() -> impl Strategy<Value = Event> {
    let pid = || (P - 3)..(P + 4);
    let what = prop_oneof![
        pid().prop_map(What::Forked),
        Just(What::Execed("program".to_owned())),
        Just(OVER),
        pid().prop_map(What::Reaped),
        pid().prop_map(What::Adopted),
        pid().prop_map(|to| What::SignalSent { signal: 10, to: -to }),
        Just(What::Continued),
        Just(What::Wrote { stream: Stream::Stdout, text: "I am 4711\n".to_owned() }),
        (0..3u64).prop_map(|message| What::Sent { message, bytes: 1 }),
    ];
    (0..50u64, pid(), what).prop_map(|(at, pid, what)| event(at, pid, what))
}

proptest! {
    /// Whatever comes: roles are as documented, every parent that is of the record stands before its child,
    /// and all that is made of a record can be made of this one.
    #[test]
    fn any_events_make_a_sound_record(events in prop::collection::vec(any_event(), 0..60)) {
        use forklab_record::{export, orders, timeline};
        let record = built(events.clone());
        prop_assert_eq!(record.events.len(), events.len());
        for (number, process) in record.processes.iter().enumerate() {
            let role = if number == 0 { "P".to_owned() } else { format!("C{number}") };
            prop_assert_eq!(&process.role, &role);
        }
        prop_assert!(record.processes.is_sorted_by_key(|process| process.forked));
        let pids = |what: &What| match what { What::Forked(child) | What::Reaped(child) => Some(*child), _ => None };
        for pid in record.events.iter().filter_map(|event| pids(&event.what)) {
            prop_assert!(record.process(pid).is_some());
        }
        timeline::svg(&record, &timeline::Options::default());
        timeline::table_text(&record);
        orders::order(&record, orders::By::Events);
        let text = serde_json::to_string(&export::json(&record)).expect("JSON");
        let read: export::Export = serde_json::from_str(&text).expect("what was written reads back");
        prop_assert_eq!(read.record, record);
    }

    /// Cut into batches in any way, it is the same record.
    #[test]
    fn batches_do_not_matter(events in prop::collection::vec(any_event(), 0..40), cut in 0..40usize) {
        let whole = built(events.clone());
        let cut = cut.min(events.len());
        let mut builder = Builder::new(7, 1_750_000_000.0, P, BEGAN);
        builder.add(events[..cut].to_vec(), []);
        builder.add(events[cut..].to_vec(), []);
        prop_assert_eq!(builder.build(Ending::Finished, BEGAN + 1_000), whole);
    }
}

#[test]
fn a_process_without_a_parent_is_not_taken_for_the_cells_own() {
    let record = built([event(5, 4712, OVER)]);
    let table = forklab_record::timeline::table_text(&record);
    let row = table.lines().find(|line| line.starts_with("C1")).expect("a row");
    assert!(row.contains("not seen") && row.contains("nobody yet"), "{table}");
}

#[test]
fn what_was_read_late_was_written_before_its_writers_end() {
    let mut builder = Builder::new(1, 0.0, 10, 0);
    let at = |at, pid, what| Event { at, pid, what };
    builder.add([at(1, 10, What::Forked(11)), at(2, 10, What::Forked(12))], []);
    builder.wrote(20, 12, Stream::Stdout, "first\n");
    builder.wrote(21, 11, Stream::Stdout, "second\n");
    builder.wrote(22, 12, Stream::Stderr, "elsewhere\n");
    builder.wrote(23, 10, Stream::Stdout, "third\n");
    builder.add([at(9, 11, What::Ended(Status::Exited(0))), at(30, 12, What::Ended(Status::Exited(0)))], []);
    let record = builder.build(Ending::Finished, 40);
    let wrote: Vec<_> = record.events.iter().filter(|event| matches!(event.what, What::Wrote { .. })).collect();
    let times: Vec<_> = wrote.iter().map(|event| (event.at, event.pid)).collect();
    assert_eq!(times, [(9, 12), (9, 11), (22, 12), (23, 10)], "the stream's own order stays");
    let end = record.events.iter().position(|event| event.pid == 11 && matches!(event.what, What::Ended(_)));
    let write = record.events.iter().position(|event| event.pid == 11 && matches!(event.what, What::Wrote { .. }));
    assert!(write < end);
}

#[test]
fn what_the_cell_did_it_did_before_its_end() {
    let mut builder = Builder::new(1, 0.0, 10, 0);
    let at = |at, pid, what| Event { at, pid, what };
    builder.add([at(1, 10, What::Forked(11)), at(5, 11, What::Ended(Status::Exited(0)))], []);
    builder.add([at(30, 10, What::Reaped(11)), at(31, 12, What::Continued)], []);
    builder.began(1);
    builder.ended(20);
    builder.add([at(50, 10, What::Continued)], []);
    let record = builder.build(Ending::Finished, 20);
    assert_eq!((record.processes[1].reaped, record.duration), (Some((19, 10)), 19));
    assert_eq!(record.events.last().map(|event| event.at), Some(49), "what comes later is later");
}
