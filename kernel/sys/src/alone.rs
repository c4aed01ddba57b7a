//! What only a process with one thread may do: fork and go on as both, and change its environment.
//!
//! Both are unsound next to another thread, and both are sound without one; so each function here
//! counts the threads first, and refuses where there is more than one.

use std::ffi::{OsStr, OsString};
use std::io;

use crate::process::{self, Fork};

/// How many threads this process has: the entries of `/proc/self/task`.
///
/// # Errors
/// Those of reading `/proc`.
pub fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// The names of this process's threads: `/proc/self/task/*/comm`.
///
/// # Errors
/// Those of reading `/proc`.
pub fn thread_names() -> io::Result<Vec<String>> {
    let tasks = std::fs::read_dir("/proc/self/task")?.flatten();
    // A thread that ends meanwhile has no name any more.
    Ok(tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect())
}

/// Makes a copy of this process that goes on as freely as this one: fork(2).
///
/// # Errors
/// `ResourceBusy` when there is another thread, or those of [`process::fork`].
pub fn fork() -> io::Result<Fork> {
    check()?;
    // SAFETY: this thread is the only one, and nobody else can start one before the fork.
    unsafe { process::fork() }
}

/// Sets an environment variable of this process, or removes it.
///
/// # Errors
/// `ResourceBusy` when there is another thread.
pub fn set_variable(name: impl AsRef<OsStr>, value: Option<&OsStr>) -> io::Result<()> {
    check()?;
    // SAFETY: this thread is the only one, so nobody reads the environment meanwhile.
    unsafe {
        match value {
            Some(value) => std::env::set_var(name.as_ref(), value),
            None => std::env::remove_var(name.as_ref()),
        }
    }
    Ok(())
}

/// Makes these variables the whole environment of this process.
///
/// # Errors
/// `ResourceBusy` when there is another thread.
pub fn replace_environment(variables: &[(OsString, OsString)]) -> io::Result<()> {
    check()?;
    for (name, _) in std::env::vars_os() {
        set_variable(&name, None)?;
    }
    variables.iter().try_for_each(|(name, value)| set_variable(name, Some(value)))
}

/// Gives memory that the allocator holds but nobody uses back to the system: malloc_trim(3).
pub fn trim_memory() {
    // SAFETY: malloc_trim(3) takes the allocator's own locks and moves nothing that is in use.
    unsafe { nix::libc::malloc_trim(0) };
}

fn check() -> io::Result<()> {
    match threads()? {
        1 => Ok(()),
        n => Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("the process has {n} threads"))),
    }
}
