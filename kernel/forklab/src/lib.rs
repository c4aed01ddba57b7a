//! forklab
