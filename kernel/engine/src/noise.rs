//! What evcxr, rust-analyzer and panics write to the engine's stderr while a request is worked on.
//!
//! It goes into a pipe. A thread that lives as long as the request reads it: `Compiling serde` is
//! told to the server, everything else goes to the log. Between requests there is no thread, since
//! the engine forks there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use forklab_sys::channel::Channel;

use crate::messages::{FromEngine, ToEngine};

/// Ends a listener; no line of anybody else's looks like this.
const END: &str = "\0end of the request";

/// The reading end of the engine's stderr.
#[derive(Debug)]
pub struct Noise {
    pipe: File,
}

impl Noise {
    /// Puts a fresh pipe in stderr's place.
    ///
    /// # Errors
    /// Those of pipe(2) and dup2(2).
    pub fn capture() -> io::Result<Noise> {
        let (reader, writer) = io::pipe()?;
        nix::unistd::dup2_stderr(&writer)?;
        Ok(Noise { pipe: File::from(std::os::fd::OwnedFd::from(reader)) })
    }

    /// Does `work`, and meanwhile tells the peer of `stream` which crates are compiled.
    ///
    /// # Errors
    /// Those of duplicating the descriptors and of starting a thread; the work has not begun then.
    pub fn during<T>(&self, stream: UnixStream, work: impl FnOnce() -> T) -> io::Result<T> {
        let lines = BufReader::new(self.pipe.try_clone()?).lines();
        let listener = std::thread::Builder::new().spawn(move || listen(lines, &Channel::new(stream)))?;
        let result = work();
        // The listener reads until this line, and nobody else of this process writes after it.
        let sent = writeln!(io::stderr(), "{END}");
        if sent.is_ok() {
            let _ = listener.join();
        }
        Ok(result)
    }
}

fn listen(lines: io::Lines<BufReader<File>>, channel: &Channel<FromEngine, ToEngine>) {
    for line in lines {
        match line {
            Ok(line) if line == END => return,
            Ok(line) => match compiled_crate(&line) {
                Some(name) => drop(channel.send(&FromEngine::Building { name: name.to_owned() })),
                None => tracing::debug!(line, "engine"),
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(_) => return,
        }
    }
}

/// The crate that cargo's line says is being compiled.
fn compiled_crate(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("Compiling ")?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::compiled_crate;

    #[test]
    fn cargos_lines_name_crates() {
        assert_eq!(compiled_crate("   Compiling serde v1.0.1"), Some("serde"));
        assert_eq!(compiled_crate("warning: unused"), None);
    }
}
