//! The machine as cells find it: directories, limits, and what /proc shows.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Finding;

/// Below this, a notebook's build directory does not fit.
const LEAST_DISK: u64 = 1 << 30;
/// Below this, rust-analyzer and a compiler do not fit.
const LEAST_MEMORY: u64 = 1 << 30;
/// What a lesson with two thousand children needs, with some room.
const LEAST_PROCESSES: u64 = 2200;
/// The server, the sockets of cells, and what cells open.
const LEAST_FILES: u64 = 256;

pub(super) fn home() -> Finding {
    match env::home_dir() {
        Some(home) if fs::read_dir(&home).is_ok() => Finding::good(home.display().to_string()),
        Some(home) => Finding::bad(
            format!("{} cannot be read", home.display()),
            "set HOME to a directory of yours before Jupyter is started",
        ),
        None => Finding::bad("HOME is not set", "set HOME to a directory of yours before Jupyter is started"),
    }
}

/// cargo locks and fills its home when a cell names a crate with `:dep`, and reads it in any build.
pub(super) fn cargo_home() -> Finding {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let Some(home) = home else {
        return Finding::bad("neither CARGO_HOME nor HOME is set", "set CARGO_HOME to a directory of yours");
    };
    let shown = home.display().to_string();
    if home.exists() && fs::read_dir(&home).is_err() {
        return Finding::bad(
            format!("{shown} cannot be read"),
            "it is somebody else's: set CARGO_HOME to a directory of yours and run `forklab install` again",
        );
    }
    let writable = home.is_dir() && tempfile::tempfile_in(&home).is_ok();
    if writable || !home.exists() && home.parent().is_some_and(|parent| tempfile::tempfile_in(parent).is_ok()) {
        return Finding::good(shown);
    }
    Finding::fair(
        format!("{shown} cannot be written"),
        "cells work, but `:dep` cannot fetch crates: set CARGO_HOME to a directory of yours and run `forklab install` again",
    )
}

/// Compiled cells are loaded from the temporary directory, so it must be writable and not `noexec`.
pub(super) fn temporary_directory() -> Finding {
    const FIX: &str = "set TMPDIR to another directory before Jupyter is started, e.g. TMPDIR=$HOME/tmp";
    let shown = env::temp_dir().display().to_string();
    if let Some(manifest) = manifest_above(&env::temp_dir()) {
        // cargo would take the crate of a cell for a forgotten member of that workspace.
        return Finding::bad(format!("{shown} lies below {}, which is cargo's", manifest.display()), FIX);
    }
    let directory = match tempfile::tempdir() {
        Ok(directory) => directory,
        Err(error) => return Finding::bad(format!("{shown} cannot be written: {error}"), FIX),
    };
    match runs(&directory.path().join("program")) {
        Ok(true) => Finding::good(format!("{shown} is writable and runs programs")),
        Ok(false) => Finding::bad(format!("{shown} does not run programs"), FIX),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::bad(format!("{shown} is mounted noexec"), FIX)
        }
        Err(error) => Finding::bad(format!("{shown} does not run programs: {error}"), FIX),
    }
}

fn manifest_above(directory: &Path) -> Option<PathBuf> {
    directory.ancestors().map(|above| above.join("Cargo.toml")).find(|manifest| manifest.is_file())
}

fn runs(program: &Path) -> io::Result<bool> {
    // A shell writes it. Were it written here, a child that another thread forks between our open and
    // our close would hold the descriptor until its exec, and the program would be "busy" (ETXTBSY).
    let script = r#"printf '#!/bin/sh\nexit 7\n' > "$1" && chmod 700 "$1""#;
    let written = Command::new("sh").args(["-c", script, "sh"]).arg(program).stdin(Stdio::null()).status()?;
    Ok(written.success() && Command::new(program).stdin(Stdio::null()).status()?.code() == Some(7))
}

pub(super) fn disk() -> Finding {
    let directory = env::temp_dir();
    let output = Command::new("df").args(["-Pk", "--"]).arg(&directory).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let free = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    let Some(free) = free.map(|kilobytes| kilobytes * 1024) else {
        return Finding::fair("df does not say how much is free", "see that there is 1 GB in the temporary directory");
    };
    let seen = format!("{} free in {}", amount(free), directory.display());
    if free < LEAST_DISK {
        return Finding::bad(seen, format!("make room: a notebook needs up to {}, or set TMPDIR", amount(LEAST_DISK)));
    }
    Finding::good(seen)
}

pub(super) fn memory() -> Finding {
    let Some(machine) = available_memory() else {
        return Finding::fair("/proc/meminfo cannot be read", "mount /proc");
    };
    let limit = cgroup_number("memory.max").zip(cgroup_number("memory.current"));
    let available = limit.map_or(machine, |(most, used)| machine.min(most.saturating_sub(used)));
    let seen = format!("{} available", amount(available));
    if available < LEAST_MEMORY {
        return Finding::fair(
            seen,
            "a kernel needs about 700 MB: stop other kernels, or raise the limit of the container",
        );
    }
    Finding::good(seen)
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

pub(super) fn processes() -> Finding {
    let limits = [
        limit("Max processes").map(|number| (number, "ulimit -u")),
        cgroup_number("pids.max").map(|number| (number, "the pids limit of the container (docker run --pids-limit)")),
    ];
    match limits.into_iter().flatten().min() {
        Some((number, name)) if number < 64 => {
            Finding::bad(format!("only {number} at once"), format!("raise {name}: compiling alone needs some 50"))
        }
        Some((number, name)) if number < LEAST_PROCESSES => Finding::fair(
            format!("{number} at once"),
            format!("lessons with thousands of children need more: raise {name} to {LEAST_PROCESSES}"),
        ),
        Some((number, _)) => Finding::good(format!("{number} at once")),
        None => Finding::good("no limit"),
    }
}

pub(super) fn open_files() -> Finding {
    match limit("Max open files") {
        Some(number) if number < LEAST_FILES => {
            Finding::bad(format!("{number} for a process"), format!("raise it: ulimit -n {}", LEAST_FILES * 4))
        }
        Some(number) => Finding::good(format!("{number} for a process")),
        None => Finding::good("no limit"),
    }
}

/// A soft limit of this process. `None` when there is none.
fn limit(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The smallest number that this process's control group and those above it have in a file.
fn cgroup_number(file: &str) -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = Path::new("/sys/fs/cgroup");
    let group = root.join(path.trim_start_matches('/'));
    let groups = group.ancestors().take_while(|group| group.starts_with(root));
    groups.filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
}

/// The supervisor sees in `/proc/<pid>/syscall` which process waits for input.
pub(super) fn waiting_is_visible() -> Finding {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let Ok(mut child) = child else {
        return Finding::bad("cat does not run", "sudo apt-get install coreutils");
    };
    let seen = watch(child.id());
    child.kill().and_then(|()| child.wait()).ok();
    match seen {
        Ok(true) => Finding::good("/proc/<pid>/syscall shows who waits for input"),
        Ok(false) => Finding::bad(
            "/proc/<pid>/syscall does not show what a process waits for",
            "cells cannot ask for input here: this system's kernel, or a sandbox such as gVisor, does not tell",
        ),
        Err(error) => Finding::bad(format!("/proc/<pid>/syscall cannot be read: {error}"), unreadable_advice()),
    }
}

/// Whether a child that reads its stdin is soon shown to do that.
fn watch(pid: u32) -> io::Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let text = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
        // read is call 0 on x86-64 and 63 on aarch64; its first argument is the descriptor.
        if text.starts_with("0 0x0 ") || text.starts_with("63 0x0 ") {
            return Ok(true);
        }
        std::thread::yield_now();
    }
    Ok(false)
}

fn unreadable_advice() -> String {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "2" | "3" => format!(
            "kernel.yama.ptrace_scope is {}: cells cannot ask for input; sudo sysctl kernel.yama.ptrace_scope=1",
            scope.trim()
        ),
        _ => "cells cannot ask for input: in a container, allow ptrace (docker run --cap-add SYS_PTRACE), \
              and do not mount /proc with hidepid"
            .to_owned(),
    }
}

fn amount(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{:.1} GB", bytes as f64 / f64::from(1 << 30))
    } else {
        format!("{} MB", bytes >> 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_of_stdin_is_seen() {
        assert!(matches!(waiting_is_visible(), Finding::Good(_)));
    }

    #[test]
    fn a_program_in_the_temporary_directory_runs() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        assert!(runs(&directory.path().join("program"))?);
        Ok(())
    }
}
