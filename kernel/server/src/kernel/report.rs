//! What a person is told about a cell that did not end well.
//!
//! Every failure is one `error` message and a reply with the same three fields. Graders read
//! `ename`, people read the traceback.

use std::collections::HashMap;

use forklab_engine::messages::Rejection;
use forklab_sys::process::Signal;
use forklab_worker::messages::{Exit, Hindrance, Location, Outcome, Panic, Report};
use forklab_worker::worker::UNREACHABLE;
use jupyter_protocol::messaging::ReplyError;

use super::magics::MagicError;

const RED: &str = "\x1b[1;31m";
const BLUE: &str = "\x1b[1;34m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// The longest line of an error that the person is shown, in bytes.
const LONGEST_LINE: usize = 16 << 10;

/// The name of the error for a limit.
pub const LIMIT_REACHED: &str = "LimitReached";

/// The sources of the cells so far, by execution count.
pub type Sources = HashMap<u32, String>;

/// An error with these fields, its first line in colour, and further lines under it.
fn error(ename: &str, evalue: impl Into<String>, lines: impl IntoIterator<Item = String>) -> ReplyError {
    let evalue = evalue.into();
    let first = format!("{RED}{ename}{RESET}{BOLD}: {evalue}{RESET}");
    let traceback = std::iter::once(first).chain(lines).collect();
    ReplyError { ename: ename.to_owned(), evalue, traceback }
}

/// A magic that was not understood.
pub fn magic(magic: &MagicError, execution: u32) -> ReplyError {
    error("MagicError", format!("{} (In [{execution}], line {})", magic.message, magic.line), [])
}

/// Code that did not compile.
pub fn rejected(rejection: Rejection) -> ReplyError {
    let traceback = rejection.rendered.into_iter().map(cut).collect();
    ReplyError { ename: rejection.kind, evalue: cut(rejection.message), traceback }
}

/// The compiler repeats what it does not understand, however long that is.
fn cut(mut line: String) -> String {
    let whole = line.len();
    if whole > LONGEST_LINE {
        line.truncate(line.floor_char_boundary(LONGEST_LINE));
        line.push_str(&format!("{RESET} … [cut: the line has {whole} bytes]"));
    }
    line
}

/// A cell that is not run.
pub fn too_long(bytes: usize, most: usize) -> ReplyError {
    let what = format!("the cell has {bytes} bytes, and a cell may have {most}; it was not run");
    error("CellTooLong", what, ["keep data in a file: `include_str!` and `std::fs::read` take any size".to_owned()])
}

/// The engine could not do its part.
pub fn engine(message: impl Into<String>) -> ReplyError {
    error("EngineError", message, [])
}

/// The far side could not do its part.
pub fn kernel(message: impl Into<String>) -> ReplyError {
    error("KernelError", message, [])
}

/// The person interrupted the cell.
pub fn interrupted(restored: Option<bool>) -> ReplyError {
    let processes = match restored {
        None => "",
        Some(_) => "; its processes were ended",
    };
    error("Interrupted", format!("the cell was interrupted{processes}{}", state(restored)), [])
}

/// What the outcome of a run means for the cell: nothing, or an error.
pub fn outcome(outcome: &Outcome, sources: &Sources) -> Option<ReplyError> {
    match outcome {
        Outcome::Returned(report) => returned(report, sources),
        Outcome::NotRun { message } => Some(kernel(message.clone())),
        Outcome::Died { how, restored } => Some(died(*how, *restored)),
        Outcome::Interrupted { restored } => Some(interrupted(Some(*restored))),
        Outcome::Stranded { hindrance, restored } => Some(stranded(*hindrance, *restored)),
        // Said by `over_limit`, with the limit's value.
        Outcome::OverLimit { .. } => None,
    }
}

/// A limit was reached: what has become of the cell, and how it can be raised.
pub fn over_limit(what: &str, help: String) -> ReplyError {
    error(LIMIT_REACHED, what, [help])
}

/// The person interrupted a cell whose code was done and that waited for its processes.
pub fn wait_interrupted() -> ReplyError {
    let what = "the wait for the cell's processes was interrupted; they were ended, and what the cell defined is kept";
    error("Interrupted", what, [])
}

/// The variables are lost because the person wanted no checkpoints.
pub fn without_checkpoint(error: &mut ReplyError) {
    error
        .traceback
        .push("checkpoints are off; `%checkpoint on` makes cells keep what earlier ones have defined".to_owned());
}

/// `%kill` for what is no process of a cell.
pub fn strangers(pids: &str, the_worker: bool) -> ReplyError {
    let what = if the_worker {
        format!("not ended: {pids}; the notebook's own process ends with the kernel")
    } else {
        format!("not ended: {pids}; no cell of this notebook has such a process running")
    };
    error("NoSuchProcess", what, ["`%ps` lists the processes that can be ended".to_owned()])
}

/// The person ended a repetition.
pub fn repeat_interrupted(done: usize, asked: usize) -> ReplyError {
    let what = format!("the repetition was interrupted after {done} of {asked} runs; what they did is shown above");
    error("Interrupted", what, [])
}

/// `%export` could not write.
pub fn export(message: impl Into<String>) -> ReplyError {
    error("ExportError", message, [])
}

/// The cell has finished, and no other could have followed it in the same process.
fn stranded(hindrance: Hindrance, restored: bool) -> ReplyError {
    let left = match hindrance {
        Hindrance::Files { errno } => {
            let why = std::io::Error::from_raw_os_error(errno);
            let changes = "another root directory, other mounts, another user or a filter of system calls";
            format!("unable to open the kernel's files ({why}): {changes}")
        }
        Hindrance::Memory => "without memory for another cell: a limit of memory (RLIMIT_AS, RLIMIT_DATA)".to_owned(),
        Hindrance::Descriptors => {
            "without file descriptors for another cell: a limit of open files (RLIMIT_NOFILE), or all of them in use"
                .to_owned()
        }
        Hindrance::Processes => "unable to make a checkpoint: a limit of processes (RLIMIT_NPROC)".to_owned(),
        Hindrance::PidNamespace => {
            "unable to have more children than one: a new pid namespace (CLONE_NEWPID), of which the first child is init"
                .to_owned()
        }
    };
    let what = format!("the cell has left its process {left}{}", state(Some(restored)));
    error("Stranded", what, ["do this in a forked child: it does not touch the process that runs the cells".to_owned()])
}

fn returned(report: &Report, sources: &Sources) -> Option<ReplyError> {
    if let Some(panic) = &report.panic {
        return Some(panicked(panic, sources));
    }
    report
        .error
        .as_ref()
        .map(|message| error("Error", message.clone(), ["a `?` ended the cell with this error".to_owned()]))
}

fn panicked(panic: &Panic, sources: &Sources) -> ReplyError {
    let Some(place) = &panic.location else {
        let note = "the cell's own panic hook was in force, so the line is not known".to_owned();
        return error("Panic", panic.message.clone(), [note]);
    };
    let evalue = format!("{} ({})", panic.message, describe(place));
    let lines = place.execution.and_then(|execution| excerpt(sources.get(&execution)?, place)).unwrap_or_default();
    let mut error = error("Panic", evalue, lines);
    error.traceback[0] =
        format!("{RED}Panic{RESET}{BOLD}: {}{RESET}\n {BLUE}-->{RESET} {}", panic.message, describe(place));
    error
}

fn describe(place: &Location) -> String {
    match place.execution {
        // A cell that is not counted.
        Some(0) => format!("line {}, column {}", place.line, place.column),
        Some(execution) => format!("In [{execution}], line {}, column {}", place.line, place.column),
        None => format!("{}, line {}, column {}", place.file, place.line, place.column),
    }
}

/// The line of the cell with a caret under the column, as rustc draws it.
fn excerpt(source: &str, place: &Location) -> Option<Vec<String>> {
    let line = source.lines().nth(place.line.checked_sub(1)? as usize)?;
    let number = place.line.to_string();
    let gutter = " ".repeat(number.len());
    let column = place.column.saturating_sub(1) as usize;
    let indent: String = line.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    Some(vec![
        format!("{BLUE}{gutter} |{RESET}"),
        format!("{BLUE}{number} |{RESET} {line}"),
        format!("{BLUE}{gutter} |{RESET} {indent}{RED}^{RESET}"),
    ])
}

fn died(how: Exit, restored: bool) -> ReplyError {
    let what = match how {
        Exit::Exited(UNREACHABLE) => format!(
            "the cell left its process with exit({UNREACHABLE}), or left it unable to connect to the kernel, as \
             without file descriptors or behind a filter of system calls"
        ),
        Exit::Exited(status) => format!("the cell left its process with exit({status})"),
        Exit::Signaled { signal, .. } => format!("{} ended the cell's process", described(signal)),
    };
    error(&end_name(how), format!("{what}{}", state(Some(restored))), [])
}

/// The notebook's process ended while no cell ran, by a left-over process or thread of a cell.
pub fn lost_between_cells(how: Exit) -> ReplyError {
    let what = match how {
        Exit::Exited(status) => format!("left with exit({status})"),
        Exit::Signaled { signal, .. } => format!("was ended by {}", described(signal)),
    };
    let what = format!("the notebook's process {what} while no cell ran{}", state(Some(false)));
    error(&end_name(how), what, ["this cell has not run".to_owned()])
}

fn end_name(how: Exit) -> String {
    match how {
        Exit::Exited(_) => "Exit".to_owned(),
        Exit::Signaled { signal, .. } => signal_name(signal),
    }
}

fn signal_name(signal: i32) -> String {
    Signal::from_raw(signal).map_or_else(|| format!("signal {signal}"), |signal| signal.to_string())
}

fn described(signal: i32) -> String {
    let meaning = meaning(signal).map_or_else(String::new, |meaning| format!(" ({meaning})"));
    format!("{}{meaning}", signal_name(signal))
}

pub fn state(restored: Option<bool>) -> &'static str {
    match restored {
        None => "; nothing of it had run",
        Some(true) => "; the state before the cell was restored",
        Some(false) => "; the variables of earlier cells are lost, run their cells again",
    }
}

/// What the commoner signals mean, in signal(7)'s words.
fn meaning(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "hangup",
        2 => "interrupt",
        4 => "illegal instruction",
        6 => "abort, also a stack overflow in Rust",
        7 => "bus error",
        8 => "arithmetic error",
        9 => "killed: by itself, by another process, or for want of memory",
        11 => "segmentation fault, also a thread's stack overflow",
        13 => "write to a pipe that nobody reads",
        14 => "alarm",
        15 => "termination",
        24 => "the processor time of RLIMIT_CPU used up",
        25 => "a file larger than RLIMIT_FSIZE",
        31 => "a system call that a filter forbids",
        _ => return None,
    })
}

/// A process read its input where nobody can be asked.
pub fn input_refused(pid: i32) -> ReplyError {
    let what = format!("process {pid} asked for input, but nobody can be asked here; it got end of file");
    let help = "put the answers into the cell: `%%stdin \"first answer\" \"second answer\"`".to_owned();
    error("InputRefused", what, [help])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(how: Exit) -> ReplyError {
        outcome(&Outcome::Died { how, restored: true }, &Sources::new()).expect("a death is an error")
    }

    #[test]
    fn an_exit_and_a_signal_are_named() {
        assert_eq!(exit(Exit::Exited(0)).ename, "Exit");
        assert!(exit(Exit::Exited(0)).evalue.contains("exit(0)"));
        let error = exit(Exit::Signaled { signal: 11, core: false });
        assert_eq!(error.ename, "SIGSEGV");
        assert!(error.evalue.contains("restored"), "{}", error.evalue);
        assert_eq!(exit(Exit::Signaled { signal: 35, core: false }).ename, "SIGRTMIN+1");
    }

    #[test]
    fn a_panic_shows_its_line() {
        let place = Location { execution: Some(3), file: "lib.rs".into(), line: 2, column: 5 };
        let panic = Panic { message: "boom".into(), location: Some(place) };
        let report = Report { panic: Some(panic), ..Report::default() };
        let sources = Sources::from([(3, "let x = 1;\nlet y = f();".to_owned())]);
        let error = outcome(&Outcome::Returned(report), &sources).expect("a panic is an error");
        assert_eq!((error.ename.as_str(), error.evalue.as_str()), ("Panic", "boom (In [3], line 2, column 5)"));
        assert!(error.traceback.join("\n").contains("let y = f();"), "{:?}", error.traceback);
    }
}
