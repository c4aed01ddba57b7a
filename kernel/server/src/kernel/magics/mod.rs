//! The cell as the person wrote it, taken apart: magics, `!` lines, and Rust.
//!
//! Nothing here runs anything. Lines that are taken out are left blank, so that every line that
//! remains keeps its number and compile errors point where the person looks.

pub mod complete;
pub mod observe;
mod read;
mod rust;
pub mod table;

use std::collections::VecDeque;
use std::time::Duration;

use observe::{Export, Repeat, Trace};
use rust::Rust;

/// What a cell asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// What stands before the Rust code and is done before it, in order.
    pub head: Vec<Step>,
    /// The Rust code and evcxr's `:` commands; blank when there is none.
    pub code: String,
    /// The answers of `%%stdin`.
    pub script: Option<Script>,
    /// `%%wait`.
    pub wait: Option<Wait>,
    /// The words behind `%%limit`, of several such lines together, for `limits::parse_cell`.
    pub limit: Option<Vec<String>>,
    /// The line of the first `%%limit`, counted from 1, for the error that `limits::parse_cell`
    /// may give; 0 without one.
    pub limit_line: usize,
    /// `%%trace`
    pub trace: Option<Trace>,
    /// `%%time`
    pub time: bool,
    /// `%%repeat`
    pub repeat: Option<Repeat>,
}

/// One thing to do before the Rust code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A `!` line: run by the shell.
    Shell(String),
    /// A line magic.
    Magic(LineMagic),
}

/// A magic that does something where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineMagic {
    /// `%ps`
    Ps,
    /// `%kill`
    Kill(Who),
    /// `%checkpoint on`, `off`, or, with `None`, the question which of them is in force.
    Checkpoint(Option<bool>),
    /// `%timeline`
    Timeline,
    /// `%export`
    Export(Export),
    /// `%record on`, `off`, or the question.
    Record(Option<bool>),
    /// `%lsmagic`, answered by [`table::list`].
    LsMagic,
    /// `%name?`, answered by [`LineMagic::text`]. The name is one of the table's, without percent signs.
    Help(String),
}

/// Whom `%kill` is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Every process that cells have left behind.
    All,
    /// These; at least one, each above 0.
    Pids(Vec<i32>),
}

/// Wait for the processes that the cell has started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wait {
    /// At most this long; `None` when the person gave no limit.
    pub most: Option<Duration>,
}

/// Answers that stand in the cell for processes that read their input.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Script {
    /// Lines, without their newline.
    pub answers: VecDeque<String>,
    /// Use them also when there is a person who could be asked.
    pub always: bool,
}

/// Why a cell's magics were not understood.
#[derive(Debug, PartialEq, Eq)]
pub struct MagicError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Cell {
    /// Takes a cell apart.
    ///
    /// # Errors
    /// An unknown magic, one whose arguments cannot be read, or one that stands behind code.
    pub fn parse(source: &str) -> Result<Cell, MagicError> {
        let mut cell = Cell::default();
        // With all lines, so that those that remain keep their numbers.
        let mut code = String::with_capacity(source.len());
        let mut rust = Rust::default();
        for (index, line) in source.lines().enumerate() {
            let wrong = |message| MagicError { line: index + 1, message };
            // evcxr's commands and comments do not end the head: a magic or a `!` line after them
            // is still the first thing to run.
            let head = rust.before_code();
            if index > 0 {
                code.push('\n');
            }
            if head && line.trim_start().starts_with('%') {
                cell.magic(line, index + 1).map_err(wrong)?;
            } else if head && line.starts_with('!') {
                cell.head.push(Step::Shell(line[1..].trim().to_owned()));
            } else if line.starts_with('!') && rust.at_statement() {
                code.push_str(&system_call(line[1..].trim()));
            } else {
                if let Some(message) = misplaced(line, &rust) {
                    return Err(wrong(message));
                }
                if !(head && line.trim_start().starts_with(':')) {
                    rust.read(line);
                }
                code.push_str(line);
            }
        }
        if !code.trim().is_empty() {
            cell.code = code;
        }
        cell.check()?;
        Ok(cell)
    }

    /// What the magics ask for together.
    fn check(&self) -> Result<(), MagicError> {
        let Some(repeat) = &self.repeat else { return Ok(()) };
        let wrong = |message: &str| Err(MagicError { line: repeat.line, message: message.to_owned() });
        if self.code.is_empty() {
            return wrong("there is nothing to repeat: `%%repeat` repeats the cell's Rust code");
        }
        if self.wait.is_some() {
            return wrong(
                "`%%repeat` and `%%wait` do not go together: a run ends when the code does, so have the code wait for \
                 its children",
            );
        }
        Ok(())
    }

    fn magic(&mut self, line: &str, number: usize) -> Result<(), String> {
        let magic = read::line(self, line)?;
        self.head.extend(magic.map(Step::Magic));
        if self.limit.is_some() && self.limit_line == 0 {
            self.limit_line = number;
        }
        if let Some(repeat) = self.repeat.as_mut().filter(|repeat| repeat.line == 0) {
            repeat.line = number;
        }
        Ok(())
    }
}

impl LineMagic {
    /// What is to be shown for the magics that are about magics; `None` for the others.
    pub fn text(&self) -> Option<String> {
        match self {
            LineMagic::LsMagic => Some(table::list()),
            LineMagic::Help(name) => table::named(name).map(table::Magic::text),
            _ => None,
        }
    }
}

/// Why this line, which stands behind code, is a magic at a place where none can be; `None` when it
/// is Rust.
///
/// A statement cannot begin with `%`. After `}` it may be the remainder of an expression that ends
/// with a block (`match n { … }` and under it `% m`); there, only a line magic with words that it
/// takes is believed to be one: `%kill 12` is, `%kill + 12` is not.
fn misplaced(line: &str, rust: &Rust) -> Option<String> {
    let line = line.trim();
    let word = line.split_whitespace().next().filter(|word| word.starts_with('%') && rust.at_statement())?;
    let cell_magic = word.strip_prefix("%%").is_some_and(|name| name.starts_with(char::is_alphabetic));
    let name = word[1..].trim_end_matches('?');
    let line_magic =
        table::named(name).is_some() && (!rust.after_block() || read::line(&mut Cell::default(), line).is_ok());
    if cell_magic && table::named(name.trim_start_matches('%')).is_none() {
        return Some(table::unknown(word));
    }
    (cell_magic || line_magic)
        .then(|| format!("a magic must stand before the code: move `{word}` above the cell's first line of Rust"))
}

/// Whether the code's brackets are closed: `None` when they are, else the spaces to indent by.
pub fn indent_of_incomplete(source: &str) -> Option<usize> {
    match Cell::parse(source) {
        // Without magics and shell lines, whose quotes and brackets are not Rust's.
        Ok(cell) => rust::indent_of_incomplete(&cell.code),
        Err(_) => rust::indent_of_incomplete(source),
    }
}

/// A `!` line between statements, as the statement that does the same.
fn system_call(command: &str) -> String {
    let quotes = (1..).map(|n| "#".repeat(n)).find(|hashes| !command.contains(&format!("\"{hashes}")));
    let hashes = quotes.expect("a command is shorter than every number of hashes");
    format!("let _ = ::forklab::system(r{hashes}\"{command}\"{hashes});")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(source: &str) -> Cell {
        Cell::parse(source).expect("the cell's magics are right")
    }

    #[test]
    fn lines_keep_their_numbers() {
        let cell = parse("%%stdin hola \"buenos días\"\n!ls\n\nlet x = 1;\n!ps ft\nx");
        assert_eq!(cell.head, [Step::Shell("ls".into())]);
        assert_eq!(cell.code, "\n\n\nlet x = 1;\nlet _ = ::forklab::system(r#\"ps ft\"#);\nx");
        let script = cell.script.expect("there is a script");
        assert_eq!(script.answers, ["hola", "buenos días"]);
        assert!(!script.always);
    }

    #[test]
    fn an_exclamation_mark_inside_rust_stays() {
        for source in ["let y = x &&\n!z;", "let s = \"\n!ls\";", "/*\n!ls\n*/ 1", "let s = r#\"\"\n!ls\"#;", "f(\n!a)"]
        {
            assert_eq!(parse(source).code, source);
        }
    }

    #[test]
    fn a_shell_line_after_tricky_literals_is_seen() {
        for source in
            ["let c = '\"';\n!ls", "let c = '\\'';\n!ls", "fn f<'a>(x: &'a str) {}\n!ls", "let s = r\"\\\";\n!ls"]
        {
            assert!(parse(source).code.contains("::forklab::system"), "{source}");
        }
    }

    #[test]
    fn quotes_of_a_command_do_not_end_the_string() {
        assert_eq!(system_call("echo \"#\"##"), "let _ = ::forklab::system(r###\"echo \"#\"##\"###);");
    }

    #[test]
    fn only_shell_lines_leave_no_code() {
        assert_eq!(parse("!ls\n!ps\n").code, "");
    }

    #[test]
    fn an_unknown_magic_is_named_with_its_line() {
        let error = Cell::parse("\n%%foo").expect_err("there is no such magic");
        assert_eq!(error.line, 2);
        assert!(error.message.contains("`%%foo`"), "{}", error.message);
        assert!(Cell::parse("%%stdin 'a").expect_err("open quote").message.contains("quote"));
        assert!(Cell::parse("%%stdin --ever").expect_err("no option").message.contains("--always"));
    }

    #[test]
    fn magics_and_shell_lines_keep_their_order() {
        let cell = parse("!a\n%ps\n!b\n  %kill 12 13\n%kill all\n%checkpoint off\n%checkpoint\n%lsmagic\n1");
        let magic = Step::Magic;
        let expected = [
            Step::Shell("a".into()),
            magic(LineMagic::Ps),
            Step::Shell("b".into()),
            magic(LineMagic::Kill(Who::Pids(vec![12, 13]))),
            magic(LineMagic::Kill(Who::All)),
            magic(LineMagic::Checkpoint(Some(false))),
            magic(LineMagic::Checkpoint(None)),
            magic(LineMagic::LsMagic),
        ];
        assert_eq!(cell.head, expected);
        assert_eq!(cell.code, "\n\n\n\n\n\n\n\n1");
    }

    #[test]
    fn cell_magics_stack_in_any_order() {
        let one = parse("%%wait 10\n// why\n%%limit procs=20\n:dep rand\n%%stdin a\n\n%%limit mem=1M time=5s\n1");
        assert_eq!(one.wait, Some(Wait { most: Some(Duration::from_secs(10)) }));
        assert_eq!(one.limit.as_deref(), Some(&["procs=20", "mem=1M", "time=5s"].map(str::to_owned)[..]));
        assert_eq!(one.limit_line, 3);
        assert_eq!(one.code, "\n// why\n\n:dep rand\n\n\n\n1");
        assert!(one.head.is_empty());
        let other = parse("%%stdin a\n%%limit procs=20 mem=1M time=5s\n%%wait 10s\n1");
        assert_eq!((other.wait, other.limit, other.script), (one.wait, one.limit, one.script));
        assert_eq!(parse("%%wait").wait, Some(Wait { most: None }));
        assert_eq!(parse("%%wait 2.5s").wait, Some(Wait { most: Some(Duration::from_millis(2500)) }));
        assert_eq!((parse("1").wait, parse("1").limit, parse("1").limit_line), (None, None, 0));
    }

    #[test]
    fn comments_before_the_code_do_not_end_the_head() {
        let cell = parse("/* What\n%ps\n!ls\ndoes. */\n  // So:\n%ps\n!ls\nlet x = 1;");
        assert_eq!(cell.head, [Step::Magic(LineMagic::Ps), Step::Shell("ls".into())]);
        assert_eq!(cell.code, "/* What\n%ps\n!ls\ndoes. */\n  // So:\n\n\nlet x = 1;");
    }

    #[test]
    fn a_question_mark_asks_for_help() {
        for (source, name, begin) in [
            ("%kill?", "kill", "%kill PID"),
            ("%%limit?", "limit", "%%limit "),
            ("%limit?", "limit", "%%limit "),
            ("%%ps?", "ps", "%ps\n"),
        ] {
            let cell = parse(source);
            let [Step::Magic(help @ LineMagic::Help(asked))] = &cell.head[..] else { panic!("{source}: {cell:?}") };
            assert_eq!(asked, name);
            assert!(help.text().expect("there is help").starts_with(begin), "{source}");
        }
        assert!(Cell::parse("%klil?").expect_err("no such magic").message.contains("`%kill`"));
        assert!(LineMagic::LsMagic.text().expect("a list").contains("%checkpoint"));
        assert_eq!(LineMagic::Ps.text(), None);
    }

    #[test]
    fn wrong_words_say_what_is_right() {
        let wrong = [
            ("%ps all", "takes nothing"),
            ("%kill", "%kill all"),
            ("%kill -9 12", "`-9`"),
            ("%kill 0", "`0`"),
            ("%kill all 12", "`all` is neither"),
            ("%kill 99999999999", "is neither"),
            ("%checkpoint maybe", "`maybe`"),
            ("%checkpoint on off", "`on off`"),
            ("%%wait soon", "`soon` is no time"),
            ("%%wait 1 2", "second word"),
            ("%%wait\n%%wait 3", "twice"),
            ("%%limit", "procs=20"),
            ("%wait 3", "`%%wait`"),
            ("%%ps", "`%ps`"),
            ("%", "lsmagic"),
            ("%% ps", "lsmagic"),
        ];
        for (source, part) in wrong {
            let error = Cell::parse(source).expect_err(source);
            assert!(error.message.contains(part), "{source}: {}", error.message);
            assert_eq!(error.line, source.lines().count());
        }
    }

    #[test]
    fn a_magic_behind_code_is_said_to_be() {
        let misplaced = [
            "let x = 1;\n%ps",
            "let x = 1;\n%%wait 3",
            "fn f() {\n    %ps\n}",
            "fn f() {}\n%kill all",
            "let a = 1; // one\n/* two */\n%kill 12 13",
            "fn f() {}\n%%limit procs=3",
            "f();\n%kill nobody",
            "f();\n%kill?",
        ];
        for source in misplaced {
            let error = Cell::parse(source).expect_err(source);
            assert!(error.message.contains("must stand before the code"), "{source}: {}", error.message);
            assert!(source.lines().nth(error.line - 1).is_some_and(|line| line.contains('%')), "{source}");
        }
        assert!(Cell::parse("f();\n%%wiat").expect_err("none").message.contains("`%%wait`"));
    }

    #[test]
    fn a_remainder_inside_rust_stays() {
        let rust = [
            "let y = x\n%ps;",
            "let y = x\n% ps;",
            "let y = (x)\n%kill;",
            "let y = if a { 1 } else { 2 }\n% ps;",
            "let y = match a { _ => 7 }\n%ps;",
            "let y = match a { _ => 7 }\n%ps + 1;",
            "let y = match a { _ => 7 }\n%kill as u32;",
            "let y = f(\n%ps)",
            "x\n%= 3;",
            "let s = \"\n%ps\n%%wait\n\";",
            "/* a\n%ps */ f();",
            "let x = 1; /*\n%%wait\n*/",
            "let s = r#\"{\n%%wait\n\"#;",
            "f();\n%foo",
        ];
        for source in rust {
            assert_eq!(parse(source).code, source);
        }
    }

    #[test]
    fn magics_do_not_make_a_cell_incomplete() {
        assert_eq!(indent_of_incomplete("!echo '('\nlet x = 1;"), None);
        assert_eq!(indent_of_incomplete("%%stdin \"(\"\nfn f() {"), Some(4));
        assert_eq!(indent_of_incomplete("%%foo\nfn f() {"), Some(4));
        assert_eq!(indent_of_incomplete("%ps"), None);
    }
}
