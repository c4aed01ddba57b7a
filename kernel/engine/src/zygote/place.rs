//! Where a fork of the zygote builds.
//!
//! evcxr and rust-analyzer keep paths of their build directory, and a fork has theirs from the zygote. So the
//! path is that of a descriptor, and each fork has its own directory behind the descriptor's number.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use forklab_sys::descriptors::put_in_place_of;
use nix::fcntl::{FcntlArg, fcntl};

/// The least number of a build directory's descriptor: above what evcxr and rust-analyzer open.
const NUMBER: i32 = 100;

/// A build directory behind a number that stays. Programs that are started inherit it.
#[derive(Debug)]
pub(crate) struct Place {
    number: i32,
    directory: PathBuf,
}

impl Place {
    /// A place for this directory.
    ///
    /// # Errors
    /// Those of open(2) and fcntl(2).
    pub fn new(directory: &Path) -> io::Result<Place> {
        let number = fcntl(File::open(directory)?, FcntlArg::F_DUPFD(NUMBER))?;
        Ok(Place { number, directory: directory.to_owned() })
    }

    /// What evcxr takes for the directory's path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.number))
    }

    /// The directory's own path, for processes that have no such descriptor.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Puts another directory behind the number.
    ///
    /// # Errors
    /// Those of open(2) and dup3(2).
    pub fn move_to(&mut self, directory: &Path) -> io::Result<()> {
        put_in_place_of(self.number, File::open(directory)?.as_fd(), false)?;
        self.directory = directory.to_owned();
        Ok(())
    }

    /// Where the directory has been removed: makes it anew, and puts that one behind the number.
    ///
    /// # Errors
    /// Those of mkdir(2), open(2) and dup3(2).
    pub fn make_again(&mut self) -> io::Result<()> {
        let directory = self.directory.clone();
        // Where the kernel's directory has gone, too, it is nobody else's business again.
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        self.move_to(&directory)
    }
}
