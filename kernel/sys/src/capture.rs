//! Output by process: a stream on which every piece carries the pid of the process that wrote it.
//!
//! A cell's stdout and stderr are such streams. The kernel notes the writer at the write, so an
//! exec'd program and an orphaned grandchild are named too, and a piece never holds the bytes of two
//! writers. What is done with the bytes stands with the reader.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixCredentials, recvmsg, setsockopt,
    shutdown, socketpair, sockopt,
};

use crate::process::Pid;

/// The most descriptors that Linux lets one message carry (SCM_MAX_FD). A writer may send some;
/// there must be room for them, or the writer's pid would be cut off behind them.
const MOST_RIGHTS: usize = 253;

/// The reading end of a stream that names its writers.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
}

/// What one read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of one writer stand at the start of the buffer.
    Data {
        /// How many.
        len: usize,
        /// Who wrote them; it may be dead and reaped by now. `None` where the writer's pid
        /// namespace is not ours.
        pid: Option<Pid>,
    },
    /// Nothing has been written since the last read.
    WouldBlock,
    /// Every writing end is closed and everything has been read.
    End,
}

/// Makes a stream: the reader, and the descriptor that is to become somebody's fd 1 or 2.
/// Both are close-on-exec.
///
/// # Errors
/// Those of socketpair(2) and setsockopt(2).
pub fn pair() -> io::Result<(Capture, OwnedFd)> {
    let (reader, writer) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    // Before the first write, or it would go unsigned.
    setsockopt(&reader, sockopt::PassCred, &true)?;
    // Who reads from fd 1 finds the end of a file and does not hang.
    shutdown(reader.as_raw_fd(), Shutdown::Write)?;
    Ok((Capture { socket: reader }, writer))
}

impl Capture {
    /// Reads what one writer wrote, as much as the buffer takes, without waiting.
    ///
    /// # Errors
    /// Those of recvmsg(2); an empty buffer is `InvalidInput`.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Piece> {
        if buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty buffer cannot tell the end"));
        }
        let mut space = nix::cmsg_space!(UnixCredentials, [RawFd; MOST_RIGHTS]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        loop {
            let mut parts = [IoSliceMut::new(buffer)];
            let message = match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Ok(Piece::WouldBlock),
                Err(Errno::ECONNRESET) => return Ok(Piece::End),
                other => other?,
            };
            let mut pid = None;
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::ScmCredentials(writer) => pid = Pid::from_raw(writer.pid()),
                    ControlMessageOwned::ScmRights(raw) => {
                        // SAFETY: recvmsg(2) has just made these descriptors for this process, and
                        // nothing else knows them yet. Nobody asked for them: the drop closes them.
                        raw.into_iter().for_each(|fd| drop(unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                    _ => {}
                }
            }
            return Ok(if message.bytes == 0 { Piece::End } else { Piece::Data { len: message.bytes, pid } });
        }
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn each_piece_names_its_writer() -> io::Result<()> {
        let (capture, writer) = pair()?;
        let mut buffer = [0u8; 100];
        assert_eq!(capture.read(&mut buffer)?, Piece::WouldBlock);
        File::from(writer.try_clone()?).write_all(b"me\n")?;
        let mut shell =
            Command::new("sh").args(["-c", "echo shell; /bin/echo program"]).stdout(Stdio::from(writer)).spawn()?;
        let shell_pid = Pid::from_raw(shell.id() as i32);
        assert!(shell.wait()?.success());
        assert_eq!(capture.read(&mut buffer)?, Piece::Data { len: 3, pid: Some(Pid::this()) });
        assert_eq!(capture.read(&mut buffer)?, Piece::Data { len: 6, pid: shell_pid });
        let Piece::Data { len: 8, pid } = capture.read(&mut buffer)? else { panic!("the program wrote 8 bytes") };
        assert_eq!(&buffer[..8], b"program\n");
        assert!(pid.is_some());
        // A child that another test of this program forks meanwhile holds the writer for a moment too.
        crate::events::readable(&[capture.as_fd()], Some(std::time::Duration::from_secs(20)))?;
        assert_eq!(capture.read(&mut buffer)?, Piece::End);
        Ok(())
    }
}
