//! The files of a group in one hierarchy: reading, writing, removing. Where a group may stand and what
//! its numbers mean is not known here.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::discovery::Version;

/// How long a group is waited for whose last processes are still dying.
const TIME_TO_EMPTY: Duration = Duration::from_millis(100);

/// The group's folder in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub folder: PathBuf,
    pub version: Version,
}

impl Place {
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The number that a file consists of.
    pub fn number(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.file(name)).ok()?.trim().parse().ok()
    }

    /// The number after a word in a file of lines with a word and a number each.
    pub fn entry(&self, name: &str, word: &str) -> Option<u64> {
        let text = fs::read_to_string(self.file(name)).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == word)?.1.trim().parse().ok()
    }

    /// Memory, and memory with swap. At any time the first must not be above the second (EINVAL),
    /// so the second goes first when both are raised.
    pub fn limit_memory_1(&self, most: Option<u64>) -> io::Result<()> {
        const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
        let text = amount(most, "-1");
        let memory = || write(&self.file("memory.limit_in_bytes"), &text);
        let Some(with_swap) = self.number(WITH_SWAP) else {
            // The system does not count swap.
            return memory();
        };
        if most.is_none_or(|most| most >= with_swap) {
            write(&self.file(WITH_SWAP), &text).and_then(|()| memory())
        } else {
            memory().and_then(|()| write(&self.file(WITH_SWAP), &text))
        }
    }
}

/// The smaller of two limits, of which each may be none.
pub fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// A limit, as a file takes it that has a word or a number of its own for none.
pub fn amount(number: Option<u64>, unlimited: &str) -> String {
    number.map_or_else(|| unlimited.to_owned(), |number| number.to_string())
}

/// Writes to a file that is there: one write(2), as control files want it.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(text.as_bytes())
}

/// Takes a file or folder that is not there for success.
pub fn ignore_absence(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Removes a group's folder, if it is there.
pub fn remove(folder: &Path) -> io::Result<()> {
    let deadline = Instant::now() + TIME_TO_EMPTY;
    loop {
        match ignore_absence(fs::remove_dir(folder)) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}
