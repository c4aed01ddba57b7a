//! IOPub: one thread that owns the XPUB socket and publishes its inbox in order.
//!
//! # When a front end is slow
//!
//! ZeroMQ would drop what a slow subscriber has no room for. Ours must not lose output, so the
//! socket is told to refuse instead (`ZMQ_XPUB_NODROP`): with [`QUEUE`] messages waiting for a
//! subscriber, the thread waits, the inbox fills to [`INBOX`] bytes, [`Publisher::room`] says no, the
//! main loop stops reading the cell's output, and the cell's own write blocks. Memory stays bounded.
//!
//! A subscriber that has made no room for [`PATIENCE`] (its process is stopped) holds nobody up any
//! longer. One message is then sent in the way that drops: ZeroMQ leaves the subscriber whose queue
//! refused it out of everything, until that subscriber has read half of its queue. The others get
//! all; nobody waits again for the one that sleeps; and when it goes on it is back by itself,
//! without what was published meanwhile.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forklab_sys::zeromq::set_xpub_nodrop;
use jupyter_protocol::messaging::IoPubWelcome;

use super::bell::Bell;
use super::wire::Wire;

/// How many messages may wait for one subscriber in ZeroMQ.
const QUEUE: i32 = 64;

/// How many bytes wait in the inbox before there is no room.
const INBOX: usize = 32 << 20;

/// How long a subscriber may make no room before it is left out.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one attempt to send waits before it is looked whether the kernel wants to leave.
const ATTEMPT: Duration = Duration::from_millis(200);

/// How long what is left is tried after `close`.
const FAREWELL: Duration = Duration::from_secs(1);

/// A message on its way.
pub(super) struct Letter {
    /// Topic, delimiter, signature and the four parts.
    pub(super) frames: Vec<Vec<u8>>,
}

impl Letter {
    fn bytes(&self) -> usize {
        // What the vectors themselves cost counts too: a flood of tiny messages is bounded as well.
        self.frames.iter().map(|frame| frame.len() + size_of::<Vec<u8>>()).sum()
    }
}

#[derive(Default)]
struct Inbox {
    letters: VecDeque<Letter>,
    /// Of the letters, and of the one that is being sent.
    bytes: usize,
    /// Somebody was told that there is no room.
    awaited: bool,
    /// Set by `close`: until when sending is tried.
    until: Option<Instant>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    /// Wakes the thread.
    bell: Bell,
    /// Wakes the main loop.
    main: Arc<Bell>,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // The inbox is whole between any two statements, so a panic elsewhere spoils nothing.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The main loop's side of the thread.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Publishes on a socket made by [`prepare`] and bound, from now on.
    pub(super) fn start(socket: zmq::Socket, wire: Arc<Wire>, main: Arc<Bell>) -> io::Result<Publisher> {
        let shared = Arc::new(Shared { inbox: Mutex::default(), bell: Bell::new()?, main });
        let writer = Writer { socket, wire, shared: shared.clone() };
        let thread = std::thread::Builder::new().name("iopub".to_owned()).spawn(move || writer.run())?;
        Ok(Publisher { shared, thread: Some(thread) })
    }

    /// Puts a letter behind all others. Never blocks and never refuses; see [`Publisher::room`].
    pub(super) fn publish(&self, letter: Letter) {
        let mut inbox = self.shared.inbox();
        inbox.bytes += letter.bytes();
        inbox.letters.push_back(letter);
        drop(inbox);
        self.shared.bell.ring();
    }

    /// Whether more output should be read. After a no, the main loop's bell rings when there is room.
    pub(super) fn room(&self) -> bool {
        let mut inbox = self.shared.inbox();
        // Asked and noted under the lock: the thread either sees the note or has made room already.
        inbox.awaited = inbox.bytes >= INBOX;
        !inbox.awaited
    }

    /// How many bytes wait to be handed to ZeroMQ.
    pub(super) fn waiting(&self) -> usize {
        self.shared.inbox().bytes
    }

    /// Sends what waits, for a second at most, ends the thread and closes the socket.
    pub(super) fn close(&mut self) {
        self.shared.inbox().until = Some(Instant::now() + FAREWELL);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            super::joined("iopub", thread);
        }
    }
}

/// Sets an XPUB socket up for [`Publisher::start`]; to be done before it is bound.
pub(super) fn prepare(socket: &mut zmq::Socket) -> zmq::Result<()> {
    socket.set_sndhwm(QUEUE)?;
    // Without this, only the first of several subscribers to a topic would be noticed.
    socket.set_xpub_verbose(true)?;
    set_xpub_nodrop(socket, true)
}

enum Sent {
    Done,
    /// Some subscriber has no room. Nothing was sent to anybody.
    NoRoom,
}

struct Writer {
    socket: zmq::Socket,
    wire: Arc<Wire>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        loop {
            let mut items = [
                self.socket.as_poll_item(zmq::POLLIN),
                zmq::PollItem::from_fd(self.shared.bell.as_raw_fd(), zmq::POLLIN),
            ];
            match zmq::poll(&mut items, -1) {
                Ok(_) | Err(zmq::Error::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the kernel no longer publishes");
                    return;
                }
            }
            self.shared.bell.hush();
            self.welcome();
            while let Some(letter) = self.next() {
                let bytes = letter.bytes();
                self.deliver(&letter);
                self.release(bytes);
                self.welcome();
            }
            if self.shared.inbox().until.is_some() {
                return;
            }
        }
    }

    fn next(&self) -> Option<Letter> {
        self.shared.inbox().letters.pop_front()
    }

    /// Counts a letter as gone and tells the main loop when that makes room.
    /// The bell rings at half the limit, so that the main loop does not wake for every letter.
    fn release(&self, bytes: usize) {
        let mut inbox = self.shared.inbox();
        inbox.bytes -= bytes;
        if inbox.awaited && inbox.bytes <= INBOX / 2 {
            inbox.awaited = false;
            drop(inbox);
            self.shared.main.ring();
        }
    }

    /// Answers new subscriptions with `iopub_welcome`, on the topic that was subscribed to.
    fn welcome(&mut self) {
        while let Ok(frames) = self.socket.recv_multipart(zmq::DONTWAIT) {
            // A subscription is one frame, 1 and the topic; 0 ends one, anything else is not for us.
            let [frame] = frames.as_slice() else { continue };
            let Some((1, topic)) = frame.split_first() else { continue };
            let content = IoPubWelcome::new(String::from_utf8_lossy(topic).into_owned());
            let (frames, _) = self.wire.pack(&[topic.to_vec()], None, content.into());
            self.deliver(&Letter { frames });
        }
    }

    /// Sends a letter to all who have room, and waits for those who have none as long as they deserve.
    fn deliver(&mut self, letter: &Letter) {
        let begun = Instant::now();
        loop {
            let patience = match self.shared.inbox().until {
                Some(until) => until.saturating_duration_since(Instant::now()),
                None => PATIENCE.saturating_sub(begun.elapsed()),
            };
            match self.send(letter, patience.min(ATTEMPT)) {
                Sent::Done => return,
                Sent::NoRoom if !patience.is_zero() => {}
                Sent::NoRoom => break,
            }
        }
        tracing::warn!("a front end has stopped reading; until it goes on, output is lost to it");
        self.refuse_when_full(false);
        self.send(letter, Duration::ZERO);
        self.refuse_when_full(true);
    }

    /// Sends a letter to all subscribers or to none.
    fn send(&self, letter: &Letter, wait: Duration) -> Sent {
        let milliseconds = i32::try_from(wait.as_millis()).expect("no wait is that long");
        if let Err(error) = self.socket.set_sndtimeo(milliseconds) {
            tracing::error!(%error, "the time limit for publishing could not be set");
        }
        loop {
            // Either the first frame finds no room, or the whole letter is sent: messages are
            // counted when they are complete, and nobody else sends here.
            match self.socket.send_multipart(&letter.frames, 0) {
                Ok(()) => return Sent::Done,
                Err(zmq::Error::EAGAIN) => return Sent::NoRoom,
                Err(zmq::Error::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "a message could not be published");
                    return Sent::Done;
                }
            }
        }
    }

    fn refuse_when_full(&mut self, refuse: bool) {
        if let Err(error) = set_xpub_nodrop(&mut self.socket, refuse) {
            tracing::error!(%error, "publishing could not be told what to do when there is no room");
        }
    }
}
