//! The `forklab` binary's parts: the kernel that speaks Jupyter, installing it, and checking an
//! installation. What runs cells and what compiles them live in crates of their own.

pub mod cli;
pub mod doctor;
pub mod install;
pub mod jupyter;
pub mod kernel;
pub mod limits;
mod nearest;
pub mod warm;
