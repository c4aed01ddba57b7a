//! Waiting for one descriptor, with or without a deadline. Event loops over many have `events`.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::events::readable;

/// Waits until a read of the descriptor would not block: there is something to read, or its end, or
/// an error. `false` when the time is over first; `None` waits for ever.
///
/// # Errors
/// Those of poll(2), a signal's handler apart.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    Ok(readable(&[fd], timeout)?[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::time::Instant;

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
