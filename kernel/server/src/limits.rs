//! Limits: what the person who runs the server allows, what a cell asks for below that, and how both
//! are said.
//!
//! Nothing here watches or ends anything. The supervisor keeps the limits (of processes, memory,
//! time and files), the server's loop that of output.
//!
//! | name | of a cell | of a notebook |
//! | --- | --- | --- |
//! | `procs` | living processes that it has started; 256 | of all its cells; twice a cell's, at least 512 |
//! | `mem` | memory of the worker and everything below it | the same |
//! | `cpu` | processor time of the worker and everything below it | over all cells |
//! | `time` | time from its beginning | over all cells |
//! | `files` | open files of one process | |
//! | `output` | bytes written to stdout and stderr; 64 MiB | over all cells |
//!
//! What has no number here is off by default. A notebook's limit holds for its cells, too.

mod source;
pub mod values;

use std::path::PathBuf;
use std::time::Duration;

use forklab_worker::messages::{Limit, Limits, Reached, Scope};

pub use source::LimitsError;

use crate::nearest::nearest;

/// Processes of a cell, where nobody has set another number.
const PROCESSES: u64 = 256;
/// Bytes of a cell's output, likewise.
const OUTPUT: u64 = 64 << 20;

/// What the person who runs the server allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceiling {
    /// Each cell.
    pub cell: Limits,
    /// All that a notebook runs, from its kernel's start to its end.
    pub notebook: Limits,
    /// The file that was read, or that would be the place to set limits.
    file: PathBuf,
    /// What environment variables have set; the file cannot change that.
    by_variable: Vec<Reached>,
}

/// An amount of whatever a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Processes, files, or bytes.
    Number(u64),
    /// Time.
    Time(Duration),
}

/// How a limit is called and written.
struct Key {
    limit: Limit,
    name: &'static str,
    /// An amount as an example.
    example: &'static str,
    /// What else people may call it; for the question what was meant.
    synonyms: &'static [&'static str],
    read: fn(&str) -> Result<Value, String>,
}

const KEYS: [Key; 6] = [
    Key {
        limit: Limit::Processes,
        name: "procs",
        example: "20",
        synonyms: &["processes", "nproc", "pids", "tasks", "forks"],
        read: |text| values::count(text).map(Value::Number),
    },
    Key {
        limit: Limit::Memory,
        name: "mem",
        example: "512M",
        synonyms: &["memory", "ram", "rss", "as"],
        read: |text| values::size(text).and_then(some).map(Value::Number),
    },
    Key {
        limit: Limit::Cpu,
        name: "cpu",
        example: "10s",
        synonyms: &["cputime", "cpus"],
        read: |text| values::time(text).and_then(some).map(Value::Time),
    },
    Key {
        limit: Limit::Time,
        name: "time",
        example: "10s",
        synonyms: &["timeout", "wall", "walltime", "seconds"],
        read: |text| values::time(text).and_then(some).map(Value::Time),
    },
    Key {
        limit: Limit::Files,
        name: "files",
        example: "100",
        synonyms: &["nofile", "fds", "descriptors"],
        read: |text| values::count(text).and_then(some).map(Value::Number),
    },
    Key {
        limit: Limit::Output,
        name: "output",
        example: "1M",
        synonyms: &["stdout", "bytes", "out"],
        read: |text| values::size(text).map(Value::Number),
    },
];

/// Nothing at all is no limit under which a cell could run. (No processes and no output are.)
fn some<T: Default + PartialEq>(amount: T) -> Result<T, String> {
    if amount == T::default() {
        Err("0 would leave nothing to run with; `off` takes the limit away".to_owned())
    } else {
        Ok(amount)
    }
}

impl Default for Ceiling {
    /// What holds where nobody has set anything.
    fn default() -> Self {
        let cell = Limits { processes: Some(PROCESSES), output: Some(OUTPUT), ..Limits::default() };
        let notebook = Limits { processes: Some(2 * PROCESSES), ..Limits::default() };
        Ceiling { cell, notebook, file: PathBuf::from(source::SYSTEM_FILE), by_variable: Vec::new() }
    }
}

impl Ceiling {
    /// Reads what the person who runs the server has set: the file that `FORKLAB_LIMITS_FILE` names,
    /// or else the first that exists of `/etc/forklab/limits.toml` and `forklab/limits.toml` in
    /// `$XDG_CONFIG_HOME` (`~/.config`); and, over it, `FORKLAB_LIMIT_PROCS`, `…_MEM`, `…_CPU`,
    /// `…_TIME`, `…_FILES` and `…_OUTPUT` for a cell, `FORKLAB_NOTEBOOK_PROCS` and so on (without
    /// `…_FILES`) for a notebook.
    ///
    /// ```toml
    /// [cell]
    /// procs = 100
    /// mem = "1.5GiB"    # K, M and G are powers of 1024
    /// time = "1h30m"    # a plain number counts seconds
    /// output = "off"
    /// [notebook]
    /// mem = "4G"
    /// ```
    ///
    /// # Errors
    /// A file that is there cannot be read, or something in it or in a variable is no limit. The
    /// first such thing is told, with its place.
    pub fn load() -> Result<Ceiling, LimitsError> {
        source::load(&source::Environment::of_this_process())
    }

    fn limits(&self, scope: Scope) -> &Limits {
        match scope {
            Scope::Cell => &self.cell,
            Scope::Notebook => &self.notebook,
        }
    }

    /// The lower of a cell's and the notebook's: a cell cannot come further.
    fn lowest(&self, limit: Limit) -> Option<(Scope, Value)> {
        let both = [Scope::Cell, Scope::Notebook];
        both.into_iter()
            .filter_map(|scope| Some((scope, value(self.limits(scope), limit)?)))
            // The first of equals, which is the cell's.
            .min_by_key(|(_, value)| *value)
    }

    /// How whoever runs the server sets a limit to `text`.
    fn set(&self, reached: Reached, text: &str) -> String {
        let variable = source::variable(reached);
        if self.by_variable.contains(&reached) {
            return format!("whoever runs the server raises it with {variable}={text}");
        }
        let name = key(reached.limit).name;
        format!(
            "whoever runs the server raises it with {variable}={text} or `{name} = {}` under [{}] in {}",
            source::in_toml(text),
            source::table(reached.scope),
            self.file.display()
        )
    }
}

/// Reads the words behind `%%limit`: `procs=20 mem=512M time=10s output=1M`.
///
/// What comes out is the ceiling's limits of a cell, lowered by these.
///
/// # Errors
/// A word that is no limit, one that stands twice, or more than the server allows; for the person.
pub fn parse_cell(arguments: &[String], ceiling: &Ceiling) -> Result<Limits, String> {
    let mut limits = ceiling.cell;
    let mut seen = Vec::new();
    for argument in arguments {
        let (name, text) = argument.split_once('=').unwrap_or((argument, ""));
        let key = named(name).ok_or_else(|| unknown(name))?;
        if text.is_empty() {
            return Err(format!("`{argument}` says no amount: write `{name}={}`, without blanks", key.example));
        }
        if seen.contains(&key.limit) {
            return Err(format!("`{name}` stands twice behind `%%limit`"));
        }
        seen.push(key.limit);
        let value = read(key, text).map_err(|error| format!("`{argument}`: {error}"))?;
        allowed(argument, text, key.limit, value, ceiling)?;
        set_value(&mut limits, key.limit, value);
    }
    Ok(limits)
}

/// Whether the server allows a cell this much; `None` is as much as there is.
fn allowed(argument: &str, text: &str, limit: Limit, asked: Option<Value>, ceiling: &Ceiling) -> Result<(), String> {
    let own = value(&ceiling.cell, limit).map(|most| (Scope::Cell, most));
    let lowest = match asked {
        // The notebook's limit stays in force beside a cell's that is off.
        None => own,
        Some(_) => ceiling.lowest(limit),
    };
    match lowest {
        Some((scope, most)) if asked.is_none_or(|asked| asked > most) => {
            let whole = if scope == Scope::Notebook { " for a whole notebook" } else { "" };
            let set = ceiling.set(Reached { limit, scope }, text);
            Err(format!("{argument} is above this server's {}{whole}; {set}", written(limit, most)))
        }
        _ => Ok(()),
    }
}

/// A limit's amount; `None` when it is off.
pub fn value(limits: &Limits, limit: Limit) -> Option<Value> {
    match limit {
        Limit::Processes => limits.processes.map(Value::Number),
        Limit::Memory => limits.memory.map(Value::Number),
        Limit::Cpu => limits.cpu.map(Value::Time),
        Limit::Time => limits.time.map(Value::Time),
        Limit::Files => limits.files.map(Value::Number),
        Limit::Output => limits.output.map(Value::Number),
    }
}

fn set_value(limits: &mut Limits, limit: Limit, value: Option<Value>) {
    let number = value.map(Value::number);
    let time = value.map(Value::time);
    match limit {
        Limit::Processes => limits.processes = number,
        Limit::Memory => limits.memory = number,
        Limit::Cpu => limits.cpu = time,
        Limit::Time => limits.time = time,
        Limit::Files => limits.files = number,
        Limit::Output => limits.output = number,
    }
}

impl Value {
    fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            Value::Time(time) => time.as_secs(),
        }
    }

    fn time(self) -> Duration {
        match self {
            Value::Number(seconds) => Duration::from_secs(seconds),
            Value::Time(time) => time,
        }
    }

    fn doubled(self) -> Value {
        match self {
            Value::Number(number) => Value::Number(number.saturating_mul(2).max(1)),
            Value::Time(time) => Value::Time(time.saturating_mul(2)),
        }
    }
}

/// An amount for a person: `256 processes`, `512 MiB of memory`, `10 s of processor time`, `10 s of
/// time`, `100 open files in one process`, `1 MiB of output`.
pub fn describe(limit: Limit, value: Value) -> String {
    match limit {
        Limit::Processes => values::counted(value.number(), "process", "processes"),
        Limit::Memory => format!("{} of memory", values::long_size(value.number())),
        Limit::Cpu => format!("{} of processor time", values::long_time(value.time())),
        Limit::Time => format!("{} of time", values::long_time(value.time())),
        Limit::Files => format!("{} in one process", values::counted(value.number(), "open file", "open files")),
        Limit::Output => format!("{} of output", values::long_size(value.number())),
    }
}

/// The limit that was reached, for a person: `the cell's limit of 20 processes`, `the notebook's
/// limit of 4 GiB of memory`.
///
/// `used` are the limits with which the cell ran.
pub fn describe_reached(reached: Reached, used: &Limits, ceiling: &Ceiling) -> String {
    let (whose, limits) = match reached.scope {
        Scope::Cell => ("cell", used),
        Scope::Notebook => ("notebook", &ceiling.notebook),
    };
    match value(limits, reached.limit) {
        Some(value) => format!("the {whose}'s limit of {}", describe(reached.limit, value)),
        None => format!("the {whose}'s limit `{}`", key(reached.limit).name),
    }
}

/// What can be done about a limit that was reached, for a person: `%%limit` where the cell has set it
/// lower than the server does, or else what the person who runs the server can do.
///
/// `used` are the limits with which the cell ran.
pub fn how_to_raise(reached: Reached, used: &Limits, ceiling: &Ceiling) -> String {
    let Reached { limit, scope } = reached;
    let own = value(used, limit).filter(|_| scope == Scope::Cell);
    let lowest = ceiling.lowest(limit);
    let name = key(limit).name;
    match (own, lowest) {
        (Some(own), Some((_, most))) if own < most => {
            let more = own.doubled().min(most);
            let (more, most) = (written(limit, more), written(limit, most));
            format!("raise it with `%%limit {name}={more}`; this server allows up to {most}")
        }
        (Some(own), None) => {
            format!("raise it with `%%limit {name}={}`, or leave `{name}` out", written(limit, own.doubled()))
        }
        _ => {
            // A cell that has reached what is the notebook's limit, too, is not helped by its own.
            let scope = lowest.filter(|_| scope == Scope::Cell).map_or(scope, |(scope, _)| scope);
            let reached = Reached { limit, scope };
            let more = value(ceiling.limits(scope), limit)
                .map_or_else(|| "off".to_owned(), |most| written(limit, most.doubled()));
            format!("{}{}, before the kernel starts", relief(reached), ceiling.set(reached, &more))
        }
    }
}

/// What the person at the notebook can do about its limit without anybody's help.
fn relief(reached: Reached) -> &'static str {
    match (reached.scope, reached.limit) {
        (Scope::Cell, _) => "",
        (Scope::Notebook, Limit::Processes | Limit::Memory | Limit::Files) => {
            "`%ps` lists what earlier cells have left behind, `%kill all` ends it; "
        }
        (Scope::Notebook, Limit::Cpu | Limit::Time | Limit::Output) => "a restarted kernel counts from 0; ",
    }
}

fn key(limit: Limit) -> &'static Key {
    KEYS.iter().find(|key| key.limit == limit).expect("every limit has its row")
}

fn named(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The names that `%%limit` knows, in the order in which they are listed.
pub fn names() -> [&'static str; 6] {
    KEYS.map(|key| key.name)
}

/// Why `name` is none behind `%%limit`.
fn unknown(name: &str) -> String {
    let names = names();
    let right = probably(name, &names).map_or_else(|| ".".to_owned(), |right| format!("; did you mean `{right}`?"));
    format!("there is no limit `{name}`{right} `%%limit` knows {}", listed(&names))
}

/// An amount as the person writes it, or `off`.
fn read(key: &Key, text: &str) -> Result<Option<Value>, String> {
    if text == "off" { Ok(None) } else { (key.read)(text).map(Some) }
}

/// An amount as [`read`] takes it.
fn written(limit: Limit, value: Value) -> String {
    match limit {
        Limit::Processes | Limit::Files => value.number().to_string(),
        Limit::Memory | Limit::Output => values::short_size(value.number()),
        Limit::Cpu | Limit::Time => values::short_time(value.time()),
    }
}

/// Which of `names` was probably meant by a wrong one.
fn probably(name: &str, names: &[&'static str]) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let synonym = KEYS.iter().find(|key| key.name == lower || key.synonyms.contains(&lower.as_str()));
    let synonym = synonym.map(|key| key.name).filter(|right| names.contains(right));
    synonym.or_else(|| nearest(name, names.iter().copied()))
}

/// The names in a sentence, the last one behind "and".
fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
