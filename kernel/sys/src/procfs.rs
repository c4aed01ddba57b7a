//! What `/proc` knows of other processes: parents and children, start times, what they use and run,
//! and what a thread waits for. Looking only; a process may be gone by the time the answer is used.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::process::{ExitStatus, Pid, Signal};

mod memory;

pub use memory::{proportional, resident};

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
    /// Its name, as `ps -o comm` shows it; zeroes behind it.
    pub name: [u8; 16],
    /// Its parent; `None` for the first process of a pid namespace.
    pub parent: Option<Pid>,
    /// Whether it has ended and waits to be reaped.
    pub zombie: bool,
    /// The letter of its state: `R`, `S`, `D`, `T`, `Z`, …; that of the main thread.
    pub state: char,
    /// Its process group; 0 where the group's leader has no number in our pid namespace.
    pub group: i32,
    /// Its session; 0 where the session's leader has no number in our pid namespace.
    pub session: i32,
    /// Processor time of all its threads, in user mode and in the system, to a clock tick (10 ms).
    pub cpu: Duration,
    /// Processor time of the children that it has waited for, and of those that they had waited for.
    pub children_cpu: Duration,
}

impl Stat {
    /// Whether it has this name.
    pub fn is_named(&self, name: &str) -> bool {
        self.name.split(|&b| b == 0).next() == Some(name.as_bytes())
    }
}

/// Looks a process up. `None` when there is no such process.
pub fn stat(pid: Pid) -> Option<Stat> {
    parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The fields of proc_pid_stat(5), counted there from 1: the state is the third.
fn parse(pid: Pid, text: &[u8]) -> Option<Stat> {
    // The name stands in parentheses and may hold any, so the fields start after the last.
    let end = text.iter().rposition(|&b| b == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(text.get(end + 2..)?).ok()?.split(' ').collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let time = |first: usize, second: usize| {
        // Those of the children are signed numbers there.
        let sum = field(first)?.parse::<i64>().ok()?.checked_add(field(second)?.parse().ok()?)?;
        Some(duration_of_ticks(sum.max(0) as u64))
    };
    let state = field(3)?.chars().next()?;
    let begin = text.iter().position(|&b| b == b'(')? + 1;
    let mut name = [0; 16];
    let letters = text.get(begin..end)?;
    let len = letters.len().min(name.len());
    name[..len].copy_from_slice(&letters[..len]);
    Some(Stat {
        identity: Identity { pid, started: field(22)?.parse().ok()? },
        name,
        parent: Pid::from_raw(field(4)?.parse().ok()?),
        zombie: matches!(state, 'Z' | 'X'),
        state,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        cpu: time(14, 15)?,
        children_cpu: time(16, 17)?,
    })
}

/// How long ago a process was started, to a clock tick (10 ms); time in which the machine was
/// suspended counts.
pub fn age(process: &Identity) -> Duration {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return Duration::ZERO };
    Duration::from(now).saturating_sub(duration_of_ticks(process.started))
}

/// Clock ticks as `/proc` counts them. Linux shows everybody 100 a second, whatever it counts in.
fn duration_of_ticks(ticks: u64) -> Duration {
    let frequency = sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100, |n| n.max(1) as u64);
    Duration::from_secs(ticks / frequency) + Duration::from_secs(1) * (ticks % frequency) as u32 / frequency as u32
}

/// What a process was started with, its arguments with a space between them. `None` when there is no
/// such process, or when it has none: a zombie, a thread of the system's.
pub fn command_line(pid: Pid) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end_matches('\0').replace('\0', " ");
    (!text.is_empty()).then_some(text)
}

/// The name of a process's main thread, at most 15 bytes. `None` when there is no such process.
pub fn name(pid: Pid) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// Whether a signal would end a process at once: its main thread does not hold it back, and the process
/// neither ignores nor handles it. That the signal's default is to end a process is the caller's to know.
pub fn dies_of(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !["SigBlk:", "SigIgn:", "SigCgt:"].into_iter().any(|mask| is_in(&status, mask, signal).unwrap_or(true))
}

/// The process of a thread. `None` when there is no such thread.
pub fn process_of(thread: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    Pid::from_raw(status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?)
}

/// Whether this is a thread of that process.
pub fn is_thread_of(process: Pid, thread: Pid) -> bool {
    Path::new(&format!("/proc/{process}/task/{thread}")).exists()
}

/// Whether a process handles a signal, by a function of its own.
pub fn handles(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    is_in(&status, "SigCgt:", signal) == Some(true)
}

/// Whether a signal waits for a thread, or for its process, that the thread does not hold back.
pub fn awaits(thread: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let has = |mask| is_in(&status, mask, signal) == Some(true);
    (has("SigPnd:") || has("ShdPnd:")) && !has("SigBlk:")
}

/// Whether a signal is in this set of a `/proc/pid/status`. `None` where that set is not there.
fn is_in(status: &str, set: &str, signal: Signal) -> Option<bool> {
    let line = status.lines().find_map(|line| line.strip_prefix(set))?;
    let mask = u64::from_str_radix(line.trim(), 16).ok()?;
    Some(mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// How a zombie has ended, as its parent will be told. `None` for one that lives or is gone.
pub fn ended(pid: Pid) -> Option<ExitStatus> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.trim_end().rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let code: i32 = fields.get(49).filter(|_| fields.first() == Some(&"Z"))?.parse().ok()?;
    Some(match (code & 0x7f, code & 0x80 != 0) {
        (0, _) => ExitStatus::Exited(code >> 8 & 0xff),
        (signal, core) => ExitStatus::Signaled { signal: Signal::from_raw(signal)?, core },
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

/// How many processes and threads there are on the machine, the system's own among them: the fourth
/// field of proc_loadavg(5).
pub fn tasks() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').nth(3)?.split('/').nth(1)?.parse().ok()
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
        let Some(text) = read_at_once(&format!("/proc/{pid}/task/{thread}/children")) else { continue };
        found.extend(text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).filter_map(Pid::from_raw));
    }
    found
}

/// Reads a file in reads as large as there are. The list of children is made anew for each read(2), and
/// goes on behind as many as were told before: children that end between two reads hide others. The
/// standard library begins with a read of 32 bytes, five children.
fn read_at_once(path: &str) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let mut buffer = [0; 4096];
    let mut text = Vec::new();
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return String::from_utf8(text).ok(),
            len => text.extend_from_slice(&buffer[..len]),
        }
    }
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

/// What a descriptor of a process is open on: a path, or `socket:[7]`, `pipe:[7]`, `anon_inode:…`.
/// `None` when it is not open, or when this process may not look.
pub fn open_on(pid: Pid, descriptor: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()
}

/// Whether a descriptor of a process is open on this file, or on the one named as its terminal.
pub fn is_open_on(pid: Pid, descriptor: i32, path: &Path) -> bool {
    open_on(pid, descriptor).is_some_and(|target| target == path || target == Path::new("/dev/tty"))
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

    #[test]
    fn a_name_may_hold_anything() {
        let line = b"7 (a) R 1 b) ) T 3 7 5 0 -1 64 1 2 3 4 250 50 -1 -1 20 0 1 0 1234 99 1 2\n";
        let stat = parse(Pid::this(), line).expect("it has all the fields");
        assert_eq!((stat.state, stat.zombie, stat.session), ('T', false, 5));
        assert_eq!((stat.parent, stat.identity.started), (Pid::from_raw(3), 1234));
        assert_eq!((stat.cpu, stat.children_cpu), (Duration::from_secs(3), Duration::ZERO));
        assert!(parse(Pid::this(), b"7 (sh) R 1").is_none());
    }

    #[test]
    fn what_a_process_runs_and_how_long_it_has_run() {
        let before = Instant::now();
        let mut child = Command::new("cat").arg("-").stdin(Stdio::piped()).spawn().expect("cat is there");
        let pid = Pid::from_raw(child.id() as i32).expect("a pid");
        until("the program is there", || command_line(pid).as_deref() == Some("cat -"));
        assert_eq!(name(pid).as_deref(), Some("cat"));
        assert!(open_on(pid, 0).is_some_and(|target| target.to_string_lossy().starts_with("pipe:[")));
        assert_eq!(open_on(pid, 77), None);
        let identity = stat(pid).expect("it lives").identity;
        until("it has grown old", || age(&identity) >= Duration::from_millis(50));
        // The start is rounded down to a tick.
        assert!(age(&identity) <= before.elapsed() + Duration::from_millis(20));
        drop(child.stdin.take());
        until("it is a zombie", || stat(pid).is_some_and(|s| s.state == 'Z'));
        assert_eq!(command_line(pid), None);
        assert_eq!(name(pid).as_deref(), Some("cat"), "a zombie keeps its name");
        child.wait().expect("it is ours");
        assert_eq!((name(pid), command_line(pid)), (None, None));
    }

    #[test]
    fn processor_time_goes_from_the_child_to_the_parent_that_waits() {
        let script = "(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done); read line";
        let mut child = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().expect("sh is there");
        let pid = Pid::from_raw(child.id() as i32).expect("a pid");
        until("the loop has been waited for", || {
            stat(pid).is_some_and(|s| s.children_cpu > Duration::from_millis(50) && s.cpu < s.children_cpu)
        });
        drop(child.stdin.take());
        child.wait().expect("it is ours");
    }
}
