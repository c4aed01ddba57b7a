//! Who waits for the keyboard, and typing.
//!
//! No library in the cell tells us of a read: we look. A thread waits for input when it is blocked
//! in a read (or a poll, or a select) on our terminal and the terminal has nothing to read. Both
//! are asked of the kernel and both are exact, so there is no guessing by time:
//!
//! - Asked twice? We type, and look before the reader has run. Not possible: `Pty::has_input` waits
//!   until what was typed has arrived at the terminal, and by then either it is still unread
//!   (`true`), or the reader has been woken, and then it is running and not blocked until it has
//!   come back for more.
//! - Two readers: the terminal wakes both, one gets the line. The other is found at the next look,
//!   and asks in its turn.
//!
//! Not seen: a thread that waits for the terminal in epoll_wait(2), epoll_pwait(2) or by an io_uring.
//! What such a thread waits for is not among the call's arguments, so it looks like one that waits
//! for anything else, and nobody is asked; it gets what is typed for another. Programs that poll
//! their standard input that way are rare: Rust's runtimes read it with a blocking read in a thread.
//!
//! Looks begin 5 ms after a task does, and their pace follows their price: see [`COST`].

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use forklab_sys::process::Pid;
use forklab_sys::procfs::{Stat, blocked_reading, descendants, is_open_on, threads};

use super::{Phase, Supervisor};
use crate::messages::{CellId, FromSupervisor};

/// Between two looks of a running task, when looking is cheap.
const PACE: Duration = Duration::from_millis(5);

/// Between two looks when no task runs but processes of earlier ones do.
const PACE_AFTERWARDS: Duration = Duration::from_millis(50);

/// A look that took a time is followed by a pause of this many times that: it costs below 2% of
/// one processor, however many processes there are.
const COST: u32 = 60;

/// So many looks must miss a reader that has been told of before it counts as gone: a handler of
/// a signal may interrupt its read for a moment.
const PATIENCE: u32 = 3;

/// What is known of the keyboard's reader, and what waits to be typed.
pub struct Keyboard {
    /// The reader of which the server was told and which it has not answered.
    asked: Option<Pid>,
    missed: u32,
    typed: VecDeque<Typed>,
    next_look: Option<Instant>,
}

enum Typed {
    Text(Vec<u8>),
    End,
}

impl Keyboard {
    pub fn new() -> Keyboard {
        Keyboard { asked: None, missed: 0, typed: VecDeque::new(), next_look: None }
    }

    pub fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    fn look_in(&mut self, pause: Duration) {
        self.next_look = Some(Instant::now() + pause);
    }
}

impl Supervisor {
    /// A clean terminal for a new task.
    pub fn begin_of_task(&mut self) -> io::Result<()> {
        self.clear_keyboard()?;
        self.keyboard.look_in(PACE);
        Ok(())
    }

    /// What was typed for a task ends with it. Readers that live on are looked for further.
    pub fn end_of_task(&mut self) -> io::Result<()> {
        self.watch.end_of_task();
        self.clear_keyboard()?;
        self.keyboard.look_in(PACE_AFTERWARDS);
        Ok(())
    }

    fn clear_keyboard(&mut self) -> io::Result<()> {
        self.keyboard.typed.clear();
        self.cancel()?;
        self.pty.reset()
    }

    fn cancel(&mut self) -> io::Result<()> {
        match self.keyboard.asked.take() {
            Some(pid) => self.tell(&FromSupervisor::InputCancelled { pid: pid.into() }),
            None => Ok(()),
        }
    }

    pub fn type_text(&mut self, text: Vec<u8>) -> io::Result<()> {
        if !text.is_empty() {
            self.keyboard.typed.push_back(Typed::Text(text));
        }
        self.answer()
    }

    pub fn type_end_of_input(&mut self) -> io::Result<()> {
        self.keyboard.typed.push_back(Typed::End);
        self.answer()
    }

    /// The server has answered; the reader gets it now. What nobody asked for waits for a reader.
    fn answer(&mut self) -> io::Result<()> {
        if self.keyboard.asked.take().is_some() {
            self.type_next()?;
            self.keyboard.look_in(PACE);
        }
        Ok(())
    }

    /// Types the next piece of what waits, if the last one has been read. `false` when nothing waits.
    fn type_next(&mut self) -> io::Result<bool> {
        if self.pty.has_input()? {
            return Ok(true);
        }
        match self.keyboard.typed.pop_front() {
            Some(Typed::Text(mut text)) => {
                let rest = text.split_off(self.pty.type_piece(&text)?);
                if !rest.is_empty() {
                    self.keyboard.typed.push_front(Typed::Text(rest));
                }
            }
            Some(Typed::End) => self.pty.type_end_of_file()?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// One look at everybody below, and what follows from it.
    pub fn look_for_readers(&mut self) -> io::Result<()> {
        let started = Instant::now();
        let mut everybody = descendants(Pid::this());
        self.note_origins(&everybody);
        everybody.retain(|process| !process.zombie);
        let pace = if matches!(self.phase, Phase::Busy { .. }) {
            PACE
        } else if everybody.iter().any(|process| !self.is_own(process)) {
            PACE_AFTERWARDS
        } else {
            self.keyboard.next_look = None;
            return self.cancel();
        };
        let reader = if self.pty.has_input()? { None } else { self.find_reader(&everybody) };
        match (self.keyboard.asked, reader) {
            (Some(_), Some(_)) => self.keyboard.missed = 0,
            (Some(asked), None) => self.miss(asked, &everybody)?,
            (None, Some(pid)) => {
                if !self.type_next()? {
                    self.keyboard.asked = Some(pid);
                    self.keyboard.missed = 0;
                    let cell = self.cell_of(pid, &everybody);
                    self.tell(&FromSupervisor::WantsInput { pid: pid.into(), cell })?;
                }
            }
            (None, None) => {}
        }
        self.keyboard.look_in(pace.max(started.elapsed() * COST));
        Ok(())
    }

    /// The reader that the server was told of, if it still waits, else some other.
    fn find_reader(&self, everybody: &[Stat]) -> Option<Pid> {
        let waits = |pid: Pid| {
            threads(pid)
                .into_iter()
                .any(|thread| blocked_reading(pid, thread).into_iter().any(|fd| is_open_on(pid, fd, self.pty.path())))
        };
        if let Some(asked) = self.keyboard.asked {
            return waits(asked).then_some(asked);
        }
        everybody.iter().map(|process| process.identity.pid).find(|pid| waits(*pid))
    }

    /// The cell that has started a process; the worker runs the present one.
    fn cell_of(&self, pid: Pid, everybody: &[Stat]) -> Option<CellId> {
        if let (Phase::Busy { cell, .. }, true) = (&self.phase, pid == self.worker) {
            return Some(*cell);
        }
        let process = everybody.iter().find(|process| process.identity.pid == pid)?;
        self.origins.of(&process.identity)
    }

    /// The reader that the server was told of was not seen waiting.
    fn miss(&mut self, asked: Pid, everybody: &[Stat]) -> io::Result<()> {
        self.keyboard.missed += 1;
        let lives = everybody.iter().any(|process| process.identity.pid == asked);
        if lives && self.keyboard.missed < PATIENCE { Ok(()) } else { self.cancel() }
    }
}
