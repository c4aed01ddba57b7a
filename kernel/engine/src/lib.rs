//! The engine: evcxr and rust-analyzer behind a small interface, in a process of their own.

pub mod messages;
