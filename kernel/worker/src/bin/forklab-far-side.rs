//! The roles of this crate as a program of its own, for its tests: `forklab` has them too.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use forklab_sys::descriptors::take_standard_input;
use forklab_worker::{supervisor, worker};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next().unwrap_or_default();
    match (role.to_str(), arguments.next()) {
        (Some("worker"), None) => worker::main(),
        (Some("supervisor"), Some(directory)) => {
            supervisor::main(UnixStream::from(take_standard_input()?), PathBuf::from(directory))
        }
        _ => Err(io::Error::other("usage: forklab-far-side worker | supervisor <directory>")),
    }
}
