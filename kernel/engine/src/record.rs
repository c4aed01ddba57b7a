//! What cargo once told rustc about the crate that evcxr generates: how to call rustc without cargo.
//!
//! A record is for one configuration: everything from which cargo would come to the same command.
//! It lies in the build directory, and names that directory by a word, since build directories are
//! copied. Cargo is asked again when anything is not as it was: the configuration, the lock file, the
//! compiler, a compiled crate. It is always asked where a crate's source may change meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::fingerprint;
use crate::environment;
use crate::tools;

/// Where cargo's child is to leave the record; set by our cargo for the real one.
pub(crate) const RECORD_VARIABLE: &str = "FORKLAB_RECORD";
/// The directory of the library's sources, which do not change while a kernel runs.
pub(crate) const LIBRARY_VARIABLE: &str = "FORKLAB_LIBRARY";
const LOCK: &str = "Cargo.lock";
/// Stands for the build directory.
const BUILD: &str = "{build}";
/// Procedural macros that read nothing but their input.
const PURE_MACROS: &[&str] = &[
    "serde_derive",
    "tokio_macros",
    "futures_macro",
    "async_trait",
    "thiserror_impl",
    "derive_more_impl",
    "zerocopy_derive",
    "pin_project_internal",
    "tracing_attributes",
    "strum_macros",
    "bytemuck_derive",
    "paste",
    "num_derive",
    "clap_derive",
    "proc_macro_error_attr",
    "rand_derive",
    "crossbeam_macros",
];

/// How rustc is called for a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    rustc: String,
    arguments: Vec<String>,
    /// What cargo adds to the environment.
    environment: BTreeMap<String, String>,
    stamps: BTreeMap<String, Stamp>,
    /// Whether a crate may have a method `evcxr_display`.
    pub displays: bool,
    /// Whether what is compiled depends on nothing but its sources.
    pub reusable: bool,
}

/// By what one sees that a file is the same: length, time, number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp(u64, i64, i64, u64);

impl Stamp {
    /// Of a copy of a build directory, too, so without the number where that may be copied.
    fn of(path: &Path, in_build: bool) -> Option<Stamp> {
        let data = fs::metadata(path).ok()?;
        Some(Stamp(data.len(), data.mtime(), data.mtime_nsec(), if in_build { 0 } else { data.ino() }))
    }
}

/// A configuration and where its record lies.
#[derive(Debug, Clone)]
pub(crate) struct Configuration {
    /// The build directory.
    pub build: PathBuf,
    /// Everything that it consists of. Two that are the same text are the same.
    pub text: String,
}

impl Configuration {
    /// Of the build in the current directory with these arguments of cargo's.
    ///
    /// # Errors
    /// Those of reading `Cargo.toml`, and `InvalidData` for names that are not UTF-8.
    pub fn of(arguments: &[OsString]) -> io::Result<Configuration> {
        let build = std::env::current_dir()?;
        let manifest = fs::read_to_string("Cargo.toml")?;
        let own = std::env::current_exe()?;
        let rustc = std::env::var_os("RUSTC").unwrap_or_default();
        let mut text = format!("{:?}\n{:?}\n", Stamp::of(&own, false), Stamp::of(Path::new(&rustc), false));
        // Without the network or with it, cargo comes to the same.
        for argument in arguments.iter().filter(|one| *one != "--offline") {
            text.push_str(&format!("{argument:?}\n"));
        }
        for change in Noted::read().changes() {
            text.push_str(&placeless(&change, &build));
        }
        for file in global_configuration() {
            text.push_str(&fs::read_to_string(file).unwrap_or_default());
        }
        text.push_str(&manifest);
        Ok(Configuration { build, text })
    }

    /// Where its record is.
    pub fn record(&self) -> PathBuf {
        self.build.join(tools::DIRECTORY).join(format!("record-{:016x}.json", fingerprint(&self.text)))
    }

    /// Its record, if cargo would say the same now.
    pub fn recorded(&self) -> Option<Record> {
        let (configuration, record): (String, Record) = serde_json::from_slice(&fs::read(self.record()).ok()?).ok()?;
        let record = record.map(|text| text.replace(BUILD, &self.build.to_string_lossy()));
        let same = configuration == self.text && !has_changing_crates(&self.text) && record.is_valid();
        same.then_some(record)
    }
}

impl Record {
    /// Keeps what cargo said to this process, which is called in rustc's place.
    ///
    /// # Errors
    /// Those of writing files, and `InvalidData` for arguments that are not UTF-8.
    pub fn keep(rustc: &OsStr, arguments: &[OsString]) -> io::Result<()> {
        let Some(path) = std::env::var_os(RECORD_VARIABLE).map(PathBuf::from) else { return Ok(()) };
        let build = std::env::current_dir()?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "an argument is not UTF-8");
        let text = |text: &OsStr| text.to_str().map(str::to_owned).ok_or_else(invalid);
        let arguments: Vec<String> = arguments.iter().map(|one| text(one)).collect::<io::Result<_>>()?;
        let environment = std::env::vars_os().filter(|(name, _)| is_cargos(name));
        let environment =
            environment.map(|(name, value)| Ok((text(&name)?, text(&value)?))).collect::<io::Result<_>>()?;
        let crates = Crates::compiled(&arguments);
        let mut record = Record {
            rustc: text(rustc)?,
            stamps: BTreeMap::new(),
            displays: crates.displays(),
            reusable: crates.are_pure(),
            arguments,
            environment,
        };
        record.stamps =
            record.inputs().into_iter().filter_map(|file| Some((file.clone(), record.stamp(&file)?))).collect();
        let record = record.map(|text| placeless(text, &build));
        let configuration = fs::read_to_string(path.with_extension("asked"))?;
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&(configuration, record))?)?;
        fs::rename(new, path)
    }

    /// The compiler.
    pub fn rustc(&self) -> &Path {
        Path::new(&self.rustc)
    }

    /// Its arguments.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// What is to be in its environment beside what is there.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The directory into which it writes.
    pub fn out_dir(&self) -> Option<PathBuf> {
        after(&self.arguments, "--out-dir").map(PathBuf::from)
    }

    fn is_valid(&self) -> bool {
        let inputs = self.inputs();
        inputs.len() == self.stamps.len()
            && inputs
                .iter()
                .all(|file| self.stamps.get(file).is_some_and(|stamp| self.stamp(file).as_ref() == Some(stamp)))
    }

    /// The compiler, the crates and the lock file.
    fn inputs(&self) -> Vec<String> {
        let pairs = self.arguments.windows(2).filter(|pair| pair[0] == "--extern");
        let externs = pairs.filter_map(|pair| Some(pair[1].split_once('=')?.1.to_owned()));
        let mut inputs: Vec<String> = externs.chain([self.rustc.clone(), LOCK.to_owned()]).collect();
        inputs.retain(|file| Path::new(file).exists());
        inputs
    }

    fn stamp(&self, file: &str) -> Option<Stamp> {
        if file == LOCK {
            // evcxr has it written anew, and it is the same.
            let text = fs::read_to_string(file).ok()?;
            return Some(Stamp(text.len() as u64, fingerprint(&text) as i64, 0, 0));
        }
        Stamp::of(Path::new(file), file != self.rustc)
    }

    fn map(self, change: impl Fn(&str) -> String) -> Record {
        Record {
            rustc: change(&self.rustc),
            arguments: self.arguments.iter().map(|one| change(one)).collect(),
            environment: self.environment.into_iter().map(|(name, value)| (name, change(&value))).collect(),
            stamps: self.stamps.into_iter().map(|(file, stamp)| (change(&file), stamp)).collect(),
            ..self
        }
    }
}

/// The crates that a cell can use, by what rustc has noted of their sources.
struct Crates {
    sources: Vec<PathBuf>,
    macros: Vec<String>,
}

impl Crates {
    fn compiled(arguments: &[String]) -> Crates {
        let mut crates = Crates { sources: Vec::new(), macros: Vec::new() };
        let directories = arguments.windows(2).filter(|pair| pair[0] == "-L");
        for directory in directories.filter_map(|pair| pair[1].strip_prefix("dependency=")) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.extension().and_then(OsStr::to_str) {
                    Some("d") => crates.sources.extend(sources(&path)),
                    Some("so") => crates.macros.extend(macro_name(&path)),
                    _ => {}
                }
            }
        }
        crates
    }

    fn displays(&self) -> bool {
        let word = b"evcxr_display";
        // The library has it for types that a cell has to name (`answers`).
        let library = std::env::var_os(LIBRARY_VARIABLE).filter(|place| !place.is_empty());
        let is_ours = |file: &Path| library.as_ref().is_some_and(|library| file.starts_with(library));
        // What build scripts have written lies in the build directory, which may have been another's.
        let here = |file: &Path| {
            let (_, below) = file.to_str()?.rsplit_once("/target/")?;
            fs::read(Path::new("target").join(below)).ok()
        };
        self.sources.iter().filter(|file| !is_ours(file)).any(|file| match fs::read(file).ok().or_else(|| here(file)) {
            Some(text) => text.windows(word.len()).any(|part| part == word),
            // Not to be read: who knows.
            None => true,
        })
    }

    fn are_pure(&self) -> bool {
        self.macros.iter().all(|name| PURE_MACROS.contains(&name.as_str()))
    }
}

/// The sources that a `.d` file of a dependency names. A blank in a name has a backslash before it.
fn sources(file: &Path) -> Vec<PathBuf> {
    if file.file_name().and_then(OsStr::to_str).is_some_and(|name| name == "ctx.d" || name.starts_with("ctx-")) {
        return Vec::new();
    }
    let text = fs::read_to_string(file).unwrap_or_default().replace("\\ ", "\u{0}");
    let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.strip_suffix(':'));
    names.map(|name| PathBuf::from(name.replace('\u{0}', " "))).collect()
}

fn macro_name(path: &Path) -> Option<String> {
    let name = path.file_stem()?.to_str()?.strip_prefix("lib")?.rsplit_once('-')?.0;
    Some(name.to_owned())
}

/// Whether a manifest names crates whose sources a person may change: all that have a path, but for
/// those of the library.
fn has_changing_crates(configuration: &str) -> bool {
    let library = std::env::var(LIBRARY_VARIABLE).ok();
    let ours =
        |value: &str| library.as_deref().is_some_and(|library| !library.is_empty() && value.starts_with(library));
    configuration.lines().filter(|line| !line.trim_start().starts_with("path = \"src/lib.rs\"")).any(|line| {
        let starts = |at: &usize| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
        line.match_indices("path").filter(|(at, _)| starts(at)).any(|(at, word)| {
            let rest = line[at + word.len()..].trim_start();
            let value = rest
                .strip_prefix('s')
                .unwrap_or(rest)
                .trim_start()
                .strip_prefix('=')
                .map(|value| value.trim_start().trim_start_matches('"'));
            !line.starts_with('"') && value.is_some_and(|value| !ours(value))
        })
    })
}

/// The environment with which the engine has begun (`environment::note`). It is the same for all that is ever
/// done in this build directory, so it says nothing about a configuration; with one exception. What a
/// zygote has recorded is another engine's in the end, whose environment is another: but only as far as a
/// zygote's may differ (`zygote::identity`), which is in nothing that cargo reads, and with no crates but
/// ours, none of which has a build script that reads one.
struct Noted(Vec<u8>);

impl Noted {
    /// Nothing where it cannot be read: every variable is a change then.
    fn read() -> Noted {
        Noted(fs::read(environment::NOTED).unwrap_or_default())
    }

    /// Lines for the variables that are here and were not there, or not so, and for those that are missing.
    fn changes(&self) -> Vec<String> {
        let noted: BTreeSet<&[u8]> = self.0.split(|byte| *byte == 0).collect();
        let variables = std::env::vars_os().filter(|(name, _)| matters(name));
        let is_change =
            |name: &OsStr, value: &OsStr| !noted.contains(&*[name.as_bytes(), b"=", value.as_bytes()].concat());
        let here: BTreeMap<OsString, OsString> = variables.collect();
        let changed = here.iter().filter(|(name, value)| is_change(name, value));
        let changed = changed.map(|(name, value)| format!("{name:?}={:?}\n", value.to_string_lossy()));
        let names = noted.iter().filter_map(|one| one.split(|byte| *byte == b'=').next()).map(OsStr::from_bytes);
        let missing = names.filter(|name| !name.is_empty() && matters(name) && !here.contains_key(*name));
        changed.chain(missing.map(|name| format!("{name:?} is not set\n"))).collect()
    }
}

/// Whether a variable can change what cargo does. evcxr sets those that a person gives to the build,
/// whatever they are called, so all do but those that are known.
fn matters(name: &OsStr) -> bool {
    const NOT: &[&str] = &["EVCXR_EXECUTION_SO_PATH", "PWD", "OLDPWD", "SHLVL", "_", "JPY_PARENT_PID"];
    let name = name.to_string_lossy();
    !NOT.contains(&&*name) && !["FORKLAB_", "JPY_", "JUPYTER"].iter().any(|start| name.starts_with(start))
}

/// Whether cargo gives a variable to rustc.
fn is_cargos(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name == "CARGO" || name.starts_with("CARGO_") || matches!(&*name, "LD_LIBRARY_PATH" | "OUT_DIR")
}

fn global_configuration() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    home.into_iter().flat_map(|home| ["config.toml", "config"].map(|name| home.join(name))).collect()
}

/// A text in which the build directory stands as a word.
fn placeless(text: &str, build: &Path) -> String {
    let text = text.replace(&*build.to_string_lossy(), BUILD);
    match std::env::var("EVCXR_TMPDIR") {
        Ok(other) if !other.is_empty() => text.replace(&other, BUILD),
        _ => text,
    }
}

fn after<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str())
}

/// Says to cargo's children where the record is to be. To be called by our cargo.
///
/// # Errors
/// Those of writing a file.
pub(crate) fn ask_for(configuration: &Configuration) -> io::Result<(&'static str, PathBuf)> {
    let path = configuration.record();
    fs::write(path.with_extension("asked"), &configuration.text)?;
    Ok((RECORD_VARIABLE, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_with_a_path_may_change() {
        for line in
            ["a = { path = \"/x\" }", "a = {path=\"../x\"}", "paths = [\"/x\"]\n[patch.crates-io]\nb.path = \"c\""]
        {
            assert!(has_changing_crates(line), "{line}");
        }
        for line in
            ["serde = { version = \"1\" }", "[lib]\npath = \"src/lib.rs\"", "rpath = true", "pathfinding = \"4\""]
        {
            assert!(!has_changing_crates(line), "{line}");
        }
    }
}
