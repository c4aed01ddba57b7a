//! What `/proc` knows of other processes: parents and children, start times, and what a thread
//! waits for. Looking only; a process may be gone by the time the answer is used.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::process::Pid;

/// A process for good: its pid, and when it started, in clock ticks since the machine's boot.
/// A pid alone is given to another process in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The pid.
    pub pid: Pid,
    /// Field `starttime` of `/proc/pid/stat`.
    pub started: u64,
}

/// A process as `/proc/pid/stat` tells it.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// The process.
    pub identity: Identity,
    /// Its parent; `None` for the first process of a pid namespace.
    pub parent: Option<Pid>,
    /// Whether it has ended and waits to be reaped.
    pub zombie: bool,
}

/// Looks a process up. `None` when there is no such process.
pub fn stat(pid: Pid) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold any, so the fields start after the last.
    let end = text.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(text.get(end + 2..)?).ok()?.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        identity: Identity { pid, started },
        parent: Pid::from_raw(parent),
        zombie: matches!(state, "Z" | "X"),
    })
}

/// Everybody below a process, children before their own children, zombies included.
///
/// A process that is born or orphaned during the look may be missing: who needs all looks again
/// until a look finds nothing new.
pub fn descendants(root: Pid) -> Vec<Stat> {
    let mut found = Vec::new();
    let mut parents = vec![root];
    let everybody = if knows_children() { None } else { Some(all()) };
    while let Some(parent) = parents.pop() {
        let children: Vec<Stat> = match &everybody {
            None => listed_children(parent).into_iter().filter_map(stat).collect(),
            Some(all) => all.iter().filter(|s| s.parent == Some(parent)).copied().collect(),
        };
        parents.extend(children.iter().map(|child| child.identity.pid));
        found.extend(children);
    }
    found
}

/// The threads of a process.
pub fn threads(pid: Pid) -> Vec<Pid> {
    numbers(format!("/proc/{pid}/task"))
}

/// Whether `/proc` has lists of children (CONFIG_PROC_CHILDREN).
fn knows_children() -> bool {
    Path::new("/proc/thread-self/children").exists()
}

/// The children of a process, zombies included: one look, as quick as there is one.
pub fn children(pid: Pid) -> Vec<Pid> {
    if !knows_children() {
        return all().into_iter().filter(|s| s.parent == Some(pid)).map(|s| s.identity.pid).collect();
    }
    listed_children(pid)
}

fn listed_children(pid: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    for thread in threads(pid) {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")) else { continue };
        found.extend(text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).filter_map(Pid::from_raw));
    }
    found
}

fn all() -> Vec<Stat> {
    numbers("/proc".to_owned()).into_iter().filter_map(stat).collect()
}

fn numbers(folder: String) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(Pid::from_raw).collect()
}

/// Which descriptors a thread is blocked on for reading: by a read, or by a poll or select that
/// asks for something to read. Empty when it runs, or waits for anything else.
pub fn blocked_reading(pid: Pid, thread: Pid) -> Vec<i32> {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")) else { return Vec::new() };
    let mut fields = text.split_ascii_whitespace();
    let Some(number) = fields.next().and_then(|n| n.parse::<i64>().ok()) else { return Vec::new() };
    let arguments: Vec<u64> =
        fields.filter_map(|n| u64::from_str_radix(n.trim_start_matches("0x"), 16).ok()).take(6).collect();
    let [first, second, ..] = arguments[..] else { return Vec::new() };
    use calls::Waits;
    match calls::waits(number) {
        Some(Waits::Read) => i32::try_from(first).into_iter().collect(),
        Some(Waits::Poll) => polled(pid, first, second),
        Some(Waits::Select) => selected(pid, first, second),
        None => Vec::new(),
    }
}

/// The descriptors that a `struct pollfd[count]` in another process asks to read from.
fn polled(pid: Pid, address: u64, count: u64) -> Vec<i32> {
    const SIZE: usize = size_of::<nix::libc::pollfd>();
    let mut bytes = vec![0; SIZE * count.min(64) as usize];
    if !read_memory(pid, address, &mut bytes) {
        return Vec::new();
    }
    let wants = |entry: &[u8]| {
        let fd = i32::from_ne_bytes(entry[..4].try_into().ok()?);
        let events = i16::from_ne_bytes(entry[4..6].try_into().ok()?);
        (events & nix::libc::POLLIN != 0 && fd >= 0).then_some(fd)
    };
    bytes.chunks_exact(SIZE).filter_map(wants).collect()
}

/// The descriptors below `count` in an `fd_set` in another process.
fn selected(pid: Pid, count: u64, address: u64) -> Vec<i32> {
    let count = count.min(1024) as usize;
    let mut bytes = vec![0; count.div_ceil(64) * 8];
    if address == 0 || !read_memory(pid, address, &mut bytes) {
        return Vec::new();
    }
    let set = |fd: &usize| {
        let start = fd / 64 * 8;
        let word: [u8; 8] = bytes[start..start + 8].try_into().expect("a slice of eight bytes");
        u64::from_ne_bytes(word) >> (fd % 64) & 1 == 1
    };
    (0..count).filter(set).map(|fd| fd as i32).collect()
}

fn read_memory(pid: Pid, address: u64, bytes: &mut [u8]) -> bool {
    fs::File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_exact_at(bytes, address)).is_ok()
}

/// Whether a descriptor of a process is open on this file, or on the one named as its terminal.
pub fn is_open_on(pid: Pid, descriptor: i32, path: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/fd/{descriptor}"))
        .is_ok_and(|target| target == path || target == Path::new("/dev/tty"))
}

/// The numbers of the system calls in which a thread may wait for input.
mod calls {
    use nix::libc;

    pub enum Waits {
        /// The first argument is the descriptor.
        Read,
        /// The first two are `struct pollfd *` and their count.
        Poll,
        /// The first two are a count and the `fd_set *` for reading.
        Select,
    }

    pub fn waits(number: i64) -> Option<Waits> {
        #[cfg(target_arch = "x86_64")]
        match number {
            libc::SYS_poll => return Some(Waits::Poll),
            libc::SYS_select => return Some(Waits::Select),
            _ => {}
        }
        match number {
            libc::SYS_read | libc::SYS_readv => Some(Waits::Read),
            libc::SYS_ppoll => Some(Waits::Poll),
            libc::SYS_pselect6 => Some(Waits::Select),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    fn until(what: &str, mut check: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !check() {
            assert!(Instant::now() < deadline, "in vain: {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_is_found_below_its_ancestors() {
        let me = Pid::this();
        let mut child = Command::new("sh").args(["-c", "cat; :"]).stdin(Stdio::piped()).spawn().expect("sh is there");
        let shell = Pid::from_raw(child.id() as i32).expect("a pid");
        until("the grandchild reads its standard input", || {
            descendants(me)
                .iter()
                .any(|s| s.parent == Some(shell) && blocked_reading(s.identity.pid, s.identity.pid) == [0])
        });
        let found = stat(shell).expect("it lives");
        assert_eq!((found.parent, found.zombie), (Some(me), false));
        drop(child.stdin.take());
        until("the child is a zombie", || stat(shell).is_some_and(|s| s.zombie));
        child.wait().expect("it is ours");
        assert!(stat(shell).is_none());
    }

    #[test]
    fn poll_and_select_count_as_reading() {
        for wait in ["s.select([0],[],[])", "(p:=s.poll(),p.register(0,s.POLLIN),p.poll())"] {
            let Ok(mut child) = Command::new("python3")
                .args(["-c", &format!("import select as s;{wait}")])
                .stdin(Stdio::piped())
                .spawn()
            else {
                return;
            };
            let pid = Pid::from_raw(child.id() as i32).expect("a pid");
            until(wait, || blocked_reading(pid, pid) == [0]);
            drop(child.stdin.take());
            child.wait().expect("it is ours");
        }
    }
}
