//! Which UNIX socket is connected to which: sock_diag(7).

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// SOCK_DIAG_BY_FAMILY of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST of `linux/netlink.h`.
const REQUEST: u16 = 1;
/// UDIAG_SHOW_PEER of `linux/unix_diag.h`.
const SHOW_PEER: u32 = 4;
/// UNIX_DIAG_PEER of `linux/unix_diag.h`.
const PEER: u16 = 2;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The length of `struct unix_diag_msg`.
const ANSWER: usize = 16;

/// A line to the kernel on which one can ask.
#[derive(Debug)]
pub struct SocketPairs {
    netlink: OwnedFd,
}

impl SocketPairs {
    /// `None` where the kernel does not tell (CONFIG_UNIX_DIAG).
    pub fn open() -> Option<SocketPairs> {
        let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag);
        Some(SocketPairs { netlink: socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol).ok()? })
    }

    /// The inode number of the socket to which this one is connected. `None` when it is connected
    /// to none, or is no UNIX socket.
    pub fn peer_of(&self, inode: u64) -> Option<u64> {
        send(self.netlink.as_raw_fd(), &question(u32::try_from(inode).ok()?), MsgFlags::empty()).ok()?;
        let mut answer = [0; 1024];
        // The kernel has answered before send(2) returns.
        let len = recv(self.netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).ok()?;
        let answer = answer.get(..len)?;
        if u16_at(answer, 4)? != BY_FAMILY {
            return None;
        }
        let mut attributes = answer.get(HEADER + ANSWER..)?;
        loop {
            let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
            if kind == PEER {
                let peer: [u8; 4] = attributes.get(4..8)?.try_into().ok()?;
                // A socket whose peer is closed has no inode any more.
                return Some(u32::from_ne_bytes(peer).into()).filter(|peer| *peer != 0);
            }
            attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
        }
    }
}

/// A `struct nlmsghdr` and a `struct unix_diag_req` for one socket.
fn question(inode: u32) -> Vec<u8> {
    let any = u32::MAX;
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(40u32.to_ne_bytes());
    bytes.extend([BY_FAMILY, REQUEST].map(u16::to_ne_bytes).as_flattened());
    bytes.extend([0; 8]); // A sequence number and a sender, for those who need them.
    bytes.extend([nix::libc::AF_UNIX as u8, 0, 0, 0]);
    // Of any state, with any cookie.
    bytes.extend([any, inode, SHOW_PEER, any, any].map(u32::to_ne_bytes).as_flattened());
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_ends_of_a_pair_find_each_other() -> std::io::Result<()> {
        let Some(pairs) = SocketPairs::open() else { return Ok(()) };
        let (a, b) = UnixStream::pair()?;
        let inode = |s: &UnixStream| std::fs::metadata(format!("/proc/self/fd/{}", s.as_raw_fd())).map(|m| m.ino());
        assert_eq!(pairs.peer_of(inode(&a)?), Some(inode(&b)?));
        assert_eq!(pairs.peer_of(inode(&b)?), Some(inode(&a)?));
        drop(b);
        assert_eq!(pairs.peer_of(inode(&a)?), None);
        Ok(())
    }
}
