//! Limits as the server sees them: of output, which it counts itself, and what a person is told when
//! processes were ended for one.

use forklab_worker::messages::{CellId, Limit, Limits, Outcome, ProcessId, Reached, Scope, ToSupervisor};
use jupyter_protocol::messaging::{ReplyError, Stdio};

use super::processes::ENDED_WHILE_WAITING;
use super::{Kernel, report};
use crate::limits::{self, Ceiling, LimitsError};

/// What the notebook may use; a file that cannot be read is told of by each cell.
pub fn of_notebook(ceiling: &Result<Ceiling, LimitsError>) -> Limits {
    ceiling.as_ref().map(|ceiling| ceiling.notebook).unwrap_or_default()
}

/// How much a cell may write, and which limit that is.
pub fn room(cell: &Limits, notebook: &Limits, written: u64) -> (Option<u64>, Reached) {
    let left = notebook.output.map(|most| most.saturating_sub(written));
    let scope = match (cell.output, left) {
        (Some(cell), Some(left)) if left < cell => Scope::Notebook,
        (None, Some(_)) => Scope::Notebook,
        _ => Scope::Cell,
    };
    let room = [cell.output, left].into_iter().flatten().min();
    (room, Reached { limit: Limit::Output, scope })
}

impl Kernel {
    /// What cells have written so far.
    pub(super) fn written(&self) -> u64 {
        self.written + self.outputs.values().map(|live| live.output.taken()).sum::<u64>()
    }

    /// A cell's output has grown. Beyond its limit, its processes are ended.
    ///
    /// The cell may end by itself before they are: then its end finds the output full, and says so.
    pub(super) fn look_at_size(&mut self, cell: CellId) {
        let Some(live) = self.outputs.get_mut(&cell) else { return };
        if !live.output.is_full() || std::mem::replace(&mut live.ended, true) {
            return;
        }
        let reached = live.limit;
        if let Err(error) = self.far.send(&ToSupervisor::EndCell { cell, reached }) {
            tracing::warn!(%error, "the supervisor ended before it could end a cell");
        }
        if self.running_cell() != Some(cell) {
            let what = "its processes that were still running were ended, and the rest of what they wrote is not shown";
            self.say_of_leftovers(cell, reached, what);
        }
    }

    /// The error of a cell whose output is full although it has ended by itself.
    pub(super) fn full_output(&self, cell: CellId, limits: &Limits) -> Option<ReplyError> {
        let live = self.outputs.get(&cell).filter(|live| live.output.is_full())?;
        Some(self.over_limit(live.limit, limits, "the rest is not shown; the cell itself had come to its end"))
    }

    /// The error for a limit that was reached; `what` is what has become of the cell.
    pub(super) fn over_limit(&self, reached: Reached, limits: &Limits, what: &str) -> ReplyError {
        let (which, help) = self.describe_limit(reached, limits);
        report::over_limit(&format!("{which} was reached; {what}"), help)
    }

    /// The error of a task that was ended for a limit.
    pub(super) fn error_of_limit(&self, cell: CellId, outcome: &Outcome) -> Option<ReplyError> {
        let Outcome::OverLimit { reached, restored } = outcome else { return None };
        let limits = self.outputs.get(&cell).map(|live| live.limits).unwrap_or_default();
        let what = format!("the cell and its processes were ended{}", report::state(Some(*restored)));
        Some(self.over_limit(*reached, &limits, &what))
    }

    /// Which limit, and how it can be raised.
    fn describe_limit(&self, reached: Reached, limits: &Limits) -> (String, String) {
        // Without a ceiling no cell has run.
        let Ok(ceiling) = &self.ceiling else { return Default::default() };
        (limits::describe_reached(reached, limits, ceiling), limits::how_to_raise(reached, limits, ceiling))
    }

    /// Forks of the cell were refused: what is said under its error.
    pub(super) fn refused_forks(&self, count: u64, limits: &Limits) -> String {
        let reached = Reached { limit: Limit::Processes, scope: Scope::Cell };
        let (which, help) = self.describe_limit(reached, limits);
        let forks = if count == 1 { "1 fork".to_owned() } else { format!("{count} forks") };
        format!("{forks} failed with EAGAIN at {which}; {help}")
    }

    /// Processes were ended for a limit when no cell ran.
    pub(super) fn on_leftovers_ended(&mut self, reached: Reached, processes: &[(ProcessId, Option<CellId>)]) {
        let mut cells: Vec<CellId> = processes.iter().filter_map(|(_, cell)| *cell).collect();
        cells.sort_unstable();
        cells.dedup();
        tracing::warn!(?reached, count = processes.len(), "left-over processes were ended");
        for cell in cells {
            // A cell that still waits for them: its failure.
            if let Some(running) = self.running.as_ref().filter(|running| running.cell == cell) {
                let error = self.over_limit(reached, &running.limits, ENDED_WHILE_WAITING);
                if let Some(running) = &mut self.running {
                    running.error.get_or_insert(error);
                }
                continue;
            }
            let count = processes.iter().filter(|(_, of)| *of == Some(cell)).count();
            let of_it = match count {
                1 => "1 process that it had left running was ended".to_owned(),
                more => format!("{more} processes that it had left running were ended"),
            };
            self.say_of_leftovers(cell, reached, &of_it);
        }
    }

    /// Says something under a cell that has ended.
    fn say_of_leftovers(&mut self, cell: CellId, reached: Reached, what: &str) {
        let limits = self.outputs.get(&cell).map(|live| live.limits).unwrap_or_default();
        let (which, help) = self.describe_limit(reached, &limits);
        let text = format!("\n[forklab: {which} was reached; {what}; {help}]\n");
        let Some(live) = self.outputs.get_mut(&cell) else {
            tracing::warn!(text, "nobody to tell");
            return;
        };
        live.deliver(&self.front, &self.recording, &mut self.buffer);
        self.front.stream(Some(&live.parent), Stdio::Stdout, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrower_room_counts() {
        let limits = |output| Limits { output, ..Limits::default() };
        let of = |cell, notebook, written| {
            let (room, reached) = room(&limits(cell), &limits(notebook), written);
            (room, reached.scope)
        };
        assert_eq!(of(Some(5), None, 100), (Some(5), Scope::Cell));
        assert_eq!(of(Some(5), Some(102), 100), (Some(2), Scope::Notebook));
        assert_eq!(of(Some(5), Some(99), 100), (Some(0), Scope::Notebook));
        assert_eq!(of(None, None, 100), (None, Scope::Cell));
    }
}
