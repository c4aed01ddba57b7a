//! From what a function returns to the status with which its process leaves.

use std::fmt::Debug;
use std::process::ExitCode;

/// What a process's function may return, as `main` may: nothing (status 0), a status, or a
/// `Result`. Mirrors [`std::process::Termination`].
///
/// | returned | exit status |
/// | --- | --- |
/// | `()` | 0 |
/// | an `i32` | its low eight bits, as exit(3) has it |
/// | an [`ExitCode`] | that one |
/// | `Ok(value)` | the value's |
/// | `Err(error)` | 1, and `Error: …` on stderr |
/// | never | whatever ends it: `std::process::exit`, a signal |
#[diagnostic::on_unimplemented(
    message = "a process cannot end with a value of type `{Self}`",
    label = "this function returns `{Self}`",
    note = "a process's function returns nothing, an exit status (`i32`) or a `Result` of them; \
            to hand a value to the parent, send it through a `Pipe`"
)]
pub trait ExitValue {
    /// The exit status, after whatever is to be said about it has been said on stderr.
    fn status(self) -> i32;
}

impl ExitValue for () {
    fn status(self) -> i32 {
        0
    }
}

impl ExitValue for i32 {
    fn status(self) -> i32 {
        self
    }
}

impl ExitValue for ExitCode {
    fn status(self) -> i32 {
        // std does not give its number away, but can compare it.
        (0..=u8::MAX).find(|&code| ExitCode::from(code) == self).map_or(1, i32::from)
    }
}

impl<T: ExitValue, E: Debug> ExitValue for Result<T, E> {
    fn status(self) -> i32 {
        match self {
            Ok(value) => value.status(),
            Err(error) => {
                eprintln!("Error: {error:?}");
                1
            }
        }
    }
}

/// A way to write the type `!`, which has no name of its own in stable Rust. Not for use outside.
pub trait Returned {
    /// What the function returns.
    type Value;
}

impl<T> Returned for fn() -> T {
    type Value = T;
}

impl ExitValue for <fn() -> ! as Returned>::Value {
    fn status(self) -> i32 {
        self
    }
}
