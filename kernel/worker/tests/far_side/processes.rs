//! Single processes: the list, their end, waiting for them; and cells without checkpoints.

use std::collections::HashSet;
use std::process::Command;
use std::time::Duration;

use forklab_worker::messages::{CellId, FromSupervisor, Limit, Outcome, ProcessInfo, Reached, Scope, ToSupervisor};

use crate::harness::{FarSide, alive, children, task, until};

/// Sends a process a signal, as a person does.
pub fn signal(pid: i32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()));
}

fn entry(list: &[ProcessInfo], pid: i32) -> &ProcessInfo {
    list.iter().find(|process| process.pid.0 == pid).unwrap_or_else(|| panic!("{pid} is not in {list:#?}"))
}

/// The letter of proc_pid_stat(5).
pub fn state_of(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).expect("a state")
}

#[test]
fn the_list_tells_parents_states_cells_commands_and_ages() {
    let mut far = FarSide::start();
    let worker = far.run("own_pid").0.numbers()[0];
    let (mut cell, _) = far.run("family");
    let pids = cell.numbers();
    let [child, grandchild, zombie, stopped, orphan] = pids[..] else { panic!("not five: {pids:?}") };
    until("the zombie is one", || state_of(zombie) == 'Z');
    until("the stopped one is", || state_of(stopped) == 'T');
    let shell = far.shell("setsid sh -c 'exec sleep 1000 >/dev/null 2>&1' & setsid sleep 1000 >/dev/null & echo x");
    far.returned(&shell);
    until("both have come to their programs", || {
        far.listed().iter().filter(|process| process.command == "sleep 1000").count() == 2
    });
    far.run("nothing");
    let list = far.listed();
    assert_eq!(list.len(), 7, "{list:#?}");
    let supervisor = far.supervisor();
    let expected = [(child, worker), (grandchild, child), (zombie, worker), (stopped, worker), (orphan, supervisor)];
    for (pid, parent) in expected {
        let process = entry(&list, pid);
        assert_eq!((process.parent.0, process.cell), (parent, Some(cell.id)), "{process:?}");
        assert!(process.age < Duration::from_secs(60), "{process:?}");
    }
    let states = [zombie, stopped, orphan].map(|pid| entry(&list, pid).state);
    assert_eq!(states, ['Z', 'T', 'S']);
    assert_eq!(entry(&list, zombie).command, "[forklab]");
    assert_eq!(entry(&list, child).command, "forklab worker");
    let sleeping: Vec<_> = list.iter().filter(|process| process.command == "sleep 1000").collect();
    assert!(sleeping.iter().all(|process| process.cell == Some(shell.id)), "{sleeping:?}");
    let order: Vec<i32> = list.iter().map(|process| process.pid.0).collect();
    assert!(order.starts_with(&[child, grandchild, zombie, stopped]), "{order:?}");
}

#[test]
fn processes_are_ended_by_pid_and_strangers_are_not() {
    let mut far = FarSide::start();
    let mut other = FarSide::start();
    let worker = far.run("own_pid").0.numbers()[0];
    let of_other = other.run("leaves_an_orphan").0.numbers()[0];
    let checkpoint = children(far.supervisor()).into_iter().find(|pid| *pid != worker).expect("a checkpoint");
    let pids = far.run("leaves_five").0.numbers();
    let (ended, strangers) = far.kill(Some(&pids[..1]));
    assert_eq!((ended, strangers), (pids[..1].to_vec(), vec![]));
    assert!(!alive(pids[0]) && alive(pids[1]));
    let current = children(far.supervisor()).into_iter().find(|pid| *pid != worker).expect("a checkpoint");
    let strangers = [1, worker, checkpoint, current, far.supervisor(), of_other, std::process::id() as i32, -1, 0];
    let all: Vec<i32> = strangers.iter().copied().chain([pids[1], pids[0]]).collect();
    let (ended, refused) = far.kill(Some(&all));
    assert_eq!(ended, [pids[1]]);
    assert_eq!(refused, [&strangers[..], &[pids[0]]].concat());
    assert!([worker, current, of_other].into_iter().all(alive));
    let (mut ended, strangers) = far.kill(None);
    ended.sort_unstable();
    assert_eq!((ended, strangers), (pids[2..].to_vec(), vec![]));
    assert!(!pids.iter().any(|pid| alive(*pid)));
    assert_eq!(far.kill(None), (vec![], vec![]));
    assert_eq!(far.run("own_pid").0.numbers(), [worker]);
    assert_eq!(other.processes(), [of_other]);
}

fn gone(far: &mut FarSide, cell: CellId) {
    match far.next() {
        FromSupervisor::Gone { cell: which } => assert_eq!(which, cell),
        other => panic!("the end of a cell's processes was to be told, not {other:?}"),
    }
}

#[test]
fn a_cells_processes_can_be_waited_for() {
    let mut far = FarSide::start();
    let earlier = far.run("leaves_five").0;
    let (mut cell, _) = far.run("nothing");
    far.send(&ToSupervisor::Await { cell: cell.id });
    gone(&mut far, cell.id);
    let mut family = far.run("leaves_deaf_company").0;
    let pids = family.numbers();
    far.send(&ToSupervisor::Await { cell: family.id });
    assert!(far.says_nothing_for(Duration::from_millis(50)));
    for (n, pid) in pids.iter().enumerate() {
        assert!(alive(*pid));
        signal(*pid, "KILL");
        // Whatever is said is said when the last has gone.
        assert!(n + 1 == pids.len() || far.says_nothing_for(Duration::from_millis(30)));
    }
    gone(&mut far, family.id);
    assert!(!pids.iter().any(|pid| alive(*pid)));
    assert_eq!(far.processes().len(), 5, "those of {:?} are not waited for", earlier.id);
    assert_eq!(cell.stdout(), "");
}

#[test]
fn the_server_ends_a_cell_or_what_it_has_left() {
    let reached = Reached { limit: Limit::Output, scope: Scope::Cell };
    let mut far = FarSide::start();
    far.run("count");
    let mut first = far.run("leaves_five").0;
    let mut second = far.run("leaves_deaf_company").0;
    let (of_first, of_second) = (first.numbers(), second.numbers());
    far.send(&ToSupervisor::EndCell { cell: first.id, reached });
    until("the first cell's are gone", || !of_first.iter().any(|pid| alive(*pid)));
    assert!(of_second.iter().all(|pid| alive(*pid)));
    let mut running = far.call("deaf_company");
    until("all of them are there", || running.stdout().contains("\n0\n"));
    far.send(&ToSupervisor::EndCell { cell: second.id, reached });
    until("the second cell's are gone", || !of_second.iter().any(|pid| alive(*pid)));
    assert!(running.numbers().iter().filter(|pid| **pid > 0).all(|pid| alive(*pid)));
    far.send(&ToSupervisor::EndCell { cell: running.id, reached });
    assert_eq!(far.over_limit(&running), reached);
    assert_eq!(far.processes(), [0; 0]);
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn without_checkpoints_none_is_made_and_with_them_again_before_the_task() {
    let mut far = FarSide::start();
    far.run("count");
    let worker = far.run("own_pid").0.numbers()[0];
    until("the old checkpoint is gone", || children(far.supervisor()).len() == 2);
    let mut cell = far.begin(task("deaf_company"), false);
    until("all of them are there", || cell.stdout().ends_with("\n0\n"));
    let company = cell.numbers();
    let own = children(far.supervisor()).into_iter().filter(|pid| !company.contains(pid));
    assert_eq!(own.collect::<Vec<_>>(), [worker]);
    far.send(&ToSupervisor::Interrupt);
    assert_ne!(far.worker(), worker);
    assert!(matches!(far.ended(&cell), Outcome::Interrupted { restored: false }));
    let cell = far.begin(task("count"), false);
    far.returned(&cell);
    assert_eq!(children(far.supervisor()).len(), 1, "none is made after the task either");
    let (_, _, new) = far.run_to_death("crashes");
    assert_eq!(children(far.supervisor()).into_iter().filter(|pid| *pid == new).count(), 1);
    assert_eq!(far.run("count").0.stdout(), "2\n");
}

#[test]
fn a_worker_that_dies_while_it_makes_a_checkpoint_is_replaced_and_the_task_runs() {
    let mut far = FarSide::start();
    let cell = far.begin(task("count"), false);
    far.returned(&cell);
    let mut cell = far.begin(task("own_pid"), false);
    far.returned(&cell);
    let worker = cell.numbers()[0];
    signal(worker, "STOP");
    let mut cell = far.call("count");
    far.processes();
    signal(worker, "KILL");
    let messages = [far.next(), far.next()];
    assert!(matches!(messages[0], FromSupervisor::Worker { .. }), "{messages:?}");
    assert!(matches!(messages[1], FromSupervisor::StateLost { .. }), "{messages:?}");
    far.returned(&cell);
    assert_eq!(cell.stdout(), "1\n");
    let living: HashSet<i32> = children(far.supervisor()).into_iter().collect();
    assert!(living.len() >= 2, "a worker and its checkpoint: {living:?}");
}
