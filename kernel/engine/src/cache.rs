//! Cells that have been compiled, so that none is compiled twice.
//!
//! An entry is found by everything that makes a shared object what it is: the whole source that the
//! compiler would get (the cell, the items of all cells, the variables with their types), how the
//! compiler would be called, and the configuration with the crates behind it. The key is that text
//! itself; its fingerprint only names the entry. What is not in the text, files and variables that the
//! compiler has read on the way, the compiler says, and it is kept and compared by its content.
//!
//! Every use is a copy: the dynamic linker takes the same file for the same object, and a cell that is
//! run again begins with fresh statics.
//!
//! Entries are directories that get their name when they are complete.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::wrapper;

/// Below the build directory.
pub(crate) const DIRECTORY: &str = ".forklab-cache";
const OBJECT: &str = "cell.so";
const KEY: &str = "key";
const ABOUT: &str = "about.json";
/// How many entries there are at most, and how many bytes their objects have together.
const ENTRIES: usize = 300;
const BYTES: u64 = 64 << 20;
/// Larger files that a cell includes are not compared, and the cell is not kept.
const INCLUDED: u64 = 1 << 20;
/// By how much a file's time of change may be early.
const CLOCK: Duration = Duration::from_millis(50);

/// What is known of a compiled cell beside its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// evcxr's source of which the object is: its lines are those in panics.
    pub source: String,
    /// Files that the compiler has read, with their contents.
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Environment variables that it has read.
    variables: Vec<(String, Option<String>)>,
    pub outcome: Outcome,
}

/// What came of a compilation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// An object lies in the entry.
    Compiled,
    /// The compiler's errors: what evcxr needs to know to try something else.
    Failed(String),
    /// The guess about superseded variables was wrong: the cell is to be compiled without it.
    Unsuperseded,
}

/// The cache of one build directory.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

/// An entry that is still right.
#[derive(Debug)]
pub(crate) struct Entry {
    path: PathBuf,
    pub about: About,
}

impl About {
    /// Of a compilation that began at a time and left a `.d` file; `None` when it is not to be kept.
    pub fn new(source: &str, outcome: Outcome, dependencies: Option<&Path>, begun: SystemTime) -> Option<About> {
        let text = match dependencies {
            Some(file) => fs::read_to_string(file).ok()?,
            None => String::new(),
        };
        let mut files = Vec::new();
        for path in included(&text) {
            let data = fs::metadata(&path).ok()?;
            let contents = if data.len() <= INCLUDED { fs::read(&path).ok()? } else { return None };
            // Between the compiler's look and this one it may have been written; then its time is later.
            let changed = fs::metadata(&path).ok()?.modified().ok()?;
            if changed + CLOCK >= begun {
                return None;
            }
            files.push((path, contents));
        }
        Some(About { source: source.to_owned(), files, variables: variables(&text), outcome })
    }

    fn is_right(&self) -> bool {
        self.files.iter().all(|(path, contents)| fs::read(path).is_ok_and(|now| now == *contents))
            && self.variables.iter().all(|(name, value)| std::env::var(name).ok() == *value)
    }
}

impl Cache {
    /// Of a build directory.
    pub fn of(build: &Path) -> Cache {
        Cache { directory: build.join(DIRECTORY) }
    }

    /// Looks for an entry.
    pub fn find(&self, key: &str) -> Option<Entry> {
        // The whole of it: a fingerprint can be that of another.
        Entry::at(self.place(key), |found| found == key)
    }

    /// Keeps a compiled cell in the place of what was there. What is too much then goes.
    ///
    /// # Errors
    /// Those of writing files. There is no entry of this key then, or the old one.
    pub fn keep(&self, key: &str, about: &About, object: Option<&Path>) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let new = self.directory.join(format!("new-{}", std::process::id()));
        let _ = fs::remove_dir_all(&new);
        fs::create_dir(&new)?;
        if let Some(object) = object {
            fs::copy(object, new.join(OBJECT))?;
        }
        fs::write(new.join(ABOUT), serde_json::to_vec(about)?)?;
        fs::write(new.join(KEY), key)?;
        let place = self.place(key);
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(&new, &place)?;
        self.shrink()
    }

    fn place(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{:016x}", fingerprint(key)))
    }

    fn shrink(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory)?.flatten() {
            let path = entry.path();
            let used = fs::metadata(path.join(KEY)).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            let size = [OBJECT, KEY, ABOUT].map(|name| fs::metadata(path.join(name)).map_or(0, |data| data.len()));
            entries.push((used, size.iter().sum::<u64>(), path));
        }
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|(_, size, _)| size).sum();
        let mut count = entries.len();
        for (_, size, path) in entries {
            if count <= ENTRIES && bytes <= BYTES {
                break;
            }
            fs::remove_dir_all(path)?;
            (count, bytes) = (count - 1, bytes - size);
        }
        Ok(())
    }
}

impl Entry {
    /// That in a place, if its key is the one and what it depends on is as it was.
    pub fn at(path: PathBuf, is_key: impl Fn(&str) -> bool) -> Option<Entry> {
        if !is_key(&fs::read_to_string(path.join(KEY)).ok()?) {
            return None;
        }
        let about: About = serde_json::from_slice(&fs::read(path.join(ABOUT)).ok()?).ok()?;
        if !about.is_right() {
            return None;
        }
        // It has been used: it goes last.
        let _ = fs::File::open(path.join(KEY)).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Entry { path, about })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a fresh copy of the object in a place.
    ///
    /// # Errors
    /// Those of copying.
    pub fn copy_object(&self, to: &Path) -> io::Result<()> {
        wrapper::remove(to)?;
        fs::copy(self.path.join(OBJECT), to).map(drop)
    }
}

/// A number that is the same for the same text in every process of this binary.
pub(crate) fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The files of a `.d` file but for the crate's own.
fn included(text: &str) -> Vec<PathBuf> {
    let text = text.replace("\\ ", "\u{0}");
    let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.strip_suffix(':'));
    let names = names.filter(|name| *name != crate::wrapper::REWRITTEN && *name != crate::wrapper::GENERATED);
    names.map(|name| PathBuf::from(name.replace('\u{0}', " "))).collect()
}

/// The variables of a `.d` file: `# env-dep:NAME=VALUE`, or without a value where there was none.
fn variables(text: &str) -> Vec<(String, Option<String>)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# env-dep:"));
    let unescaped = |value: &str| value.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\");
    let split = lines.map(|line| match line.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(unescaped(value))),
        None => (line.to_owned(), None),
    });
    // Those that cargo sets come from the manifest, which is part of the configuration.
    split.filter(|(name, _)| name != "CARGO" && !name.starts_with("CARGO_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(source: &str) -> About {
        About::new(source, Outcome::Compiled, None, SystemTime::now()).expect("nothing is included")
    }

    #[test]
    fn what_is_kept_is_found_by_its_whole_key_and_copied() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let cache = Cache::of(directory.path());
        assert!(cache.find("a").is_none());
        let object = directory.path().join("object");
        fs::write(&object, "bytes")?;
        cache.keep("a", &about("s"), Some(&object))?;
        let copy = directory.path().join("copy");
        for _ in 0..2 {
            let entry = cache.find("a").expect("it was kept");
            entry.copy_object(&copy)?;
            assert_eq!((fs::read(&copy)?.as_slice(), entry.about.source.as_str()), (&b"bytes"[..], "s"));
        }
        // As if the fingerprints were the same.
        fs::rename(cache.place("a"), cache.place("b"))?;
        assert!(cache.find("b").is_none());
        Ok(())
    }

    #[test]
    fn a_file_that_has_changed_makes_an_entry_wrong() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let (file, dependencies) = (directory.path().join("a b.txt"), directory.path().join("ctx.d"));
        fs::write(&file, "one")?;
        let escaped = file.display().to_string().replace(' ', "\\ ");
        fs::write(&dependencies, format!("x.so: src/forklab_lib.rs {escaped}\n\nsrc/forklab_lib.rs:\n{escaped}:\n"))?;
        let later = SystemTime::now() + Duration::from_secs(1);
        let now = About::new("", Outcome::Compiled, Some(&dependencies), SystemTime::now());
        assert_eq!(now, None, "it may have been written after the compiler has read it");
        let about = About::new("", Outcome::Compiled, Some(&dependencies), later).expect("it is old enough");
        assert!(about.is_right());
        fs::write(&file, "two")?;
        assert!(!about.is_right());
        fs::remove_file(&file)?;
        assert!(!about.is_right());
        Ok(())
    }

    #[test]
    fn the_longest_unused_goes() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let cache = Cache::of(directory.path());
        let object = directory.path().join("object");
        fs::write(&object, vec![0; (BYTES / 4) as usize])?;
        for key in ["a", "b", "c"] {
            cache.keep(key, &about(""), Some(&object))?;
        }
        assert!(cache.find("a").is_some());
        cache.keep("d", &about(""), Some(&object))?;
        let there = ["a", "b", "c", "d"].map(|key| cache.find(key).is_some());
        assert_eq!(there, [true, false, true, true]);
        Ok(())
    }

    #[test]
    fn variables_that_the_compiler_has_read_are_compared() {
        let text = "# env-dep:CARGO_PKG_NAME=ctx\n# env-dep:FORKLAB_TEST_NO_SUCH\n# env-dep:A=b\\\\c\n";
        let found = variables(text);
        assert_eq!(found, [("FORKLAB_TEST_NO_SUCH".to_owned(), None), ("A".to_owned(), Some("b\\c".to_owned()))]);
    }
}
