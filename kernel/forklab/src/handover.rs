//! Who keeps which end of a pipe after a fork.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::{Arc, Weak};

use crate::shared::OpenEnd;

/// How the child learns which ends of pipes are its own.
///
/// Both processes hold copies of all ends after the fork, and only the parent can find out which of
/// them the function owns: they are gone when it has dropped its copy of the function, and the child
/// needs its own. So the child waits for the parent to say, and only then runs the function:
///
/// ```text
/// parent  fork ── drop the function ── tell: ends 0 and 3 are gone ── go on
/// child      └─── wait ─────────────────────────────────────────── close 1 (0's other end) ── run
/// ```
///
/// Without open ends there is nothing to say, and nobody waits.
pub(crate) struct Handover {
    ends: Vec<Weak<dyn OpenEnd>>,
    channel: Option<(PipeReader, PipeWriter)>,
}

impl Handover {
    /// Before the fork: for the ends that are open then.
    ///
    /// # Errors
    /// Those of pipe(2).
    pub(crate) fn new(ends: Vec<Weak<dyn OpenEnd>>) -> io::Result<Handover> {
        let channel = if ends.is_empty() { None } else { Some(io::pipe()?) };
        Ok(Handover { ends, channel })
    }

    /// In the parent, after it has dropped the function.
    pub(crate) fn tell(self) {
        if let Some((reader, mut writer)) = self.channel {
            // With the parent's reader open, a child that has been killed already is no broken pipe.
            let _ = writer.write_all(&moved(&self.ends));
            drop(reader);
        }
    }

    /// In the child, before it runs the function.
    pub(crate) fn heed(self) {
        if let Some((mut reader, writer)) = self.channel {
            drop(writer);
            let mut moved = vec![0; self.ends.len()];
            // A parent that died or panicked on the way says nothing; then all ends stay open.
            if reader.read_exact(&mut moved).is_ok() {
                leave_to_parent(&self.ends, &moved);
            }
        }
    }
}

/// Which ends were moved into a process's function: those that are gone once the parent has dropped
/// its copy of that. One byte for each end, 1 for moved.
fn moved(ends: &[Weak<dyn OpenEnd>]) -> Vec<u8> {
    ends.iter().map(|end| u8::from(end.strong_count() == 0)).collect()
}

/// In the child: of each pipe of which an end was moved here, closes the ends that were not.
fn leave_to_parent(ends: &[Weak<dyn OpenEnd>], moved: &[u8]) {
    let ends: Vec<(Arc<dyn OpenEnd>, bool)> =
        ends.iter().zip(moved).filter_map(|(end, &moved)| Some((end.upgrade()?, moved == 1))).collect();
    let touched: Vec<u64> = ends.iter().filter(|(_, moved)| *moved).map(|(end, _)| end.pipe()).collect();
    for (end, _) in ends.iter().filter(|(end, moved)| !moved && touched.contains(&end.pipe())) {
        end.leave_to_parent();
    }
}
