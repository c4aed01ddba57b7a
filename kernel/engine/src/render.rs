//! Errors as values and as text: what the compiler had against a cell, drawn as rustc draws it.

use crate::messages::Rejection;
use crate::origins::Cell;

pub(crate) fn rejection(error: &evcxr::Error, _cells: &[&Cell], _generated: &str) -> Rejection {
    let rendered = match error {
        evcxr::Error::CompilationErrors(errors) => errors.iter().flat_map(|e| e.rendered().lines().map(str::to_owned).collect::<Vec<_>>()).collect(),
        other => vec![other.to_string()],
    };
    Rejection { kind: "CompileError".to_owned(), message: error.to_string(), rendered }
}

/// A command that is not carried out.
pub(crate) fn refused(message: &str) -> Rejection {
    Rejection { kind: "CommandError".to_owned(), message: message.to_owned(), rendered: vec![message.to_owned()] }
}

/// The engine itself has panicked.
pub(crate) fn broken(message: &str) -> Rejection {
    let message = format!("the engine failed on this cell and is replaced: {message}");
    Rejection { kind: "EngineError".to_owned(), message: message.clone(), rendered: vec![message] }
}
