//! Processes, pipes and questions for the cells of a forklab notebook, with the names and the
//! behaviour of Python's `multiprocessing` where they make sense in Rust.
//!
//! # What goes wrong, and what this library does about it
//!
//! Forking by hand goes wrong in a handful of ways, and every course meets all of them:
//!
//! - **A child that runs on as a second parent.** The child of a [`Process`] runs its function and
//!   leaves: with 0, with the function's [`ExitValue`], or with 101 after a panic. It never comes
//!   back to the code that started it.
//! - **Text that appears twice.** What `print!` had buffered at the fork exists in both processes.
//!   [`Process::start`] writes it out before it forks, and the child writes out its own at its end.
//! - **A read that waits for ever.** A pipe is at its end when *every* copy of its other end is
//!   closed, and a fork copies all ends. An end that is moved into a process's function is closed in
//!   the parent once the child has it, and the ends of the same pipe that stay with the parent are
//!   closed in the child. (Not so after a bare `fork` of `nix`: there, you close them.)
//! - **Zombies.** A child that has ended stays in the process table until its parent asks for its
//!   status. [`Process::join`] does; looking ([`Process::is_alive`], [`Process::exit_status`], `{:?}`)
//!   does not, so that you can look at a zombie for as long as you like. A `Process` that is dropped
//!   while its child lives leaves the child running, and the child is reaped later, at the next
//!   start, join or drop of any `Process` in the same program.
//! - **Threads.** A fork copies one thread. If another one held a lock at that moment, nobody will
//!   ever release it in the child. Start processes before threads, or join the threads first.
//!
//! # A process
//!
//! ```
//! use forklab::Process;
//!
//! let mut child = Process::new(|| println!("I am {}", std::process::id()));
//! child.start()?;
//! println!("I am {}, and my child is {}", std::process::id(), child.pid().unwrap());
//! let status = child.join()?;
//! assert!(status.success());
//! # Ok::<(), forklab::Error>(())
//! ```
//!
//! A function with arguments is called from a closure that owns them; the closure's result is the
//! exit status:
//!
//! ```
//! use forklab::Process;
//!
//! fn work(number: i32) -> i32 {
//!     println!("worker {number}");
//!     number
//! }
//!
//! let mut workers: Vec<Process> = (0..5).map(|n| Process::new(move || work(n))).collect();
//! for worker in &mut workers {
//!     worker.start()?;
//! }
//! for (n, worker) in workers.iter().enumerate() {
//!     assert_eq!(worker.join()?.code(), Some(n as i32));
//! }
//! # Ok::<(), forklab::Error>(())
//! ```
//!
//! # A conversation
//!
//! ```
//! use forklab::{Pipe, Process};
//!
//! let (here, there) = Pipe::new()?;
//! let mut child = Process::new(move || -> forklab::Result<()> {
//!     while let Some(line) = there.recv::<String>()? {
//!         there.send(&line.to_uppercase())?;
//!     }
//!     Ok(())
//! });
//! child.start()?;
//! here.send("hello")?;
//! assert_eq!(here.recv::<String>()?.as_deref(), Some("HELLO"));
//! here.close(); // the child's recv returns None
//! assert!(child.join()?.success());
//! # Ok::<(), forklab::Error>(())
//! ```
//!
//! # Asking the person, and the shell
//!
//! ```no_run
//! let name = forklab::input("What is your name? ")?;
//! println!("Hello, {name}.");
//! forklab::system("ps ft")?;
//! # Ok::<(), forklab::Error>(())
//! ```
//!
//! # What happened
//!
//! [`last_run`] gives what the processes of the cell before this one did, and [`runs`] the orders that
//! `%%repeat` has seen, as plain values: see [`record`].
//!
//! # The bare calls
//!
//! The crate `nix` stands beside this one in every cell: `use nix::unistd::{fork, ForkResult};`.
//! A [`Pid`] and a [`Signal`] of ours convert to and from its own.
//!
//! # Errors
//!
//! Every fallible function returns [`Error`], whose text says what happened and what to do, the same
//! under `{}`, `{:?}`, `unwrap()` and `?`.

mod process;

mod exit;

mod pipe;

mod person;

pub mod record;

mod error;
mod handover;
mod shared;

pub use error::Error;
pub use exit::ExitValue;
pub use forklab_sys::process::{ExitStatus, Pid, Signal};
pub use person::{input, system};
pub use pipe::{Connection, Pipe, Receiver, Sender};
pub use process::Process;
pub use record::{last_run, runs};
// For values whose type only the sender knows.
pub use serde_json::{Value, json};

/// What the functions of this crate return, and what a process's function with a `?` in it may
/// return: `move || -> forklab::Result<()> { …; Ok(()) }`.
pub type Result<T, E = Error> = std::result::Result<T, E>;
