//! Where kernels and zygotes of one user find each other: a directory that nobody else can enter, and
//! in it, for each identity, a socket, a lock and a log.
//!
//! The directory is opened once and looked at through that descriptor, and everything in it is reached
//! through the descriptor too: who puts something else under its name meanwhile has gained nothing.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::wrapper;
use forklab_sys::descriptors;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::geteuid;

/// A directory of this user's alone.
#[derive(Debug)]
pub(crate) struct Private {
    handle: File,
    path: PathBuf,
}

impl Private {
    /// Opens it, makes it if it is to be.
    ///
    /// # Errors
    /// `PermissionDenied` when it is another user's, a link, or open to others; `NotFound`.
    pub fn open(path: &Path, make: bool) -> io::Result<Private> {
        if make {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let handle = File::options().read(true).custom_flags(flags.bits()).open(path).map_err(|error| {
            // O_NOFOLLOW with O_DIRECTORY: a link is "not a directory".
            if error.kind() == io::ErrorKind::NotADirectory { refused(path) } else { error }
        })?;
        let data = handle.metadata()?;
        if data.uid() != geteuid().as_raw() || data.mode() & 0o077 != 0 {
            return Err(refused(path));
        }
        Ok(Private { handle, path: path.to_owned() })
    }

    /// The path of something in it, for this process; short, as a socket's must be.
    pub fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd())).join(name)
    }

    /// Its path for everybody.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn refused(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} is not a directory of this user's alone (owner, mode 0700, no link)", path.display()),
    )
}

/// Where sockets are: `$XDG_RUNTIME_DIR/forklab`, else where build directories are.
fn sockets() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usable =
        |path: &PathBuf| path.is_absolute() && fs::metadata(path).is_ok_and(|data| data.uid() == geteuid().as_raw());
    runtime.filter(usable).map_or_else(builds, |runtime| runtime.join("forklab"))
}

/// Where build directories are, which are too large for memory: `forklab-<uid>` in the directory for
/// temporary files.
pub(crate) fn builds() -> PathBuf {
    std::env::temp_dir().join(format!("forklab-{}", geteuid()))
}

/// The socket, the lock and the log of one identity.
#[derive(Debug)]
pub(crate) struct Meeting {
    directory: Private,
    name: String,
}

impl Meeting {
    /// The place for a name; its directory is made if it is to be.
    ///
    /// # Errors
    /// As [`Private::open`].
    pub fn find(name: String, make: bool) -> io::Result<Meeting> {
        Ok(Meeting { directory: Private::open(&sockets(), make)?, name })
    }

    /// The place of another name in the same directory.
    pub fn beside(&self, name: String) -> io::Result<Meeting> {
        let handle = self.directory.handle.try_clone()?;
        Ok(Meeting { directory: Private { handle, path: self.directory.path.clone() }, name })
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.directory.at(&format!("{}.{ending}", self.name))
    }

    /// Where a person looks for what the zygote has said.
    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join(format!("{}.log", self.name))
    }

    /// A fresh log.
    pub fn log(&self) -> io::Result<File> {
        File::options().create(true).write(true).truncate(true).mode(0o600).open(self.file("log"))
    }

    /// The lock that a zygote holds for its life. `None` when another one holds it.
    ///
    /// A zygote that leaves removes the file while it has the lock. Then this sequence is possible: it
    /// is opened here, removed there, unlocked there, and locked here, where it is nobody's lock any
    /// more. So what is locked must be what lies there.
    pub fn lock(&self) -> io::Result<Option<File>> {
        let path = self.file("lock");
        for _ in 0..100 {
            let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino())) {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Whether a zygote holds the lock.
    pub fn is_taken(&self) -> bool {
        let file = File::options().write(true).open(self.file("lock"));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Listens. For who holds the lock: a socket that lies there is a dead zygote's.
    pub fn listen(&self) -> io::Result<UnixListener> {
        let path = self.file("sock");
        wrapper::remove(&path)?;
        UnixListener::bind(path)
    }

    /// The socket's inode, by which a zygote sees that it can still be found.
    pub fn socket_inode(&self) -> Option<u64> {
        // By the path that others take.
        let path = self.directory.path().join(format!("{}.sock", self.name));
        fs::symlink_metadata(path).ok().map(|data| data.ino())
    }

    /// Connects to the zygote. Never waits: a zygote that is stopped and has more callers than its
    /// socket holds is as good as none.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when there is none, `PermissionDenied` when it is another user's.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        match connect(fd.as_raw_fd(), &UnixAddr::new(&self.file("sock"))?) {
            Err(Errno::EAGAIN) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the zygote has too many callers"));
            }
            other => other?,
        }
        let stream = UnixStream::from(fd);
        stream.set_nonblocking(false)?;
        expect_own_user(&stream)?;
        Ok(stream)
    }

    /// Removes everything of this name, but for the log where that is to be kept. For who holds its lock.
    pub fn remove(&self, keeps_log: bool) {
        let log = (!keeps_log).then_some("log");
        for ending in log.into_iter().chain(["sock", "lock"]) {
            // What is gone already need not be removed.
            let _ = fs::remove_file(self.file(ending));
        }
        // Others may be there.
        let _ = fs::remove_dir(self.directory.path());
    }
}

/// # Errors
/// `PermissionDenied` when the other end is another user's.
pub(crate) fn expect_own_user(stream: &UnixStream) -> io::Result<()> {
    if descriptors::peer_user(stream)? == geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "the other end is another user's process"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_a_directory_of_our_own_is_used() -> io::Result<()> {
        let scratch = tempfile::tempdir()?;
        let [good, open, link] = ["good", "open", "link"].map(|name| scratch.path().join(name));
        assert!(Private::open(&good, false).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        Private::open(&good, true)?;
        assert_eq!(fs::metadata(&good)?.mode() & 0o777, 0o700);
        fs::create_dir(&open)?;
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755))?;
        symlink(&good, &link)?;
        // The root directory belongs to root, who is refused because of its mode.
        for path in [&open, &link, Path::new("/")] {
            let error = Private::open(path, true).expect_err("it is not ours alone");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{}", path.display());
        }
        if geteuid().is_root() {
            let foreign = scratch.path().join("foreign");
            Private::open(&foreign, true)?;
            nix::unistd::chown(&foreign, Some(nix::unistd::Uid::from_raw(65534)), None)?;
            assert!(Private::open(&foreign, true).is_err());
        }
        Ok(())
    }
}
