//! What a process has used: time on the clock, and of processors.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::trace::now;

/// What this process has used by now.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    at: u64,
    user: Duration,
    system: Duration,
}

/// What was used between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The first of them: nanoseconds of the monotonic clock.
    pub began: u64,
    /// The time between them.
    pub wall: Duration,
    /// Processor time in user code.
    pub user: Duration,
    /// Processor time in the system.
    pub system: Duration,
}

impl Usage {
    /// By now: by all threads of this process, and by those of its children, and theirs, that it has
    /// waited for.
    pub fn now() -> Usage {
        let whole = |time: TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
        let of = |who| {
            getrusage(who)
                .map_or_else(|_| Default::default(), |usage| (whole(usage.user_time()), whole(usage.system_time())))
        };
        let (own, children) = (of(UsageWho::RUSAGE_SELF), of(UsageWho::RUSAGE_CHILDREN));
        Usage { at: now(), user: own.0 + children.0, system: own.1 + children.1 }
    }

    /// What was used since then.
    pub fn since(&self) -> Used {
        let now = Usage::now();
        Used {
            began: self.at,
            wall: Duration::from_nanos(now.at.saturating_sub(self.at)),
            user: now.user.saturating_sub(self.user),
            system: now.system.saturating_sub(self.system),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_uses_a_processor_and_a_sleep_does_not() {
        let before = Usage::now();
        let processor = |used: Used| used.user + used.system;
        while processor(before.since()) < Duration::from_millis(20) {}
        let used = before.since();
        assert!(used.wall > Duration::ZERO && processor(used) >= Duration::from_millis(20));
        assert!(used.began > 0 && used.began < now());
    }
}
