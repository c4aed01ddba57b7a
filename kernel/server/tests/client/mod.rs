//! A front end for tests: real ZeroMQ sockets, its own signing, and a deadline on every wait.
//!
//! It shares no code with the kernel's side, so that a mistake there is not mirrored here. Whatever
//! does not come before the deadline panics with what did come.
//!
//! ```ignore
//! mod client;
//! let mut kernel = client::Kernel::start();          // the real binary, on sockets of its own
//! let run = kernel.client.execute("println!(\"hola\")");
//! assert_eq!((run.status(), run.stdout().as_str()), ("ok", "hola\n"));
//! ```
// Each test program uses its own part of this.
#![allow(dead_code, unused_imports)]

mod installed;
mod kernel;
mod run;

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

pub use installed::{children, data, eventually, is_alive, kill, start};
pub use kernel::{Kernel, connection_file};
pub use run::{Options, Run};

/// How long a test waits for what must come. Long: cells are compiled, and machines are slow.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The channels on which messages are exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Shell,
    Control,
    Stdin,
    Iopub,
}

/// A message from the kernel; its signature was right.
#[derive(Debug, Clone)]
pub struct Message {
    pub channel: Channel,
    /// What stood before the delimiter: on IOPub, the topic.
    pub routing: Vec<Vec<u8>>,
    pub header: Value,
    pub parent: Value,
    pub metadata: Value,
    pub content: Value,
}

impl Message {
    pub fn msg_type(&self) -> &str {
        self.header["msg_type"].as_str().unwrap_or_default()
    }

    /// The identifier of the message that this one answers, or was caused by; empty if none.
    pub fn parent_id(&self) -> &str {
        self.parent["msg_id"].as_str().unwrap_or_default()
    }

    /// Whether this is a `status` with that state.
    pub fn is_status(&self, state: &str) -> bool {
        self.msg_type() == "status" && self.content["execution_state"] == state
    }
}

/// One front end.
pub struct Client {
    pub context: zmq::Context,
    pub session: String,
    pub key: Vec<u8>,
    /// How long each wait may take.
    pub deadline: Duration,
    shell: zmq::Socket,
    control: zmq::Socket,
    stdin: zmq::Socket,
    iopub: zmq::Socket,
    heartbeat: zmq::Socket,
    /// Received and not yet asked for.
    waiting: VecDeque<Message>,
}

impl Client {
    /// Connects to the sockets of a connection file and waits until the kernel has noticed that we
    /// listen, so that nothing published from here on is missed.
    pub fn connect(connection_file: &Path) -> Client {
        let mut client = Client::connect_without_waiting(connection_file);
        client.wait_for("iopub_welcome", |message| message.msg_type() == "iopub_welcome");
        client
    }

    /// As [`Client::connect`], at a time when the kernel may not have bound its sockets yet.
    pub fn connect_without_waiting(connection_file: &Path) -> Client {
        let file = std::fs::read(connection_file).expect("the connection file can be read");
        let file: Value = serde_json::from_slice(&file).expect("the connection file is JSON");
        let session = uuid::Uuid::new_v4().to_string();
        let context = zmq::Context::new();
        let connected = |kind, port: &str| {
            let socket = context.socket(kind).expect("a socket");
            // Kernels bind within milliseconds; the default is to try again after a hundred.
            socket.set_reconnect_ivl(10).expect("the option is known");
            socket.set_linger(0).expect("the option is known");
            // As jupyter_client does; the kernel asks for input by it.
            socket.set_identity(session.as_bytes()).expect("the identity is short");
            if kind == zmq::SUB {
                socket.set_rcvhwm(0).expect("the option is known");
                socket.set_subscribe(b"").expect("a SUB subscribes");
            }
            socket.connect(&endpoint(&file, port)).expect("the endpoint is well formed");
            socket
        };
        Client {
            shell: connected(zmq::DEALER, "shell_port"),
            control: connected(zmq::DEALER, "control_port"),
            stdin: connected(zmq::DEALER, "stdin_port"),
            iopub: connected(zmq::SUB, "iopub_port"),
            heartbeat: connected(zmq::REQ, "hb_port"),
            key: file["key"].as_str().expect("the key is a text").as_bytes().to_vec(),
            deadline: DEADLINE,
            waiting: VecDeque::new(),
            context,
            session,
        }
    }

    /// Sends a message and returns its identifier.
    pub fn send(&self, channel: Channel, msg_type: &str, content: Value) -> String {
        self.send_with_parent(channel, msg_type, json!({}), content)
    }

    /// Sends a message that names another one's header as its parent.
    pub fn send_with_parent(&self, channel: Channel, msg_type: &str, parent: Value, content: Value) -> String {
        let header = self.header(msg_type);
        let msg_id = header["msg_id"].as_str().expect("we made it").to_owned();
        let parts = [header, parent, json!({}), content].map(|part| part.to_string().into_bytes());
        self.send_frames(channel, &self.signed(&parts));
        msg_id
    }

    /// A header as jupyter_client writes it.
    pub fn header(&self, msg_type: &str) -> Value {
        json!({
            "msg_id": uuid::Uuid::new_v4().to_string(),
            "msg_type": msg_type,
            "session": self.session,
            "username": "tester",
            "date": "2026-01-02T03:04:05.678901Z",
            "version": "5.3",
        })
    }

    /// Delimiter, signature and parts.
    pub fn signed(&self, parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut frames = vec![b"<IDS|MSG>".to_vec(), signature(&self.key, parts)];
        frames.extend_from_slice(parts);
        frames
    }

    /// Sends frames as they are, whatever they are.
    pub fn send_frames(&self, channel: Channel, frames: &[Vec<u8>]) {
        let socket = match channel {
            Channel::Shell => &self.shell,
            Channel::Control => &self.control,
            Channel::Stdin => &self.stdin,
            Channel::Iopub => panic!("nobody sends on IOPub"),
        };
        socket.send_multipart(frames, 0).expect("a DEALER sends");
    }

    /// Sends a request and waits for its reply, which must come on the same channel.
    pub fn request(&mut self, channel: Channel, msg_type: &str, content: Value) -> Message {
        let id = self.send(channel, msg_type, content);
        let reply_type = msg_type.replace("_request", "_reply");
        self.wait_for(&reply_type, |message| {
            message.channel == channel && message.parent_id() == id && message.msg_type() == reply_type
        })
    }

    /// `kernel_info_request` on a channel.
    pub fn kernel_info(&mut self, channel: Channel) -> Message {
        self.request(channel, "kernel_info_request", json!({}))
    }

    /// `interrupt_request`.
    pub fn interrupt(&mut self) -> Message {
        self.request(Channel::Control, "interrupt_request", json!({}))
    }

    /// `shutdown_request`.
    pub fn shutdown(&mut self, restart: bool) -> Message {
        self.request(Channel::Control, "shutdown_request", json!({ "restart": restart }))
    }

    /// Answers an `input_request` as jupyter_client does: without a parent.
    pub fn answer_input(&self, value: &str) {
        self.send(Channel::Stdin, "input_reply", json!({ "value": value, "status": "ok" }));
    }

    /// The first message, of those received and not yet asked for and those to come, that is wanted.
    /// The others stay for later.
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Message) -> bool) -> Message {
        let until = Instant::now() + self.deadline;
        let mut looked_at = 0;
        loop {
            if let Some(position) = self.waiting.iter().skip(looked_at).position(&mut wanted) {
                return self.waiting.remove(looked_at + position).expect("it was just found there");
            }
            looked_at = self.waiting.len();
            self.pump(what, until);
        }
    }

    /// The first message of those that have come by now that is wanted.
    pub fn take_if(&mut self, wanted: impl FnMut(&Message) -> bool) -> Option<Message> {
        self.receive(Duration::ZERO);
        let position = self.waiting.iter().position(wanted)?;
        self.waiting.remove(position)
    }

    /// Has a message wait again.
    pub fn put_back(&mut self, message: Message) {
        self.waiting.push_back(message);
    }

    /// Forgets what has been received, and returns it.
    pub fn take_waiting(&mut self) -> Vec<Message> {
        self.waiting.drain(..).collect()
    }

    /// Whether the heartbeat returns within the deadline.
    pub fn heart_beats(&self) -> bool {
        self.heartbeat.send("ping", 0).expect("a REQ whose last question was answered sends");
        let wait = i64::try_from(self.deadline.as_millis()).expect("no deadline is that long");
        self.heartbeat.poll(zmq::POLLIN, wait).expect("a socket can be polled") > 0
            && self.heartbeat.recv_bytes(0).expect("it is readable") == b"ping"
    }

    /// Whether the kernel has noticed by now that we listen. Forgets the welcome.
    fn is_welcome(&mut self) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|message| message.msg_type() != "iopub_welcome");
        self.waiting.len() < before
    }

    /// Waits until at least one more message is in `waiting`.
    fn pump(&mut self, what: &str, until: Instant) {
        let before = self.waiting.len();
        while self.waiting.len() == before {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} in time; there came instead: {:#?}", self.summary());
            self.receive(left);
        }
    }

    /// Takes in what has come; waits as long as that if nothing has.
    fn receive(&mut self, wait: Duration) {
        let sockets = [
            (Channel::Iopub, &self.iopub),
            (Channel::Stdin, &self.stdin),
            (Channel::Control, &self.control),
            (Channel::Shell, &self.shell),
        ];
        let mut items = sockets.map(|(_, socket)| socket.as_poll_item(zmq::POLLIN));
        let wait = i64::try_from(wait.as_millis()).expect("no deadline is that long") + 1;
        match zmq::poll(&mut items, wait) {
            Ok(_) | Err(zmq::Error::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        for (channel, socket) in sockets {
            while let Ok(frames) = socket.recv_multipart(zmq::DONTWAIT) {
                self.waiting.push_back(message(&self.key, channel, frames));
            }
        }
    }

    fn summary(&self) -> Vec<String> {
        let line = |m: &Message| format!("{:?} {} {}", m.channel, m.msg_type(), m.content);
        self.waiting.iter().rev().take(20).map(line).collect()
    }
}

/// The address of one of a connection file's ports.
pub fn endpoint(file: &Value, port: &str) -> String {
    let ip = file["ip"].as_str().expect("the address is a text");
    match file["transport"].as_str() {
        Some("ipc") => format!("ipc://{ip}-{}", file[port]),
        _ => format!("tcp://{ip}:{}", file[port]),
    }
}

/// The signature of parts, as the protocol wants it: in lower case hex, empty without a key.
pub fn signature(key: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    if key.is_empty() {
        return Vec::new();
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    hex::encode(mac.finalize().into_bytes()).into_bytes()
}

/// The message in frames; panics on what a kernel may not send.
pub fn message(key: &[u8], channel: Channel, mut frames: Vec<Vec<u8>>) -> Message {
    let delimiter = frames.iter().position(|frame| frame == b"<IDS|MSG>").expect("a message has a delimiter");
    let mut parts = frames.split_off(delimiter + 1);
    frames.pop();
    let signed = parts.remove(0);
    assert_eq!(parts.len(), 4, "a message without buffers has four parts");
    assert_eq!(signed, signature(key, &parts), "the signature is right");
    let mut objects = parts.iter().map(|part| {
        let value: Value = serde_json::from_slice(part).expect("every part is JSON");
        assert!(value.is_object(), "every part is an object: {value}");
        value
    });
    let mut next = || objects.next().expect("there are four");
    Message { channel, routing: frames, header: next(), parent: next(), metadata: next(), content: next() }
}
