//! What generated code tells the worker while a task runs, and what becomes of it.
//!
//! Every function here may be called in the worker's main thread, in a thread of it, or in a forked
//! child; the pid decides. In a child nothing is collected: it has nobody to report to, and says
//! what it has to say on its own stdout and stderr. The lock is never held while user code runs,
//! but a thread may hold it while another forks: so a child never waits for it.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};

use forklab_sys::descriptors::{Diversion, flush_c_streams, write_error_at_once, write_output};
use forklab_sys::generated::{Function, Library, Origin};
use forklab_sys::process::{Pid, at_exit, exit_now};

use crate::display;
use crate::host::{Host, Text, VERSION};
use crate::limits::{self, Shown};
use crate::messages::{Location, Panic, Report};

/// The table that every shared object is given.
pub static HOST: Host = Host {
    version: VERSION,
    panicked,
    failed,
    display,
    lost_variable,
    panic_seen,
    display_begin,
    display_end,
    leave_child: leave_child_at_end,
};

static COLLECTED: Mutex<Collected> = Mutex::new(Collected {
    report: Report {
        panic: None,
        error: None,
        displays: Vec::new(),
        lost_variables: Vec::new(),
        shell: None,
        used: None,
    },
    shown: Shown::nothing(),
    held: None,
    diversion: None,
    loaded: Vec::new(),
});

/// The pid of the worker: who has another is a forked child.
static WORKER: AtomicI32 = AtomicI32::new(0);

/// With what a forked child leaves that reaches the end of the function.
static CHILD_STATUS: AtomicI32 = AtomicI32::new(0);

struct Collected {
    report: Report,
    /// How much the report shows.
    shown: Shown,
    held: Option<HeldPanic>,
    diversion: Option<Diversion>,
    loaded: Vec<Loaded>,
}

/// A panic of the worker's main thread of which it is not known yet whether somebody catches it.
///
/// One that the cell has caught is printed when the function returns or the next panic comes, or when the
/// cell leaves by exit(3). It is lost when the worker ends without a chance to print: by _exit(2), by
/// a signal (abort(3), a crash, an interrupt) or in another program, by exec(3).
struct HeldPanic {
    text: String,
    location: Location,
    told: bool,
}

/// A shared object and whose lines its code is made of.
struct Loaded {
    function: Function,
    origins: Vec<Origin>,
}

/// Once in the life of a worker's program; its copies inherit it.
///
/// # Errors
/// Those of [`at_exit`].
pub fn prepare() -> io::Result<()> {
    at_exit(leaving)
}

/// The cell has called exit(3), in whichever thread and process.
extern "C" fn leaving() {
    // Another thread may hold the lock, and it may wait for this one.
    if in_worker()
        && let Ok(mut collected) = COLLECTED.try_lock()
    {
        collected.tell_held();
    }
}

/// This process is the worker from now on.
pub fn become_worker() {
    WORKER.store(Pid::this().as_raw(), Ordering::Relaxed);
}

/// Whether this process is the worker, and not a forked child of it.
pub fn in_worker() -> bool {
    Pid::this() == WORKER.load(Ordering::Relaxed)
}

/// A function is about to be called. Which lines are whose is in `origins`, or else in the library.
pub fn begin(library: &Library, function: Function, origins: Option<Vec<Origin>>) {
    library.set_host(&HOST);
    let origins = origins.unwrap_or_else(|| library.origins());
    let mut collected = collected();
    collected.report = Report::default();
    collected.shown = Shown::nothing();
    collected.held = None;
    collected.loaded.push(Loaded { function, origins });
    CHILD_STATUS.store(0, Ordering::Relaxed);
}

/// The function has returned in the worker: what it told.
pub fn finish() -> Report {
    flush_c_streams();
    let mut collected = collected();
    collected.end_diversion();
    collected.tell_held();
    let rest = std::mem::take(&mut collected.shown).rest();
    collected.report.displays.extend(rest);
    std::mem::take(&mut collected.report)
}

extern "C" fn leave_child_at_end() -> ! {
    leave_child()
}

/// The function has returned in a forked child, which leaves here. Nothing of the worker's own is
/// cleaned up: it is the worker's.
pub fn leave_child() -> ! {
    flush_c_streams();
    if let Ok(mut collected) = COLLECTED.try_lock() {
        collected.end_diversion();
    }
    exit_now(CHILD_STATUS.load(Ordering::Relaxed))
}

fn collected() -> MutexGuard<'static, Collected> {
    // What a panicking holder leaves behind is a report that lacks something: still a report.
    COLLECTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

extern "C" fn panicked(message: Text, len: usize) {
    if !in_worker() {
        CHILD_STATUS.store(101, Ordering::Relaxed);
        return;
    }
    let mut collected = collected();
    collected.end_diversion();
    let location = collected.held.take().map(|held| held.location);
    let message = limits::message(message.copy(len), "the panic's message");
    collected.report.panic = Some(Panic { message, location });
}

extern "C" fn failed(error: Text, len: usize) {
    let error = error.copy(len);
    if in_worker() {
        collected().report.error = Some(limits::message(error, "the error's text"));
    } else {
        CHILD_STATUS.store(1, Ordering::Relaxed);
        write_error_at_once(format!("process {}: error: {error}\n", Pid::this()).as_bytes());
    }
}

extern "C" fn display(mime: Text, mime_len: usize, content: Text, content_len: usize) {
    show(mime.copy(mime_len), content.copy(content_len));
}

extern "C" fn lost_variable(name: Text, len: usize) {
    // A child's variables end with the child.
    if in_worker() {
        collected().report.lost_variables.push(name.copy(len));
    }
}

#[allow(clippy::too_many_arguments)] // The border is C's, and passes texts as two values.
extern "C" fn panic_seen(
    file: Text,
    file_len: usize,
    line: u32,
    column: u32,
    message: Text,
    message_len: usize,
    thread: Text,
    thread_len: usize,
    user_hook: bool,
) {
    let main = Pid::this_thread() == Pid::this();
    let location = match COLLECTED.try_lock() {
        Ok(collected) => collected.locate(file, file_len, line, column),
        Err(_) => Location { execution: None, file: file.copy(file_len), line, column },
    };
    let who = if main {
        format!("process {}", Pid::this())
    } else {
        let name = thread.copy(thread_len);
        format!("thread '{}' of process {}", if name.is_empty() { "<unnamed>" } else { &name }, Pid::this())
    };
    let text = format!("{who} panicked at {}:\n{}\n", place(&location), message.copy(message_len));
    if !(main && in_worker()) {
        if !user_hook {
            write_error_at_once(text.as_bytes());
        }
        return;
    }
    let mut collected = collected();
    // A second panic before anybody claimed the first: either the first was caught, or this one
    // came while the first unwinds and the process aborts now. So neither can wait any longer.
    let second = collected.held.is_some();
    collected.tell_held();
    collected.held = Some(HeldPanic { text, location, told: user_hook });
    if second {
        collected.tell();
    }
}

extern "C" fn display_begin() {
    // Without the lock (a child of a process whose thread held it) the text is output.
    if let Ok(mut collected) = COLLECTED.try_lock()
        && collected.diversion.is_none()
    {
        collected.diversion = Diversion::begin().ok();
    }
}

extern "C" fn display_end() {
    if let Ok(mut collected) = COLLECTED.try_lock() {
        collected.end_diversion();
    }
}

fn show(mime: String, content: String) {
    if in_worker() {
        collected().show(mime, content);
    } else {
        print_display(&mime, &content);
    }
}

/// A child has no cell to show things in: text is printed, the rest cannot be.
fn print_display(mime: &str, content: &str) {
    if mime == "text/plain" {
        // Where standard output is closed, there is nobody to tell.
        let _ = write_output(format!("{content}\n").as_bytes());
    }
}

/// A location as a person finds it.
fn place(location: &Location) -> String {
    match location.execution {
        Some(execution) => format!("In [{execution}], line {}, column {}", location.line, location.column),
        None => format!("{}:{}:{}", location.file, location.line, location.column),
    }
}

impl Collected {
    /// Prints the held panic, if nobody has claimed it and it was not printed.
    fn tell_held(&mut self) {
        self.tell();
        self.held = None;
    }

    fn tell(&mut self) {
        if let Some(held) = &mut self.held
            && !held.told
        {
            held.told = true;
            write_error_at_once(held.text.as_bytes());
        }
    }

    fn end_diversion(&mut self) {
        let Some(written) = self.diversion.take().and_then(|diversion| diversion.end().ok()) else { return };
        let cut = display::cut(&String::from_utf8_lossy(&written));
        // Where standard output is closed, there is nobody to tell.
        let _ = write_output(cut.output.as_bytes());
        if in_worker() {
            cut.displays.into_iter().for_each(|(mime, content)| self.show(mime, content));
        } else {
            cut.displays.iter().for_each(|(mime, content)| print_display(mime, content));
        }
    }

    fn show(&mut self, mime: String, content: String) {
        let admitted = self.shown.admit((mime, content));
        self.report.displays.extend(admitted);
    }

    /// From the generated source to the cell. The file's name is a text within the object whose
    /// code panicked; the file of a cell has a relative name, those of crates that were compiled
    /// into the object an absolute one.
    fn locate(&self, file: Text, file_len: usize, line: u32, column: u32) -> Location {
        let name = file.copy(file_len);
        let of_cell = |loaded: &&Loaded| !name.starts_with('/') && loaded.function.lies_with(file);
        self.loaded
            .iter()
            .rev()
            .find(of_cell)
            .and_then(|loaded| in_cell(&loaded.origins, line, column))
            .unwrap_or(Location { execution: None, file: name, line, column })
    }
}

fn in_cell(origins: &[Origin], line: u32, column: u32) -> Option<Location> {
    let &[first, _, execution, cell_line, offset] =
        origins.iter().find(|[first, count, ..]| (*first..first.saturating_add(*count)).contains(&line))?;
    let column = if line == first { column.wrapping_add(offset) } else { column };
    Some(Location { execution: Some(execution), file: String::new(), line: cell_line + (line - first), column })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_line_is_found_in_its_cell() {
        let origins = [[10, 3, 7, 1, 4u32.wrapping_neg()], [20, 1, 8, 5, 0]];
        let at = |line, column| in_cell(&origins, line, column).map(|l| (l.execution, l.line, l.column));
        assert_eq!(at(10, 9), Some((Some(7), 1, 5)));
        assert_eq!(at(12, 9), Some((Some(7), 3, 9)));
        assert_eq!(at(20, 2), Some((Some(8), 5, 2)));
        assert_eq!(at(13, 1), None);
    }
}
