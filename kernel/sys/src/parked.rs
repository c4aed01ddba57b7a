//! What a sleeping copy of a process does with pipes and sockets, so that they still have ends.
//!
//! A copy holds duplicates of every descriptor. A cell that closes its end of a pipe from an earlier
//! cell and reads to the end would wait for ever for a copy's end to close, a writer would get no
//! SIGPIPE, and a port would stay taken. So the copy lets go of pipes and sockets while it sleeps.
//! Woken, it finds new ones under the old numbers: a pipe or a pair of UNIX sockets of which it had
//! both ends is one again, empty; whatever was connected to somebody else is at its end, as if the
//! other had left.

use std::collections::btree_map::{BTreeMap, Entry};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt};
use nix::sys::stat::{SFlag, fstat};

use crate::socket_pairs::SocketPairs;

/// The pipes and sockets of this process, standard input and output left out.
#[derive(Debug)]
pub struct Parked {
    found: Vec<Found>,
    /// Numbers that lead nowhere in the copy, then and later.
    lost: Vec<i32>,
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
    Socket {
        kind: SockType,
        /// The inode of the socket to which it is connected, where that is known.
        peer: Option<u64>,
    },
}

impl Parked {
    /// Looks for them; changes nothing. `used` are those that the copy uses asleep and awake, and
    /// `lost` those that the original alone has a use for.
    pub fn survey(used: &[BorrowedFd<'_>], lost: &[BorrowedFd<'_>]) -> Parked {
        let [used, lost] = [used, lost].map(|all| all.iter().map(AsRawFd::as_raw_fd).collect::<Vec<i32>>());
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Parked { found: Vec::new(), lost } };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let theirs = |number: &i32| *number > 2 && !used.contains(number) && !lost.contains(number);
        let mut found: Vec<Found> = numbers.filter(theirs).filter_map(look_at).collect();
        find_peers(&mut found);
        Parked { found, lost }
    }

    /// Lets go of them, and keeps their numbers taken. No locks, no allocation: for a copy that
    /// has just been made.
    pub fn park(&self, null: BorrowedFd<'_>) {
        for number in self.found.iter().map(|found| found.number).chain(self.lost.iter().copied()) {
            // SAFETY: in a copy that nobody runs in yet, no code looks at what the number means
            // before `restore` has given it its meaning back; a lost one still is an open
            // descriptor for its owner to close.
            unsafe { libc::dup3(null.as_raw_fd(), number, libc::O_CLOEXEC) };
        }
    }

    /// Gives every number a pipe or socket again.
    ///
    /// # Errors
    /// Those of pipe2(2) and socketpair(2).
    pub fn restore(self) -> io::Result<()> {
        // A cell may have used up nearly all numbers: each pair is closed when its last end is in place.
        let mut missing: BTreeMap<_, usize> = BTreeMap::new();
        for found in &self.found {
            *missing.entry(found.pair()).or_default() += 1;
        }
        let mut open = BTreeMap::new();
        for found in &self.found {
            let pair = found.pair();
            let (first, second) = match open.entry(pair) {
                Entry::Occupied(ends) => ends.into_mut(),
                Entry::Vacant(place) => place.insert(found.make()?),
            };
            found.put(if found.is_first() { first.as_fd() } else { second.as_fd() })?;
            if let Some(missing) = missing.get_mut(&pair) {
                *missing -= 1;
                if *missing == 0 {
                    open.remove(&pair);
                }
            }
        }
        Ok(())
    }
}

/// Asks only where there is a UNIX socket: most processes have none.
fn find_peers(found: &mut [Found]) {
    let mut pairs = None;
    for Found { kind, inode, .. } in found {
        if let Kind::Socket { peer, .. } = kind {
            *peer = pairs.get_or_insert_with(SocketPairs::open).as_ref().and_then(|pairs| pairs.peer_of(*inode));
        }
    }
}

impl Found {
    /// The same for all ends of one pipe, and for both of a pair of sockets. A socket whose peer is not
    /// here has a pair for itself, the other end of which nobody holds when it is closed.
    fn pair(&self) -> (bool, u64) {
        match self.kind {
            Kind::Socket { peer, .. } => (true, self.inode.min(peer.unwrap_or(self.inode))),
            Kind::Pipe => (false, self.inode),
        }
    }

    fn make(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        match self.kind {
            Kind::Socket { kind, .. } => Ok(socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?),
            Kind::Pipe => io::pipe().map(|(reader, writer)| (reader.into(), writer.into())),
        }
    }

    fn is_first(&self) -> bool {
        match self.kind {
            Kind::Socket { peer, .. } => peer.is_none_or(|peer| self.inode <= peer),
            Kind::Pipe => self.flags & OFlag::O_ACCMODE == OFlag::O_RDONLY,
        }
    }

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
        SFlag::S_IFSOCK => Kind::Socket { kind: getsockopt(&descriptor, sockopt::SockType).ok()?, peer: None },
        _ => return None,
    };
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL).ok()?);
    let close_on_exec = fcntl(descriptor, FcntlArg::F_GETFD).ok()? & FdFlag::FD_CLOEXEC.bits() != 0;
    Some(Found { number, inode: stat.st_ino, kind, flags, close_on_exec })
}
