//! Waiting for one descriptor, with or without a deadline. Event loops over many have their own
//! poll(2).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until a read of the descriptor would not block: there is something to read, or its end, or
/// an error. `false` when the time is over first; `None` waits for ever.
///
/// # Errors
/// Those of poll(2), a signal's handler apart.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    // A time too long for the clock is as good as for ever.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait = left.map_or(PollTimeout::NONE, |left| {
            // Rounded up, so that the last part of a millisecond is slept and not spun away.
            PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], wait) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn something_the_end_and_nothing() -> io::Result<()> {
        let (reader, mut writer) = io::pipe()?;
        let begin = Instant::now();
        assert!(!wait_readable(reader.as_fd(), Some(Duration::ZERO))?);
        assert!(!wait_readable(reader.as_fd(), Some(Duration::from_millis(20)))?);
        assert!(begin.elapsed() >= Duration::from_millis(20));
        writer.write_all(b"x")?;
        assert!(wait_readable(reader.as_fd(), Some(Duration::MAX))?);
        drop(writer);
        assert!(wait_readable(reader.as_fd(), None)?);
        Ok(())
    }
}
