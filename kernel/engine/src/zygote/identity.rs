//! What a zygote is the right one for.
//!
//! An engine that is forked from a zygote has the environment, the directory and the descriptors of
//! the kernel that asked for it. All else that a process inherits or cannot be told later (its user,
//! its limits, its namespaces, the binary and the compiler) must be the zygote's already. So all that
//! is the zygote's name: a kernel that differs in any of it looks for another zygote.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::limits;

/// Variables that a warm engine has acted upon. Where one ends in `*`, all that begin so. PATH is not among
/// them: what is found in it is, see [`files`]. Of ours only those that an engine reads: a notebook may have
/// limits of its own and share the zygote nevertheless.
const VARIABLES: &[&str] =
    &["CARGO*", "__CARGO*", "EVCXR*", "FORKLAB_DATA", "FORKLAB_TRACEABLE", "FORKLAB_ZYGOTE*", "HOME", "LD_*", "RUST*"];

/// Variables that a zygote needs beside these, whatever they say.
const NEEDED: &[&str] = &["LANG", "PATH", "TMPDIR", "USER", "XDG_RUNTIME_DIR"];

/// The programs that a warm engine has looked for, rustc and cargo apart.
const TOOLS: &[&str] = &["cc", "lld", "mold", "rustup"];

/// The files by which a directory chooses a toolchain for itself and all below it.
const TOOLCHAIN_FILES: &[&str] = &["rust-toolchain.toml", "rust-toolchain"];

/// Lines of `/proc/self/status` that children inherit.
const STATUS: &[&str] = &[
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Cpus_allowed",
    "Mems_allowed",
];

/// Namespaces and directories, as the links in `/proc/self` tell them.
const LINKS: &[&str] =
    &["root", "ns/mnt", "ns/pid", "ns/user", "ns/net", "ns/ipc", "ns/uts", "ns/cgroup", "ns/time_for_children"];

/// Files of `/proc/self` that tell what children inherit.
const INHERITED: &[&str] = &["cgroup", "oom_score_adj", "attr/current"];

/// What this process is, as far as a zygote must be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    text: String,
    files: Vec<Stamp>,
    /// Which directory rustup goes by, if it goes by one.
    directory: Option<PathBuf>,
}

/// A file as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    /// Device, inode, size, and the times of the last changes of content and of the inode.
    state: Option<[i64; 7]>,
}

impl Identity {
    /// That of this process, whose library for cells is below `data`.
    ///
    /// # Errors
    /// Those of reading `/proc`.
    pub fn of_this_process(data: Option<&Path>) -> io::Result<Identity> {
        let mut text = String::new();
        let mut line = |name: &str, value: &OsStr| {
            // Quoted, so that no value can look like another line.
            let _ = writeln!(text, "{name} {:?}", value.as_bytes().escape_ascii().to_string());
        };
        let status = fs::read_to_string("/proc/self/status")?;
        for (name, value) in
            status.lines().filter_map(|one| one.split_once(':')).filter(|(name, _)| STATUS.contains(name))
        {
            line(name, OsStr::new(value.trim()));
        }
        for file in INHERITED {
            line(file, OsStr::from_bytes(&fs::read(Path::new("/proc/self").join(file)).unwrap_or_default()));
        }
        for link in LINKS {
            line(link, fs::read_link(Path::new("/proc/self").join(link)).unwrap_or_default().as_os_str());
        }
        line("nice", OsStr::new(&niceness()?));
        for (limit, most) in limits::hard() {
            line(limit, OsStr::new(&most.to_string()));
        }
        for (name, value) in kept_variables().iter().filter(|(name, _)| is_one_of(VARIABLES, name)) {
            line(&name.to_string_lossy(), value);
        }
        let rustup = Rustup::find();
        let directory = rustup.as_ref().and_then(Rustup::choosing_directory);
        line("directory", directory.as_deref().unwrap_or(Path::new("")).as_os_str());
        let mut files = files(data);
        files.extend(rustup.iter().flat_map(|rustup| rustup.files(directory.as_deref())));
        let files: Vec<Stamp> = files.into_iter().map(Stamp::of).collect();
        for file in &files {
            let _ = writeln!(text, "file {:?} {:?}", file.path, file.state);
        }
        Ok(Identity { text, files, directory })
    }

    /// For the names of files: sixteen digits. Two identities may share one, by chance; a zygote looks
    /// at all of the identity.
    pub fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where rustup finds the same toolchain as in this process's working directory.
    pub fn directory(&self) -> &Path {
        self.directory.as_deref().unwrap_or(Path::new("/"))
    }

    /// Whether binary, compiler and library are what they were.
    pub fn is_current(&self) -> bool {
        self.files.iter().all(|file| Stamp::of(file.path.clone()) == *file)
    }
}

impl Stamp {
    fn of(path: PathBuf) -> Stamp {
        let data = fs::metadata(&path).ok();
        let state = data.map(|data| {
            let unsigned = [data.dev(), data.ino(), data.size()].map(|number| number as i64);
            let [device, inode, size] = unsigned;
            [device, inode, size, data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()]
        });
        Stamp { path, state }
    }
}

/// The variables that a zygote has: those that matter, and nothing else of the kernel that starts it.
pub(crate) fn kept_variables() -> Vec<(OsString, OsString)> {
    let all = std::env::vars_os();
    let mut kept: Vec<_> = all.filter(|(name, _)| is_one_of(VARIABLES, name) || is_one_of(NEEDED, name)).collect();
    kept.sort();
    kept
}

fn is_one_of(patterns: &[&str], name: &OsStr) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.as_bytes().starts_with(start.as_bytes()),
        None => name == *pattern,
    })
}

/// This binary, the compiler, and the library for cells.
///
/// A directory is as good as what lies in it where it is replaced as a whole.
fn files(data: Option<&Path>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::env::current_exe().into_iter().collect();
    for tool in ["rustc", "cargo"].iter().filter_map(|name| on_path(name)) {
        let real = fs::canonicalize(&tool).unwrap_or_else(|_| tool.clone());
        files.extend([tool, real]);
    }
    files.extend(TOOLS.iter().filter_map(|name| on_path(name)));
    if let Some(data) = data {
        // Not what an installation that changes nothing writes anew.
        let ours = ["template", "template/Cargo.lock", "library", "library/forklab/Cargo.toml"];
        files.extend(ours.map(|name| data.join(name)));
    }
    files
}

/// rustup, where there is one. Which toolchain it means depends on its settings and on the working directory.
struct Rustup {
    home: PathBuf,
}

impl Rustup {
    fn find() -> Option<Rustup> {
        on_path("rustup")?;
        let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
        Some(Rustup { home: home.or_else(|| Some(std::env::home_dir()?.join(".rustup")))? })
    }

    fn settings(&self) -> PathBuf {
        self.home.join("settings.toml")
    }

    /// The nearest directory, from the working directory upwards, that has a toolchain of its own.
    fn choosing_directory(&self) -> Option<PathBuf> {
        let settings = fs::read_to_string(self.settings()).unwrap_or_default();
        let chooses = |directory: &&Path| {
            let files = TOOLCHAIN_FILES.iter().map(|name| directory.join(name));
            files.into_iter().any(|file| file.is_file()) || settings.contains(&format!("{directory:?} ="))
        };
        std::env::current_dir().ok()?.ancestors().find(chooses).map(Path::to_owned)
    }

    fn files(&self, directory: Option<&Path>) -> Vec<PathBuf> {
        let own = directory.iter().flat_map(|directory| TOOLCHAIN_FILES.iter().map(|name| directory.join(name)));
        own.chain([self.settings(), self.home.join("toolchains")]).collect()
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Field `nice` of `/proc/self/stat`.
fn niceness() -> io::Result<String> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
    Ok(fields.split(' ').nth(16).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_process_is_the_same_until_a_file_changes() -> io::Result<()> {
        let data = tempfile::tempdir()?;
        let first = Identity::of_this_process(Some(data.path()))?;
        assert_eq!(first, Identity::of_this_process(Some(data.path()))?);
        assert!(first.is_current());
        fs::create_dir(data.path().join("library"))?;
        assert!(!first.is_current());
        let second = Identity::of_this_process(Some(data.path()))?;
        assert_ne!(first.name(), second.name());
        assert_eq!(first.name().len(), 16);
        Ok(())
    }

    #[test]
    fn secrets_of_a_kernel_are_not_kept() {
        let is_kept = |name: &str| [VARIABLES, NEEDED].iter().any(|some| is_one_of(some, OsStr::new(name)));
        assert!(["PATH", "CARGO_HOME", "RUST_LOG", "FORKLAB_DATA"].into_iter().all(is_kept));
        assert!(!["JUPYTERHUB_API_TOKEN", "JPY_PARENT_PID", "PATHS", "FORKLAB_LIMIT_PROCS"].into_iter().any(is_kept));
    }
}
