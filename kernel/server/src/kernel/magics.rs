//! The cell as the person wrote it, taken apart: magics, `!` lines, and Rust.
//!
//! Nothing here runs anything. Lines that are taken out are left blank, so that every line that
//! remains keeps its number and compile errors point where the person looks.

use std::collections::VecDeque;

/// What a cell asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// `!` lines that stand before the Rust code, in order.
    pub shell: Vec<String>,
    /// The Rust code and evcxr's `:` commands; blank when there is none.
    pub code: String,
    /// The answers of `%%stdin`.
    pub script: Option<Script>,
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
    /// An unknown magic, or one whose arguments cannot be read.
    pub fn parse(source: &str) -> Result<Cell, MagicError> {
        let mut cell = Cell::default();
        let mut lines: Vec<String> = Vec::new();
        let mut head = true;
        let mut rust = Rust::default();
        for (index, line) in source.lines().enumerate() {
            let blank = line.trim().is_empty();
            if head && line.starts_with('%') {
                cell.magic(line).map_err(|message| MagicError { line: index + 1, message })?;
                lines.push(String::new());
            } else if head && line.starts_with('!') {
                cell.shell.push(line[1..].trim().to_owned());
                lines.push(String::new());
            } else if line.starts_with('!') && rust.at_statement() {
                lines.push(system_call(line[1..].trim()));
            } else {
                // evcxr's commands and comments do not end the head: a `!` line after them is
                // still the first thing to run.
                head &= blank || line.starts_with("//") || line.trim_start().starts_with(':');
                if !head {
                    rust.read(line);
                }
                lines.push(line.to_owned());
            }
        }
        if lines.iter().any(|line| !line.trim().is_empty()) {
            cell.code = lines.join("\n");
        }
        Ok(cell)
    }

    fn magic(&mut self, line: &str) -> Result<(), String> {
        let words = shell_words::split(line).map_err(|_| format!("a quote is not closed in `{}`", line.trim()))?;
        let (name, arguments) = words.split_first().ok_or("an empty magic")?;
        match name.as_str() {
            "%%stdin" => self.stdin(arguments),
            other => Err(format!(
                "there is no magic `{other}`. The magics are `%%stdin ANSWER…` (answers for processes that read \
                 their input); evcxr's commands begin with a colon (`:help`), shell lines with `!`"
            )),
        }
    }

    fn stdin(&mut self, arguments: &[String]) -> Result<(), String> {
        let script = self.script.get_or_insert_default();
        for argument in arguments {
            match argument.as_str() {
                "--always" => script.always = true,
                option if option.starts_with("--") => {
                    return Err(format!(
                        "`%%stdin` has no option `{option}`; it has `--always`. Quote an answer that begins with dashes after a space"
                    ));
                }
                answer => script.answers.push_back(answer.to_owned()),
            }
        }
        Ok(())
    }
}

/// A `!` line between statements, as the statement that does the same.
fn system_call(command: &str) -> String {
    let quotes = (1..).map(|n| "#".repeat(n)).find(|hashes| !command.contains(&format!("\"{hashes}")));
    let hashes = quotes.expect("a command is shorter than every number of hashes");
    format!("let _ = ::forklab::system(r{hashes}\"{command}\"{hashes});")
}

/// Follows Rust code line by line, well enough to tell whether a new line begins a statement.
#[derive(Debug, Default)]
struct Rust {
    /// In a string or a block comment that the line did not end.
    inside: Option<Inside>,
    /// The last character that is neither blank nor comment.
    last: Option<char>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Comment(u32),
    Str,
    RawStr(usize),
}

impl Rust {
    fn at_statement(&self) -> bool {
        self.inside.is_none() && matches!(self.last, None | Some(';' | '}' | '{'))
    }

    fn read(&mut self, line: &str) {
        let mut rest = line;
        while !rest.is_empty() {
            rest = match self.inside {
                Some(inside) => self.skip_inside(inside, rest),
                None => self.skip_code(rest),
            };
        }
    }

    fn skip_inside<'a>(&mut self, inside: Inside, text: &'a str) -> &'a str {
        match inside {
            Inside::Comment(depth) => {
                if let Some(rest) = text.strip_prefix("*/") {
                    self.inside = (depth > 1).then(|| Inside::Comment(depth - 1));
                    rest
                } else if let Some(rest) = text.strip_prefix("/*") {
                    self.inside = Some(Inside::Comment(depth + 1));
                    rest
                } else {
                    skip_char(text)
                }
            }
            Inside::Str => {
                if let Some(rest) = text.strip_prefix('\\') {
                    skip_char(rest)
                } else if let Some(rest) = text.strip_prefix('"') {
                    self.inside = None;
                    rest
                } else {
                    skip_char(text)
                }
            }
            Inside::RawStr(hashes) => {
                let end = format!("\"{}", "#".repeat(hashes));
                match text.strip_prefix(end.as_str()) {
                    Some(rest) => {
                        self.inside = None;
                        rest
                    }
                    None => skip_char(text),
                }
            }
        }
    }

    fn skip_code<'a>(&mut self, text: &'a str) -> &'a str {
        if text.starts_with("//") {
            return "";
        }
        if let Some(rest) = text.strip_prefix("/*") {
            self.inside = Some(Inside::Comment(1));
            return rest;
        }
        if let Some(rest) = raw_string(text) {
            self.inside = Some(Inside::RawStr(rest.1));
            self.last = Some('"');
            return rest.0;
        }
        if let Some(rest) = character(text) {
            self.last = Some('\'');
            return rest;
        }
        let first = text.chars().next().unwrap_or(' ');
        if first == '"' {
            self.inside = Some(Inside::Str);
        }
        if !first.is_whitespace() {
            self.last = Some(first);
        }
        skip_char(text)
    }
}

fn skip_char(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}

/// The text behind the opening of a raw string, and the number of its hashes.
fn raw_string(text: &str) -> Option<(&str, usize)> {
    let rest = text.strip_prefix("br").or_else(|| text.strip_prefix("cr")).or_else(|| text.strip_prefix('r'))?;
    let body = rest.trim_start_matches('#');
    Some((body.strip_prefix('"')?, rest.len() - body.len()))
}

/// The text behind a character literal; `None` for a lifetime.
fn character(text: &str) -> Option<&str> {
    let body = text.strip_prefix('\'')?;
    match body.strip_prefix('\\') {
        Some(escaped) => skip_char(escaped).split_once('\'').map(|(_, rest)| rest),
        None => skip_char(body).strip_prefix('\''),
    }
}

/// Whether the code's brackets are closed: `None` when they are, else the spaces to indent by.
pub fn indent_of_incomplete(source: &str) -> Option<usize> {
    let mut rust = Rust::default();
    let mut depth = 0i32;
    for line in source.lines() {
        let mut rest = line;
        while !rest.is_empty() {
            let code = rust.inside.is_none();
            let next = match rust.inside {
                Some(inside) => rust.skip_inside(inside, rest),
                None => rust.skip_code(rest),
            };
            let taken = &rest[..rest.len() - next.len()];
            if code {
                match taken {
                    "(" | "[" | "{" => depth += 1,
                    ")" | "]" | "}" => depth -= 1,
                    _ => {}
                }
            }
            rest = next;
        }
    }
    let open = depth > 0 || rust.inside.is_some();
    open.then_some(4 * depth.max(0) as usize)
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
        assert_eq!(cell.shell, ["ls"]);
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
    fn brackets_tell_whether_code_is_complete() {
        assert_eq!(indent_of_incomplete("fn f() {"), Some(4));
        assert_eq!(indent_of_incomplete("fn f() { g(')'); // }"), Some(4));
        assert_eq!(indent_of_incomplete("let s = \"{\";"), None);
        assert_eq!(indent_of_incomplete("let s = \"abc"), Some(0));
    }
}
