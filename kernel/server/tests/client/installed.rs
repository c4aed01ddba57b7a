//! The real binary with the library for cells installed, and facts about its processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::Kernel;

/// The library for cells, compiled once for all tests of this file.
pub fn data() -> &'static Path {
    static DATA: OnceLock<PathBuf> = OnceLock::new();
    DATA.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cells");
        let mut install = Command::new(env!("CARGO_BIN_EXE_forklab"));
        let status = install.args(["install", "--prefix"]).arg(&prefix).status().expect("the binary starts");
        assert!(status.success(), "forklab install: {status}");
        prefix.join("share/forklab")
    })
}

/// Starts a kernel with the library for cells.
pub fn start() -> Kernel {
    Kernel::start_with(|command| {
        command.env("FORKLAB_DATA", data());
    })
}

/// Waits for a fact about the machine; fails when it is not one in time.
pub fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !fact() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not in time: {what}");
        // Nothing depends on the length: the fact is looked for, and the deadline is the limit.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and no zombie.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The processes of a role that are children of a process.
pub fn children(parent: u32, role: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("PPid:\t{parent}\n"))
    };
    let has_role = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes())
    };
    pids.filter(is_child).filter(has_role).collect()
}

/// Ends a process.
pub fn kill(pid: u32) {
    let pid = forklab_sys::process::Pid::from_raw(pid as i32).expect("a pid");
    forklab_sys::process::kill(pid, forklab_sys::process::Signal::KILL).expect("the process is there");
}
