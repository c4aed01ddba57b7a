use nix::libc;
use nix::sys::signal::{SigHandler, Signal, kill, raise, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, wait, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid, pause, setsid};
use std::collections::BTreeMap;
use std::io::{Read, Write};

#[derive(Debug, Clone, PartialEq)]
struct Spot { x: i64, label: String }

/// Leaves a process behind and returns its pid. Bits of `how`: 1 a session of its own, 2 an orphan,
/// 4 deaf to SIGINT, SIGTERM and SIGHUP, 8 stopped, 16 spinning.
fn linger(how: u32) -> i32 {
    let (mut from, mut to) = std::io::pipe().unwrap();
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(from);
            if how & 1 != 0 { setsid().unwrap(); }
            if how & 2 != 0 {
                if let ForkResult::Parent { .. } = unsafe { fork() }.unwrap() { unsafe { libc::_exit(0) } }
            }
            if how & 4 != 0 {
                for deaf in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
                    unsafe { signal(deaf, SigHandler::SigIgn) }.unwrap();
                }
            }
            to.write_all(&std::process::id().to_le_bytes()).unwrap();
            drop(to);
            if how & 8 != 0 { raise(Signal::SIGSTOP).unwrap(); }
            loop { if how & 16 != 0 { std::thread::sleep(std::time::Duration::from_micros(500)) } else { pause(); } }
        }
        ForkResult::Parent { child } => {
            drop(to);
            let mut pid = [0; 4];
            from.read_exact(&mut pid).unwrap();
            if how & 2 != 0 { waitpid(child, None).unwrap(); }
            i32::from_le_bytes(pid)
        }
    }
}

/// A child that runs `work` and leaves without ceremony.
fn child(work: impl FnOnce()) -> Pid {
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => { work(); unsafe { libc::_exit(0) } }
        ForkResult::Parent { child } => child,
    }
}

fn deeper(n: u64) -> u64 {
    let room = std::hint::black_box([n; 1000]);
    if n == u64::MAX { 0 } else { deeper(n + 1) + room[0] }
}

/// `bytes` of text, in lines of 64, by write(2).
fn flood(bytes: usize) {
    let line = [b"0123456789abcdef".repeat(4)[..63].to_vec(), vec![b'\n']].concat();
    let block = line.repeat(64);
    let mut left = bytes;
    while left > 0 {
        let part = &block[..left.min(block.len())];
        let mut done = 0;
        while done < part.len() {
            let written = unsafe { libc::write(1, part[done..].as_ptr().cast(), part.len() - done) };
            if written < 0 { unsafe { libc::_exit(99) } }
            done += written as usize;
        }
        left -= part.len();
    }
}

/// A line of input, without its newline; what is typed, or nothing at end of file.
fn asked() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}
