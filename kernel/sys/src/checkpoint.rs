//! A process's copy that sleeps beside it and can go on in its stead.
//!
//! The copy is the child of this process's *parent* (CLONE_PARENT), so wait(2) here never finds it,
//! and it leads a session of its own, so no signal to a group and no `ps -t` meets it. Asleep, it
//! holds no standard input or output, no pipe and no socket. What runs in the copy before it is woken stands in
//! [`fall_asleep`]: no locks, no allocation.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::libc;

use crate::descriptors::{null, set_standard};
use crate::parked::Parked;
use crate::process::{Fork, Pid, exit_now};
use crate::role::set_name;

/// What a sleeping copy is called, from its birth on.
pub const NAME: &CStr = c"forklab copy";

/// Who one is after [`take`], and one's end of the line between the two.
#[derive(Debug)]
#[must_use = "a copy that does not know that it is one runs on as a second original"]
pub enum Copy {
    /// The process that asked. Whoever holds `line` may wake the copy by sending anything; when
    /// the last holder closes it, the copy leaves.
    Original {
        /// The copy.
        pid: Pid,
        /// The line to it.
        line: UnixStream,
    },
    /// The copy, after it was woken. What woke it waits in `line`.
    Woken {
        /// The line to who woke it.
        line: UnixStream,
    },
}

/// Makes the copy; returns when it sleeps, and a second time in the copy when it is woken. In the
/// copy, `own` leads nowhere. `score` is the copy's [`crate::role::memory_victim_score`] as long as it
/// sleeps, and [`NAME`] its name, `own_name` the process's own: when the process does away with all memory,
/// the copy must be there yet.
///
/// Other threads of this process do not exist in the copy, and a lock that one of them held stays
/// locked there, as after every fork.
///
/// # Errors
/// `WouldBlock` when the user or the machine has too many processes, `OutOfMemory`, or those of
/// socketpair(2).
pub fn take(own: BorrowedFd<'_>, own_name: &CStr, score: Option<i32>) -> io::Result<Copy> {
    let (mut line, sleeper) = UnixStream::pair()?;
    let null = null()?;
    let parked = Parked::survey(&[sleeper.as_fd(), null.as_fd()], &[line.as_fd(), own]);
    let score = score.map(|score| score.to_string());
    // The copy has its name from its first moment on: its pid is known only when it is asleep.
    set_name(NAME);
    let cloned = clone_sibling();
    if !matches!(cloned, Ok(Fork::Child)) {
        set_name(own_name);
    }
    match cloned? {
        Fork::Child => {
            if let Some(score) = &score {
                set_victim_score(score);
            }
            fall_asleep(&sleeper, &parked, null.as_fd());
            drop(line);
            set_name(own_name);
            parked.restore()?;
            Ok(Copy::Woken { line: sleeper })
        }
        Fork::Parent(pid) => {
            // Closed here, or the death of the copy could not be seen.
            drop(sleeper);
            // User code may send a signal to its whole process group, or look at its session. The
            // copy must have left both before any user code runs: so wait for its word.
            line.read_exact(&mut [0])?;
            Ok(Copy::Original { pid, line })
        }
    }
}

/// The copy's life until it is woken. No locks, no allocation.
fn fall_asleep(mut line: &UnixStream, parked: &Parked, null: BorrowedFd<'_>) {
    parked.park(null);
    let settled = crate::pty::new_session()
        .and_then(|()| set_standard(Some(null), Some(null), Some(null)))
        .and_then(|()| line.write_all(&[0]));
    if settled.is_err() {
        exit_now(1);
    }
    let mut byte = 0u8;
    loop {
        // SAFETY: the buffer is one writable byte, and MSG_PEEK leaves the message in the socket.
        match unsafe { libc::recv(line.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            0 | -1 => exit_now(0),
            _ => return,
        }
    }
}

/// Without allocation. Where it fails, the largest process goes first, whoever that is.
fn set_victim_score(score: &str) {
    // SAFETY: the path is a string with a zero at its end.
    let file = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if file >= 0 {
        // SAFETY: the bytes are readable, and the descriptor is our own.
        unsafe { libc::write(file, score.as_ptr().cast(), score.len()) };
        // SAFETY: it is our own, and nobody uses it from here on.
        unsafe { libc::close(file) };
    }
}

/// fork(2), but the new process is the caller's sibling.
///
/// glibc's fork cannot do this, so the system is asked directly. What glibc's does besides is
/// done here: the main thread's own id, which glibc keeps in memory, is rewritten by the kernel
/// (CLONE_CHILD_SETTID) where the kernel tells the place.
fn clone_sibling() -> io::Result<Fork> {
    let mut tid_address: usize = 0;
    // SAFETY: PR_GET_TID_ADDRESS writes one pointer-sized number, and where it is not known it
    // writes nothing.
    unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut tid_address) };
    // The copy is no part of what a tracer of this process is to see.
    let mut flags = libc::CLONE_PARENT | libc::CLONE_UNTRACED | libc::SIGCHLD;
    if tid_address != 0 {
        flags |= libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    }
    // SAFETY: without CLONE_VM the child has its own copy of memory and goes on, on the same stack
    // address, from the same place: as fork(2) does. The address given is the one that the system
    // itself writes to when this thread ends. The only thread of the child is a copy of the caller.
    let pid = unsafe { sys_clone(flags, tid_address) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid as i32).expect("clone(2) returns a pid"))),
    }
}

/// # Safety
/// As clone(2); `tid_address` is writable for as long as the child lives, or the flags ignore it.
unsafe fn sys_clone(flags: libc::c_int, tid_address: usize) -> libc::c_long {
    let none = 0usize;
    // The order of the last two arguments is the architecture's.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's.
    return unsafe { libc::syscall(libc::SYS_clone, flags as usize, none, none, tid_address, none) };
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's.
    return unsafe { libc::syscall(libc::SYS_clone, flags as usize, none, none, none, tid_address) };
}
