//! Pipes through which processes send each other values.
//!
//! A message is its length (four bytes, most significant first, as in Python) and that many bytes
//! of JSON, so that strace shows what is said. Nothing is read ahead: what is not received yet is in
//! the kernel's buffer and not in this process's, where a fork would copy it.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use forklab_sys::ready::wait_readable;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::shared::{self, OpenEnd};
use crate::{Error, Result};

/// Makes pipes. Mirrors Python's `Pipe`.
///
/// A value of any type that serde knows can be sent, and different types through the same pipe: what
/// is sent as a tuple or a struct is received as the same, or as a [`Value`](crate::Value), which
/// takes anything. Values travel as JSON: NaN arrives as `null`, and the keys of a map must be
/// strings or numbers.
///
/// Either end may be moved into a process; see [the crate's first page](crate) for who closes what.
/// As after any fork, a process has copies of all ends that its parent holds when it starts, those
/// of its siblings' pipes too. A sibling then finds the end of the file only when that process has
/// ended as well; to avoid this, make a pipe just before you start the process that it is for.
#[derive(Debug)]
pub struct Pipe;

impl Pipe {
    /// A two-way pipe: what is sent into either end comes out of the other. socketpair(2), Python's
    /// `Pipe()`. Both ends are close-on-exec.
    ///
    /// # Errors
    /// [`Error::System`] when this process or the machine has too many open files.
    // The name is Python's constructor, which returns the two ends as well.
    #[expect(clippy::new_ret_no_self)]
    pub fn new() -> Result<(Connection, Connection)> {
        let (a, b) = UnixStream::pair().map_err(Error::system("make a pipe"))?;
        let pipe = shared::lock().next_pipe();
        Ok((Connection(End::new(pipe, a)), Connection(End::new(pipe, b))))
    }

    /// A one-way pipe: what is sent into the second end comes out of the first. pipe(2), Python's
    /// `Pipe(duplex=False)`. Both ends are close-on-exec.
    ///
    /// ```
    /// use forklab::{Pipe, Process};
    ///
    /// let (results, sender) = Pipe::one_way()?;
    /// let mut workers = Vec::new();
    /// for n in 1..=3u64 {
    ///     let sender = sender.try_clone()?;
    ///     let mut worker = Process::new(move || sender.send(&(n * n)));
    ///     worker.start()?;
    ///     workers.push(worker);
    /// }
    /// sender.close(); // ours; the workers have their own
    /// let mut sum = 0;
    /// while let Some(square) = results.recv::<u64>()? {
    ///     sum += square;
    /// }
    /// assert_eq!(sum, 1 + 4 + 9);
    /// # for worker in &workers { worker.join()?; }
    /// # Ok::<(), forklab::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Pipe::new`].
    pub fn one_way() -> Result<(Receiver, Sender)> {
        let (reader, writer) = io::pipe().map_err(Error::system("make a pipe"))?;
        let pipe = shared::lock().next_pipe();
        Ok((Receiver(End::new(pipe, reader)), Sender(End::new(pipe, writer))))
    }
}

/// One end of a two-way pipe. Mirrors Python's `Connection`.
///
/// It is closed when it is dropped. The kernel keeps what is sent and not received yet, but not
/// without end (some hundred small values, or one of 200 KiB): then `send` waits. Two processes that
/// both send a lot before they receive wait for each other for ever.
///
/// Any number of processes and threads may hold copies of it; for
/// messages that are longer than what the kernel writes at once (some 64 KiB) they must agree on
/// who sends when, and on who receives always, as with every stream.
pub struct Connection(End<UnixStream>);

/// The end of a one-way pipe from which values come. Otherwise as [`Connection`].
pub struct Receiver(End<io::PipeReader>);

/// The end of a one-way pipe into which values go. Otherwise as [`Connection`].
pub struct Sender(End<io::PipeWriter>);

/// The three ends have their methods, and their words for them, in common.
macro_rules! sending {
    ($end:ident) => {
        impl $end {
            /// Sends one value. Returns when the kernel has all of it, which is at once for a small
            /// one, and for a large one when the other side has received most of it.
            ///
            /// # Errors
            /// [`Error::BrokenPipe`] when every copy of the other end is closed,
            /// [`Error::NotSendable`], [`Error::System`].
            pub fn send<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
                write_message(&*self.0.get()?, value)
            }
        }
    };
}

macro_rules! receiving {
    ($end:ident) => {
        impl $end {
            /// Waits for one value. `None` at the end of the file: everything sent has been
            /// received, and every copy of the other end is closed.
            ///
            /// # Errors
            /// [`Error::WrongType`] when what came is not a `T`; it is gone from the pipe, and the
            /// next value can be received. [`Error::CutShort`] when the sender died in the middle
            /// of a long value, [`Error::System`].
            pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<T>> {
                read_message(&*self.0.get()?)
            }

            /// Waits until there is something to receive, the end of the file included, but not
            /// longer than this. `Duration::ZERO` only looks.
            ///
            /// # Errors
            /// [`Error::System`].
            pub fn poll(&self, timeout: Duration) -> Result<bool> {
                wait_readable(self.0.get()?.as_fd(), Some(timeout)).map_err(Error::system("wait for a message"))
            }
        }
    };
}

macro_rules! every_end {
    ($end:ident) => {
        impl $end {
            /// A second handle of the same end, which has to be closed as well before the other
            /// side finds the end of the file: dup(2).
            ///
            /// # Errors
            /// [`Error::System`] when this process has too many open files.
            pub fn try_clone(&self) -> Result<Self> {
                let io = self.0.get()?.try_clone().map_err(Error::system("duplicate an end of a pipe"))?;
                Ok($end(End::new(self.0.pipe, io)))
            }

            /// Closes this end, as dropping it does. The other side finds the end of the file once
            /// every copy is closed, those in forked processes too.
            pub fn close(self) {}
        }

        impl fmt::Debug for $end {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0.get() {
                    Ok(io) => write!(f, concat!(stringify!($end), "(fd {})"), io.as_raw_fd()),
                    Err(_) => write!(f, concat!(stringify!($end), "(left to the parent)")),
                }
            }
        }

        impl AsRawFd for $end {
            /// The descriptor's number, for a look into `/proc`; -1 where it was left to the parent.
            fn as_raw_fd(&self) -> RawFd {
                self.0.get().map_or(-1, |io| io.as_raw_fd())
            }
        }
    };
}

sending!(Connection);
receiving!(Connection);
every_end!(Connection);
receiving!(Receiver);
every_end!(Receiver);
sending!(Sender);
every_end!(Sender);

/// What an end is made of, known to `shared` as long as it lives.
struct End<T: Send + Sync + 'static> {
    pipe: u64,
    open: Arc<Open<T>>,
}

struct Open<T> {
    pipe: u64,
    /// `None` in a child that was given the pipe's other end. In an `Arc` of its own, so that the
    /// lock is not held while one waits for a message.
    io: Mutex<Option<Arc<T>>>,
}

impl<T: Send + Sync + 'static> End<T> {
    fn new(pipe: u64, io: T) -> Self {
        let open = Arc::new(Open { pipe, io: Mutex::new(Some(Arc::new(io))) });
        let watched: Weak<dyn OpenEnd> = Arc::<Open<T>>::downgrade(&open);
        shared::lock().watch(watched);
        End { pipe, open }
    }

    fn get(&self) -> Result<Arc<T>> {
        let io = self.open.io.lock().unwrap_or_else(PoisonError::into_inner);
        io.clone().ok_or(Error::LeftToParent)
    }
}

impl<T: Send + Sync> OpenEnd for Open<T> {
    fn pipe(&self) -> u64 {
        self.pipe
    }

    fn leave_to_parent(&self) {
        // A thread that held the lock at the fork does not exist here and will never release it;
        // then the end stays open, which is better than waiting for ever.
        if let Ok(mut io) = self.io.try_lock() {
            *io = None;
        }
    }
}

fn write_message<T: Serialize + ?Sized>(mut to: impl Write, value: &T) -> Result<()> {
    let mut message = vec![0; 4];
    serde_json::to_writer(&mut message, value).map_err(|error| Error::NotSendable { reason: error.to_string() })?;
    let Ok(length) = u32::try_from(message.len() - 4) else {
        return Err(Error::NotSendable { reason: "it is longer than 4 GiB".to_owned() });
    };
    message[..4].copy_from_slice(&length.to_be_bytes());
    // One write for all of it: a short message of one process is never torn by another's.
    to.write_all(&message).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::BrokenPipe,
        _ => Error::System { doing: "send", source: error },
    })
}

fn read_message<T: DeserializeOwned>(mut from: impl Read) -> Result<Option<T>> {
    let length = read_up_to(&mut from, 4)?;
    let Ok(length) = <[u8; 4]>::try_from(length.as_slice()) else {
        return if length.is_empty() { Ok(None) } else { Err(Error::CutShort { received: length.len(), length: 4 }) };
    };
    let length = u32::from_be_bytes(length) as usize;
    let message = read_up_to(&mut from, length)?;
    if message.len() < length {
        return Err(Error::CutShort { received: message.len(), length });
    }
    serde_json::from_slice(&message).map(Some).map_err(|error| wrong_type::<T>(&message, &error))
}

/// Reads so many bytes, or fewer at the end of the file.
fn read_up_to(from: &mut impl Read, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match from.take(length as u64).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        // The other side closed its end with something of ours unread; all that it sent came before.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(bytes),
        Err(error) => Err(Error::System { doing: "receive", source: error }),
    }
}

fn wrong_type<T>(message: &[u8], error: &serde_json::Error) -> Error {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(message);
    let received = match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.into_owned(),
    };
    let reason = error.to_string();
    // Lines and columns of the JSON mean nothing to somebody who never sees it.
    let reason = reason.rfind(" at line ").map_or(reason.as_str(), |at| &reason[..at]).to_owned();
    Error::WrongType { expected: std::any::type_name::<T>(), received, reason }
}
