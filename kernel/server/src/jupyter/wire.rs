//! Messages as frames: signing, checking, and the way between frames and `jupyter-protocol`'s types.
//!
//! No sockets here. The contents are the crate's types; the frame around them is ours, because the
//! crate's header keeps only the fields that it knows, writes dates with nine decimals, which
//! jupyter_client does not take for a date, and announces protocol 5.3.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use jupyter_protocol::messaging::{Header, JupyterMessage, JupyterMessageContent, UnknownMessage};
use serde_json::{Map, Value, json};
use sha2::Sha256;

/// The version of the messages that we send.
pub const PROTOCOL_VERSION: &str = "5.5";

/// Parts the identities from the message.
const DELIMITER: &[u8] = b"<IDS|MSG>";

/// The channels on which messages come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Requests, one after the other.
    Shell,
    /// Requests that must not wait for a cell.
    Control,
    /// Answers to our own requests for input.
    Stdin,
}

/// Where a request came from, and what its answers and output name as their parent.
/// Cheap to clone; a cell keeps one as long as anything may still be written under it.
#[derive(Debug, Clone)]
pub struct Origin(Arc<OriginParts>);

#[derive(Debug)]
struct OriginParts {
    channel: Channel,
    identities: Vec<Vec<u8>>,
    msg_id: String,
    /// The header as received, byte for byte: it may have fields that nobody here knows.
    header: Vec<u8>,
    /// The identifier of the last `input_request` that was sent for it.
    asked: Mutex<Option<String>>,
}

impl Origin {
    /// The channel on which the request came.
    pub fn channel(&self) -> Channel {
        self.0.channel
    }

    /// The frames that lead a ROUTER socket back to the sender.
    pub fn identities(&self) -> &[Vec<u8>] {
        &self.0.identities
    }

    /// The request's identifier.
    pub fn msg_id(&self) -> &str {
        &self.0.msg_id
    }

    /// The request's header as received, JSON.
    pub fn header(&self) -> &[u8] {
        &self.0.header
    }

    pub(super) fn note_asked(&self, msg_id: String) {
        *self.asked() = Some(msg_id);
    }

    fn asked(&self) -> MutexGuard<'_, Option<String>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message from a front end, its signature checked.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The channel on which it came.
    pub channel: Channel,
    /// For replies and output.
    pub origin: Origin,
    /// Its header. Fields that the sender left out are empty; `msg_id` and `msg_type` are there.
    pub header: Header,
    /// The header of the message that it answers; empty if none is named.
    pub parent_header: Map<String, Value>,
    /// As received, such as JupyterLab's `cellId`.
    pub metadata: Map<String, Value>,
    /// What it says. An `UnknownMessage` when its type is unknown, or when `misfit` is set.
    pub content: JupyterMessageContent,
    /// Why the content is not what its type asks for. Such a request deserves an error as its reply.
    pub misfit: Option<String>,
    /// What came behind the content.
    pub buffers: Vec<Vec<u8>>,
}

impl Incoming {
    /// Whether this `input_reply` belongs to the last question that was asked for a request.
    ///
    /// JupyterLab names the `input_request` as the parent, others the request behind it, and
    /// jupyter_client names nothing, which has to be taken as a yes.
    pub fn answers(&self, request: &Origin) -> bool {
        let Some(parent) = self.parent_header.get("msg_id").and_then(Value::as_str) else {
            return true;
        };
        parent == request.msg_id() || request.asked().as_deref() == Some(parent)
    }
}

/// Why frames are not a message for us.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// No `<IDS|MSG>`.
    #[error("no delimiter in its {0} frames")]
    NoDelimiter(usize),
    /// Fewer than five frames behind the delimiter.
    #[error("{0} frames behind the delimiter where five are expected")]
    TooShort(usize),
    /// The signature is not the one that our key gives.
    #[error("wrong signature")]
    Signature,
    /// The same message, to the byte, has come before.
    #[error("its signature has come before")]
    Replayed,
    /// A part is not a JSON object.
    #[error("its {part} is not a JSON object: {reason}")]
    NotAnObject {
        /// Which.
        part: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// The header lacks what nobody can do without.
    #[error("its header has no text `{0}`")]
    Header(&'static str),
}

/// Of so many messages it is known that they have come. As jupyter_client.
const REMEMBERED: usize = 1 << 16;

/// The signatures of the messages that came last. The specification does not ask for it; ipykernel
/// refuses a signature that it has seen, on whichever channel, and so do we: whoever can write to a
/// socket but does not have the key, cannot have a cell run again.
#[derive(Default)]
struct Seen {
    all: HashSet<Vec<u8>>,
    in_order: VecDeque<Vec<u8>>,
}

impl Seen {
    /// Whether this one is new. It is not, from now on.
    fn is_new(&mut self, signature: Vec<u8>) -> bool {
        if !self.all.insert(signature.clone()) {
            return false;
        }
        self.in_order.push_back(signature);
        if self.in_order.len() > REMEMBERED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.all.remove(&oldest);
        }
        true
    }
}

/// Turns messages into frames and back, for one kernel.
pub struct Wire {
    /// Keyed and not yet fed; cloned for each message. `None`: messages are not signed.
    signer: Option<Hmac<Sha256>>,
    /// All channels' together.
    seen: Mutex<Seen>,
    session: String,
    username: String,
}

impl Wire {
    /// For a key; an empty one means that nothing is signed.
    pub fn new(key: &[u8]) -> Wire {
        let signer = (!key.is_empty()).then(|| Hmac::new_from_slice(key).expect("HMAC takes keys of every length"));
        let username = std::env::var("USER").unwrap_or_else(|_| "username".to_owned());
        Wire { signer, seen: Mutex::default(), session: uuid::Uuid::new_v4().to_string(), username }
    }

    /// The kernel's session, the same in each header that it sends.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Frames for a message: `routing` (identities or a topic), delimiter, signature and the four
    /// parts; and the message's identifier.
    pub fn pack(
        &self,
        routing: &[Vec<u8>],
        parent: Option<&Origin>,
        content: JupyterMessageContent,
    ) -> (Vec<Vec<u8>>, String) {
        // The crate makes the message's identifier and its date.
        let JupyterMessage { header, content, .. } = JupyterMessage::new(content, None);
        let msg_id = header.msg_id;
        let header = json!({
            "msg_id": msg_id,
            "msg_type": content.message_type(),
            "session": self.session,
            "username": self.username,
            "date": header.date.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            "version": PROTOCOL_VERSION,
        });
        let parts = [
            header.to_string().into_bytes(),
            parent.map_or_else(|| b"{}".to_vec(), |parent| parent.header().to_vec()),
            b"{}".to_vec(),
            content_as_specified(&content).to_string().into_bytes(),
        ];
        let mut frames = Vec::with_capacity(routing.len() + 6);
        frames.extend_from_slice(routing);
        frames.push(DELIMITER.to_vec());
        frames.push(self.sign(&parts));
        frames.extend(parts);
        (frames, msg_id)
    }

    /// The message in the frames that came in on a channel.
    ///
    /// # Errors
    /// [`Malformed`]; the message is then to be dropped, and a line logged.
    pub fn unpack(&self, channel: Channel, mut frames: Vec<Vec<u8>>) -> Result<Incoming, Malformed> {
        let count = frames.len();
        let delimiter = frames.iter().position(|frame| frame == DELIMITER).ok_or(Malformed::NoDelimiter(count))?;
        let mut parts = frames.split_off(delimiter + 1);
        frames.pop();
        if parts.len() < 5 {
            return Err(Malformed::TooShort(parts.len()));
        }
        let buffers = parts.split_off(5);
        self.check(&parts[0], &parts[1..])?;
        let header = header(object("header", &parts[1])?)?;
        let parent_header = object("parent header", &parts[2])?;
        let metadata = object("metadata", &parts[3])?;
        let (content, misfit) = content(&header.msg_type, object("content", &parts[4])?);
        let origin = Origin(Arc::new(OriginParts {
            channel,
            identities: frames,
            msg_id: header.msg_id.clone(),
            header: std::mem::take(&mut parts[1]),
            asked: Mutex::default(),
        }));
        Ok(Incoming { channel, origin, header, parent_header, metadata, content, misfit, buffers })
    }

    fn sign(&self, parts: &[Vec<u8>]) -> Vec<u8> {
        match self.fed(parts) {
            Some(mac) => hex::encode(mac.finalize().into_bytes()).into_bytes(),
            None => Vec::new(),
        }
    }

    fn check(&self, signature: &[u8], parts: &[Vec<u8>]) -> Result<(), Malformed> {
        let Some(mac) = self.fed(parts) else {
            return Ok(());
        };
        let signature = hex::decode(signature).map_err(|_| Malformed::Signature)?;
        // Compares in constant time.
        mac.verify_slice(&signature).map_err(|_| Malformed::Signature)?;
        // Only what is signed with the key is remembered; nobody else can fill the memory.
        let new = self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_new(signature);
        if new { Ok(()) } else { Err(Malformed::Replayed) }
    }

    fn fed(&self, parts: &[Vec<u8>]) -> Option<Hmac<Sha256>> {
        let mut mac = self.signer.clone()?;
        for part in parts {
            mac.update(part);
        }
        Some(mac)
    }
}

fn object(part: &'static str, bytes: &[u8]) -> Result<Map<String, Value>, Malformed> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Malformed::NotAnObject { part, reason: "it is something else".to_owned() }),
        Err(error) => Err(Malformed::NotAnObject { part, reason: error.to_string() }),
    }
}

/// The crate's header with what the sender left out filled in: only the identifier and the type
/// are needed to answer.
fn header(mut header: Map<String, Value>) -> Result<Header, Malformed> {
    for needed in ["msg_id", "msg_type"] {
        if !header.get(needed).is_some_and(Value::is_string) {
            return Err(Malformed::Header(needed));
        }
    }
    for key in ["username", "session", "version"] {
        if !header.get(key).is_some_and(Value::is_string) {
            header.insert(key.to_owned(), Value::String(String::new()));
        }
    }
    serde_json::from_value(Value::Object(header))
        .map_err(|error| Malformed::NotAnObject { part: "header", reason: error.to_string() })
}

/// The content as the crate's type, or, where it does not fit that, as it came and with the reason.
fn content(msg_type: &str, mut content: Map<String, Value>) -> (JupyterMessageContent, Option<String>) {
    fill_in_defaults(msg_type, &mut content);
    let raw = Value::Object(content);
    match JupyterMessageContent::from_type_and_content(msg_type, raw.clone()) {
        Ok(content) => (content, None),
        Err(error) => {
            let unknown = UnknownMessage { msg_type: msg_type.to_owned(), content: raw };
            (unknown.into(), Some(error.to_string()))
        }
    }
}

/// Fields that the specification gives a default and that clients leave out, but that the crate asks for.
fn fill_in_defaults(msg_type: &str, content: &mut Map<String, Value>) {
    let defaults = match msg_type {
        "execute_request" => {
            let silent = content.get("silent").and_then(Value::as_bool).unwrap_or(false);
            json!({
                "silent": false, "store_history": !silent, "user_expressions": {},
                "allow_stdin": false, "stop_on_error": true,
            })
        }
        // jupyter_client sends a range without its end.
        "history_request" => json!({
            "hist_access_type": "tail", "output": false, "raw": true, "session": 0, "start": 0,
            "stop": i32::MAX, "n": 10, "pattern": "*", "unique": false,
        }),
        "inspect_request" => json!({ "detail_level": 0 }),
        "shutdown_request" => json!({ "restart": false }),
        "comm_open" | "comm_msg" | "comm_close" => json!({ "data": {} }),
        _ => return,
    };
    let Value::Object(defaults) = defaults else {
        return;
    };
    for (key, default) in defaults {
        let value = content.entry(key).or_insert(Value::Null);
        if value.is_null() {
            *value = default;
        }
    }
}

/// The content as JSON, mended where the crate's types differ from the specification.
fn content_as_specified(content: &JupyterMessageContent) -> Value {
    if let JupyterMessageContent::UnknownMessage(unknown) = content {
        // A `null` in there cannot be flattened, as the crate wants to.
        return if unknown.content.is_object() { unknown.content.clone() } else { json!({}) };
    }
    let mut value = serde_json::to_value(content).expect("the contents are maps of plain values");
    let Some(fields) = value.as_object_mut() else {
        return json!({});
    };
    match content {
        JupyterMessageContent::ExecuteReply(reply) if reply.user_expressions.is_none() => {
            fields.insert("user_expressions".to_owned(), json!({}));
        }
        JupyterMessageContent::ExecuteResult(result) if result.transient.is_none() => {
            fields.remove("transient");
        }
        JupyterMessageContent::KernelInfoReply(_) => {
            fields.insert("supported_features".to_owned(), json!([]));
        }
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests;
