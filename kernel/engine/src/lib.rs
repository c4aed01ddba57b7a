//! The engine: evcxr and rust-analyzer behind a small interface, in a process of their own.
//!
//! A cell goes through these files in this order: `host` takes the request and gives it to evcxr;
//! evcxr has cargo compile what it generated, which is `cargo` here (`tools` sees to that): it gives
//! what is known (`answers`), what has been compiled before (`cache`), or has rustc compile it as the
//! real cargo would (`record`, by `wrapper`), after `rewrite` has put calls of the worker's table in place
//! of evcxr's markers and `superseded` has made first and second run one; `origins` says which line
//! came from which cell; `runner` passes evcxr's wish to run the result on to the server; `render` draws what
//! the compiler had against it. A cell that changes nothing of what evcxr knows (`after`) is run again without
//! evcxr (`again`). `standby` is what makes the engine replaceable, `template` what makes
//! its start quick, `zygote` what makes the second kernel's quicker still.
//!
//! Nothing of evcxr's leaves this crate. Nothing here knows Jupyter, and nothing here runs a cell.

pub mod messages;

pub mod host;
pub mod runner;
pub mod template;
pub mod tools;
pub mod wrapper;
pub mod zygote;

mod after;
mod again;
mod answers;
mod cache;
mod cargo;
mod diagnosis;
mod environment;
mod layout;
mod noise;
mod order;
mod origins;
mod record;
mod render;
mod rewrite;
mod rustc;
mod source;
mod standby;
mod start;
mod superseded;

pub use host::main;
