//! What evcxr, rust-analyzer and panics write to the engine's stderr while a request is worked on.
//!
//! It goes into a pipe. A thread that lives as long as the request reads it: `Compiling serde` is
//! told to the server, everything else goes to the log. Between requests there is no thread, since
//! the engine forks there.

use std::any::Any;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::thread;

use forklab_sys::channel::Channel;

use crate::messages::{FromEngine, ToEngine};

/// Ends a listener: a line that looks like nobody else's, and starts anew whatever has been left of
/// another.
const END: &str = "\n\0end of the request\n";

/// The reading end of the engine's stderr.
#[derive(Debug)]
pub struct Noise {
    pipe: File,
    /// What was stderr before.
    log: File,
}

impl Noise {
    /// Puts a fresh pipe in stderr's place.
    ///
    /// # Errors
    /// Those of pipe(2), dup(2) and dup2(2).
    pub fn capture() -> io::Result<Noise> {
        let log = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Ok(Noise { pipe: replace_stderr()?, log })
    }

    /// Puts another pipe in the place of this one, which other processes write to.
    ///
    /// # Errors
    /// Those of pipe(2) and dup2(2).
    pub fn renew(&mut self) -> io::Result<()> {
        self.pipe = replace_stderr()?;
        Ok(())
    }

    /// Has what is written from here on go to another log.
    pub fn log_to(&mut self, log: File) {
        self.log = log;
    }

    /// Makes stderr what it was: what is written to it from here on is in the log.
    pub fn release(&self) {
        // Without it there is no log; who leaves has nobody to tell.
        let _ = nix::unistd::dup2_stderr(&self.log);
    }

    /// Does `work`, and meanwhile tells the peer of `stream` which crates are compiled. What the work
    /// returns, or its panic.
    ///
    /// # Errors
    /// Those of duplicating the descriptors and of starting a thread; the work has not begun then.
    pub fn during<T>(&self, stream: UnixStream, work: impl FnOnce() -> T) -> io::Result<thread::Result<T>> {
        let (pipe, mut log) = (self.pipe.try_clone()?, self.log.try_clone()?);
        let listener = thread::Builder::new().name("noise".to_owned());
        let listener = listener.spawn(move || listen(BufReader::new(pipe), &mut log, &Channel::new(stream)))?;
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        // The listener reads until this line, and nobody else of this process writes after it.
        let sent = io::stderr().write_all(END.as_bytes());
        if sent.is_ok() {
            let _ = listener.join();
        }
        Ok(result)
    }
}

/// Puts a fresh pipe in stderr's place and returns its other end.
fn replace_stderr() -> io::Result<File> {
    let (reader, writer) = io::pipe()?;
    nix::unistd::dup2_stderr(&writer)?;
    Ok(File::from(std::os::fd::OwnedFd::from(reader)))
}

/// The log is written to directly: tracing writes to stderr, which is what is read here.
fn listen(noise: impl BufRead, log: &mut impl Write, channel: &Channel<FromEngine, ToEngine>) {
    for line in noise.lines() {
        match line {
            Ok(line) if line == END.trim() => return,
            Ok(line) if line.is_empty() => {}
            Ok(line) => match compiled_crate(&line) {
                Some(name) => drop(channel.send(&FromEngine::Building { name: name.to_owned() })),
                None if tracing::enabled!(tracing::Level::DEBUG) => drop(writeln!(log, "engine: {line}")),
                None => {}
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(_) => return,
        }
    }
}

/// What a panic says.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".to_owned())
}

/// The crate that cargo's line says is being compiled.
fn compiled_crate(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("Compiling ")?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_ends_whatever_has_been_left_of_a_line() -> io::Result<()> {
        for left in [&b"half a line"[..], b"", b"a line\n", b"not UTF-8: \xff", b"\n\n   Compiling small v0.1.0\n"] {
            let (ours, theirs) = UnixStream::pair()?;
            let noise = [left, END.as_bytes(), b"   Compiling never v0.1.0\n"].concat();
            listen(&noise[..], &mut io::sink(), &Channel::new(ours));
            let said = Channel::<ToEngine, FromEngine>::new(theirs).receive()?.map(|received| received.value);
            let small = left.ends_with(b"0.1.0\n").then(|| FromEngine::Building { name: "small".to_owned() });
            assert_eq!(said, small);
        }
        Ok(())
    }

    #[test]
    fn cargos_lines_name_crates() {
        assert_eq!(compiled_crate("   Compiling serde v1.0.1"), Some("serde"));
        assert_eq!(compiled_crate("warning: unused"), None);
    }
}
