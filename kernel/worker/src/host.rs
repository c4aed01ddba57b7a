//! The table of functions through which generated code talks to the worker that runs it.
//!
//! A cell's shared object exports a symbol beside its function, `FORKLAB_HOST`, a `static
//! AtomicPtr<Host>`: the worker stores the table's address there after loading the object and before
//! calling into it.
//!
//! A file beside the object, with the same name and the extension `origins`, holds n runs
//! of five `u32` in the machine's order of bytes; or, where there is no such file, the object exports
//!
//! - `FORKLAB_ORIGINS`, a `static [u32; 5 * n]`, and `FORKLAB_ORIGINS_LEN`, a `static usize` (= n):
//!   n runs of source lines, each `line, count, execution, cell_line, column_offset`
//!   (first line in the generated source from 1; number of lines; the `n` of `In [n]`; first line
//!   in the cell from 1; what to add to a column of the run's first line).
//!
//! All texts are pointer and length of UTF-8 and are copied before the call returns. Every function
//! may be called in the worker, in a thread of it, or in a forked child of it; each asks for the pid
//! and does in a child what is right there. The engine holds the same definition as text
//! (`forklab_engine::rewrite`); `VERSION` changes with it.

/// The version of the table's layout.
pub const VERSION: u32 = 2;

/// A text crossing the border: the address of its first byte.
pub use forklab_sys::generated::Text;

/// What generated code may call.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// [`VERSION`].
    pub version: u32,
    /// The user's code ended in a panic that generated code has caught. The payload as text.
    pub panicked: extern "C" fn(Text, usize),
    /// A `?` ended the user's code. The error as text.
    pub failed: extern "C" fn(Text, usize),
    /// A value is to be shown: MIME type and content.
    pub display: extern "C" fn(Text, usize, Text, usize),
    /// A stored variable has another type than expected. Its name.
    pub lost_variable: extern "C" fn(Text, usize),
    /// The panic hook saw a panic: file, line, column, message, name of the thread (empty: none),
    /// and whether a hook of the user's will run after this call (then nothing is printed here).
    pub panic_seen: extern "C" fn(Text, usize, u32, u32, Text, usize, Text, usize, bool),
    /// What is written to fd 1 from here on is the text of an `evcxr_display`, not output.
    pub display_begin: extern "C" fn(),
    /// Ends `display_begin`. What was written is cut into displays along evcxr's markers
    /// (`EVCXR_BEGIN_CONTENT mime`, `EVCXR_END_CONTENT`), the rest is output.
    pub display_end: extern "C" fn(),
    /// A forked child has come to the function's end, and has flushed its stdout if it could. It leaves.
    pub leave_child: extern "C" fn() -> !,
}
