//! The limits of the person who runs the server.

pub mod values;
