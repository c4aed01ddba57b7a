//! The record of a cell's processes: the loop's side of it. `tracer` is the thread that follows the
//! processes, `log` what is known and written down, `zombies` and `stops` the same of zombies and of stopped
//! processes, `delays` how long a run's processes are held to disturb it.
//!
//! What it changes for those who are followed: nobody else can trace them (`strace`, `gdb`), programs
//! with set-user-ID bits run without that, and calls that fail with EINTR after a stop (epoll_wait(2),
//! see signal(7)) may do so for an ignored signal. A task without recording has none of it.
//!
//! The worker stays followed between two tasks; its checkpoint never is (CLONE_UNTRACED), so a woken
//! one is followed from its next task on. Once there is a tracer, it reaps the supervisor's children,
//! and the loop hears of it by SIGCHLD. In between, a moment long, a pid that the loop takes for its
//! child's is free; before another gets it, the machine must have used up all others.

mod delays;
mod log;
mod stops;
mod tracer;
mod zombies;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forklab_sys::process::{ExitStatus, Pid, reap_any};
use forklab_sys::procfs::ended;
use forklab_sys::trace::{self, Zombies};

use super::{Phase, Supervisor};
use crate::messages::{CellId, FromSupervisor};
use delays::Delays;
use log::State;
use stops::Look;
use tracer::{Letter, Order, lock};

/// Between two looks while a task runs.
const PACE: Duration = Duration::from_millis(5);

/// Between two looks when no task runs but processes of earlier ones do.
const PACE_AFTERWARDS: Duration = Duration::from_millis(50);

/// A look that took a time is followed by a pause of this many times that.
const COST: u32 = 20;

/// The tracer's answers come at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// The next that is heard of a parent that waits comes this soon after its child's end, on a busy machine too.
const LATELY: Duration = Duration::from_millis(20);

/// Events in one message.
const BATCH: usize = 2000;

/// Records what processes do.
#[derive(Debug)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
    tracer: Option<(Sender<Letter>, Pid)>,
    zombies: OwnedFd,
    next_look: Option<Instant>,
}

impl Recorder {
    pub fn new() -> io::Result<Recorder> {
        let watched = Zombies::none()?;
        let zombies = watched.as_fd().try_clone_to_owned()?;
        Ok(Recorder { state: Arc::new(Mutex::new(State::new(watched))), tracer: None, zombies, next_look: None })
    }

    pub fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Readable when a zombie was reaped.
    pub fn zombies(&self) -> BorrowedFd<'_> {
        self.zombies.as_fd()
    }

    /// One of the supervisor's children that has ended and is reaped.
    ///
    /// # Errors
    /// Those of [`reap_any`].
    pub fn reap(&self) -> io::Result<Option<(Pid, ExitStatus)>> {
        if self.tracer.is_some() { Ok(lock(&self.state).reaped_here.pop()) } else { reap_any() }
    }

    /// A task begins; its processes are recorded, or nobody is. With a seed they are delayed, too.
    fn begin(&mut self, worker: Pid, cell: CellId, record: bool, perturb: Option<u64>) {
        // Whoever is followed already does not stop before it ends.
        if !record || perturb.is_some() {
            self.let_go(worker);
        }
        lock(&self.state).delays = perturb.map(|seed| Delays::new(cell, seed));
        if !record {
            return;
        }
        let followed = {
            let mut state = lock(&self.state);
            state.begin(worker, cell);
            state.threads.contains_key(&worker)
        };
        if !followed && let Err(error) = self.ask(Order::Attach(worker)) {
            let mut state = lock(&self.state);
            state.gap_in(cell, format!("the system does not let us follow the cell's processes: {error}"));
            state.processes.remove(&worker);
        }
        self.next_look = Some(Instant::now() + PACE);
    }

    fn let_go(&mut self, worker: Pid) {
        let nobody = lock(&self.state).threads.is_empty();
        if !nobody {
            // One that does not let go in time is one that hangs in a system call.
            let _ = self.ask(Order::LetGo(worker));
        }
    }

    /// Has the tracer do something, and waits until it has.
    fn ask(&mut self, order: Order) -> io::Result<()> {
        let (letters, tracer) = self.tracer()?;
        let (answer, answered) = channel();
        letters.send((order, answer)).map_err(|_| io::Error::other("the thread that follows them has ended"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The tracer reads its letters and then waits for its tracees. A ring between the two is
            // not heard, so there are several.
            trace::ring(tracer);
            if let Ok(done) = answered.recv_timeout(Duration::from_millis(1)) {
                return done;
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// The tracer, which starts with the first task that is recorded.
    fn tracer(&mut self) -> io::Result<(&Sender<Letter>, Pid)> {
        if self.tracer.is_none() {
            trace::prepare()?;
            let (letters, read) = channel();
            let (say, said) = channel();
            let state = Arc::clone(&self.state);
            std::thread::Builder::new().name("recorder".to_owned()).spawn(move || {
                // Who asks waits.
                let _ = say.send(trace::become_tracer());
                tracer::run(&state, &read);
            })?;
            let pid = said.recv().map_err(io::Error::other)?;
            self.tracer = Some((letters, pid));
        }
        let (letters, pid) = self.tracer.as_ref().expect("it was just started");
        Ok((letters, *pid))
    }

    /// Zombies of whom we wanted to hear were reaped.
    pub fn on_reaped(&mut self) {
        lock(&self.state).hear_of_reaped();
    }

    /// Those who are stopped and not traced: writes down which have ended. Returns those of whom the tracer
    /// is to find out, see `stops`.
    fn look_at_parked(&mut self) -> Vec<Pid> {
        let mut state = lock(&self.state);
        let looks = state.parked.iter_mut().map(|(pid, parked)| (*pid, parked.look()));
        let mut doubtful = Vec::new();
        for (pid, look) in looks.collect::<Vec<(Pid, Look)>>() {
            match look {
                Look::Asleep | Look::Settling => {}
                Look::Zombie => match ended(pid) {
                    Some(status) => state.ended(pid, status),
                    None => doubtful.push(pid),
                },
                Look::Awake | Look::Gone => doubtful.push(pid),
            }
        }
        doubtful
    }

    /// A cell's record is over: its processes are not known any more, whatever is still heard of them.
    fn end(&mut self, cell: CellId) {
        lock(&self.state).end(cell);
    }

    fn take(&mut self, lately: Duration) -> Vec<(CellId, Vec<forklab_record::Event>, Vec<String>)> {
        let mut state = lock(&self.state);
        state.sweep_late(lately);
        let taken = state.take();
        state.watch_zombies();
        taken
    }
}

impl Supervisor {
    pub fn begin_record(&mut self, cell: CellId, record: bool, perturb: Option<u64>) {
        self.recorder.begin(self.worker, cell, record || perturb.is_some(), perturb);
    }

    /// A look at what does not tell by itself, and news for the server.
    pub fn look_at_record(&mut self) -> io::Result<()> {
        let began = Instant::now();
        for pid in self.recorder.look_at_parked() {
            // What has not been found out yet is found by the next look.
            let _ = self.recorder.ask(Order::LookAgain(pid));
        }
        self.send_record(LATELY)?;
        let busy = matches!(self.phase, Phase::Busy { .. });
        let state = lock(&self.recorder.state);
        let wanted = if busy { !state.is_empty() } else { state.has_company() };
        drop(state);
        let pace = if busy { PACE } else { PACE_AFTERWARDS };
        self.recorder.next_look = wanted.then(|| Instant::now() + pace.max(began.elapsed() * COST));
        Ok(())
    }

    /// Tells the server all that was recorded and was not told yet.
    pub fn tell_recorded(&mut self) -> io::Result<()> {
        self.send_record(Duration::ZERO)
    }

    /// Tells the server all that was recorded of a cell, and nothing of it from here on. Who is killed
    /// next still lives in that record.
    pub fn end_record(&mut self, cell: CellId) -> io::Result<()> {
        self.tell_recorded()?;
        self.recorder.end(cell);
        Ok(())
    }

    fn send_record(&mut self, lately: Duration) -> io::Result<()> {
        for (cell, events, mut gaps) in self.recorder.take(lately) {
            let mut batches = events.chunks(BATCH);
            loop {
                let events = batches.next().unwrap_or_default().to_vec();
                let last = batches.len() == 0;
                self.tell(&FromSupervisor::Recorded { cell, events, gaps: std::mem::take(&mut gaps) })?;
                if last {
                    break;
                }
            }
        }
        Ok(())
    }
}
