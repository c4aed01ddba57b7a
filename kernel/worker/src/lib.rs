//! The far side: the supervisor, the worker that runs cells, and its checkpoint.

pub mod host;
pub mod messages;
