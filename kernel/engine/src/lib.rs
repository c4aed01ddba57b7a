//! The engine: evcxr and rust-analyzer behind a small interface, in a process of their own.
//!
//! A cell goes through these files in this order: `host` takes the request and gives it to evcxr;
//! evcxr has cargo compile what it generated, and cargo calls `wrapper`, which lets `rewrite` put
//! calls of the worker's table in place of evcxr's markers and `origins` say which line came from
//! which cell; `runner` passes evcxr's wish to run the result on to the server; `render` draws what
//! the compiler had against it. `standby` is what makes the engine replaceable, `template` what makes
//! its start quick.
//!
//! Nothing of evcxr's leaves this crate. Nothing here knows Jupyter, and nothing here runs a cell.

pub mod messages;

pub mod host;
pub mod runner;
pub mod template;
pub mod wrapper;

mod diagnosis;
mod environment;
mod layout;
mod noise;
mod origins;
mod render;
mod rewrite;
mod source;
mod standby;
mod start;

pub use host::main;
