//! Waiting for several descriptors at once: poll(2).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until one of the descriptors can be read without blocking (or has ended), or a time has
/// passed; says of each, in order, whether it can. No time means: for as long as it takes.
///
/// # Errors
/// Those of poll(2); a signal's handler is no error.
pub fn readable(descriptors: &[BorrowedFd<'_>], patience: Option<Duration>) -> io::Result<Vec<bool>> {
    // A time too long for the clock is as good as for ever.
    let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
    let mut fds: Vec<PollFd<'_>> = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match poll(&mut fds, timeout(left)) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => {}
            Ok(0) | Err(Errno::EINTR) => continue,
            found => drop(found?),
        }
        return Ok(fds.iter().map(|fd| fd.any().unwrap_or(true)).collect());
    }
}

/// Rounded up to milliseconds, so that the last part of one is slept and not spun away.
fn timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else { return PollTimeout::NONE };
    let millis = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(millis.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
}
