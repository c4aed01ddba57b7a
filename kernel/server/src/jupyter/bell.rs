//! A descriptor that wakes a thread from poll(2).
//!
//! A bell carries no news; it says that some queue is worth a look. Whoever is woken calls
//! [`Bell::hush`] *before* looking, and whoever has news puts it into the queue *before* ringing:
//!
//! ```text
//! woken:    hush ─────────── look (finds it) …           or   hush ── look (nothing) ── poll (returns at once)
//! newsy:          put, ring                                                    put, ring
//! ```
//!
//! In the first order the bell stays rung and costs one look for nothing; in no order is news missed.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

/// One bell; shared by those who ring it and the one who listens.
#[derive(Debug)]
pub struct Bell {
    rope: UnixStream,
    ear: UnixStream,
}

impl Bell {
    /// A bell that nobody has rung.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn new() -> io::Result<Bell> {
        let (rope, ear) = UnixStream::pair()?;
        rope.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok(Bell { rope, ear })
    }

    /// Makes the descriptor readable. Never blocks: a socket that is full has been rung already.
    pub fn ring(&self) {
        let _full_is_rung = (&self.rope).write(&[0]);
    }

    /// Makes the descriptor unreadable again.
    pub fn hush(&self) {
        let mut bytes = [0; 512];
        while matches!((&self.ear).read(&mut bytes), Ok(count) if count == bytes.len()) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.ear.as_raw_fd()
    }
}
