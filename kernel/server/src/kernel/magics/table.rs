//! The magics: one row for each. Errors, `%lsmagic`, help and completion read the same rows.

use super::read;
use super::{Cell, LineMagic};
use crate::nearest::nearest;

/// A magic.
#[derive(Debug)]
pub struct Magic {
    /// Without its percent signs.
    pub name: &'static str,
    /// Whether it is for the whole cell, and how its words are read.
    pub kind: Kind,
    /// How it is written.
    pub usage: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The same in a paragraph.
    pub help: &'static str,
    /// The words that it knows, each with what it means.
    pub options: &'static [(&'static str, &'static str)],
}

/// What a magic is for, with the function that reads the words behind its name.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `%%name`: changes how the whole cell runs.
    Cell(fn(&mut Cell, &[String]) -> Result<(), String>),
    /// `%name`: does something where it stands.
    Line(fn(&[String]) -> Result<LineMagic, String>),
}

/// All of them, as `%lsmagic` lists them.
pub const MAGICS: &[Magic] = &[
    Magic {
        name: "limit",
        kind: Kind::Cell(read::limit),
        usage: "%%limit NAME=VALUE…",
        summary: "limits what this cell may use",
        help: "At a limit of processes forking fails with EAGAIN, and at that of files opening with EMFILE; at any \
               other, and when forks go on being refused, the cell and all that it has started end, and the state \
               before the cell is restored. Sizes are written `512M` or `1.5GiB` (K, M and G are \
               powers of 1024), times `10s`, `500ms` or `1h30m`. Whoever runs the server has set limits too, and a \
               cell may only go below them.",
        options: &[
            ("procs=", "processes of the cell that live at once; under a control group, threads count too"),
            ("mem=", "memory of the notebook's process and everything below it, pages of files left out"),
            ("cpu=", "processor time of all its processes together"),
            ("time=", "time on the clock, of the code and of `%%wait`"),
            ("files=", "open files of each process"),
            ("output=", "bytes written to stdout and stderr"),
        ],
    },
    Magic {
        name: "stdin",
        kind: Kind::Cell(read::stdin),
        usage: "%%stdin [--always] ANSWER…",
        summary: "answers for processes of this cell that read their input",
        help: "Each answer is one line of input, for the process that reads next; after the last comes end of file. \
               They are used where nobody can be asked, as when a notebook is executed or graded. Several `%%stdin` \
               lines add up. Quote answers with blanks as in a shell.",
        options: &[("--always", "use the answers also where a person could be asked")],
    },
    Magic {
        name: "wait",
        kind: Kind::Cell(read::wait),
        usage: "%%wait [TIME]",
        summary: "the cell ends when all processes that it has started have ended",
        help: "Without it, a cell ends when its own code does, and what it has forked writes on under it. With a time \
               (`10`, `2.5s`, `1m`), it waits no longer than that.",
        options: &[],
    },
    Magic {
        name: "checkpoint",
        kind: Kind::Line(read::checkpoint),
        usage: "%checkpoint [on|off]",
        summary: "whether a cell that crashes leaves the variables as they were before it",
        help: "Before each cell, a copy of the notebook's process is kept asleep; when the cell crashes, exits or is \
               interrupted, the copy takes over and every earlier variable is there. `off` saves the copy, and a \
               crash then loses all variables. Without a word, it says what is in force.",
        options: &[("on", "keep a copy before each cell"), ("off", "keep none")],
    },
    Magic {
        name: "kill",
        kind: Kind::Line(read::kill),
        usage: "%kill PID… | all",
        summary: "ends processes that cells have left behind",
        help: "Ends the named processes, or all, also those that ignore signals, are stopped, or have left their \
               session. `%ps` lists them. Only processes of this notebook can be named. A zombie has ended: it goes when \
               its parent waits for it.",
        options: &[("all", "every process that cells have left behind")],
    },
    Magic {
        name: "lsmagic",
        kind: Kind::Line(read::lsmagic),
        usage: "%lsmagic",
        summary: "lists the magics",
        help: "A question mark behind a magic's name shows its help: `%kill?`, `%%limit?`.",
        options: &[],
    },
    Magic {
        name: "ps",
        kind: Kind::Line(read::ps),
        usage: "%ps",
        summary: "lists the notebook's processes, zombies too",
        help: "For each process: its pid, its parent's, its state, the cell that has started it, its age and its \
               command. The notebook's own process is not listed.",
        options: &[],
    },
];

impl Magic {
    /// The name as it is written, with its percent signs.
    pub fn written(&self) -> String {
        match self.kind {
            Kind::Cell(_) => format!("%%{}", self.name),
            Kind::Line(_) => format!("%{}", self.name),
        }
    }

    /// Everything there is to say about it, as plain text.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n\n{}\n", self.usage, self.summary, self.help);
        let width = self.options.iter().map(|(word, _)| word.chars().count()).max().unwrap_or(0);
        for (word, meaning) in self.options {
            text.push_str(&format!("\n  {word:width$}  {meaning}"));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// The magic of this name, without percent signs.
pub fn named(name: &str) -> Option<&'static Magic> {
    MAGICS.iter().find(|magic| magic.name == name)
}

/// What `%lsmagic` shows, as plain text.
pub fn list() -> String {
    let width = MAGICS.iter().map(|magic| magic.usage.chars().count()).max().unwrap_or(0);
    let mut text = String::from("Magics stand before the cell's code, one on a line.\n");
    for magic in MAGICS {
        text.push_str(&format!("\n  {:width$}  {}", magic.usage, magic.summary));
    }
    text.push_str(
        "\n\n`%kill?` explains one; `!command` runs a shell line; evcxr's commands begin with a colon (`:help`).",
    );
    text
}

/// Why `word`, a magic with its percent signs as the person wrote it, is none.
pub fn unknown(word: &str) -> String {
    let name = word.trim_start_matches('%');
    if name.is_empty() {
        return format!("`{word}` names no magic; `%lsmagic` lists them");
    }
    match named(name).or_else(|| nearest(name, MAGICS.iter().map(|magic| magic.name)).and_then(named)) {
        // The right name with the wrong number of percent signs comes here, too.
        Some(magic) => {
            format!("there is no magic `{word}`; did you mean `{}`? It is written `{}`", magic.written(), magic.usage)
        }
        None => format!(
            "there is no magic `{word}`; `%lsmagic` lists them. Shell lines begin with `!`, evcxr's commands with a \
             colon (`:help`)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_written_as_it_is_used() {
        for magic in MAGICS {
            assert!(magic.usage.starts_with(&magic.written()), "{}", magic.name);
            for (word, _) in magic.options {
                assert!(magic.name == "limit" || magic.usage.contains(word), "{}: {word}", magic.name);
            }
            assert!(magic.help.ends_with('.') && !magic.summary.ends_with('.'), "{}", magic.name);
            assert!(list().contains(magic.usage) && list().contains(magic.summary), "{}", magic.name);
            assert!(magic.text().contains(magic.help), "{}", magic.name);
        }
    }

    #[test]
    fn limit_lists_the_limits_that_there_are() {
        let limit = named("limit").expect("it is there");
        let listed: Vec<_> = limit.options.iter().map(|(word, _)| word.trim_end_matches('=')).collect();
        assert_eq!(listed, crate::limits::names());
    }

    #[test]
    fn the_rows_stand_as_they_are_listed() {
        let order: Vec<_> = MAGICS.iter().map(|magic| (matches!(magic.kind, Kind::Line(_)), magic.name)).collect();
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn a_wrong_name_gets_the_right_one() {
        for (wrong, right) in
            [("%klil", "`%kill`"), ("%%limits", "`%%limit`"), ("%wait", "`%%wait`"), ("%ps;", "`%ps`")]
        {
            assert!(unknown(wrong).contains(right), "{}", unknown(wrong));
        }
        assert!(unknown("%%bash").contains("%lsmagic"));
        assert!(unknown("%%").contains("names no magic"));
    }
}
