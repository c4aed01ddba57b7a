//! Limits of a process. Hard ones cannot be raised again, so the zygote's must be the kernel's. Soft ones a
//! fork takes over: a Jupyter server raises its own for open files.

use std::io;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// All limits that the system knows.
const LIMITS: &[(&str, Resource)] = &[
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// The hard limits of this process, by name.
pub(crate) fn hard() -> impl Iterator<Item = (&'static str, rlim_t)> {
    LIMITS.iter().filter_map(|(name, limit)| Some((*name, getrlimit(*limit).ok()?.1)))
}

/// The soft limits of this process, in an order that is always the same.
pub(crate) fn soft() -> Vec<rlim_t> {
    LIMITS.iter().map(|(_, limit)| getrlimit(*limit).map_or(0, |(soft, _)| soft)).collect()
}

/// Takes over the soft limits of another process, whose hard limits are the same.
///
/// # Errors
/// Those of setrlimit(2).
pub(crate) fn take_over(soft: &[rlim_t]) -> io::Result<()> {
    for ((_, limit), soft) in LIMITS.iter().zip(soft) {
        // One that cannot be read is not known to this system.
        if let Ok((_, hard)) = getrlimit(*limit) {
            setrlimit(*limit, *soft, hard)?;
        }
    }
    Ok(())
}
