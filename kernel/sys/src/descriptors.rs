//! Descriptors with fixed places: standard input and output, and some kept in reserve.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Where descriptors that user code should not stumble over are put: above the few that it opens.
const OUT_OF_THE_WAY: i32 = 500;

/// How many descriptors a connection, a checkpoint and dlopen(3) need between them.
const RESERVED: usize = 8;

/// `/dev/null`, for reading and writing. Close-on-exec.
///
/// # Errors
/// Those of open(2).
pub fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

/// Makes these descriptors 0, 1 and 2. `None` leaves one as it is.
///
/// # Errors
/// Those of dup2(2).
pub fn set_standard(
    input: Option<BorrowedFd<'_>>,
    output: Option<BorrowedFd<'_>>,
    errors: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    input.map(dup2_stdin).transpose()?;
    output.map(dup2_stdout).transpose()?;
    errors.map(dup2_stderr).transpose()?;
    Ok(())
}

/// A duplicate with a high number, close-on-exec, so that the low ones stay free for programs that
/// count on them: the first file that a cell opens is 3.
///
/// # Errors
/// Those of fcntl(2); `InvalidInput` where the limit on open files is that low.
pub fn out_of_the_way(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = match fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(OUT_OF_THE_WAY)) {
        Err(Errno::EINVAL | Errno::EMFILE) => fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(3))?,
        other => other?,
    };
    // SAFETY: fcntl(2) has just made this descriptor, and nothing else knows it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes standard input away and puts `/dev/null` there. What it was is returned, close-on-exec and
/// out of the way.
///
/// # Errors
/// Those of fcntl(2), open(2) and dup2(2).
pub fn take_standard_input() -> io::Result<OwnedFd> {
    let taken = out_of_the_way(io::stdin().as_fd())?;
    dup2_stdin(null()?)?;
    Ok(taken)
}

/// Writes out what C code has in its buffers: fflush(3) of every stream.
pub fn flush_c_streams() {
    // SAFETY: a null pointer means all streams; each is locked by fflush(3) itself.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Some descriptors that are kept while user code runs, so that the kernel's own calls work after a
/// cell that has used up all.
#[derive(Debug)]
pub struct Reserve {
    kept: Vec<OwnedFd>,
    /// The soft limit that was set for this run of user code, and the one that is user code's own.
    imposed: Option<(rlim_t, rlim_t)>,
}

/// Room for the kernel's own descriptors while no user code runs, also where user code has lowered
/// its limit on open files: the soft limit is raised for as long.
#[derive(Debug, Default)]
pub struct Room {
    limit: Option<(rlim_t, rlim_t)>,
}

impl Room {
    /// User code is about to run: puts its limit back and keeps a reserve, as far as there is any. For
    /// this run it may have `most` files open, if that is less than what it may have anyhow.
    pub fn give_back(self, most: Option<u64>) -> Reserve {
        let kept = match null() {
            Ok(null) => (0..RESERVED).map_while(|_| out_of_the_way(null.as_fd()).ok()).collect(),
            Err(_) => Vec::new(),
        };
        if let Some((soft, hard)) = self.limit {
            // It was the limit before, and nobody else has changed it since.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
        let imposed = most.zip(getrlimit(Resource::RLIMIT_NOFILE).ok()).and_then(|(most, (own, hard))| {
            let most = most.min(own);
            setrlimit(Resource::RLIMIT_NOFILE, most, hard).is_ok().then_some((most, own))
        });
        Reserve { kept, imposed }
    }
}

impl Reserve {
    /// User code has run: gives the reserve up for the kernel's own use. A number that user code
    /// has closed and used anew is left alone.
    pub fn release(self) -> Room {
        for descriptor in self.kept {
            let descriptor = File::from(descriptor);
            let null = |m: std::fs::Metadata| m.file_type().is_char_device() && m.rdev() == libc::makedev(1, 3);
            if !descriptor.metadata().is_ok_and(null) {
                // Somebody else's by now; giving the number up is all there is to do.
                let _ = descriptor.into_raw_fd();
            }
        }
        occupy_standard();
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Room::default() };
        // What was set for this run ends with it; another limit than that is user code's own.
        let own = self.imposed.filter(|(most, _)| *most == soft).map_or(soft, |(_, own)| own.min(hard));
        let raised = soft == hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        Room { limit: (raised && own < hard).then_some((own, hard)) }
    }
}

/// Puts `/dev/null` wherever 0, 1 or 2 is closed. Otherwise the next descriptor that is made would
/// land there, and be taken for standard input or output.
fn occupy_standard() {
    while let Ok(descriptor) = null() {
        if descriptor.as_raw_fd() > 2 {
            return;
        }
        // It stays open under its number, which is nobody's but the process's.
        let _ = descriptor.into_raw_fd();
    }
}

/// Standard output on its way into memory instead.
#[derive(Debug)]
pub struct Diversion {
    before: OwnedFd,
    memory: File,
}

impl Diversion {
    /// From here on, what is written to fd 1 goes into memory.
    ///
    /// # Errors
    /// Those of memfd_create(2) and dup2(2).
    pub fn begin() -> io::Result<Diversion> {
        let before = out_of_the_way(io::stdout().as_fd())?;
        let memory = memfd_create("forklab-display", MFdFlags::MFD_CLOEXEC)?;
        let memory = File::from(out_of_the_way(memory.as_fd())?);
        dup2_stdout(&memory)?;
        Ok(Diversion { before, memory })
    }

    /// Puts fd 1 back and returns what was written.
    ///
    /// # Errors
    /// Those of dup2(2) and read(2).
    pub fn end(mut self) -> io::Result<Vec<u8>> {
        dup2_stdout(&self.before)?;
        let mut written = Vec::new();
        self.memory.rewind()?;
        self.memory.read_to_end(&mut written)?;
        Ok(written)
    }
}

/// Whether a call has failed because this process, or the machine, has as many descriptors as it may.
pub fn none_left(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether this process can have as many more descriptors as the kernel's own calls need.
///
/// # Errors
/// One of which [`none_left`] is true, or, for want of a standard error, another.
pub fn try_to_have_some() -> io::Result<()> {
    let any = io::stderr();
    (0..RESERVED).map(|_| any.as_fd().try_clone_to_owned()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// Gives up standard input, so that its number is free: for one whose limit leaves it no other.
pub fn give_up_standard_input() {
    // SAFETY: whoever reads standard input hereafter is told that it is closed, or finds what this
    // process puts there next. Its owner, in Rust, is nobody.
    unsafe { libc::close(0) };
}

/// Connects to the socket that listens at a path.
///
/// # Errors
/// Those of connect(2), except `Interrupted`.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    connect_to(&SocketAddr::from_pathname(path)?)
}

/// Connects to the socket that listens under a name in the abstract namespace of unix(7), which is
/// found from every root directory, with every mount and by every user.
///
/// # Errors
/// As [`connect`].
pub fn connect_by_name(name: &str) -> io::Result<UnixStream> {
    connect_to(&SocketAddr::from_abstract_name(name)?)
}

fn connect_to(address: &SocketAddr) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect_addr(address) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Listens under a name in the abstract namespace of unix(7). Anybody in this network namespace can
/// connect: look at the [`peer`].
///
/// # Errors
/// Those of bind(2); `AddrInUse` for a name that somebody has.
pub fn listen_by_name(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// The process at the other end of a UNIX socket, as it was when it connected: SO_PEERCRED.
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer(stream: &UnixStream) -> io::Result<Option<crate::process::Pid>> {
    let credentials = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(crate::process::Pid::from_raw(credentials.pid()))
}

/// The user of the process at the other end of a UNIX socket, as it was when it connected or began to
/// listen: SO_PEERCRED. The number is in this process's user namespace.
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer_user(stream: &UnixStream) -> io::Result<u32> {
    Ok(nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)?.uid())
}

/// Closes everything but standard input, output and errors: what this process has inherited without its
/// or its parent's knowledge. To be called before it opens anything itself.
///
/// # Errors
/// Those of reading `/proc`.
pub fn close_inherited() -> io::Result<()> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    // All of them, so that the directory is closed again, whose descriptor is among them.
    let numbers: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: nothing has been opened by this process yet, so nothing in it owns the descriptor. The
        // number of what is closed already is refused.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// An end of a pipe that this process has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipe {
    /// The descriptor's number.
    pub number: i32,
    /// The same for both ends.
    pub inode: u64,
    /// Whether it is the end to write to.
    pub writes: bool,
}

/// The pipes of this process, as `/proc/self/fd` tells them.
///
/// # Errors
/// Those of reading `/proc`.
pub fn pipes() -> io::Result<Vec<Pipe>> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    let pipe = |entry: std::fs::DirEntry| {
        let data = std::fs::metadata(entry.path()).ok().filter(|data| data.file_type().is_fifo())?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        // The owner's bits of the link say for what it was opened.
        let writes = std::fs::symlink_metadata(entry.path()).ok()?.mode() & 0o200 != 0;
        Some(Pipe { number, inode: data.ino(), writes })
    };
    Ok(entries.filter_map(pipe).collect())
}

/// Puts a duplicate of a descriptor in the place of the one that has this number: dup3(2). For a
/// process that goes on as another one's copy, where code that owns the number is to find the copy's own
/// pipe or directory there instead of the original's.
///
/// # Errors
/// Those of dup3(2); `InvalidInput` when it has the number already.
pub fn put_in_place_of(number: i32, descriptor: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: the number stays that of an open descriptor, and whoever owns it owns it still. The
    // callers answer for its kind: a pipe for a pipe, a socket for a socket.
    match unsafe { libc::dup3(descriptor.as_raw_fd(), number, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Writes a text to standard error at once, by one write(2), past every buffer and lock; so it is
/// safe in a forked child, and no other process's text comes between.
pub fn write_error_at_once(text: &[u8]) {
    // Where standard error is closed, there is nobody to tell.
    let _ = nix::unistd::write(io::stderr().as_fd(), text);
}

/// Writes all of a text to standard output, past every buffer and lock.
///
/// # Errors
/// Those of write(2).
pub fn write_output(mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match nix::unistd::write(io::stdout().as_fd(), text) {
            Err(Errno::EINTR) => continue,
            written => text = &text[written?..],
        }
    }
    Ok(())
}

/// What a descriptor is open on, as fstat(2) numbers it: for a socket, the number that
/// `/proc/<pid>/fd` shows.
///
/// # Errors
/// None for an open descriptor.
pub fn inode(descriptor: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(descriptor)?.st_ino)
}

/// The number of a descriptor, for messages and `/proc`.
pub fn number(descriptor: BorrowedFd<'_>) -> i32 {
    descriptor.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipes_ends_are_known() -> io::Result<()> {
        let (reader, writer) = io::pipe()?;
        let pipes = pipes()?;
        let find = |number: i32| pipes.iter().find(|one| one.number == number).copied();
        let ends = find(reader.as_raw_fd()).zip(find(writer.as_raw_fd()));
        assert!(ends.is_some_and(|(reads, writes)| !reads.writes && writes.writes && reads.inode == writes.inode));
        Ok(())
    }
}
