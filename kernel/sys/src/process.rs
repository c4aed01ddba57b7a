//! Fork, wait, kill and leave.
