//! The words of the magics that look at what a cell's processes do: `%%trace`, `%%time`, `%%repeat`,
//! `%timeline`, `%export`, `%record`.

use std::path::PathBuf;
use std::time::Duration;

use forklab_record::orders::{By, Until};

use super::read::no_option;
use super::{Cell, LineMagic};
use crate::limits::values;

/// More runs than this nobody waits for.
const MOST_RUNS: usize = 100_000;

/// How long a run of `%%repeat` may take when nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// `%%trace`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trace {
    /// Whether output is coloured by its writer.
    pub colour: bool,
}

/// `%%repeat`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    /// How often at most.
    pub runs: usize,
    /// What is compared.
    pub by: By,
    /// When to stop before that.
    pub until: Option<Until>,
    /// A run that takes longer hangs.
    pub timeout: Duration,
    /// To how many processors each run is pinned.
    pub cpus: Option<usize>,
    /// The seed of tiny delays.
    pub perturb: Option<u64>,
    /// The line on which it stands, counted from 1.
    pub line: usize,
}

/// `%export`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Where to, as the person wrote it.
    pub file: PathBuf,
    /// What, and in which format.
    pub format: Format,
}

/// What `%export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The last cell's record.
    Record,
    /// The same for viewers of Chrome's trace format.
    Chrome,
    /// The runs of the last repeated cell.
    Runs,
}

/// Words one after the other. `--name=value` is two.
struct Words<'a> {
    magic: &'static str,
    words: std::slice::Iter<'a, String>,
    value: Option<&'a str>,
}

impl<'a> Words<'a> {
    fn new(magic: &'static str, words: &'a [String]) -> Words<'a> {
        Words { magic, words: words.iter(), value: None }
    }

    fn next(&mut self) -> Result<Option<&'a str>, String> {
        if let Some(value) = self.value.take() {
            return Err(format!("`{}`: nothing takes the value `{value}`", self.magic));
        }
        let Some(word) = self.words.next() else { return Ok(None) };
        match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                self.value = Some(value);
                Ok(Some(name))
            }
            _ => Ok(Some(word)),
        }
    }

    /// The value of an option, which follows its name.
    fn value(&mut self, option: &str, example: &str) -> Result<&'a str, String> {
        self.value
            .take()
            .or_else(|| self.words.next().map(String::as_str))
            .ok_or_else(|| format!("`{}`: `{option}` needs a value, as `{option} {example}`", self.magic))
    }
}

pub fn trace(cell: &mut Cell, words: &[String]) -> Result<(), String> {
    let trace = cell.trace.get_or_insert_default();
    for word in words {
        match word.as_str() {
            "--color" | "--colour" => trace.colour = true,
            other => return Err(no_option("trace", other)),
        }
    }
    Ok(())
}

pub fn time(cell: &mut Cell, words: &[String]) -> Result<(), String> {
    cell.time = true;
    match words.first() {
        None => Ok(()),
        Some(word) => Err(format!("`%%time` takes nothing behind it, and there is `{word}`; the code stands below it")),
    }
}

pub fn repeat(cell: &mut Cell, words: &[String]) -> Result<(), String> {
    if cell.repeat.is_some() {
        return Err("`%%repeat` stands twice in this cell".to_owned());
    }
    let mut runs = None;
    let mut repeat =
        Repeat { runs: 0, by: By::Lines, until: None, timeout: TIMEOUT, cpus: None, perturb: None, line: 0 };
    let mut words = Words::new("%%repeat", words);
    while let Some(word) = words.next()? {
        match word {
            "--by" => {
                repeat.by = words.value(word, "lines")?.parse().map_err(|error| format!("`%%repeat`: {error}"))?
            }
            "--until" => repeat.until = Some(until(words.value(word, "DISTINCT=4")?)?),
            "--timeout" => {
                let timeout = values::time(words.value(word, "5s")?);
                repeat.timeout = timeout.map_err(|error| format!("`%%repeat`: {error}"))?;
            }
            "--cpus" => repeat.cpus = Some(number("--cpus", words.value(word, "1")?)?.max(1) as usize),
            "--perturb" => repeat.perturb = Some(number("--perturb", words.value(word, "7")?)?),
            option if option.starts_with('-') => return Err(no_option("repeat", option)),
            number if runs.is_none() => runs = Some(count(number)?),
            more => return Err(format!("`%%repeat` takes one number of runs, and `{more}` is a second word")),
        }
    }
    repeat.runs = runs.ok_or("`%%repeat` needs to know how often: `%%repeat 100`")?;
    cell.repeat = Some(repeat);
    Ok(())
}

fn count(word: &str) -> Result<usize, String> {
    let runs = word.parse().ok().filter(|runs| (1..=MOST_RUNS).contains(runs));
    runs.ok_or_else(|| format!("`%%repeat` takes a number of runs from 1 to {MOST_RUNS}, and `{word}` is none"))
}

fn number(option: &str, word: &str) -> Result<u64, String> {
    values::count(word).map_err(|error| format!("`%%repeat {option}`: {error}"))
}

fn until(word: &str) -> Result<Until, String> {
    let wrong =
        || format!("`%%repeat --until` takes `DISTINCT=` and a number of orders, as `DISTINCT=4`, not `{word}`");
    let (name, value) = word.split_once('=').ok_or_else(wrong)?;
    let orders: usize = value.parse().map_err(|_| wrong())?;
    if name.eq_ignore_ascii_case("distinct") && orders > 0 { Ok(Until::Distinct(orders)) } else { Err(wrong()) }
}

pub fn export(words: &[String]) -> Result<LineMagic, String> {
    let (mut file, mut format) = (None, None);
    for word in words {
        match word.as_str() {
            "--chrome" | "--runs" if format.is_some() => {
                return Err("`%export` writes one format: `--chrome` or `--runs`".to_owned());
            }
            "--chrome" => format = Some(Format::Chrome),
            "--runs" => format = Some(Format::Runs),
            option if option.starts_with("--") => return Err(no_option("export", option)),
            name if file.is_none() => file = Some(name),
            more => return Err(format!("`%export` writes one file, and `{more}` is a second name")),
        }
    }
    let file = file.ok_or("`%export` needs a file's name: `%export run.json`")?;
    let by_name = if file.ends_with(".trace.json") { Format::Chrome } else { Format::Record };
    Ok(LineMagic::Export(Export { file: PathBuf::from(file), format: format.unwrap_or(by_name) }))
}

pub fn timeline(words: &[String]) -> Result<LineMagic, String> {
    super::read::none("%timeline", words, LineMagic::Timeline)
}

pub fn record(words: &[String]) -> Result<LineMagic, String> {
    super::read::switch("%record", words).map(LineMagic::Record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(source: &str) -> Cell {
        Cell::parse(source).expect("the cell's magics are right")
    }

    #[test]
    fn the_words_of_a_repetition_are_read() {
        let cell =
            parse("%%time\n%%repeat 100 --by=events --until DISTINCT=4 --timeout 500ms --cpus 1 --perturb 9\nf()");
        let repeat = Repeat {
            runs: 100,
            by: By::Events,
            until: Some(Until::Distinct(4)),
            timeout: Duration::from_millis(500),
            cpus: Some(1),
            perturb: Some(9),
            line: 2,
        };
        assert_eq!(cell.repeat, Some(repeat));
        assert!(cell.time);
        let plain = parse("%%repeat 3\nf()").repeat.expect("it repeats");
        assert_eq!((plain.by, plain.timeout, plain.until), (By::Lines, TIMEOUT, None));
    }

    #[test]
    fn the_other_words_are_read() {
        assert_eq!(parse("%%trace\n1").trace, Some(Trace { colour: false }));
        assert_eq!(parse("%%trace --color\n%%wait\n1").trace, Some(Trace { colour: true }));
        let export = |source: &str| match parse(source).head.into_iter().next() {
            Some(super::super::Step::Magic(LineMagic::Export(export))) => (export.file, export.format),
            other => panic!("{other:?}"),
        };
        assert_eq!(export("%export a.json"), ("a.json".into(), Format::Record));
        assert_eq!(export("%export 'a b.trace.json'"), ("a b.trace.json".into(), Format::Chrome));
        assert_eq!(export("%export --chrome a.json"), ("a.json".into(), Format::Chrome));
        assert_eq!(export("%export a.json --runs"), ("a.json".into(), Format::Runs));
    }

    #[test]
    fn wrong_words_say_what_is_right() {
        let wrong = [
            ("%%repeat\n1", "how often"),
            ("%%repeat ten\n1", "`ten` is none"),
            ("%%repeat 0\n1", "from 1 to"),
            ("%%repeat 3 4\n1", "`4` is a second word"),
            ("%%repeat 3 --bye lines\n1", "did you mean `--by`"),
            ("%%repeat 3 --by words\n1", "lines, bytes or events"),
            ("%%repeat 3 --by\n1", "`--by lines`"),
            ("%%repeat 3 --until 4\n1", "DISTINCT=4"),
            ("%%repeat 3 --timeout soon\n1", "`soon` is no time"),
            ("%%repeat 3\n%%repeat 4\n1", "twice"),
            ("%%repeat 3", "nothing to repeat"),
            ("%%repeat 3\n%%wait\n1", "`%%wait`"),
            ("%%trace --colr\n1", "did you mean `--color`"),
            ("%%time f()", "stands below it"),
            ("%export", "needs a file's name"),
            ("%export a b", "second name"),
            ("%export --crome a", "did you mean `--chrome`"),
            ("%export --runs a --chrome", "one format"),
            ("%record maybe", "`maybe`"),
            ("%timeline 3", "takes nothing"),
        ];
        for (source, part) in wrong {
            let error = Cell::parse(source).expect_err(source);
            assert!(error.message.contains(part), "{source}: {}", error.message);
        }
    }
}
