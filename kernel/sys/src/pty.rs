//! The terminal of the cells: a pseudo-terminal whose keyboard is the notebook's input box.
//!
//! It does not echo (the front end shows what was typed), gives whole lines, and leaves Ctrl-S and
//! carriage returns alone. Who reads from it, and when to type, is for others to decide.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::termios::{
    FlowArg, FlushArg, InputFlags, LocalFlags, SetArg, SpecialCharacterIndices as Key, Termios, tcflow, tcflush,
    tcgetattr, tcsetattr,
};

/// The longest piece of a line that the terminal is given at once. Its line buffer takes 4095
/// bytes and throws the rest away.
const LONGEST_PIECE: usize = 4000;

/// Its size. It is a program's to ask for, and to set.
const SIZE: Winsize = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };

/// A pseudo-terminal, both of its sides.
///
/// A program may hang it up (vhangup(2)); nobody can use it then, ever again. [`Pty::reset`] and
/// [`Pty::discard_output`] put a new one in its place, under another name.
#[derive(Debug)]
pub struct Pty {
    master: File,
    terminal: OwnedFd,
    path: PathBuf,
    settings: Termios,
}

impl Pty {
    /// Makes a terminal of 40 lines and 100 columns. Both sides are close-on-exec.
    ///
    /// # Errors
    /// Those of openpty(3) and tcsetattr(3).
    pub fn open() -> io::Result<Pty> {
        let ends = openpty(Some(&SIZE), None)?;
        for end in [&ends.master, &ends.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        fcntl(&ends.master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", ends.slave.as_raw_fd()))?;
        let mut settings = tcgetattr(&ends.slave)?;
        settings.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL);
        settings.local_flags.insert(LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::IEXTEN);
        settings.input_flags.remove(InputFlags::ICRNL | InputFlags::IXON);
        settings.input_flags.insert(InputFlags::IUTF8);
        let pty = Pty { master: File::from(ends.master), terminal: ends.slave, path, settings };
        pty.put_back()?;
        Ok(pty)
    }

    /// The side that programs use.
    pub fn terminal(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }

    /// Its name: `/dev/pts/7`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Throws away what was typed and not read, and undoes what programs have set. Where a program
    /// has hung the terminal up, there is a new one afterwards.
    ///
    /// # Errors
    /// Those of [`Pty::open`].
    pub fn reset(&mut self) -> io::Result<()> {
        match self.put_back() {
            Ok(()) => Ok(()),
            Err(_) => self.replace(),
        }
    }

    fn put_back(&self) -> io::Result<()> {
        // What was typed last may still be on its way from one side to the other, where tcflush(3)
        // does not see it; a poll(2) of the terminal waits until it has arrived.
        self.has_input()?;
        tcflush(&self.terminal, FlushArg::TCIFLUSH)?;
        tcsetattr(&self.terminal, SetArg::TCSANOW, &self.settings)?;
        // A program that has stopped output (TCOOFF) would have later ones wait for ever.
        tcflow(&self.terminal, FlowArg::TCOON)?;
        let (terminal, size) = (self.terminal.as_raw_fd(), SIZE);
        // SAFETY: TIOCSWINSZ reads one structure of this type; the descriptor is open.
        unsafe { libc::ioctl(terminal, libc::TIOCSWINSZ, &raw const size) };
        // SAFETY: TIOCNXCL takes no argument. Without it, nobody could open `/dev/tty` after a
        // program that wanted the terminal for itself (TIOCEXCL).
        unsafe { libc::ioctl(terminal, libc::TIOCNXCL) };
        Ok(())
    }

    fn replace(&mut self) -> io::Result<()> {
        *self = Pty::open()?;
        Ok(())
    }

    /// Whether a read of the terminal would return at once.
    ///
    /// Exact, also right after [`Pty::type_piece`]: poll(2) on a terminal waits for bytes that are on
    /// their way from the master before it says no (`tty_buffer_flush_work`). FIONREAD does not.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn has_input(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Err(Errno::EINTR) => continue,
                found => return Ok(found? > 0),
            }
        }
    }

    /// Types the first piece of a text: its first line, or as much of a longer line as the terminal
    /// takes at once. Returns how many of the text's bytes that is. The next piece may be typed when
    /// this one has been read. A piece without a newline is handed over by an end-of-file key, which
    /// gives the reader what was typed so far. Control characters are taken literally.
    ///
    /// # Errors
    /// Those of write(2); `WouldBlock` when earlier pieces fill the terminal. A terminal that was hung
    /// up takes everything.
    pub fn type_piece(&self, text: &[u8]) -> io::Result<usize> {
        let line = text.iter().position(|&b| b == b'\n').map_or(text.len(), |at| at + 1);
        let len = line.min(LONGEST_PIECE);
        let piece = &text[..len];
        let Some(now) = self.settings_now()? else { return Ok(len) };
        if !now.local_flags.contains(LocalFlags::ICANON) {
            (&self.master).write_all(piece)?;
            return Ok(len);
        }
        let mut keys = Vec::with_capacity(2 * len + 1);
        for &byte in piece {
            if byte != b'\n' && byte != b'\t' && (byte < b' ' || byte == 0x7f) {
                keys.push(now.control_chars[Key::VLNEXT as usize]);
            }
            keys.push(byte);
        }
        if piece.last() != Some(&b'\n') {
            keys.push(now.control_chars[Key::VEOF as usize]);
        }
        (&self.master).write_all(&keys)?;
        Ok(len)
    }

    /// Presses the end-of-file key: a read of the terminal returns nothing, once.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn type_end_of_file(&self) -> io::Result<()> {
        let Some(now) = self.settings_now()? else { return Ok(()) };
        (&self.master).write_all(&[now.control_chars[Key::VEOF as usize]])
    }

    /// What programs have set. `None` when the terminal was hung up: whoever reads it is at its end.
    fn settings_now(&self) -> io::Result<Option<Termios>> {
        match tcgetattr(&self.terminal) {
            Err(Errno::EIO) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// Throws away what programs have written to the terminal itself (`/dev/tty`); unread, it
    /// would stop them in the end. Where a program has hung the terminal up, there is a new one
    /// afterwards: the old one would be readable for ever.
    ///
    /// # Errors
    /// Those of read(2) and [`Pty::open`].
    pub fn discard_output(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match (&self.master).read(&mut buffer) {
                Ok(0) => return self.replace(),
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return self.replace(),
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The side of the keyboard and the screen; readable when a program wrote to the terminal.
    pub fn screen(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

/// Makes this process the leader of a new session without a terminal: setsid(2).
///
/// # Errors
/// `PermissionDenied` when it leads a process group already.
pub fn new_session() -> io::Result<()> {
    Ok(nix::unistd::setsid().map(drop)?)
}

/// Makes a terminal this session's own: TIOCSCTTY. The caller leads a session that has none, or
/// that has this one.
///
/// # Errors
/// `PermissionDenied` when the terminal is another session's, or the caller leads none or has another.
pub fn take_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number and no pointer; the descriptor is open for the call.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Brings this process's group to the terminal's foreground, also from the background: tcsetpgrp(3).
///
/// # Errors
/// Those of tcsetpgrp(3).
pub fn come_to_foreground(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let mut stop = SigSet::empty();
    stop.add(nix::sys::signal::Signal::SIGTTOU);
    let mut before = SigSet::empty();
    // From the background the call is refused, or stops who calls, unless this signal is blocked.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&stop), Some(&mut before))?;
    let done = nix::unistd::tcsetpgrp(terminal, nix::unistd::getpgrp());
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    Ok(done?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pty: &Pty) -> io::Result<Vec<u8>> {
        let mut buffer = [0; 5000];
        let len = File::from(pty.terminal.try_clone()?).read(&mut buffer)?;
        Ok(buffer[..len].to_vec())
    }

    #[test]
    fn lines_long_lines_control_characters_and_the_end_arrive() -> io::Result<()> {
        let mut pty = Pty::open()?;
        assert!(!pty.has_input()?);
        assert_eq!(pty.type_piece(b"one\ntwo\n")?, 4);
        assert!(pty.has_input()?);
        assert_eq!(read(&pty)?, b"one\n");
        assert!(!pty.has_input()?);
        pty.type_piece(b"a\x03b\x04c\r\x7f\n")?;
        assert_eq!(read(&pty)?, b"a\x03b\x04c\r\x7f\n");
        let mut long = vec![b'x'; 10_000];
        long.push(b'\n');
        let (mut rest, mut got) = (&long[..], Vec::new());
        while !rest.is_empty() {
            rest = &rest[pty.type_piece(rest)?..];
            got.extend(read(&pty)?);
        }
        assert_eq!(got, long);
        pty.type_end_of_file()?;
        assert_eq!(read(&pty)?, b"");
        pty.type_piece(b"stale\n")?;
        pty.reset()?;
        assert!(!pty.has_input()?);
        Ok(())
    }

    #[test]
    fn a_reader_of_single_bytes_sees_no_end_between_two_pieces() -> io::Result<()> {
        let pty = Pty::open()?;
        pty.type_piece(b"ab")?;
        let mut byte = [0];
        let mut terminal = File::from(pty.terminal.try_clone()?);
        terminal.read_exact(&mut byte)?;
        terminal.read_exact(&mut byte)?;
        assert!(!pty.has_input()?, "the end-of-file key went with the last byte");
        Ok(())
    }
}
