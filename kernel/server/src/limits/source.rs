//! Where the server's limits come from: a file, and environment variables over it.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use forklab_worker::messages::{Limit, Reached, Scope};
use toml::{Spanned, Value};

use super::{Ceiling, KEYS, Key, key, listed, named, probably, read, set_value};
use crate::nearest::nearest;

/// Where the person who runs a machine for others sets limits.
pub const SYSTEM_FILE: &str = "/etc/forklab/limits.toml";
const FILE: &str = "FORKLAB_LIMITS_FILE";
const CELL: &str = "FORKLAB_LIMIT_";
const NOTEBOOK: &str = "FORKLAB_NOTEBOOK_";

/// Something that the person who runs the server has set is no limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct LimitsError {
    /// The file and its line, or the variable.
    pub place: String,
    /// What is wrong, and how it is right.
    pub message: String,
}

/// What the limits are read from.
pub struct Environment {
    pub variables: BTreeMap<OsString, OsString>,
    /// [`SYSTEM_FILE`], or a test's.
    pub system: PathBuf,
}

impl Environment {
    pub fn of_this_process() -> Environment {
        Environment { variables: env::vars_os().collect(), system: PathBuf::from(SYSTEM_FILE) }
    }

    /// A variable; one that is empty is as one that is not there.
    fn get(&self, name: &str) -> Option<&OsString> {
        self.variables.get(Path::new(name).as_os_str()).filter(|value| !value.is_empty())
    }

    /// The person's own file. A relative `XDG_CONFIG_HOME` is to be ignored, its specification says.
    fn own(&self) -> Option<PathBuf> {
        let absolute = |name| self.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(config.join("forklab/limits.toml"))
    }

    /// The file's path and text. Without a file, the place where one would be looked for.
    fn file(&self) -> Result<(PathBuf, String), LimitsError> {
        if let Some(file) = self.get(FILE).map(PathBuf::from) {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| unreadable(&file, &error, " (named by FORKLAB_LIMITS_FILE)"))?;
            return Ok((file, text));
        }
        for file in std::iter::once(self.system.clone()).chain(self.own()) {
            match std::fs::read_to_string(&file) {
                Ok(text) => return Ok((file, text)),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                // Going on to the next would take limits away that somebody has set.
                Err(error) => return Err(unreadable(&file, &error, "")),
            }
        }
        Ok((self.own().unwrap_or_else(|| self.system.clone()), String::new()))
    }
}

fn unreadable(file: &Path, error: &io::Error, why: &str) -> LimitsError {
    let message = format!("the file of limits cannot be read{why}: {error}");
    LimitsError { place: file.display().to_string(), message }
}

/// The variable that sets a limit.
pub fn variable(reached: Reached) -> String {
    let prefix = if reached.scope == Scope::Cell { CELL } else { NOTEBOOK };
    format!("{prefix}{}", key(reached.limit).name.to_uppercase())
}

/// The table of the file in which a limit stands.
pub fn table(scope: Scope) -> &'static str {
    match scope {
        Scope::Cell => "cell",
        Scope::Notebook => "notebook",
    }
}

/// The names that limits of this scope have.
fn names(scope: Scope) -> Vec<&'static str> {
    let counted = |key: &&Key| scope == Scope::Cell || key.name != "files";
    KEYS.iter().filter(counted).map(|key| key.name).collect()
}

/// See [`Ceiling::load`].
pub fn load(environment: &Environment) -> Result<Ceiling, LimitsError> {
    let (file, text) = environment.file()?;
    let mut loading = Loading { ceiling: Ceiling { file, ..Ceiling::default() }, set: Vec::new() };
    loading.read_file(&text)?;
    loading.read_variables(environment)?;
    Ok(loading.finished())
}

struct Loading {
    ceiling: Ceiling,
    set: Vec<Reached>,
}

type Entries<V> = BTreeMap<Spanned<String>, Spanned<V>>;

impl Loading {
    fn read_file(&mut self, text: &str) -> Result<(), LimitsError> {
        let wrong = |offset: usize, message: String| {
            let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
            LimitsError { place: format!("{}, line {line}", self.ceiling.file.display()), message }
        };
        let no_toml = |error: toml::de::Error| {
            wrong(error.span().map_or(0, |span| span.start), format!("this is no TOML: {}", error.message()))
        };
        let tables: Entries<Value> = toml::from_str(text).map_err(no_toml)?;
        for (name, table) in in_order(&tables) {
            check_table(name.get_ref(), table.get_ref()).map_err(|message| wrong(name.span().start, message))?;
        }
        // The same once more, now that every entry is known to be a table: for the places in them.
        let tables: BTreeMap<String, Entries<Value>> = toml::from_str(text).map_err(no_toml)?;
        let entries = |scope| tables.get(table(scope)).into_iter().flatten().map(move |entry| (scope, entry));
        let mut entries: Vec<_> = [Scope::Cell, Scope::Notebook].into_iter().flat_map(entries).collect();
        entries.sort_by_key(|(_, (name, _))| name.span().start);
        let mut found = Vec::new();
        for (scope, (name, value)) in entries {
            let entry = check_entry(scope, name.get_ref(), value.get_ref());
            found.push((scope, entry.map_err(|message| wrong(name.span().start, message))?));
        }
        for (scope, (key, value)) in found {
            self.set(scope, key, value);
        }
        Ok(())
    }

    fn read_variables(&mut self, environment: &Environment) -> Result<(), LimitsError> {
        for (variable, text) in &environment.variables {
            let variable = variable.to_string_lossy();
            let scope = |prefix, scope| variable.strip_prefix(prefix).map(|name| (scope, name));
            let Some((scope, name)) = scope(CELL, Scope::Cell).or_else(|| scope(NOTEBOOK, Scope::Notebook)) else {
                continue;
            };
            if text.is_empty() {
                continue;
            }
            let wrong = |message| LimitsError { place: variable.to_string(), message };
            let Some(key) = check_variable(scope, name).map_err(wrong)? else { continue };
            let text = text.to_string_lossy();
            let value =
                read(key, &text).map_err(|error| wrong(format!("{error}. For example: {variable}={}", key.example)))?;
            self.set(scope, key, value);
            self.ceiling.by_variable.push(Reached { limit: key.limit, scope });
        }
        Ok(())
    }

    fn set(&mut self, scope: Scope, key: &Key, value: Option<super::Value>) {
        let limits = match scope {
            Scope::Cell => &mut self.ceiling.cell,
            Scope::Notebook => &mut self.ceiling.notebook,
        };
        set_value(limits, key.limit, value);
        self.set.push(Reached { limit: key.limit, scope });
    }

    /// The ceiling. A notebook's processes follow a cell's where nobody has set them: who allows a
    /// cell a thousand should not find it stopped at 512.
    fn finished(mut self) -> Ceiling {
        let unset = !self.set.contains(&Reached { limit: Limit::Processes, scope: Scope::Notebook });
        if let Some(most) = self.ceiling.cell.processes.filter(|_| unset) {
            self.ceiling.notebook.processes = self.ceiling.notebook.processes.max(Some(most.saturating_mul(2)));
        }
        self.ceiling
    }
}

/// The entries as they stand in the file.
fn in_order<V>(entries: &Entries<V>) -> Vec<(&Spanned<String>, &Spanned<V>)> {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// Whether an entry of the file's first level is one of its two tables.
fn check_table(name: &str, value: &Value) -> Result<(), String> {
    let tables = [table(Scope::Cell), table(Scope::Notebook)];
    match (tables.contains(&name), value) {
        (true, Value::Table(_)) => Ok(()),
        (true, _) => Err(format!("`{name}` is a table: write `[{name}]`, and under it for instance `procs = 100`")),
        (false, Value::Table(_)) => {
            let right = nearest(name, tables).map_or_else(String::new, |right| format!("; did you mean [{right}]?"));
            Err(format!("there is no table [{name}]{right} The tables are [cell] and [notebook]"))
        }
        (false, value) => {
            let key = named(name).or_else(|| named(probably(name, &names(Scope::Cell))?)).unwrap_or(&KEYS[0]);
            let found = if named(name).is_some() { "stands under no table" } else { "is no table" };
            let value = if named(name).is_some() { value.to_string() } else { example(key) };
            Err(format!("`{name}` {found}: write `[cell]` or `[notebook]`, and under it `{} = {value}`", key.name))
        }
    }
}

/// A line of a table as the limit that it sets.
fn check_entry(scope: Scope, name: &str, value: &Value) -> Result<(&'static Key, Option<super::Value>), String> {
    let table = table(scope);
    let names = names(scope);
    let Some(key) = named(name).filter(|key| names.contains(&key.name)) else {
        if named(name).is_some() {
            return Err(format!(
                "`{name}` is counted for each process, so it stands under [cell] and not under [{table}]"
            ));
        }
        let right = probably(name, &names).map_or_else(|| ".".to_owned(), |right| format!("; did you mean `{right}`?"));
        return Err(format!("there is no `{name}` under [{table}]{right} There are {}", listed(&names)));
    };
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            let found = value.type_str();
            return Err(format!(
                "`{name}` under [{table}] is no amount but {found}; write `{name} = {}`",
                example(key)
            ));
        }
    };
    match read(key, &text) {
        Ok(value) => Ok((key, value)),
        Err(error) => Err(format!("`{name}` under [{table}]: {error}. For example: `{name} = {}`", example(key))),
    }
}

/// The limit that the variable of this name, without its prefix, sets. `None` for a variable that
/// may be somebody else's.
fn check_variable(scope: Scope, name: &str) -> Result<Option<&'static Key>, String> {
    let names = names(scope);
    if let Some(key) = KEYS.iter().find(|key| key.name.to_uppercase() == name) {
        return if names.contains(&key.name) {
            Ok(Some(key))
        } else {
            let right = variable(Reached { limit: key.limit, scope: Scope::Cell });
            Err(format!("`{}` is counted for each process, not for a notebook: set {right}", key.name))
        };
    }
    let written = |name: &str| named(name).map(|key| variable(Reached { limit: key.limit, scope }));
    match (probably(name, &names).and_then(written), scope) {
        (Some(right), _) => Err(format!("this variable sets no limit; did you mean {right}?")),
        (None, Scope::Cell) => {
            let all: Vec<String> = names.iter().copied().filter_map(written).collect();
            Err(format!("this variable sets no limit; those that do are {}", all.join(", ")))
        }
        (None, Scope::Notebook) => Ok(None),
    }
}

/// An amount as it stands in the file.
fn example(key: &Key) -> String {
    in_toml(key.example)
}

/// An amount as TOML has it: a number, or a string.
pub fn in_toml(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.to_owned() } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests;
