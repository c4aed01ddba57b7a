//! The runner: the process that evcxr believes to be its evaluation process.
//!
//! It runs nothing. It reads evcxr's lines on its stdin, asks the server for the run, and writes what
//! evcxr expects on its stdout. The lines of evcxr's protocol stand here and nowhere else.
//!
//! It outlives its engine: a standby that takes over holds the same two pipes. It ends when the
//! server's end of the channel closes. Between two runs it listens to both sides; during a run only
//! to the server.
//!
//! An engine that dies leaves half a conversation. The server sends `Reset` before it sends anything
//! to the standby, and the runner always looks at the channel before it looks at its stdin; so when
//! the standby's first line comes, the reset has been done: the run that was waited for is not
//! waited for any more, and lines that nobody has read are taken out of both pipes.
//!
//! A runner that evcxr starts in another's place goes on with the other's epoch, which a file keeps.
//! It is written before the reset is taken out of the channel. The other way round, a runner that is
//! killed between the two (`:clear` does it) would leave neither to the next one, whose runs would
//! carry an old epoch, and the server would take them for a dead engine's and never answer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forklab_sys::channel::Channel;
use forklab_sys::events::readable;
use forklab_sys::inherit;
use forklab_sys::ready::wait_readable;
use nix::fcntl::OFlag;

use crate::after::After;
use crate::messages::{FromRunner, Ran, ToRunner};
use crate::rewrite::ENTRY;
use crate::wrapper;

/// The environment variable with the number of the channel's descriptor.
pub(crate) const CHANNEL_VARIABLE: &str = "FORKLAB_RUNNER_CHANNEL";
/// The environment variable with the path of a file; while it exists, nothing is run and evcxr is
/// told what it says of the run, as JSON, or that all went well. For the engine's own cells at its start, and
/// for what was run without evcxr and has to be made known to it.
pub(crate) const REHEARSAL_VARIABLE: &str = "FORKLAB_RUNNER_REHEARSAL";
/// The environment variable with the path of the file that keeps the epoch.
pub(crate) const EPOCH_VARIABLE: &str = "FORKLAB_RUNNER_EPOCH";

const COMPLETE: &str = "EVCXR_EXECUTION_COMPLETE\n";
const PANICKED: &str = "EVCXR_PANIC_NOTIFICATION\n";
const FAILED: &str = "EVCXR_ERROR_OCCURRED\n";
const LOST: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
/// Not UTF-8: evcxr gives the evaluation up, keeps its state from before, and keeps its child.
const DROPPED: &[u8] = b"\xff\n";
/// What evcxr's error says then, in std's words.
pub(crate) const DROPPED_MESSAGE: &str = "stream did not contain valid UTF-8";

/// The role `runner`: serves until one of its two sides is gone.
///
/// # Errors
/// `NotFound` without the channel's descriptor, or those of the channel.
pub fn main() -> io::Result<()> {
    let channel = Channel::new(UnixStream::from(inherit::take_over(CHANNEL_VARIABLE)?));
    // evcxr keeps a thread that reads this process's stderr. It ends with the stderr, and the engine
    // can fork only without it.
    let nothing = File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stderr(&nothing)?;
    let rehearsal = std::env::var_os(REHEARSAL_VARIABLE).map(PathBuf::from);
    let epoch = Epoch::recall(std::env::var_os(EPOCH_VARIABLE).map(PathBuf::from).as_deref());
    Runner { channel, rehearsal, epoch, unread: Vec::new(), runs: 0 }.serve()
}

struct Runner {
    channel: Channel<FromRunner, ToRunner>,
    rehearsal: Option<PathBuf>,
    epoch: Epoch,
    /// What has been read of evcxr's lines and not yet been done.
    unread: Vec<u8>,
    runs: u64,
}

impl Ran {
    /// What evcxr is told.
    fn lines(&self) -> String {
        let mut answer = String::new();
        if self.panicked {
            answer.push_str(PANICKED);
        }
        if self.failed {
            answer.push_str(FAILED);
        }
        for name in &self.lost_variables {
            answer.extend([LOST, name, "\n"]);
        }
        answer.push_str(COMPLETE);
        answer
    }
}

/// What the next thing to do is.
enum Next {
    Line(String),
    Message(ToRunner),
    End,
}

impl Runner {
    fn serve(mut self) -> io::Result<()> {
        loop {
            match self.next()? {
                Next::Line(line) => {
                    let Some((library, function)) = parse(&line) else { continue };
                    if !self.run(library, function)? {
                        return Ok(());
                    }
                }
                Next::Message(ToRunner::Reset { .. }) => self.reset()?,
                Next::Message(ToRunner::StateLost) | Next::End => return Ok(()),
                // An answer to a run that a reset has made forgotten.
                Next::Message(ToRunner::Ran(_) | ToRunner::Dropped) => {}
            }
        }
    }

    /// Waits for either side. The channel comes first; see the top of the file.
    fn next(&mut self) -> io::Result<Next> {
        let stdin = io::stdin();
        loop {
            if wait_readable(self.channel.as_fd(), Some(Duration::ZERO))? {
                return Ok(self.receive()?.map_or(Next::End, Next::Message));
            }
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(Next::Line(String::from_utf8_lossy(&line).into_owned()));
            }
            readable(&[self.channel.as_fd(), stdin.as_fd()], None)?;
            if wait_readable(self.channel.as_fd(), Some(Duration::ZERO))? {
                continue;
            }
            let mut buffer = [0; 4096];
            match nix::unistd::read(&stdin, &mut buffer) {
                Ok(0) => return Ok(Next::End),
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the server's next message. A reset's epoch is kept before the reset is taken.
    fn receive(&mut self) -> io::Result<Option<ToRunner>> {
        wait_readable(self.channel.as_fd(), None)?;
        if let Some(ToRunner::Reset { epoch }) = self.channel.peek()? {
            self.epoch.keep(epoch);
        }
        Ok(self.channel.receive()?.map(|received| received.value))
    }

    /// Has one function run and tells evcxr how it went. `false` when this process is to end.
    fn run(&mut self, library: &str, function: &str) -> io::Result<bool> {
        if let Some(part) = self.rehearsal.as_deref().and_then(|file| std::fs::read(file).ok()) {
            // Without words all went well.
            let ran = serde_json::from_slice(&part).unwrap_or(Ran::default());
            say(ran.lines().as_bytes())?;
            return Ok(true);
        }
        let (library, function) = self.take(Path::new(library), function)?;
        self.channel.send(&FromRunner::Run { library, function, epoch: self.epoch.current })?;
        match self.receive()? {
            Some(ToRunner::Ran(ran)) => {
                if let Some(build) = self.rehearsal.as_deref().and_then(Path::parent).filter(|_| ran.is_clean()) {
                    After::confirm(build);
                }
                say(ran.lines().as_bytes())?;
            }
            Some(ToRunner::Dropped) => say(DROPPED)?,
            Some(ToRunner::Reset { .. }) => self.reset()?,
            Some(ToRunner::StateLost) | None => return Ok(false),
        }
        Ok(true)
    }

    /// Gives a library a name that no library has had before, and what says whose lines it is made of
    /// the same name; that is there when the function is ours.
    ///
    /// A standby counts on from where it was made and so uses names anew, and the dynamic linker
    /// takes a library that it knows by name for the old one.
    fn take(&mut self, library: &Path, function: &str) -> io::Result<(PathBuf, String)> {
        self.runs += 1;
        let name = format!("libcell_{}_{}.so", std::process::id(), self.runs);
        let taken = library.with_file_name(name);
        std::fs::rename(library, &taken)?;
        match std::fs::rename(library.with_file_name("libctx.origins"), taken.with_extension("origins")) {
            Ok(()) => Ok((taken, ENTRY.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((taken, function.to_owned())),
            Err(error) => Err(error),
        }
    }

    fn reset(&mut self) -> io::Result<()> {
        self.unread.clear();
        drain(Path::new("/proc/self/fd/0"))?;
        drain(Path::new("/proc/self/fd/1"))
    }
}

/// The number of the last reset, of this runner or of one before it.
pub(crate) struct Epoch {
    file: Option<File>,
    current: u64,
}

impl Epoch {
    /// Makes the file for the runners of an engine that starts: a new one, since a runner of another
    /// engine may live and hold the old one.
    pub fn begin(path: &Path) -> io::Result<()> {
        wrapper::remove(path)?;
        std::fs::write(path, 0u64.to_le_bytes())
    }

    fn recall(path: Option<&Path>) -> Epoch {
        let file = path.and_then(|path| File::options().read(true).write(true).open(path).ok());
        let mut bytes = [0; 8];
        let kept = file.as_ref().is_some_and(|file| file.read_exact_at(&mut bytes, 0).is_ok());
        Epoch { file, current: if kept { u64::from_le_bytes(bytes) } else { 0 } }
    }

    fn keep(&mut self, epoch: u64) {
        self.current = epoch;
        // The file has had its eight bytes from the start, so a full disk is no obstacle.
        let _ = self.file.as_ref().map(|file| file.write_all_at(&epoch.to_le_bytes(), 0));
    }
}

/// The two words of `LOAD_AND_RUN <library> <function>`; the library's path may have blanks.
fn parse(line: &str) -> Option<(&str, &str)> {
    line.trim_end_matches('\n').strip_prefix("LOAD_AND_RUN ")?.rsplit_once(' ')
}

/// Takes everything out of a pipe that has been written and not read.
fn drain(pipe: &Path) -> io::Result<()> {
    let mut pipe = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(pipe)?;
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn say(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_goes_on_with_the_epoch_of_the_one_before() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("epoch");
        Epoch::begin(&path)?;
        let mut first = Epoch::recall(Some(&path));
        assert_eq!(first.current, 0);
        first.keep(7);
        assert_eq!(Epoch::recall(Some(&path)).current, 7);
        Epoch::begin(&path)?;
        first.keep(8);
        assert_eq!(Epoch::recall(Some(&path)).current, 0, "a new engine's runner has nothing of an old one's");
        Ok(())
    }

    #[test]
    fn a_line_of_evcxrs_names_library_and_function() {
        assert_eq!(parse("LOAD_AND_RUN /a/libcode_1.so run_0\n"), Some(("/a/libcode_1.so", "run_0")));
        assert_eq!(parse("LOAD_AND_RUN /a b/libcode_1.so run_0\n"), Some(("/a b/libcode_1.so", "run_0")));
        assert_eq!(parse("something else\n"), None);
    }
}
