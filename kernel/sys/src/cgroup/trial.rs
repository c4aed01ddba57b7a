//! A process that does nothing, to see whether a group takes processes and counts them. What the
//! files and permissions promise is not enough: version 2 refuses a process when the maker may not
//! write to a group that is above both the old and the new one, or when the old one is threaded.

use std::io;

use nix::libc;

use super::Group;
use crate::process::{Fork, Pid, Signal, exit_now, fork, kill, reap, wait};

/// Sends a process through the group. It is gone when this returns.
///
/// # Errors
/// Those of the fork and of entering; `Other` when the group does not count.
pub fn counts(group: &Group) -> io::Result<()> {
    let child = idle_child()?;
    let entered = group.enter(child);
    let processes = group.processes();
    let counts = (group.processes.is_none() || processes == Some(1))
        && (group.memory.is_none() || group.memory().is_some())
        && (group.cpu.is_none() || group.cpu().is_some());
    // Where SIGCHLD is ignored, the first waits for the end and the second finds nobody: both fine.
    kill(child, Signal::KILL)?;
    wait(child).and_then(|_| reap(child)).ok();
    entered?;
    if counts { Ok(()) } else { Err(io::Error::other("a process in a group there is not counted")) }
}

fn idle_child() -> io::Result<Pid> {
    let parent = Pid::this();
    // SAFETY: the child makes system calls only, until it is killed.
    match unsafe { fork() }? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            // SAFETY: prctl(2) with this option takes a number. It is a system call and no more.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            // A parent that died before that call sent no signal.
            if Pid::parent() != Some(parent) {
                exit_now(0);
            }
            loop {
                nix::unistd::pause();
            }
        }
    }
}
