//! The heartbeat: what comes in goes back, whatever the rest of the kernel does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::bell::Bell;

/// The thread that echoes.
pub(super) struct Heartbeat {
    bell: Arc<Bell>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Echoes on a bound ROUTER socket from now on.
    pub(super) fn start(socket: zmq::Socket) -> io::Result<Heartbeat> {
        let bell = Arc::new(Bell::new()?);
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn({
            let (bell, over) = (bell.clone(), over.clone());
            move || echo(&socket, &bell, &over)
        })?;
        Ok(Heartbeat { bell, over, thread: Some(thread) })
    }

    /// Ends the thread and closes its socket.
    pub(super) fn close(&mut self) {
        self.over.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            super::joined("heartbeat", thread);
        }
    }
}

fn echo(socket: &zmq::Socket, bell: &Bell, over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        let mut items = [
            socket.as_poll_item(zmq::POLLIN),
            zmq::PollItem::from_fd(std::os::fd::AsRawFd::as_raw_fd(bell), zmq::POLLIN),
        ];
        match zmq::poll(&mut items, -1) {
            Ok(_) | Err(zmq::Error::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the heartbeat has stopped");
                return;
            }
        }
        while let Ok(frames) = socket.recv_multipart(zmq::DONTWAIT) {
            if let Err(error) = socket.send_multipart(frames, zmq::DONTWAIT) {
                tracing::debug!(%error, "a heartbeat could not be returned");
            }
        }
    }
}
