//! Which cell has started a process.
//!
//! A process belongs to its parent's cell; a child of the worker's to the cell whose task runs, or ran
//! last. That is noted when the process is first seen and does not change when its parent ends. One
//! that is an orphan when it is first seen is told by its standard output or standard error, which
//! are its cell's own sockets, and where it has neither, counts as the last cell's.

use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use forklab_sys::descriptors::inode;
use forklab_sys::process::Pid;
use forklab_sys::procfs::{Identity, Stat, open_on};

use super::Supervisor;
use crate::messages::CellId;

/// As many cells' sockets are remembered.
const CELLS: usize = 200;

/// Who has started whom.
#[derive(Debug, Default)]
pub struct Origins {
    cells: HashMap<Identity, CellId>,
    sockets: VecDeque<(PathBuf, CellId)>,
    last: Option<CellId>,
}

impl Origins {
    /// A task of this cell's begins, with these sockets for its output.
    pub fn begin(&mut self, cell: CellId, sockets: [BorrowedFd<'_>; 2]) {
        self.last = Some(cell);
        for socket in sockets {
            if let Ok(inode) = inode(socket) {
                let name = PathBuf::from(format!("socket:[{inode}]"));
                self.sockets.retain(|(known, _)| *known != name);
                self.sockets.push_back((name, cell));
            }
        }
        while self.sockets.len() > 2 * CELLS {
            self.sockets.pop_front();
        }
    }

    /// The cell of a process that was noted.
    pub fn of(&self, process: &Identity) -> Option<CellId> {
        self.cells.get(process).copied()
    }

    fn by_sockets(&self, pid: Pid) -> Option<CellId> {
        [1, 2]
            .into_iter()
            .filter_map(|descriptor| open_on(pid, descriptor))
            .find_map(|open| self.sockets.iter().rev().find(|(name, _)| *name == open).map(|(_, cell)| *cell))
    }
}

impl Supervisor {
    /// Notes who is new and forgets who is gone. `everybody` is all below the supervisor, zombies
    /// included, parents before their children.
    pub fn note_origins(&mut self, everybody: &[Stat]) {
        let mut noted = HashMap::with_capacity(everybody.len());
        let mut by_pid: HashMap<Pid, CellId> = HashMap::with_capacity(everybody.len());
        for process in everybody.iter().filter(|process| !self.is_own(process)) {
            let cell = self.origins.of(&process.identity).or_else(|| self.origin_of_new(process, &by_pid));
            if let Some(cell) = cell {
                noted.insert(process.identity, cell);
                by_pid.insert(process.identity.pid, cell);
            }
        }
        self.origins.cells = noted;
    }

    fn origin_of_new(&self, process: &Stat, by_pid: &HashMap<Pid, CellId>) -> Option<CellId> {
        let last = self.origins.last;
        match process.parent {
            Some(parent) if parent == self.worker => last,
            Some(parent) if parent == Pid::this() => self.origins.by_sockets(process.identity.pid).or(last),
            Some(parent) => by_pid.get(&parent).copied().or(last),
            None => last,
        }
    }
}
