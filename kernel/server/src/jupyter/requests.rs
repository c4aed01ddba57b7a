//! Shell, control and stdin: one thread that owns their three ROUTER sockets.
//!
//! It checks what comes in and queues it for the main loop, and sends what the main loop has put
//! into its outbox. It decides nothing: whether and when a request is answered is the main loop's.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::bell::Bell;
use super::wire::{Channel, Incoming, Wire};

/// The three sockets, bound.
pub(super) struct Sockets {
    pub(super) shell: zmq::Socket,
    pub(super) control: zmq::Socket,
    pub(super) stdin: zmq::Socket,
}

impl Sockets {
    /// Control first: what stands there must not wait for the others.
    fn all(&self) -> [(Channel, &zmq::Socket); 3] {
        [(Channel::Control, &self.control), (Channel::Stdin, &self.stdin), (Channel::Shell, &self.shell)]
    }

    fn of(&self, channel: Channel) -> &zmq::Socket {
        match channel {
            Channel::Shell => &self.shell,
            Channel::Control => &self.control,
            Channel::Stdin => &self.stdin,
        }
    }
}

/// How many messages are taken from one socket before the others get their turn.
const TURN: usize = 64;

#[derive(Default)]
struct Queues {
    /// Control and stdin.
    urgent: VecDeque<Incoming>,
    shell: VecDeque<Incoming>,
    out: VecDeque<(Channel, Vec<Vec<u8>>)>,
    over: bool,
}

struct Shared {
    wire: Arc<Wire>,
    queues: Mutex<Queues>,
    /// Wakes the thread.
    bell: Bell,
    /// Wakes the main loop.
    main: Arc<Bell>,
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        // The queues are whole between any two statements, so a panic elsewhere spoils nothing.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The main loop's side of the thread.
pub(super) struct Requests {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Requests {
    /// Reads and writes the sockets from now on; `main` is rung when something has come in.
    pub(super) fn start(sockets: Sockets, wire: Arc<Wire>, main: Arc<Bell>) -> io::Result<Requests> {
        let shared = Arc::new(Shared { wire, queues: Mutex::default(), bell: Bell::new()?, main });
        let thread = std::thread::Builder::new().name("requests".to_owned()).spawn({
            let shared = shared.clone();
            move || serve(&sockets, &shared)
        })?;
        Ok(Requests { shared, thread: Some(thread) })
    }

    /// The next message that has come in; control and stdin before shell.
    pub(super) fn try_next(&self) -> Option<Incoming> {
        let mut queues = self.shared.queues();
        queues.urgent.pop_front().or_else(|| queues.shell.pop_front())
    }

    /// Sends frames that begin with the identities of their receiver.
    pub(super) fn send(&self, channel: Channel, frames: Vec<Vec<u8>>) {
        self.shared.queues().out.push_back((channel, frames));
        self.shared.bell.ring();
    }

    /// Sends what waits, ends the thread and closes the sockets.
    pub(super) fn close(&mut self) {
        self.shared.queues().over = true;
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            super::joined("requests", thread);
        }
    }
}

fn serve(sockets: &Sockets, shared: &Shared) {
    loop {
        let mut items = [
            sockets.control.as_poll_item(zmq::POLLIN),
            sockets.stdin.as_poll_item(zmq::POLLIN),
            sockets.shell.as_poll_item(zmq::POLLIN),
            zmq::PollItem::from_fd(shared.bell.as_raw_fd(), zmq::POLLIN),
        ];
        match zmq::poll(&mut items, -1) {
            Ok(_) | Err(zmq::Error::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the kernel no longer hears its front end");
                return;
            }
        }
        shared.bell.hush();
        send_outbox(sockets, shared);
        if shared.queues().over {
            // What was put in between the two lines before this.
            send_outbox(sockets, shared);
            return;
        }
        for (channel, socket) in sockets.all() {
            receive(channel, socket, shared);
        }
    }
}

fn send_outbox(sockets: &Sockets, shared: &Shared) {
    loop {
        let Some((channel, frames)) = shared.queues().out.pop_front() else {
            return;
        };
        // A ROUTER never makes its caller wait: a receiver that has gone is skipped.
        if let Err(error) = sockets.of(channel).send_multipart(frames, zmq::DONTWAIT) {
            tracing::warn!(%error, ?channel, "a message could not be sent");
        }
    }
}

fn receive(channel: Channel, socket: &zmq::Socket, shared: &Shared) {
    for _ in 0..TURN {
        let frames = match socket.recv_multipart(zmq::DONTWAIT) {
            Ok(frames) => frames,
            Err(zmq::Error::EAGAIN | zmq::Error::EINTR) => return,
            Err(error) => {
                tracing::warn!(%error, ?channel, "a message could not be received");
                return;
            }
        };
        match shared.wire.unpack(channel, frames) {
            Ok(incoming) => {
                let mut queues = shared.queues();
                match channel {
                    Channel::Shell => queues.shell.push_back(incoming),
                    Channel::Control | Channel::Stdin => queues.urgent.push_back(incoming),
                }
                drop(queues);
                shared.main.ring();
            }
            Err(reason) => tracing::warn!(%reason, ?channel, "a message was dropped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jupyter_protocol::messaging::{ExecuteRequest, InterruptRequest, JupyterMessageContent};
    use std::time::{Duration, Instant};

    /// A bound ROUTER, and a DEALER that is connected to it.
    fn connected(context: &zmq::Context, name: &str) -> zmq::Result<(zmq::Socket, zmq::Socket)> {
        let (router, dealer) = (context.socket(zmq::ROUTER)?, context.socket(zmq::DEALER)?);
        router.bind(&format!("inproc://{name}"))?;
        dealer.connect(&format!("inproc://{name}"))?;
        Ok((router, dealer))
    }

    #[test]
    fn control_overtakes_the_cells_that_wait() -> Result<(), Box<dyn std::error::Error>> {
        let context = zmq::Context::new();
        let (shell, cells) = connected(&context, "shell")?;
        let (control, urgent) = connected(&context, "control")?;
        let (stdin, _answers) = connected(&context, "stdin")?;
        let wire = Arc::new(Wire::new(b"key"));
        let mut requests = Requests::start(Sockets { shell, control, stdin }, wire.clone(), Arc::new(Bell::new()?))?;
        let send = |socket: &zmq::Socket, content: JupyterMessageContent| {
            let (frames, msg_id) = wire.pack(&[], None, content);
            socket.send_multipart(frames, 0).map(|()| msg_id)
        };
        let mut expected = Vec::new();
        for code in ["1", "2", "3"] {
            expected.push(send(&cells, ExecuteRequest::new(code.to_owned()).into())?);
        }
        expected.insert(0, send(&urgent, InterruptRequest {}.into())?);
        let until = Instant::now() + Duration::from_secs(20);
        let count = |queues: &Queues| queues.urgent.len() + queues.shell.len();
        while count(&requests.shared.queues()) < expected.len() {
            assert!(Instant::now() < until, "they arrive");
            std::thread::yield_now();
        }
        let order: Vec<String> =
            std::iter::from_fn(|| requests.try_next()).map(|incoming| incoming.header.msg_id).collect();
        assert_eq!(order, expected);
        requests.close();
        Ok(())
    }
}
