//! The end of a run that is undone: its processes go, the checkpoint takes over, and its server hears of
//! the end when the next run can begin where this one has.
//!
//! A run that the worker has finished comes to [`Supervisor::undo`]; one that has killed its worker, was
//! interrupted or went beyond a limit is undone by what undoes it anyway (`life`, `interrupt`), and
//! only its record ends earlier: [`Supervisor::end_record_of_undone`].
//!
//! - A process forks while all are killed: `end_tree` looks until two looks have found nobody and nobody
//!   was reaped during them. Its child was born after the record's end: the tracer does not know its
//!   parent any more, lets it go untraced, and it is killed like any other.
//! - The worker makes its checkpoint just now, a copy that lives and of which we do not know yet: the
//!   worker of such a run makes none (`ToWorker::Run`, `last`). A process that calls itself one
//!   is not spared: only those who do not end the worker spare a newborn.
//! - The worker has reported and dies before we kill it (a child of its own has killed it): what it said
//!   is heard before its death counts (`hear_out`), the checkpoint has taken over when that
//!   returns, and the death is nobody's any more; see `on_worker_ended`.
//! - An interrupt comes when the worker has reported and we have not read it: it is read first, and the
//!   run has returned. It comes while the checkpoint wakes, or makes its own: no task runs, so it
//!   goes to what earlier cells have left behind, and the answer to the server is the run's `Ended`,
//!   as it was. The woken worker holds SIGINT back and drops it when its task comes, as ever.
//! - SIGCHLDs come late, of processes that were reaped in the undoing: they are a reason to look for more,
//!   and no more than that. With a tracer, which reaps for us, the loop may hear of the old worker's
//!   reaping when the new one is there: it is not the worker then, and is passed over. Nor can a late end
//!   be taken for one in the next run's record: whose record has ended is not known to the recorder.
//! - The tracer still has stops of killed processes to hear of when the next run's first fork comes: each
//!   is told by its thread's number, and no number comes again before the machine has used up all others.

use std::collections::HashSet;
use std::io;

use forklab_sys::process::Signal;
use forklab_sys::procfs::Identity;

use super::life::After;
use super::tree::Spared;
use super::{Phase, Supervisor};
use crate::messages::{CellId, Exit, FromSupervisor, Outcome};

/// Why a task cannot be undone that was to run without a checkpoint.
pub const NOT_WANTED: &str = "a run can be undone only with a checkpoint, and they are switched off: \
                              `%checkpoint on` is needed";

/// Why it cannot although a checkpoint was wanted.
pub const NOT_MADE: &str = "a run can be undone only with a checkpoint, and none could be made: `%checkpoint on` \
                            is needed, and room for one more process of the worker's size";

impl Supervisor {
    /// The worker has finished a task that is to be undone. `before` lives on.
    pub fn undo(&mut self, cell: CellId, before: HashSet<Identity>, outcome: Outcome) -> io::Result<()> {
        self.end_record(cell)?;
        self.end_task_sparing(before, After::Undone { cell, outcome: Box::new(outcome) })
    }

    /// Ends the record of a running task that is to be undone, before its processes are killed.
    pub fn end_record_of_undone(&mut self) -> io::Result<()> {
        match self.phase {
            Phase::Busy { cell, undo: true, .. } => self.end_record(cell),
            _ => Ok(()),
        }
    }

    /// Kills the worker and all that was started since the task began, and lets the checkpoint take over.
    pub fn end_task_sparing(&mut self, before: HashSet<Identity>, after: After) -> io::Result<()> {
        let mut spared = Spared::default();
        spared.add(self.checkpoint.as_ref().map(|checkpoint| checkpoint.pid));
        spared.add_all(before);
        self.end_tree(&spared)?;
        self.end_of_task()?;
        self.replace(after)
    }

    /// The next run can begin; or the checkpoint is gone, because somebody has ended it during the run.
    pub fn tell_undone(&mut self, cell: CellId, outcome: Outcome, restored: bool) -> io::Result<()> {
        self.tell_ended(cell, outcome)?;
        if restored {
            return Ok(());
        }
        let how = Exit::Signaled { signal: Signal::KILL.as_raw(), core: false };
        self.tell(&FromSupervisor::StateLost { how })
    }
}
