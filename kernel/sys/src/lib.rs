//! The system below forklab, as small safe types: processes, terminals, channels with descriptors,
//! sockets that name their writer. All `unsafe` of the project lives here.

#![allow(unsafe_code)]

pub mod process;
pub mod ready;
pub mod shared;

pub mod channel;

pub mod alone;
pub mod capture;
pub mod inherit;
pub mod pty;

#[cfg(feature = "zeromq")]
pub mod zeromq;

pub mod cgroup;
pub mod checkpoint;
pub mod descriptors;
pub mod events;
pub mod generated;
pub mod pages;
pub mod parked;
pub mod processors;
pub mod procfs;
pub mod role;
pub mod signals;
pub mod socket_pairs;
pub mod trace;
pub mod usage;
