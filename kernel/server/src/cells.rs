//! The program of the far side: the supervisor, and the worker in which cells run.
//!
//! A program of its own, because a fork copies every mapping of the process that forks: with the
//! server's libraries, and those that libzmq brings along, a cell's fork would take twice as long.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use forklab_sys::descriptors::take_standard_input;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["supervisor", "--runtime-dir", directory] => supervise(directory.into()),
        ["worker"] => forklab_worker::worker::main(),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "this program is started by `forklab kernel`")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forklab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(runtime_dir: PathBuf) -> io::Result<()> {
    // As the server: see there.
    forklab_sys::role::keep_others_out();
    forklab_worker::supervisor::main(UnixStream::from(take_standard_input()?), runtime_dir)
}
