//! A typed channel between two of our processes: frames with descriptors over a UNIX socket.
//!
//! A frame is its length (four bytes, little endian) and that many bytes of JSON. Descriptors ride
//! on the first byte of the frame's length, so that they arrive with their own frame and no other.
//! One frame is written by one thread at a time; `Channel` is therefore not `Sync`.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most descriptors that one frame may carry.
pub const MAX_DESCRIPTORS: usize = 8;

/// The longest frame that is believed; a longer one is an error of the peer's.
const MAX_FRAME: usize = 256 << 20;

/// How much of a frame is read at one go by [`Unhurried`].
const PORTION: usize = 64 << 10;

/// How many portions are read before somebody else has a turn.
const PORTIONS: usize = 64;

/// One end of a channel that sends `S` and receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    stream: UnixStream,
    types: PhantomData<fn(S) -> R>,
}

/// A received value and the descriptors that came with it.
#[derive(Debug)]
pub struct Received<R> {
    /// The value.
    pub value: R,
    /// Its descriptors, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of a channel whose reader never waits: what has come of a frame is kept until the rest
/// comes. For a peer that cannot be trusted to say the rest.
#[derive(Debug)]
pub struct Unhurried<S, R> {
    channel: Channel<S, R>,
    /// The longest frame that is believed, without its length.
    most: usize,
    /// What has come: the length's four bytes, then the body.
    come: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// What [`Unhurried::receive`] has found.
#[derive(Debug)]
pub enum Heard<R> {
    /// A whole value.
    Value(Received<R>),
    /// Not enough for a value.
    NotYet,
    /// The peer has closed the channel between two frames.
    Closed,
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// Two connected streams, both close-on-exec: socketpair(2).
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        UnixStream::pair()
    }

    /// Speaks the channel's protocol over a connected stream.
    pub fn new(stream: UnixStream) -> Self {
        Channel { stream, types: PhantomData }
    }

    /// Gives the stream back. Nothing is buffered on this side, so nothing is lost.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Sends one value; returns when the kernel has all of it.
    ///
    /// # Errors
    /// `BrokenPipe` when the peer is gone, or those of sendmsg(2).
    pub fn send(&self, value: &S) -> io::Result<()> {
        self.send_with(value, &[])
    }

    /// Sends one value with descriptors. They stay open here; the peer gets duplicates.
    ///
    /// # Errors
    /// As [`Channel::send`]; `InvalidInput` for more than [`MAX_DESCRIPTORS`].
    pub fn send_with(&self, value: &S, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one frame"));
        }
        let body = serde_json::to_vec(value)?;
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        frame.extend_from_slice(&body);
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let sent = loop {
            let parts = [IoSlice::new(&frame)];
            match sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => break other?,
            }
        };
        (&self.stream).write_all(&frame[sent..])
    }

    /// Waits for one value. `None` when the peer has closed the channel between two frames.
    ///
    /// # Errors
    /// `UnexpectedEof` when it was closed within a frame, `InvalidData` when the frame is not a
    /// value of the channel's type, or those of recvmsg(2).
    pub fn receive(&self) -> io::Result<Option<Received<R>>> {
        let mut length = [0u8; 4];
        let mut descriptors = Vec::new();
        let first = self.receive_part(&mut length, &mut descriptors, MsgFlags::empty())?;
        if first == 0 {
            return Ok(None);
        }
        (&self.stream).read_exact(&mut length[first..])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that long is not ours"));
        }
        let mut body = vec![0; length];
        (&self.stream).read_exact(&mut body)?;
        let value = serde_json::from_slice(&body)?;
        Ok(Some(Received { value, descriptors }))
    }

    /// The value that the next [`Channel::receive`] returns, if all of it has come. It stays there,
    /// and so do its descriptors.
    ///
    /// # Errors
    /// `InvalidData` when the frame is not a value of the channel's type, or those of recv(2).
    pub fn peek(&self) -> io::Result<Option<R>> {
        let mut length = [0; 4];
        if !self.look_at(&mut length)? {
            return Ok(None);
        }
        let mut frame = vec![0; 4 + (u32::from_le_bytes(length) as usize).min(MAX_FRAME)];
        let complete = self.look_at(&mut frame)?;
        Ok(if complete { Some(serde_json::from_slice(&frame[4..])?) } else { None })
    }

    /// Copies what has come. `false` when it is less than asked for.
    fn look_at(&self, bytes: &mut [u8]) -> io::Result<bool> {
        match recv(self.stream.as_raw_fd(), bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(count) => Ok(count == bytes.len()),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR | nix::errno::Errno::ECONNRESET) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads bytes, and the descriptors that ride on them.
    fn receive_part(&self, part: &mut [u8], descriptors: &mut Vec<OwnedFd>, flags: MsgFlags) -> io::Result<usize> {
        let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        loop {
            let mut parts = [IoSliceMut::new(part)];
            let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
            let message = match recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Err(nix::errno::Errno::EINTR) => continue,
                // The peer left with something of ours unread: as gone as by closing.
                Err(nix::errno::Errno::ECONNRESET) => return Ok(0),
                other => other?,
            };
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(raw) = control {
                    // SAFETY: recvmsg(2) has just made these descriptors for this process, and
                    // nothing else knows them yet.
                    descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            return Ok(message.bytes);
        }
    }
}

impl<S: Serialize, R: DeserializeOwned> Unhurried<S, R> {
    /// Speaks the channel's protocol over a connected stream, with frames of at most `most` bytes.
    pub fn new(stream: UnixStream, most: usize) -> Self {
        Unhurried { channel: Channel::new(stream), most, come: Vec::new(), descriptors: Vec::new() }
    }

    /// As [`Channel::send`], which does wait.
    ///
    /// # Errors
    /// Those of [`Channel::send`].
    pub fn send(&self, value: &S) -> io::Result<()> {
        self.channel.send(value)
    }

    /// As [`Channel::send_with`], which does wait.
    ///
    /// # Errors
    /// Those of [`Channel::send_with`].
    pub fn send_with(&self, value: &S, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.channel.send_with(value, descriptors)
    }

    /// Takes in what has come, at most a few megabytes, without waiting.
    ///
    /// # Errors
    /// As [`Channel::receive`]; `InvalidData` also for more descriptors than a frame may carry. After
    /// an error, the channel is of no use.
    pub fn receive(&mut self) -> io::Result<Heard<R>> {
        let mut portion = vec![0; PORTION];
        for _ in 0..PORTIONS {
            let wanted = self.missing()?.min(PORTION);
            let part = &mut portion[..wanted];
            match self.channel.receive_part(part, &mut self.descriptors, MsgFlags::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::NotYet),
                Err(error) => return Err(error),
                Ok(0) if self.come.is_empty() => return Ok(Heard::Closed),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.come.extend_from_slice(&part[..count]),
            }
            if self.descriptors.len() > MAX_DESCRIPTORS {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors for one frame"));
            }
            if self.missing()? == 0 {
                let value = serde_json::from_slice(&self.come[4..])?;
                self.come.clear();
                return Ok(Heard::Value(Received { value, descriptors: std::mem::take(&mut self.descriptors) }));
            }
        }
        Ok(Heard::NotYet)
    }

    /// How many bytes are missing to what is to be read next: the length, then the body.
    fn missing(&self) -> io::Result<usize> {
        let Some(length) = self.come.first_chunk() else { return Ok(4 - self.come.len()) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that long is not ours"));
        }
        Ok(4 + length - self.come.len())
    }
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<S, R> AsFd for Unhurried<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_descriptors_arrive_together() -> io::Result<()> {
        let (a, b) = Channel::<String, String>::pair()?;
        let (a, b) = (Channel::<String, u8>::new(a), Channel::<u8, String>::new(b));
        let (mut reader, writer) = io::pipe()?;
        a.send_with(&"with".to_owned(), &[writer.as_fd()])?;
        a.send(&"without".to_owned())?;
        drop(writer);
        let first = b.receive()?.expect("the channel is open");
        let second = b.receive()?.expect("the channel is open");
        assert_eq!((first.value.as_str(), first.descriptors.len()), ("with", 1));
        assert_eq!((second.value.as_str(), second.descriptors.len()), ("without", 0));
        for fd in first.descriptors {
            std::fs::File::from(fd).write_all(b"through")?;
        }
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        assert_eq!(text, "through");
        drop(a);
        assert!(b.receive()?.is_none());
        Ok(())
    }

    #[test]
    fn a_value_that_is_looked_at_is_still_to_come() -> io::Result<()> {
        let (a, b) = Channel::<String, String>::pair()?;
        let (a, b) = (Channel::<String, u8>::new(a), Channel::<u8, String>::new(b));
        assert_eq!(b.peek()?, None);
        let (_reader, writer) = io::pipe()?;
        a.send_with(&"first".to_owned(), &[writer.as_fd()])?;
        a.send(&"second".to_owned())?;
        assert_eq!(b.peek()?.as_deref(), Some("first"));
        let first = b.receive()?.expect("the channel is open");
        assert_eq!((first.value.as_str(), first.descriptors.len()), ("first", 1));
        assert_eq!(b.receive()?.expect("the channel is open").value, "second");
        drop(a);
        assert_eq!(b.peek()?, None);
        Ok(())
    }

    #[test]
    fn a_frame_larger_than_the_sockets_buffer_passes() -> io::Result<()> {
        let (a, b) = Channel::<String, String>::pair()?;
        let (a, b) = (Channel::<String, String>::new(a), Channel::<String, String>::new(b));
        let text = "x".repeat(4 << 20);
        let sender = std::thread::spawn({
            let text = text.clone();
            move || a.send(&text)
        });
        assert_eq!(b.receive()?.expect("the channel is open").value, text);
        sender.join().expect("the sender does not panic")
    }
}
