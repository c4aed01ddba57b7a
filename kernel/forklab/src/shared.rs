//! What all cells of a notebook have in common in one process: how many processes were started,
//! which dropped children are to be reaped, which ends of pipes are open.
//!
//! It is not a plain static, because each cell has statics of its own (see `forklab_sys::shared`).

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use forklab_sys::process::{self, Pid};
use forklab_sys::shared::{Place, process_wide};

/// Guards [`Shared`]. Held over a fork, so that no other thread can have it then and the child finds
/// it whole.
pub(crate) struct Guard(MutexGuard<'static, Option<Box<dyn Any + Send>>>);

/// An end of a pipe, whatever it is made of.
pub(crate) trait OpenEnd: Send + Sync {
    /// The pipe that it is an end of.
    fn pipe(&self) -> u64;
    /// Closes it for this process; whoever still has it gets `LeftToParent`.
    fn leave_to_parent(&self);
}

#[derive(Default)]
pub(crate) struct Shared {
    /// Whose children `unjoined` holds: after a fork, another process's than the one that looks.
    owner: Option<Pid>,
    /// Where this process stands among its kin: `""` for the first, `1`, `1:2`, as in Python.
    identity: String,
    /// Processes made here so far.
    made: u32,
    /// Children whose `Process` was dropped while they lived.
    unjoined: Vec<Pid>,
    /// Pipes made so far, also by this process's ancestors.
    pipes: u64,
    /// All ends that may be open.
    ends: Vec<Weak<dyn OpenEnd>>,
}

/// The state that all cells share, for as long as the guard lives.
pub(crate) fn lock() -> Guard {
    /// For a program in which another build of this library was first.
    static OWN: Place = Mutex::new(None);
    for place in [process_wide(), &OWN] {
        let mut guard = place.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.get_or_insert_with(|| Box::new(Shared::default())).is::<Shared>() {
            let mut guard = Guard(guard);
            guard.see_whose_it_is();
            return guard;
        }
    }
    unreachable!("nobody else can put anything into OWN")
}

impl Guard {
    fn shared(&mut self) -> &mut Shared {
        let shared = self.0.as_mut().and_then(|any| any.downcast_mut());
        shared.expect("lock() has put a Shared there")
    }

    /// After a fork of any kind, the parent's children are not this process's.
    fn see_whose_it_is(&mut self) {
        let this = Pid::this();
        let shared = self.shared();
        if shared.owner != Some(this) {
            shared.owner = Some(this);
            shared.unjoined.clear();
        }
    }

    /// Counts a new process; returns its identity: `3`, or `1:3` in a child that is itself `1`.
    pub(crate) fn next_identity(&mut self) -> String {
        let shared = self.shared();
        shared.made += 1;
        match shared.identity.as_str() {
            "" => shared.made.to_string(),
            parent => format!("{parent}:{}", shared.made),
        }
    }

    /// Says which this process is, after a fork: it counts its own children from 1.
    pub(crate) fn become_child(&mut self, identity: String) {
        let shared = self.shared();
        shared.identity = identity;
        shared.made = 0;
    }

    /// Has a child reaped some time after its end.
    pub(crate) fn reap_later(&mut self, child: Pid) {
        self.shared().unjoined.push(child);
    }

    /// Reaps those of the dropped children that have ended. A child that is not there any more has
    /// been reaped by somebody else, and its pid may be a stranger's: it is forgotten as well.
    pub(crate) fn reap_unjoined(&mut self) {
        self.shared().unjoined.retain(|&child| matches!(process::reap(child), Ok(None)));
    }

    /// A number for a new pipe.
    pub(crate) fn next_pipe(&mut self) -> u64 {
        let shared = self.shared();
        shared.pipes += 1;
        shared.pipes
    }

    /// Keeps an eye on a new end, without keeping it open.
    pub(crate) fn watch(&mut self, end: Weak<dyn OpenEnd>) {
        let shared = self.shared();
        shared.ends.retain(|end| end.strong_count() > 0);
        shared.ends.push(end);
    }

    /// All ends that are open now, without keeping them open.
    pub(crate) fn open_ends(&mut self) -> Vec<Weak<dyn OpenEnd>> {
        let ends = &mut self.shared().ends;
        ends.retain(|end| end.strong_count() > 0);
        ends.clone()
    }
}
