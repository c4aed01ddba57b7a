//! A descriptor that a child inherits under its number, told by an environment variable.
//!
//! For a child that somebody else's code starts, whose stdin, stdout and stderr are taken. All our
//! descriptors are close-on-exec; this one loses the flag in the child only, between fork and exec,
//! so that no other child ever gets it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Lets the children of `command` inherit the descriptor; `variable` tells them its number.
/// It stays open here as long as the command lives.
pub fn hand_down(command: &mut Command, descriptor: OwnedFd, variable: &str) {
    command.env(variable, descriptor.as_raw_fd().to_string());
    let pass = move || Ok(fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)?);
    // SAFETY: between fork and exec the closure calls fcntl(2) and nothing else.
    unsafe { command.pre_exec(pass) };
}

/// Takes the descriptor that the environment variable names; close-on-exec from here on.
/// To be called once for each, when the process starts.
///
/// # Errors
/// `NotFound` when the variable is not set or names no open descriptor.
pub fn take_over(variable: &str) -> io::Result<OwnedFd> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{variable} names no descriptor"));
    let number: RawFd = std::env::var(variable).ok().and_then(|text| text.parse().ok()).ok_or_else(missing)?;
    if number < 3 || !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
        return Err(missing());
    }
    // SAFETY: the descriptor is open, it came through exec, and the caller takes each only once, so
    // nothing else in this process owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(descriptor)
}
