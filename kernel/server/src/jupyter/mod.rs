//! The front end's side: Jupyter's five sockets and the messages on them.
//!
//! # Theory of operation
//!
//! The kernel's main loop is one thread that sleeps in poll(2) and owns all state. ZeroMQ's sockets
//! want to be polled in their own way, so they live in three threads here: `requests` (shell, control
//! and stdin), `iopub` and `heartbeat`. [`FrontEnd`] is the main loop's side of them. It has one
//! descriptor to sleep on, and not one of its methods blocks, [`FrontEnd::close`] apart.
//!
//! Nothing here decides anything: but for the heartbeat's echo and IOPub's welcome, a message goes out
//! because the main loop has said so. This module knows nothing of engine, supervisor or cells.

pub mod connection;
pub mod wire;

mod bell;
mod heartbeat;
mod info;
mod iopub;
mod requests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use jupyter_protocol::messaging::{InputRequest, JupyterMessageContent, Status, Stdio, StreamContent};

pub use bell::Bell;
pub use connection::{Connection, ConnectionError, Transport};
pub use info::kernel_info;
pub use wire::{Channel, Incoming, Origin, PROTOCOL_VERSION};

use heartbeat::Heartbeat;
use iopub::{Letter, Publisher};
use requests::{Requests, Sockets};
use wire::Wire;

/// How long ZeroMQ goes on sending after the sockets are closed, in milliseconds. As ipykernel.
const LINGER: i32 = 1000;

/// The longest frame that is taken in, in bytes. A sender of a longer one is disconnected.
const LONGEST_FRAME: i64 = 256 << 20;

/// The longest text in one stream message, in bytes. Bounds what ZeroMQ holds for a slow front end.
const LONGEST_TEXT: usize = 256 << 10;

/// Why the sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A socket could not be made or bound.
    #[error("cannot listen on {endpoint} for {name}: {source}")]
    Socket {
        /// Which of the five.
        name: &'static str,
        /// Where it should listen.
        endpoint: String,
        /// What ZeroMQ says.
        source: zmq::Error,
    },
    /// Encryption is asked for and ZeroMQ was built without.
    #[error("the connection file asks for encrypted sockets, but this ZeroMQ was built without CURVE")]
    NoCurve,
    /// A thread could not be started.
    #[error("cannot start a thread for the sockets: {0}")]
    Thread(#[from] io::Error),
}

/// The main loop's side of the sockets.
pub struct FrontEnd {
    bell: Arc<Bell>,
    wire: Arc<Wire>,
    requests: Requests,
    publisher: Publisher,
    heartbeat: Heartbeat,
    /// Last: dropping it waits until the sockets have lingered.
    _context: zmq::Context,
}

impl FrontEnd {
    /// Binds the five sockets of a connection and begins to listen.
    ///
    /// # Errors
    /// The socket that could not be bound, and where.
    pub fn bind(connection: &Connection) -> Result<FrontEnd, BindError> {
        let binder = Binder { context: zmq::Context::new(), connection };
        if connection.curve.is_some() && zmq::has("curve") != Some(true) {
            return Err(BindError::NoCurve);
        }
        let sockets = Sockets {
            shell: binder.router("shell", connection.shell_port)?,
            control: binder.router("control", connection.control_port)?,
            stdin: binder.router("stdin", connection.stdin_port)?,
        };
        let iopub = binder.bound("iopub", zmq::XPUB, connection.iopub_port, iopub::prepare)?;
        let heartbeat = binder.router("heartbeat", connection.hb_port)?;
        let bell = Arc::new(Bell::new()?);
        let wire = Arc::new(Wire::new(&connection.key));
        Ok(FrontEnd {
            requests: Requests::start(sockets, wire.clone(), bell.clone())?,
            publisher: Publisher::start(iopub, wire.clone(), bell.clone())?,
            heartbeat: Heartbeat::start(heartbeat)?,
            bell,
            wire,
            _context: binder.context,
        })
    }

    /// The next message that has come in, if one has; control and stdin go before shell.
    /// When [`AsFd::as_fd`] is readable, call this until it says `None`.
    pub fn try_next(&self) -> Option<Incoming> {
        if let Some(incoming) = self.requests.try_next() {
            return Some(incoming);
        }
        // Hushed before the last look, so that what comes in after the look rings again.
        self.bell.hush();
        self.requests.try_next()
    }

    /// Answers a request on the channel on which it came.
    pub fn reply(&self, request: &Origin, content: impl Into<JupyterMessageContent>) {
        let (frames, _) = self.wire.pack(request.identities(), Some(request), content.into());
        self.requests.send(request.channel(), frames);
    }

    /// Asks the person behind a request for a line. Only where the request has `allow_stdin`.
    /// See [`Incoming::answers`].
    pub fn request_input(&self, request: &Origin, prompt: &str, password: bool) {
        let content = InputRequest { prompt: prompt.to_owned(), password };
        let (frames, msg_id) = self.wire.pack(request.identities(), Some(request), content.into());
        request.note_asked(msg_id);
        self.requests.send(Channel::Stdin, frames);
    }

    /// Publishes a message to all front ends, behind everything that was published before.
    pub fn iopub(&self, parent: Option<&Origin>, content: impl Into<JupyterMessageContent>) {
        match content.into() {
            JupyterMessageContent::StreamContent(stream) => self.stream(parent, stream.name, &stream.text),
            other => self.publish(parent, other),
        }
    }

    /// Publishes text that a cell has written, as few messages of at most 256 KiB. No text: no message.
    pub fn stream(&self, parent: Option<&Origin>, name: Stdio, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.floor_char_boundary(LONGEST_TEXT));
            self.publish(parent, StreamContent { name: name.clone(), text: piece.to_owned() }.into());
            rest = behind;
        }
    }

    /// Publishes that the kernel works on a request.
    pub fn busy(&self, request: &Origin) {
        self.iopub(Some(request), Status::busy());
    }

    /// Publishes that the kernel is done with a request.
    pub fn idle(&self, request: &Origin) {
        self.iopub(Some(request), Status::idle());
    }

    /// Publishes that the kernel has just been started.
    pub fn starting(&self) {
        self.iopub(None, Status::starting());
    }

    /// Whether there is room for more output. After a no, stop reading what cells write until
    /// [`AsFd::as_fd`] is readable and this says yes; their writes then wait, as at a terminal.
    /// Messages that are not output need no room.
    pub fn iopub_room(&self) -> bool {
        self.publisher.room()
    }

    /// How many bytes of published messages wait to be handed to ZeroMQ.
    pub fn iopub_waiting(&self) -> usize {
        self.publisher.waiting()
    }

    /// The kernel's session, the same in all its headers.
    pub fn session(&self) -> &str {
        self.wire.session()
    }

    /// Sends what waits and closes the sockets. Takes at most about two seconds, and as a rule none.
    /// Dropping does the same.
    pub fn close(self) {}

    fn publish(&self, parent: Option<&Origin>, content: JupyterMessageContent) {
        let topic = format!("kernel.{}.{}", self.wire.session(), content.message_type());
        let (frames, _) = self.wire.pack(&[topic.into_bytes()], parent, content);
        self.publisher.publish(Letter { frames });
    }
}

impl AsFd for FrontEnd {
    /// Readable when [`FrontEnd::try_next`] or [`FrontEnd::iopub_room`] is worth a call.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        // Replies first: a front end that has its last reply may stop listening to the rest.
        self.requests.close();
        self.publisher.close();
        self.heartbeat.close();
    }
}

/// Makes sockets, all alike.
struct Binder<'a> {
    context: zmq::Context,
    connection: &'a Connection,
}

impl Binder<'_> {
    fn router(&self, name: &'static str, port: u32) -> Result<zmq::Socket, BindError> {
        self.bound(name, zmq::ROUTER, port, |socket| {
            // A front end that reconnects with its identity takes over from its own dead connection.
            socket.set_router_handover(true)?;
            // A ROUTER drops what exceeds its limit, and a reply must not be lost.
            socket.set_sndhwm(0)
        })
    }

    fn bound(
        &self,
        name: &'static str,
        kind: zmq::SocketType,
        port: u32,
        prepare: impl Fn(&mut zmq::Socket) -> zmq::Result<()>,
    ) -> Result<zmq::Socket, BindError> {
        let endpoint = self.connection.endpoint(port);
        let attempt = || {
            let mut socket = self.context.socket(kind)?;
            socket.set_linger(LINGER)?;
            socket.set_maxmsgsize(LONGEST_FRAME)?;
            if self.connection.ip.contains(':') {
                socket.set_ipv6(true)?;
            }
            if let Some(keys) = &self.connection.curve {
                socket.set_curve_server(true)?;
                socket.set_curve_publickey(&keys.public)?;
                socket.set_curve_secretkey(&keys.secret)?;
            }
            prepare(&mut socket)?;
            socket.bind(&endpoint)?;
            Ok(socket)
        };
        attempt().map_err(|source| BindError::Socket { name, endpoint: endpoint.clone(), source })
    }
}

/// Waits for a thread that has been told to end.
fn joined(name: &str, thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!(name, "a thread of the sockets has panicked");
    }
}
