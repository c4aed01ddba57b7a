//! Endings: whatever ends, no process and no control group is left.

use std::time::{Duration, Instant};

use forklab_sys::cgroup::remove_folders;

use crate::harness::{FarSide, Keeper, until};

/// Contract: nothing is left after this time.
const TIME_TO_END: Duration = Duration::from_secs(2);

/// A far side in whose group live all kinds of processes.
fn crowded() -> Option<FarSide> {
    let mut far = Keeper::Group.start()?;
    assert!(!far.groups.is_empty() && far.groups.iter().all(|folder| folder.is_dir()));
    far.run("leaves_deaf_company");
    let mut cell = far.call("deaf_company");
    until("all of them are there", || cell.stdout().ends_with("\n0\n"));
    assert!(far.marked().len() > 10);
    Some(far)
}

#[test]
fn the_end_of_the_server_ends_processes_and_groups() {
    let Some(mut far) = crowded() else { return };
    let begun = Instant::now();
    far.close();
    let took = begun.elapsed();
    assert!(took < TIME_TO_END, "{took:?}");
    assert!(far.marked().is_empty());
    assert!(!far.groups.iter().any(|folder| folder.exists()), "{:?}", far.groups);
}

#[test]
fn a_bomb_does_not_outlive_the_server() {
    for keeper in [Keeper::Group, Keeper::Watchdog] {
        let Some(mut far) = keeper.start() else { continue };
        far.send(&forklab_worker::messages::ToSupervisor::Limit {
            notebook: forklab_worker::messages::Limits { processes: Some(100), ..Default::default() },
        });
        far.call("bomb_of_orphans").until_stdout("lit\n");
        let begun = Instant::now();
        far.close();
        let took = begun.elapsed();
        assert!(took < TIME_TO_END, "{took:?}");
        assert!(far.marked().is_empty());
        assert!(!far.groups.iter().any(|folder| folder.exists()));
    }
}

#[test]
fn the_group_of_a_killed_supervisor_can_be_removed() {
    let Some(mut far) = Keeper::Group.start() else { return };
    far.run("count");
    far.kill_supervisor();
    until("worker and checkpoint end with it", || far.marked().is_empty());
    remove_folders(&far.groups);
    assert!(!far.groups.iter().any(|folder| folder.exists()), "{:?}", far.groups);
}

#[test]
fn the_next_supervisor_removes_the_group_of_one_that_was_killed() {
    let Some(mut far) = Keeper::Group.start() else { return };
    far.run("count");
    far.kill_supervisor();
    until("worker and checkpoint end with it", || far.marked().is_empty());
    let _next = Keeper::Group.start();
    assert!(!far.groups.iter().any(|folder| folder.exists()), "{:?}", far.groups);
}
