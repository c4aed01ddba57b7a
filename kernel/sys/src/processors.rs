//! On which processors a thread may run.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread. To the system, no pid is one's own.
const OWN: Pid = Pid::from_raw(0);

/// The calling thread, and what it forks, run on few processors. Where it may run as before when this is
/// dropped; children keep what they have got.
#[derive(Debug)]
#[must_use = "it runs everywhere again once this is dropped"]
pub struct Pinned {
    before: CpuSet,
}

/// Keeps the calling thread to so many of the processors on which it may run, beginning with the one on
/// which it does, upwards and then from the first; to all of them where there are no more.
///
/// # Errors
/// `InvalidInput` for none at all; those of sched_setaffinity(2), on a machine with more processors than
/// the C library's set holds (1024) among them.
pub fn pin(count: usize) -> io::Result<Pinned> {
    if count == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing runs on no processor"));
    }
    let before = sched_getaffinity(OWN)?;
    let here = sched_getcpu()?;
    let mut chosen = CpuSet::new();
    for processor in in_turn(here, |processor| before.is_set(processor).unwrap_or(false)).take(count) {
        chosen.set(processor)?;
    }
    sched_setaffinity(OWN, &chosen)?;
    Ok(Pinned { before })
}

/// Those that are allowed, from `first` on and then from the beginning.
fn in_turn(first: usize, allowed: impl Fn(usize) -> bool) -> impl Iterator<Item = usize> {
    let all = CpuSet::count();
    (first..all).chain(0..first.min(all)).filter(move |processor| allowed(*processor))
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // They were allowed before. Where the machine has taken all of them away since, it has moved the
        // thread to others itself.
        let _ = sched_setaffinity(OWN, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("a thread's status");
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"));
        line.expect("a set of processors").trim().to_owned()
    }

    fn count() -> u32 {
        let digits = allowed();
        digits.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum()
    }

    #[test]
    fn a_thread_is_pinned_until_it_is_not() -> io::Result<()> {
        let before = allowed();
        let all = count();
        let pinned = pin(1)?;
        assert_eq!(count(), 1);
        drop(pinned);
        assert_eq!(allowed(), before);
        let pinned = pin(100_000)?;
        assert_eq!(count(), all);
        drop(pinned);
        assert_eq!(pin(0).map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
        Ok(())
    }

    #[test]
    fn the_present_processor_comes_first() {
        let chosen = |first| in_turn(first, |processor| [1, 2, 5].contains(&processor)).collect::<Vec<_>>();
        assert_eq!(chosen(2), [2, 5, 1]);
        assert_eq!(chosen(0), [1, 2, 5]);
        assert_eq!(chosen(5), [5, 1, 2]);
    }
}
