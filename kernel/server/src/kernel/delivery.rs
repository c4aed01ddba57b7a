//! Output on its way from the cells' sockets to the front end: when it is read, when it is published, and what
//! is delivered at a cell's end. How it is read and gathered is in `output`.

use std::path::Path;
use std::time::Instant;

use forklab_worker::messages::{CellId, Limits, Reached};
use jupyter_protocol::messaging::Stdio;

use super::Kernel;
use super::output::{Output, Piece, Stream};
use super::recording::{self, Recording};
use crate::jupyter::{FrontEnd, Origin};

/// As much of one stream is read before others have their turn.
pub(super) const READ_AT_ONCE: usize = 1 << 20;
/// More than a socket can hold: a cell's end delivers at most this much of each stream.
pub(super) const READ_AT_END: usize = 8 << 20;

/// The output of a cell that processes can still write to.
#[derive(Debug)]
pub(super) struct LiveOutput {
    pub(super) output: Output,
    /// The request that it belongs to, also after the cell's end.
    pub(super) parent: Origin,
    /// The cell's limits.
    pub(super) limits: Limits,
    /// The one that it reaches when it is full.
    pub(super) limit: Reached,
    /// That it is full was dealt with.
    pub(super) ended: bool,
    /// Nobody is to see it: the output of a run of `%%repeat`.
    pub(super) hidden: bool,
    /// Each writer's text has the colour of its role.
    pub(super) coloured: bool,
}

impl LiveOutput {
    /// Publishes everything that is in the sockets now.
    pub(super) fn deliver(&mut self, front: &FrontEnd, recording: &Recording, buffer: &mut [u8]) {
        self.output.read(buffer, READ_AT_END);
        let pieces = self.output.take_all();
        self.publish(front, recording, pieces);
    }

    pub(super) fn publish(&self, front: &FrontEnd, recording: &Recording, pieces: Vec<Piece>) {
        for mut piece in pieces {
            if self.hidden {
                continue;
            }
            if self.coloured {
                recording.colour(&mut piece);
            }
            let name = match piece.stream {
                Stream::Stdout => Stdio::Stdout,
                Stream::Stderr => Stdio::Stderr,
            };
            front.stream(Some(&self.parent), name, &piece.text);
        }
    }

    /// When there is something to publish, if nothing more is read. Coloured text waits for the recorder to
    /// say whose it is, for a while.
    pub(super) fn deadline(&self, recording: &Recording) -> Option<Instant> {
        let deadline = self.output.deadline()?;
        let (first, mut writers) = self.output.waiting()?;
        let unknown = self.coloured && writers.any(|pid| pid > 0 && !recording.knows(pid));
        Some(if unknown { deadline.max(first + recording::HOLD_COLOUR) } else { deadline })
    }
}

impl Kernel {
    pub(super) fn on_output(&mut self, cell: CellId) {
        let Some(live) = self.outputs.get_mut(&cell) else { return };
        live.output.read(&mut self.buffer, READ_AT_ONCE);
        self.look_at_size(cell);
    }

    /// Publishes what has waited long enough, and forgets cells that nobody can write to.
    pub(super) fn send_ready_output(&mut self, now: Instant) {
        self.hear_all();
        for live in self.outputs.values_mut() {
            if live.deadline(&self.recording).is_some_and(|deadline| deadline <= now) || !live.coloured {
                let pieces = live.output.ready(now);
                live.publish(&self.front, &self.recording, pieces);
            }
        }
        let running = self.running_cell();
        let mut written = 0;
        self.outputs.retain(|cell, live| {
            let kept = Some(*cell) == running || !live.output.is_over();
            written += if kept { 0 } else { live.output.taken() };
            kept
        });
        self.written += written;
    }

    /// Delivers everything that was written to a cell's sockets before this call. What the worker
    /// wrote before its function returned is among it: a write to a socket is in its queue when
    /// write(2) returns, and the worker reports after that.
    pub(super) fn deliver_all(&mut self, cell: CellId) {
        if let Some(live) = self.outputs.get_mut(&cell) {
            live.deliver(&self.front, &self.recording, &mut self.buffer);
        }
    }

    /// Delivers a cell's output at its end: characters that the worker or a dead process has begun
    /// will never be whole.
    pub(super) fn deliver_last(&mut self, cell: CellId) {
        let Some(live) = self.outputs.get_mut(&cell) else { return };
        live.output.read(&mut self.buffer, READ_AT_END);
        let worker = self.worker;
        live.output.end_characters(|pid| pid == worker || !Path::new(&format!("/proc/{pid}")).exists());
        let pieces = live.output.take_all();
        live.publish(&self.front, &self.recording, pieces);
    }
}
