//! Our cargo: what evcxr calls for each cell in cargo's place.
//!
//! It answers what is known (`answers`), hands out what has been compiled before (`cache`), and calls
//! rustc as cargo once did (`record`). Everything else is the real cargo's: what is no cell, and the
//! first cell of each configuration.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use forklab_sys::process;
use serde_json::Value;

use crate::after::After;
use crate::answers;
use crate::cache::{About, Cache, Entry, Outcome};
use crate::environment::WRAPPER_VARIABLE;
use crate::origins::{Cell, Origins};
use crate::record::{self, Configuration, Record};
use crate::rewrite::{Rewritten, rewrite};
use crate::rustc::{self, Compiled};
use crate::source::Source;
use crate::wrapper::{self, GENERATED, REWRITTEN};

/// Where evcxr wants to be told of the shared object.
const OBJECT_VARIABLE: &str = "EVCXR_EXECUTION_SO_PATH";
/// What cargo leaves with when a crate does not compile.
const REJECTED: i32 = 101;
/// The errors that evcxr acts on. They are about names and types only.
const EVCXR_ACTS_ON: &[&str] = &["E0382", "E0425", "E0505", "E0277", "E0599"];

/// Is cargo, with its arguments but for the first.
pub(crate) fn main(arguments: &[OsString], real: impl FnOnce() -> PathBuf) -> ! {
    let mut command = Command::new(real());
    command.args(arguments);
    if is_cell(arguments) {
        match cell(arguments) {
            Ok(Ok(status)) => process::exit_now(status),
            Ok(Err(ask)) => drop(ask.map(|(name, value)| command.env(name, value))),
            Err(error) => eprintln!("warning: the real cargo is asked: {error}"),
        }
    }
    let error = command.exec();
    eprintln!("error: cannot run cargo: {error}");
    std::process::exit(127)
}

/// Whether evcxr asks for a cell to be compiled.
fn is_cell(arguments: &[OsString]) -> bool {
    let words: Vec<&str> = arguments.iter().filter_map(|one| one.to_str()).filter(|one| *one != "--offline").collect();
    let asked = matches!(words[..], ["build", "--target", _, "--message-format=json"]);
    asked && std::env::var_os(OBJECT_VARIABLE).is_some() && Path::new(GENERATED).is_file()
}

/// What a real cargo is to have in its environment.
type Ask = Option<(&'static str, PathBuf)>;

/// The status to leave with, or what the real cargo is to be told.
fn cell(arguments: &[OsString]) -> io::Result<Result<i32, Ask>> {
    let configuration = Configuration::of(arguments)?;
    // A wrapper that somebody else has asked for is cargo's to call.
    let wrapped = std::env::var_os("RUSTC_WRAPPER").is_some_and(|wrapper| !wrapper.is_empty());
    let Some(record) = configuration.recorded().filter(|_| !wrapped) else {
        // Cargo knows one object and would take it for this cell's.
        wrapper::forget_objects(Path::new("target"));
        return if wrapped { Ok(Err(None)) } else { record::ask_for(&configuration).map(Some).map(Err) };
    };
    let text = fs::read_to_string(GENERATED)?;
    let source = Source::read(&text);
    if let Some(answer) = answers::known(&source, record.displays) {
        eprint!("{answer}");
        return Ok(Ok(REJECTED));
    }
    let cells = wrapper::cells();
    let job = Job { configuration, record, text: &text, source, cells, cache: Cache::of(&std::env::current_dir()?) };
    job.run().map(Ok)
}

/// One cell that is to become a shared object.
struct Job<'a> {
    configuration: Configuration,
    record: Record,
    text: &'a str,
    source: Source<'a>,
    cells: Vec<Cell>,
    cache: Cache,
}

impl Job<'_> {
    fn run(&self) -> io::Result<i32> {
        let Some(guess) = rewrite(&self.source, true) else {
            return self.compile(GENERATED).map(|compiled| self.leave(&compiled));
        };
        if guess.superseded.is_empty() {
            return self.finish(&guess);
        }
        let key = self.key(&guess.key);
        match self.find(&key) {
            Some(Entry { about: About { outcome: Outcome::Unsuperseded, .. }, .. }) => {}
            Some(entry) => return self.use_again(&guess, &key, &entry),
            None => {
                if let Some(status) = self.known_errors(&guess) {
                    return Ok(status);
                }
                let begun = SystemTime::now();
                let compiled = self.compile_text(&guess)?;
                match is_proven(&guess, &compiled) {
                    Proof::Right => return self.take(&guess, &compiled, begun),
                    Proof::Wrong => self.keep(&key, Outcome::Unsuperseded, begun),
                    // Which error is whose is not clear: without the guess it is.
                    Proof::None => {}
                }
            }
        }
        match rewrite(&self.source, false) {
            Some(plain) => self.finish(&plain),
            None => self.compile(GENERATED).map(|compiled| self.leave(&compiled)),
        }
    }

    /// With what has been compiled before, or else by compiling it.
    fn finish(&self, rewritten: &Rewritten) -> io::Result<i32> {
        let key = self.key(&rewritten.key);
        if let Some(entry) = self.find(&key) {
            return self.use_again(rewritten, &key, &entry);
        }
        if let Some(status) = self.known_errors(rewritten) {
            return Ok(status);
        }
        let begun = SystemTime::now();
        let compiled = self.compile_text(rewritten)?;
        self.take(rewritten, &compiled, begun)
    }

    /// Says what the compiler has said of this very text. The status to leave with.
    fn known_errors(&self, rewritten: &Rewritten) -> Option<i32> {
        let Outcome::Failed(errors) = self.find(&self.failure_key(rewritten))?.about.outcome else { return None };
        eprint!("{errors}");
        Some(REJECTED)
    }

    /// What an entry has to agree with.
    fn key(&self, text: &str) -> String {
        format!("{}\n{:?}\n{text}", self.configuration.text, self.record)
    }

    /// That of errors, which name lines: they are right for this very text.
    fn failure_key(&self, rewritten: &Rewritten) -> String {
        self.key(&format!("errors of\n{}", rewritten.text))
    }

    /// Whether the source may name files: a compilation that fails does not say which.
    fn includes(&self) -> bool {
        let own_comment =
            |line: &&&str| line.starts_with("// This file is both a module") || line.starts_with("// built as a");
        self.source.lines.iter().filter(|line| !own_comment(line)).any(|line| line.contains("include"))
    }

    fn find(&self, key: &str) -> Option<Entry> {
        if self.record.reusable { self.cache.find(key) } else { None }
    }

    fn use_again(&self, rewritten: &Rewritten, key: &str, entry: &Entry) -> io::Result<i32> {
        let place = self.place()?;
        entry.copy_object(&place)?;
        self.tell(&entry.about.source, &place)?;
        self.tell_engine(rewritten, key, entry.path());
        Ok(0)
    }

    /// Says what evcxr will know after this cell. Without that, the cell's next run is evcxr's, too.
    fn tell_engine(&self, rewritten: &Rewritten, key: &str, entry: &Path) {
        let after = After::of(&self.source, rewritten, &self.key(""), entry, key);
        if let Some(Err(error)) = after.map(|after| after.write(&self.configuration.build)) {
            eprintln!("warning: the cell's next run will be a slow one: {error}");
        }
    }

    /// Does with a compilation's result what is to be done.
    fn take(&self, rewritten: &Rewritten, compiled: &Compiled, begun: SystemTime) -> io::Result<i32> {
        if !compiled.is_good() {
            if evcxr_acts_on(&compiled.errors) && !self.includes() {
                let errors = String::from_utf8_lossy(&compiled.errors).into_owned();
                self.keep(&self.failure_key(rewritten), Outcome::Failed(errors), begun);
            }
            return Ok(self.leave(compiled));
        }
        let place = self.place()?;
        fs::rename(self.compiled_object()?, &place)?;
        let key = self.key(&rewritten.key);
        self.keep(&key, Outcome::Compiled, begun);
        self.tell(self.text, &place)?;
        if let Some(entry) = self.find(&key) {
            self.tell_engine(rewritten, &key, entry.path());
        }
        Ok(0)
    }

    /// Keeps what came of a compilation. That it cannot be kept is no reason to fail.
    fn keep(&self, key: &str, outcome: Outcome, begun: SystemTime) {
        if !self.record.reusable {
            return;
        }
        let compiled = outcome == Outcome::Compiled;
        let dependencies = self.record.out_dir().map(|directory| directory.join("ctx.d")).filter(|_| compiled);
        if compiled && dependencies.is_none() {
            return;
        }
        let object = if compiled { self.place().ok() } else { None };
        if let Some(about) = About::new(self.text, outcome, dependencies.as_deref(), begun)
            && let Err(error) = self.cache.keep(key, &about, object.as_deref())
        {
            eprintln!("warning: the compiled cell cannot be kept: {error}");
        }
    }

    /// The status to leave with; the compiler's words are passed on.
    fn leave(&self, compiled: &Compiled) -> i32 {
        eprint!("{}", String::from_utf8_lossy(&compiled.errors));
        if compiled.is_good() { 0 } else { REJECTED }
    }

    fn compile_text(&self, rewritten: &Rewritten) -> io::Result<Compiled> {
        fs::write(REWRITTEN, &rewritten.text)?;
        self.compile(REWRITTEN)
    }

    /// Compiles. What fails for no reason that lies in the code is compiled once more without what rustc
    /// remembers of earlier cells: a rustc that was killed in the middle, by an interrupt, may have
    /// left half of it.
    fn compile(&self, file: &str) -> io::Result<Compiled> {
        let compiled = self.compile_once(file)?;
        if compiled.is_good() || blames_the_code(&compiled.errors) || !self.forget_incremental() {
            return Ok(compiled);
        }
        self.compile_once(file)
    }

    /// Removes what rustc remembers of earlier cells. Whether there was any.
    fn forget_incremental(&self) -> bool {
        let place = self.record.arguments().iter().find_map(|one| one.strip_prefix("incremental="));
        place.is_some_and(|place| fs::remove_dir_all(place).is_ok())
    }

    fn compile_once(&self, file: &str) -> io::Result<Compiled> {
        wrapper::remove(&self.compiled_object()?)?;
        let mut command = Command::new(self.record.rustc());
        let arguments = self.record.arguments().iter();
        command.args(arguments.map(|one| if one == GENERATED { file } else { one }));
        command.envs(self.record.environment()).env_remove(WRAPPER_VARIABLE).env_remove("RUSTFLAGS");
        rustc::run(command)
    }

    fn compiled_object(&self) -> io::Result<PathBuf> {
        let directory = self.record.out_dir().ok_or(io::ErrorKind::NotFound)?;
        Ok(directory.join("libctx.so"))
    }

    /// Where evcxr is to find the object: where cargo would put it.
    fn place(&self) -> io::Result<PathBuf> {
        let directory = self.record.out_dir().ok_or(io::ErrorKind::NotFound)?;
        Ok(directory.parent().ok_or(io::ErrorKind::NotFound)?.join("libctx.so"))
    }

    /// Tells the worker which line is whose, and evcxr where the object is.
    fn tell(&self, source: &str, object: &Path) -> io::Result<()> {
        let cells: Vec<&Cell> = self.cells.iter().collect();
        Origins::of(&Source::read(source), &cells).write(&object.with_extension("origins"))?;
        match std::env::var_os(OBJECT_VARIABLE) {
            Some(file) => fs::write(file, object.as_os_str().as_encoded_bytes()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// What the compiler says of a guess.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    /// None of the superseded variables is used.
    Right,
    /// One of them is, or may be.
    Wrong,
    /// There are errors that may come from the guess.
    None,
}

/// Whether the compiler has warned of each superseded variable; or, where there are errors, whether
/// none is about the line where they are.
fn is_proven(guess: &Rewritten, compiled: &Compiled) -> Proof {
    let messages = messages(&compiled.errors);
    if !compiled.is_good() {
        let touches = |message: &Value| places(message).any(|(first, last)| (first..=last).contains(&guess.taken_at));
        return if messages.iter().filter(|message| message["level"] == "error").any(touches) {
            Proof::None
        } else {
            Proof::Right
        };
    }
    let unused = |name: &String| {
        messages.iter().any(|message| {
            message["code"]["code"] == "unused_variables"
                && message["message"].as_str().is_some_and(|text| *text == format!("unused variable: `{name}`"))
                && message["spans"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(place)
                    .any(|(line, _)| line == guess.taken_at)
        })
    };
    if guess.superseded.iter().all(unused) { Proof::Right } else { Proof::Wrong }
}

/// Whether an error names a place in the source. The linker's do not.
fn blames_the_code(errors: &[u8]) -> bool {
    let places = |message: &Value| message["spans"].as_array().is_some_and(|spans| !spans.is_empty());
    messages(errors).iter().any(|message| message["level"] == "error" && places(message))
}

/// Whether all errors are of those that evcxr knows a way around.
fn evcxr_acts_on(errors: &[u8]) -> bool {
    let messages = messages(errors);
    let mut errors = messages.iter().filter(|message| message["level"] == "error").peekable();
    let known = |message: &Value| match message["code"]["code"].as_str() {
        Some(code) => EVCXR_ACTS_ON.contains(&code),
        None => message["message"].as_str().is_some_and(|text| text.starts_with("aborting due to")),
    };
    errors.peek().is_some() && errors.all(known)
}

fn messages(errors: &[u8]) -> Vec<Value> {
    errors.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// The first and the last line of each place that a message or its advice names.
fn places(message: &Value) -> impl Iterator<Item = (usize, usize)> + '_ {
    let children = message["children"].as_array().into_iter().flatten();
    let spans = [message].into_iter().chain(children).flat_map(|one| one["spans"].as_array().into_iter().flatten());
    spans.filter_map(place)
}

fn place(span: &Value) -> Option<(usize, usize)> {
    Some((span["line_start"].as_u64()? as usize, span["line_end"].as_u64()? as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_with_a_place_are_the_codes() {
        let linker = r#"{"level":"error","code":null,"message":"linking with `cc` failed","spans":[]}"#;
        let warning = r#"{"level":"warning","code":null,"message":"unused","spans":[{"line_start":1}]}"#;
        let code = r#"{"level":"error","code":{"code":"E0425"},"message":"x","spans":[{"line_start":1}]}"#;
        assert!(!blames_the_code(format!("{warning}\n{linker}\n").as_bytes()));
        assert!(!blames_the_code(b"rustc was killed\n"));
        assert!(blames_the_code(format!("{linker}\n{code}\n").as_bytes()));
    }
}
