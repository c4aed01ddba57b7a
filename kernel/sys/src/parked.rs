//! What a sleeping copy of a process does with pipes and sockets, so that they still have ends.
//!
//! A copy holds duplicates of every descriptor. A cell that closes its end of a pipe from an earlier
//! cell and reads to the end would wait for ever for a copy's end to close, a writer would get no
//! SIGPIPE, and a port would stay taken. So the copy lets go of pipes and sockets while it sleeps.
//! Woken, it finds new ones under the old numbers: a pipe of which it had both ends is a pipe again,
//! empty; whatever was connected to somebody else is at its end, as if the other had left.

use std::collections::btree_map::{BTreeMap, Entry};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt};
use nix::sys::stat::{SFlag, fstat};

/// The pipes and sockets of this process, standard input and output left out.
#[derive(Debug)]
pub struct Parked {
    found: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    number: i32,
    /// Tells which descriptors lead to the same pipe.
    inode: u64,
    kind: Kind,
    flags: OFlag,
    close_on_exec: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Socket(SockType),
}

impl Parked {
    /// Looks for them; changes nothing. `line` is the one socket that the copy goes on to use.
    pub fn survey(line: BorrowedFd<'_>) -> Parked {
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Parked { found: Vec::new() } };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let ours = |number: &i32| *number > 2 && *number != line.as_raw_fd();
        Parked { found: numbers.filter(ours).filter_map(look_at).collect() }
    }

    /// Lets go of them, and keeps their numbers taken. No locks, no allocation: for a copy that
    /// has just been made.
    pub fn park(&self, null: BorrowedFd<'_>) {
        for found in &self.found {
            // SAFETY: in a copy that nobody runs in yet, no code looks at what the number means
            // before `restore` has given it its meaning back.
            unsafe { libc::dup3(null.as_raw_fd(), found.number, libc::O_CLOEXEC) };
        }
    }

    /// Gives every number a pipe or socket again.
    ///
    /// # Errors
    /// Those of pipe2(2) and socketpair(2).
    pub fn restore(self) -> io::Result<()> {
        let mut pipes = BTreeMap::new();
        for found in &self.found {
            match found.kind {
                Kind::Socket(kind) => {
                    let (end, _other) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
                    found.put(end.as_fd())?;
                }
                Kind::Pipe => {
                    let (reader, writer) = match pipes.entry(found.inode) {
                        Entry::Occupied(pipe) => pipe.into_mut(),
                        Entry::Vacant(place) => place.insert(io::pipe()?),
                    };
                    let reads = found.flags & OFlag::O_ACCMODE == OFlag::O_RDONLY;
                    found.put(if reads { reader.as_fd() } else { writer.as_fd() })?;
                }
            }
        }
        Ok(())
    }
}

impl Found {
    fn put(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let flags = if self.close_on_exec { libc::O_CLOEXEC } else { 0 };
        // SAFETY: the number is one that `park` has kept taken since it belonged to a descriptor of
        // the same kind, whose owner gets it back.
        if unsafe { libc::dup3(descriptor.as_raw_fd(), self.number, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
        fcntl(descriptor, FcntlArg::F_SETFL(self.flags & OFlag::O_NONBLOCK))?;
        Ok(())
    }
}

fn look_at(number: i32) -> Option<Found> {
    // SAFETY: the number was in the list of open descriptors a moment ago; it is only asked
    // about, and where it was closed since, the system says so.
    let descriptor = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    let descriptor = descriptor.as_fd();
    let stat = fstat(descriptor).ok()?;
    let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFIFO => Kind::Pipe,
        SFlag::S_IFSOCK => Kind::Socket(getsockopt(&descriptor, sockopt::SockType).ok()?),
        _ => return None,
    };
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL).ok()?);
    let close_on_exec = fcntl(descriptor, FcntlArg::F_GETFD).ok()? & FdFlag::FD_CLOEXEC.bits() != 0;
    Some(Found { number, inode: stat.st_ino, kind, flags, close_on_exec })
}
