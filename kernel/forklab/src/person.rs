//! The person in front of the notebook, and the shell.

use std::io::{self, BufRead, Write};
use std::process::Command;

use crate::{Error, ExitStatus, Result};

/// Asks the person: writes the prompt to stdout, reads one line from stdin and returns it without
/// its newline. In a notebook, a box for the answer opens under the cell, with the prompt in front.
/// Any process of the cell may ask. Mirrors Python's `input`.
///
/// Bytes that are not UTF-8 come as U+FFFD. It reads through the buffer of std's `stdin()`, and so
/// goes together with that; a process that is forked while there is unread input in this buffer
/// (only when stdin is a file or a pipe, never on a terminal) has a copy of it.
///
/// # Errors
/// [`Error::EndOfInput`] when there is no line, as where the notebook runs unattended and its cell
/// has no `%%stdin`; [`Error::System`] when writing or reading fails.
pub fn input(prompt: &str) -> Result<String> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(prompt.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::system("write the prompt"))?;
    drop(stdout);
    let mut line = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut line).map_err(Error::system("read a line of input"))?;
    match line.pop() {
        None => return Err(Error::EndOfInput),
        Some(b'\n') => {}
        Some(last) => line.push(last),
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Has `sh -c` run a command line and waits for it. Its output is the cell's, its input too.
/// Returns how the shell ended: with the status of its last command, with 127 when there is no such
/// command, with 128 + n when signal n ended it. Mirrors Python's `os.system`.
///
/// What this process has printed before comes first: it is flushed. No other child is reaped.
///
/// ```
/// let status = forklab::system("exit 3")?;
/// assert_eq!(status.code(), Some(3));
/// # Ok::<(), forklab::Error>(())
/// ```
///
/// # Errors
/// [`Error::System`] when no shell can be started.
pub fn system(command: &str) -> Result<ExitStatus> {
    io::stdout().flush().map_err(Error::system("write what was printed before"))?;
    let status = Command::new("sh").arg("-c").arg(command).status();
    Ok(status.map_err(Error::system("run a shell"))?.into())
}
