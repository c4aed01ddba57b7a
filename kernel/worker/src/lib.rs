//! The far side: the supervisor, the worker that runs cells, and its checkpoint.
//!
//! Theory of operation. The *supervisor* is one thread with one loop and owns everything: the
//! terminal, the process tree, the socket. The *worker* is its child and runs one task at a time in
//! its main thread. Whenever the worker waits for a task there is a *checkpoint*, a copy of it as
//! it is now, asleep. A task that returns gets a report over a new connection, together with the
//! next checkpoint, and the old one is ended: that is a commit. A worker that dies, within a task or
//! between two, is replaced by the checkpoint: that is a rollback.

pub mod messages;

pub mod supervisor;

mod orders;

pub mod worker;

mod fitness;

pub mod host;
mod report;

mod limits;

mod display;
