//! Processes below the server that it has not started itself: those of cells, and what a dead supervisor or
//! engine has left behind.

use forklab_sys::process::{self, Pid};
use forklab_sys::procfs;

use super::Kernel;

impl Kernel {
    /// Whether a process is below the supervisor. One that has ended cannot be told any more.
    pub(super) fn is_of_a_cell(&self, pid: u32) -> bool {
        let supervisor = Pid::from_raw(self.far.pid());
        let below = supervisor.map(procfs::descendants).unwrap_or_default();
        below.iter().any(|process| process.identity.pid == pid as i32)
    }

    /// Reaps what was not started here but left to us by a dead engine. The supervisor and the first
    /// engine are left to their own handles, which wait for them by pid.
    pub(super) fn reap_adopted(&self) {
        let own = [Some(self.far.pid()), self.compiler.spawned_pid()];
        let zombies = procfs::descendants(Pid::this()).into_iter().filter(|stat| stat.zombie);
        let adopted = zombies.filter(|stat| stat.parent == Some(Pid::this()));
        for zombie in adopted.filter(|stat| !own.contains(&Some(stat.identity.pid.as_raw()))) {
            if let Err(error) = process::reap(zombie.identity.pid) {
                tracing::warn!(%error, "an adopted process was not reaped");
            }
        }
    }

    /// Ends what a dead supervisor or engine has left to us: everything below this process that is
    /// neither the supervisor nor compiles.
    ///
    /// Who is there is looked up before who compiles. The other way round: the compilers are looked up,
    /// the engine forks its standby or calls rustc, all that is there is looked up, and the new process,
    /// which is the engine's, is taken for a stray.
    ///
    /// A look that finds nobody is not the last. Our children are read, the worker dies and its children
    /// become ours, the worker's children are read, and there are none: its children were in neither list. The
    /// next look finds them. So two looks after each other must have found the same.
    pub(super) fn end_strays(&self) {
        let mut before = Vec::new();
        for _ in 0..100 {
            let below = procfs::descendants(Pid::this());
            let mut spared = self.compiler.processes();
            spared.push(self.far.pid());
            let is_stray = |stat: &&procfs::Stat| !stat.zombie && !spared.contains(&stat.identity.pid.as_raw());
            let strays: Vec<Pid> = below.iter().filter(is_stray).map(|stat| stat.identity.pid).collect();
            let seen: Vec<_> = below.iter().map(|stat| (stat.identity, stat.zombie)).collect();
            if strays.is_empty() && seen == before {
                return;
            }
            for stray in strays {
                // One that has ended by itself in the meantime is not an error.
                let _ = process::kill(stray, process::Signal::KILL);
            }
            before = seen;
        }
    }
}
