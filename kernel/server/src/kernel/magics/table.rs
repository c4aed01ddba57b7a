//! The magics: one row for each. Errors, `%lsmagic`, help and completion read the same rows.

use super::{Cell, LineMagic};
use super::{observe, read};
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
    /// What may stand behind an option, for those of which that can be listed.
    pub values: &'static [(&'static str, &'static [&'static str])],
}

/// What a magic is for, with the function that reads the words behind its name.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `%%name`: changes how the whole cell runs.
    Cell(fn(&mut Cell, &[String]) -> Result<(), String>),
    /// `%name`: does something where it stands.
    Line(fn(&[String]) -> Result<LineMagic, String>),
}

/// A longer usage has a line of its own in the list.
const WIDEST: usize = 36;

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
        values: &[],
    },
    Magic {
        name: "repeat",
        kind: Kind::Cell(observe::repeat),
        usage: "%%repeat N [--by lines|bytes|events] [--until DISTINCT=K] [--timeout TIME] [--cpus K] [--perturb SEED]",
        summary: "runs the cell's code N times, each time from the same state, and counts the orders of what happened",
        help: "The code is compiled once. After each run, whatever it did to the variables is undone and every process \
               that it has started is ended, so a repeated cell leaves no variables and no definitions, as in \
               IPython's `%%timeit`. The output of the runs is not shown. What is shown is how often each order was \
               seen, with roles in place of pids (P for the cell's process, C1, C2, … for the others in the order of \
               fork), how many orders are likely unseen, and the most frequent and the rarest side by side. Runs that \
               end differently (a panic, a signal, another status, a hang) are counted on their own. An interrupt ends \
               the repetition and shows what was seen until then. `!` lines run once, before it; limits \
               are for each run. Runs are recorded as by `%%trace`. What is no process's own does not come back: files, \
               for instance.",
        options: &[
            ("--by", "what is compared: `lines` of output (if nothing is said), `bytes` of output, or all `events`"),
            ("--until", "`DISTINCT=K` stops when K different orders have been seen"),
            ("--timeout", "a run that takes longer hangs: it is ended and counted as such (5 s if nothing is said)"),
            ("--cpus", "has all processes of a run share so many processors; `--cpus 1` takes turns on one"),
            (
                "--perturb",
                "tiny delays where processes begin and end, other ones for each seed, so that rare orders show",
            ),
        ],
        values: &[("--by", &["lines", "bytes", "events"]), ("--until", &["DISTINCT="])],
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
        values: &[],
    },
    Magic {
        name: "time",
        kind: Kind::Cell(observe::time),
        usage: "%%time",
        summary: "how long the cell ran, and how much processor time it took",
        help: "The time on the clock is that of the cell's code, without its compilation. Processor time is that of the \
               cell's process and of the children that it has waited for; where the cell's process has died, nobody \
               can tell it.",
        options: &[],
        values: &[],
    },
    Magic {
        name: "trace",
        kind: Kind::Cell(observe::trace),
        usage: "%%trace [--color]",
        summary: "records what the cell's processes do, and draws it as a timeline",
        help: "Forks, programs, ends, reaps, orphans, signals and output, each with its time and its process; no call in \
               the cell is needed. Forks take half as long again meanwhile, and the cell's processes cannot be traced by \
               anybody else: `strace` and `gdb` work in cells that are not recorded. `%timeline` draws it again, \
               `%export` writes it to a file, and `forklab::last_run()` gives it to the next cell.",
        options: &[("--color", "output in a colour for each process, with a legend")],
        values: &[],
    },
    Magic {
        name: "wait",
        kind: Kind::Cell(read::wait),
        usage: "%%wait [TIME]",
        summary: "the cell ends when all processes that it has started have ended",
        help: "Without it, a cell ends when its own code does, and what it has forked writes on under it. With a time \
               (`10`, `2.5s`, `1m`), it waits no longer than that.",
        options: &[],
        values: &[],
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
        values: &[],
    },
    Magic {
        name: "export",
        kind: Kind::Line(observe::export),
        usage: "%export FILE [--chrome | --runs]",
        summary: "writes the last cell's record to a file",
        help: "JSON, as docs/RECORD.md describes it. A name that ends in `.trace.json` means `--chrome`. A name without a \
               directory is one beside the notebook.",
        options: &[
            ("--chrome", "in Chrome's trace format, for https://ui.perfetto.dev"),
            ("--runs", "the orders of the last repeated cell"),
        ],
        values: &[],
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
        values: &[],
    },
    Magic {
        name: "lsmagic",
        kind: Kind::Line(read::lsmagic),
        usage: "%lsmagic",
        summary: "lists the magics",
        help: "A question mark behind a magic's name shows its help: `%kill?`, `%%limit?`.",
        options: &[],
        values: &[],
    },
    Magic {
        name: "ps",
        kind: Kind::Line(read::ps),
        usage: "%ps",
        summary: "lists the notebook's processes, zombies too",
        help: "For each process: its pid, its parent's, its state, the cell that has started it, its age and its \
               command. The notebook's own process is not listed.",
        options: &[],
        values: &[],
    },
    Magic {
        name: "record",
        kind: Kind::Line(observe::record),
        usage: "%record [on|off]",
        summary: "whether every cell's processes are recorded, as by `%%trace`",
        help: "Off unless it is switched on: a fork of a recorded process takes half as long again, and `strace` and \
               `gdb` cannot trace it. Output is kept in any case. Without a word, it says what is in force.",
        options: &[("on", "record every cell"), ("off", "record cells with `%%trace` and `%%repeat` only")],
        values: &[],
    },
    Magic {
        name: "timeline",
        kind: Kind::Line(observe::timeline),
        usage: "%timeline",
        summary: "draws what the processes of the last cell did",
        help: "As `%%trace` does, for the last cell that ran. Of a cell that was not recorded it shows the output with its \
               writers. What has happened since that cell ended, to processes that it has left, is in it.",
        options: &[],
        values: &[],
    },
];

/// What people write who know it from elsewhere, and how it is written here.
const OTHER_NAMES: &[(&str, &str)] =
    &[("timeit", "repeat"), ("color", "trace"), ("magic", "lsmagic"), ("orders", "repeat")];

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
    let fits = |usage: &&str| usage.chars().count() <= WIDEST;
    let width =
        MAGICS.iter().map(|magic| magic.usage).filter(fits).map(|usage| usage.chars().count()).max().unwrap_or(0);
    let mut text = String::from("Magics stand before the cell's code, one on a line.\n");
    for magic in MAGICS {
        if fits(&magic.usage) {
            text.push_str(&format!("\n  {:width$}  {}", magic.usage, magic.summary));
        } else {
            text.push_str(&format!("\n  {}\n  {:width$}  {}", magic.usage, "", magic.summary));
        }
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
    let other = || OTHER_NAMES.iter().find(|(other, _)| *other == name).and_then(|(_, ours)| named(ours));
    match named(name).or_else(other).or_else(|| nearest(name, MAGICS.iter().map(|magic| magic.name)).and_then(named)) {
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
            for (word, _) in magic.values {
                assert!(magic.options.iter().any(|(option, _)| option == word), "{}: {word}", magic.name);
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
