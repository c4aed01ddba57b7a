//! The connection file: where a front end expects the kernel, and the key it signs with.
//!
//! Nothing here opens a socket. A wrong file is the one thing that a person can get wrong before
//! there is a kernel to say so, hence the care for the messages.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// How the two sides reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `ip` is an address, the ports are TCP's.
    Tcp,
    /// `ip` is the beginning of a path, the ports are numbers behind it: `<ip>-<port>`.
    Ipc,
}

/// The keys with which the front end wants the sockets encrypted, as bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct CurveKeys {
    /// The kernel's public key.
    pub public: Vec<u8>,
    /// The kernel's secret key.
    pub secret: Vec<u8>,
}

/// What a connection file says, checked.
#[derive(Clone)]
pub struct Connection {
    /// How to listen.
    pub transport: Transport,
    /// The address, or the beginning of the path.
    pub ip: String,
    /// Where requests come in.
    pub shell_port: u32,
    /// Where requests come in that must not wait for a cell.
    pub control_port: u32,
    /// Where the kernel asks for input.
    pub stdin_port: u32,
    /// Where everything is published.
    pub iopub_port: u32,
    /// Where a front end asks whether the kernel lives.
    pub hb_port: u32,
    /// The key of the signatures; empty: messages are not signed.
    pub key: Vec<u8>,
    /// Present when the front end wants the sockets encrypted.
    pub curve: Option<CurveKeys>,
}

/// Why a connection file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The file cannot be read.
    #[error("cannot read the connection file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not JSON, or not an object.
    #[error("the connection file {path} is not a JSON object: {reason}")]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A key is missing.
    #[error("the connection file {path} lacks `{key}`: expected {expected}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
    /// A key holds the wrong thing. Its value is not shown: it may be the secret.
    #[error("the connection file {path} has a wrong `{key}`: expected {expected}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
}

/// Keys that Jupyter writes and that mean nothing to us.
const OTHERS: [&str; 2] = ["kernel_name", "jupyter_session"];

impl Connection {
    /// Reads and checks a connection file.
    ///
    /// `transport`, `ip` and `signature_scheme` may be missing and are then `tcp`, `127.0.0.1` and
    /// `hmac-sha256`, as jupyter_client's own are. Keys that we do not know are ignored, and logged.
    ///
    /// # Errors
    /// The first thing that is wrong, with the key and what is expected there.
    pub fn read(path: &Path) -> Result<Connection, ConnectionError> {
        let text =
            std::fs::read(path).map_err(|source| ConnectionError::Unreadable { path: path.to_owned(), source })?;
        let not_an_object = |reason: String| ConnectionError::NotAnObject { path: path.to_owned(), reason };
        let object = match serde_json::from_slice(&text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(not_an_object("it holds something else".to_owned())),
            Err(error) => return Err(not_an_object(error.to_string())),
        };
        Fields { path, object, asked: Vec::new() }.connection()
    }

    /// The address of a port in ZeroMQ's words.
    pub fn endpoint(&self, port: u32) -> String {
        match self.transport {
            Transport::Tcp if self.ip.contains(':') && !self.ip.starts_with('[') => {
                format!("tcp://[{}]:{port}", self.ip)
            }
            Transport::Tcp => format!("tcp://{}:{port}", self.ip),
            Transport::Ipc => format!("ipc://{}-{port}", self.ip),
        }
    }
}

impl std::fmt::Debug for Connection {
    /// Without the keys: this ends up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("shell", &self.endpoint(self.shell_port))
            .field("signed", &!self.key.is_empty())
            .field("encrypted", &self.curve.is_some())
            .finish_non_exhaustive()
    }
}

/// The file's object, and which of its keys were asked for.
struct Fields<'a> {
    path: &'a Path,
    object: Map<String, Value>,
    asked: Vec<&'static str>,
}

impl Fields<'_> {
    fn connection(mut self) -> Result<Connection, ConnectionError> {
        const TRANSPORT: &str = "\"tcp\" or \"ipc\"";
        const SCHEME: &str = "\"hmac-sha256\", the only scheme that forklab knows";
        let transport = match self.text("transport", TRANSPORT)?.as_deref() {
            None | Some("tcp") => Transport::Tcp,
            Some("ipc") => Transport::Ipc,
            Some(_) => return Err(self.wrong("transport", TRANSPORT)),
        };
        let ip = match self.text("ip", "an address, or a path for ipc")? {
            Some(ip) if ip.is_empty() || ip.contains('\0') => {
                return Err(self.wrong("ip", "an address, or a path for ipc"));
            }
            Some(ip) => ip,
            None if transport == Transport::Tcp => "127.0.0.1".to_owned(),
            None => return Err(self.missing("ip", "the beginning of the sockets' path")),
        };
        const KEY: &str = "a text, empty for messages without signatures";
        let key = self.text("key", KEY)?.ok_or_else(|| self.missing("key", KEY))?.into_bytes();
        let scheme = self.text("signature_scheme", SCHEME)?;
        // Without a key nothing is signed, and some clients then leave the scheme empty.
        if !key.is_empty() && scheme.is_some_and(|scheme| scheme != "hmac-sha256") {
            return Err(self.wrong("signature_scheme", SCHEME));
        }
        let connection = Connection {
            shell_port: self.port("shell_port", transport)?,
            control_port: self.port("control_port", transport)?,
            stdin_port: self.port("stdin_port", transport)?,
            iopub_port: self.port("iopub_port", transport)?,
            hb_port: self.port("hb_port", transport)?,
            curve: self.curve()?,
            transport,
            ip,
            key,
        };
        for key in self.object.keys() {
            if !self.asked.contains(&key.as_str()) && !OTHERS.contains(&key.as_str()) {
                tracing::debug!(key, "the connection file has a key that means nothing to us");
            }
        }
        Ok(connection)
    }

    fn text(&mut self, key: &'static str, expected: &'static str) -> Result<Option<String>, ConnectionError> {
        self.asked.push(key);
        match self.object.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(key, expected)),
        }
    }

    fn port(&mut self, key: &'static str, transport: Transport) -> Result<u32, ConnectionError> {
        const TCP: &str = "a number from 1 to 65535";
        const IPC: &str = "a number from 1 to 4294967295";
        let (most, expected) = match transport {
            Transport::Tcp => (u32::from(u16::MAX), TCP),
            Transport::Ipc => (u32::MAX, IPC),
        };
        self.asked.push(key);
        let Some(value) = self.object.get(key) else {
            return Err(self.missing(key, expected));
        };
        match value.as_u64().and_then(|port| u32::try_from(port).ok()) {
            Some(port) if (1..=most).contains(&port) => Ok(port),
            _ => Err(self.wrong(key, expected)),
        }
    }

    fn curve(&mut self) -> Result<Option<CurveKeys>, ConnectionError> {
        const KEY: &str = "40 characters of Z85";
        let public = self.text("curve_publickey", KEY)?.filter(|key| !key.is_empty());
        let secret = self.text("curve_secretkey", KEY)?.filter(|key| !key.is_empty());
        let decode = |key, text: String| match zmq::z85_decode(&text) {
            Ok(bytes) if bytes.len() == 32 => Ok(bytes),
            _ => Err(self.wrong(key, KEY)),
        };
        match (public, secret) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(self.missing("curve_publickey", KEY)),
            (Some(_), None) => Err(self.missing("curve_secretkey", KEY)),
            (Some(public), Some(secret)) => Ok(Some(CurveKeys {
                public: decode("curve_publickey", public)?,
                secret: decode("curve_secretkey", secret)?,
            })),
        }
    }

    fn wrong(&self, key: &'static str, expected: &'static str) -> ConnectionError {
        ConnectionError::Wrong { path: self.path.to_owned(), key, expected }
    }

    fn missing(&self, key: &'static str, expected: &'static str) -> ConnectionError {
        ConnectionError::Missing { path: self.path.to_owned(), key, expected }
    }
}
