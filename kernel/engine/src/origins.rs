//! Which line of what evcxr generated came from which line of which cell.

use serde::{Deserialize, Serialize};

/// A cell as the person wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// The `n` of `In [n]`.
    pub execution: u32,
    /// Its code.
    pub code: String,
}
