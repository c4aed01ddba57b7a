//! Cells that are run again as they are, without evcxr.
//!
//! A cell that leaves evcxr in the state in which it found it need not be shown to evcxr: its object is
//! there, and nothing would be new. What evcxr would make of the cell in this state is not guessed: it
//! is what the cell's own source, generated the last time, has said (`after`).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use forklab_sys::process::Pid;

use crate::after::{After, digest};
use crate::cache::Entry;
use crate::origins::{Cell, Origins};
use crate::source::Source;

/// More cells than anybody runs again and again.
const MOST: usize = 300;

/// What can be run again.
#[derive(Debug, Default)]
pub(crate) struct Again {
    /// evcxr's state; `None` when it is not known.
    state: Option<State>,
    /// Cells by the state in which they can be run again, and their text.
    known: HashMap<(State, String), After>,
    /// How many cells with commands there were.
    settings: u64,
    /// How often the worker has lost its variables, as the server counts.
    losses: u64,
    /// How many objects were made.
    objects: u64,
}

/// evcxr's state: what its sources show, and how often its settings may have changed, which they do
/// not show.
type State = (u64, String);

/// A copy of an object, removed at the end: what is loaded stays.
#[derive(Debug)]
pub(crate) struct Object {
    /// Where it is.
    pub path: PathBuf,
}

impl Again {
    /// evcxr has taken a cell in. `after`: what the cell's source has said, if it ran to its end.
    pub fn committed(&mut self, cell: &Cell, has_commands: bool, after: Option<After>) {
        self.settings += u64::from(has_commands);
        self.state = after.as_ref().map(|after| (self.settings, after.state.clone()));
        let (Some(after), Some(state)) = (after, &self.state) else { return };
        if after.steady && !has_commands {
            if self.known.len() >= MOST {
                self.known.clear();
            }
            self.known.insert((state.clone(), cell.code.clone()), after);
        }
    }

    /// What evcxr knows is not known any more.
    pub fn forget(&mut self) {
        self.state = None;
        self.settings += 1;
    }

    /// The server says how often the worker's variables were lost. Whether they were since it was last said.
    pub fn hear_of_losses(&mut self, losses: u64) -> bool {
        let lost = losses != std::mem::replace(&mut self.losses, losses);
        if lost {
            self.forget();
        }
        lost
    }

    /// What running a cell will come to, if that is known.
    pub fn foretold(&self, code: &str) -> Option<&After> {
        self.known.get(&(self.state.clone()?, code.to_owned()))
    }

    /// A fresh copy of the object of the newest of these cells, with a file beside it that says which line
    /// is whose. `None` when evcxr has to be asked.
    pub fn object(&mut self, build: &Path, cells: &[&Cell]) -> Option<Object> {
        let after = self.foretold(&cells.last()?.code)?;
        let entry = Entry::at(after.entry.clone(), |key| digest(key) == after.key)?;
        self.objects += 1;
        // A standby counts on from where it was made, but it has a pid of its own.
        let object = Object { path: build.join(format!("libagain_{}_{}.so", Pid::this(), self.objects)) };
        let copied = object.copy(&entry, cells);
        copied.inspect_err(|error| tracing::warn!(%error, "a compiled cell cannot be copied")).ok()?;
        Some(object)
    }
}

impl Object {
    fn copy(&self, entry: &Entry, cells: &[&Cell]) -> io::Result<()> {
        entry.copy_object(&self.path)?;
        Origins::of(&Source::read(&entry.about.source), cells).write(&self.path.with_extension("origins"))
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // They go with the build directory at the latest.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(self.path.with_extension("origins"));
    }
}
