//! What a process has used: time on the clock, and of processors.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// What this process has used by now.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    at: Instant,
    user: Duration,
    system: Duration,
}

/// What was used between two moments: time on the clock, and processor time in user code and in the system.
pub type Used = (Duration, Duration, Duration);

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
        Usage { at: Instant::now(), user: own.0 + children.0, system: own.1 + children.1 }
    }

    /// What was used since then.
    pub fn since(&self) -> Used {
        let now = Usage::now();
        (now.at - self.at, now.user.saturating_sub(self.user), now.system.saturating_sub(self.system))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_uses_a_processor_and_a_sleep_does_not() {
        let before = Usage::now();
        while before.since().1 + before.since().2 < Duration::from_millis(20) {}
        let (wall, user, system) = before.since();
        assert!(wall > Duration::ZERO && user + system >= Duration::from_millis(20));
    }
}
