//! The words behind each magic's name, read into what the cell asks for.
//!
//! One function for each row of the table. Errors are fragments for the person; who calls adds the line.

use super::table::{self, Kind};
use super::{Cell, LineMagic, Wait, Who};
use crate::limits::values;
use crate::nearest::nearest;

pub fn limit(cell: &mut Cell, words: &[String]) -> Result<(), String> {
    if words.is_empty() {
        return Err("`%%limit` names no limit; write for instance `%%limit procs=20 time=10s`".to_owned());
    }
    // What the words mean depends on the server's limits, and is found out with these.
    cell.limit.get_or_insert_default().extend_from_slice(words);
    Ok(())
}

pub fn stdin(cell: &mut Cell, words: &[String]) -> Result<(), String> {
    let script = cell.script.get_or_insert_default();
    for word in words {
        match word.as_str() {
            "--always" => script.always = true,
            option if option.starts_with("--") => {
                let no_option = no_option("stdin", option);
                return Err(format!("{no_option}. Quote an answer that begins with dashes after a space"));
            }
            answer => script.answers.push_back(answer.to_owned()),
        }
    }
    Ok(())
}

pub fn wait(cell: &mut Cell, words: &[String]) -> Result<(), String> {
    let most = match words {
        [] => None,
        [time] => Some(values::time(time).map_err(|error| format!("`%%wait`: {error}"))?),
        [_, more, ..] => return Err(format!("`%%wait` takes one time, and `{more}` is a second word")),
    };
    match cell.wait.replace(Wait { most }) {
        None => Ok(()),
        Some(_) => Err("`%%wait` stands twice in this cell".to_owned()),
    }
}

pub fn checkpoint(words: &[String]) -> Result<LineMagic, String> {
    switch("%checkpoint", words).map(LineMagic::Checkpoint)
}

/// `on`, `off`, or, with `None`, the question which of them is in force.
pub fn switch(name: &str, words: &[String]) -> Result<Option<bool>, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => Ok(None),
        ["on"] => Ok(Some(true)),
        ["off"] => Ok(Some(false)),
        _ => Err(format!("`{name}` takes `on`, `off` or nothing, not `{}`", words.join(" "))),
    }
}

pub fn kill(words: &[String]) -> Result<LineMagic, String> {
    if words == ["all"] {
        return Ok(LineMagic::Kill(Who::All));
    }
    if words.is_empty() {
        return Err("`%kill` needs to know whom: `%kill PID…` or `%kill all`; `%ps` lists the processes".to_owned());
    }
    // A pid of 0 or below would be a process group to kill(2).
    let pid = |word: &String| {
        word.parse()
            .ok()
            .filter(|pid: &i32| *pid > 0)
            .ok_or_else(|| format!("`%kill` takes pids (`%ps` lists them), or the one word `all`; `{word}` is neither"))
    };
    Ok(LineMagic::Kill(Who::Pids(words.iter().map(pid).collect::<Result<_, _>>()?)))
}

pub fn lsmagic(words: &[String]) -> Result<LineMagic, String> {
    none("%lsmagic", words, LineMagic::LsMagic)
}

pub fn ps(words: &[String]) -> Result<LineMagic, String> {
    none("%ps", words, LineMagic::Ps)
}

/// Why `word` is no option of a magic of the table.
pub fn no_option(name: &str, word: &str) -> String {
    let Some(magic) = table::named(name) else { return format!("there is no option `{word}`") };
    let (written, usage) = (magic.written(), magic.usage);
    let options = magic.options.iter().map(|(option, _)| *option);
    match nearest(word, options) {
        Some(right) => {
            format!("`{written}` has no option `{word}`; did you mean `{right}`? It is written `{usage}`")
        }
        None => format!("`{written}` has no option `{word}`; it is written `{usage}`"),
    }
}

pub fn none(name: &str, words: &[String], magic: LineMagic) -> Result<LineMagic, String> {
    match words.first() {
        None => Ok(magic),
        Some(word) => Err(format!("`{name}` takes nothing behind it, and there is `{word}`")),
    }
}

/// A line that begins with `%`, as the step that it is; a cell magic changes the cell and is none.
pub fn line(cell: &mut Cell, line: &str) -> Result<Option<LineMagic>, String> {
    let line = line.trim();
    if let Some(asked) = line.strip_suffix('?').filter(|asked| !asked.contains(char::is_whitespace)) {
        let magic = table::named(asked.trim_start_matches('%')).ok_or_else(|| table::unknown(asked))?;
        return Ok(Some(LineMagic::Help(magic.name.to_owned())));
    }
    let words = shell_words::split(line).map_err(|_| format!("a quote is not closed in `{line}`"))?;
    let (word, words) = words.split_first().ok_or("an empty magic")?;
    let magic = table::MAGICS.iter().find(|magic| magic.written() == *word).ok_or_else(|| table::unknown(word))?;
    match magic.kind {
        Kind::Cell(read) => read(cell, words).map(|()| None),
        Kind::Line(read) => read(words).map(Some),
    }
}
