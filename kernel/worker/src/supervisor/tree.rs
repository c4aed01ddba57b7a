//! Ending processes below the supervisor, and reaping them.
//!
//! Every process that user code starts stays below the supervisor, whatever it does: `setsid` and
//! double forks change sessions and parents, but orphans go to the nearest subreaper, which is we.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use forklab_sys::events::readable;
use forklab_sys::process::{Pid, Signal, kill, reap_any};
use forklab_sys::procfs::{Identity, Stat, descendants};

use super::Supervisor;
use crate::messages::FromSupervisor;

/// SIGKILL ends everything but a process within a system call that cannot be interrupted.
const TIME_TO_END: Duration = Duration::from_secs(2);

/// Between two looks, unless a child's end comes first.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

impl Supervisor {
    /// Reaps every child that has ended; remembers how the worker did.
    pub fn reap(&mut self) {
        while let Ok(Some((pid, status))) = reap_any() {
            self.retired.retain(|retired| *retired != pid);
            if pid == self.worker {
                self.worker_ended = Some(status);
            } else if self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.pid == pid) {
                self.checkpoint = None;
            }
        }
    }

    /// Who lives below, zombies left out.
    pub fn living(&self) -> Vec<Stat> {
        descendants(Pid::this()).into_iter().filter(|process| !process.zombie).collect()
    }

    /// Who lives below that user code has started.
    pub fn leftovers(&self) -> Vec<Stat> {
        let mut living = self.living();
        living.retain(|process| !self.is_own(process.identity.pid));
        living
    }

    /// Whether a process is the worker, its checkpoint, or an earlier one on its way out.
    pub fn is_own(&self, pid: Pid) -> bool {
        let checkpoint = self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.pid == pid);
        pid == self.worker || checkpoint || self.retired.contains(&pid)
    }

    /// Ends every process below but the spared ones, and waits until they are gone. Tells the
    /// server when some will not go.
    pub fn end_tree(&mut self, spare: impl Fn(&Identity) -> bool) -> io::Result<()> {
        let deadline = Instant::now() + TIME_TO_END;
        loop {
            // One look is not enough. A process that is listed here may fork before its SIGKILL
            // comes, and its child is not in the list; a process whose parent dies while we read
            // that parent's children is missing from it. Once a SIGKILL is pending a process
            // forks no more, so the looks end; and each child so missed is below us still.
            let victims: Vec<Stat> = self.living().into_iter().filter(|p| !spare(&p.identity)).collect();
            if victims.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let pids: Vec<String> = victims.iter().map(|p| p.identity.pid.to_string()).collect();
                let message = format!("these processes cannot be ended: {}; restart the kernel", pids.join(", "));
                return self.tell(&FromSupervisor::Failed { message });
            }
            for victim in victims {
                // It was there a moment ago. That its pid is another's by now takes a whole turn
                // of the machine's pids between two lines.
                let _ = kill(victim.identity.pid, Signal::KILL);
            }
            readable(&[self.signals.as_fd()], Some(BETWEEN_LOOKS))?;
            while self.signals.next()?.is_some() {}
            self.reap();
        }
    }

    /// The end of all of it, the supervisor's own last act.
    pub fn end_everything(&mut self) {
        // Nobody is left to be told of what goes wrong here.
        let _ = self.end_tree(|_| false);
        let _ = std::fs::remove_file(&self.socket);
    }
}
