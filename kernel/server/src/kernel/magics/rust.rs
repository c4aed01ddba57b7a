//! Follows Rust code line by line, well enough to tell code from strings and comments, and where a
//! statement may begin. No parser: what rustc would refuse is not noticed here.

/// Follows Rust code line by line, well enough to tell whether a new line begins a statement.
#[derive(Debug, Default)]
pub struct Rust {
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
    /// Whether everything so far was blank or a comment that has ended.
    pub fn before_code(&self) -> bool {
        self.inside.is_none() && self.last.is_none()
    }

    /// Whether a statement may begin here. After `}`, an expression may also go on.
    pub fn at_statement(&self) -> bool {
        self.inside.is_none() && matches!(self.last, None | Some(';' | '}' | '{'))
    }

    /// Whether the last thing read is `}`.
    pub fn after_block(&self) -> bool {
        self.inside.is_none() && self.last == Some('}')
    }

    /// Reads a line.
    pub fn read(&mut self, line: &str) {
        let mut rest = line;
        while !rest.is_empty() {
            rest = match self.inside {
                Some(inside) => self.skip_inside(inside, rest),
                None => self.skip_code(rest),
            };
        }
    }

    /// What is left of `text` behind the end of what it is inside, or behind a step towards it.
    fn skip_inside<'a>(&mut self, inside: Inside, text: &'a str) -> &'a str {
        match inside {
            Inside::Comment(depth) => {
                let Some(at) = text.find(['*', '/']) else { return "" };
                let text = &text[at..];
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
                let Some(at) = text.find(['\\', '"']) else { return "" };
                let escaped = text[at..].starts_with('\\');
                self.inside = escaped.then_some(inside);
                if escaped { skip_char(&text[at + 1..]) } else { &text[at + 1..] }
            }
            Inside::RawStr(hashes) => {
                let end = format!("\"{}", "#".repeat(hashes));
                match text.split_once(end.as_str()) {
                    Some((_, rest)) => {
                        self.inside = None;
                        rest
                    }
                    None => "",
                }
            }
        }
    }

    /// What is left of `text` behind its first token, or a part of that; a bracket is one by itself.
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
        if is_word(first) {
            self.last = Some(first);
            return text.trim_start_matches(is_word);
        }
        if first == '"' {
            self.inside = Some(Inside::Str);
        }
        if !first.is_whitespace() {
            self.last = Some(first);
        }
        skip_char(text)
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
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

    #[test]
    fn brackets_tell_whether_code_is_complete() {
        assert_eq!(indent_of_incomplete("fn f() {"), Some(4));
        assert_eq!(indent_of_incomplete("fn f() { g(')'); // }"), Some(4));
        assert_eq!(indent_of_incomplete("let s = \"{\";"), None);
        assert_eq!(indent_of_incomplete("let s = \"abc"), Some(0));
    }

    #[test]
    fn strings_and_comments_end_where_they_end() {
        let complete = [
            r#"f("a\"(");"#,
            r##"f(r#"a"("#);"##,
            r#"f(br"\", b"\\", c"(");"#,
            "f(/* ( /* ( */ ( */);",
            "f(/*/ ( */);",
            "/***/ f();",
            "f('(', '\\'', b'(', '\\u{28}');",
            "fn f<'a>(x: &'a str) {}",
            "let r#for = r\"(\";",
            "let é = \"é(\";",
            "let s = \"a\\\n(\";",
        ];
        for source in complete {
            assert_eq!(indent_of_incomplete(source), None, "{source}");
        }
        for source in ["f(\"\\\\\", \"(\"", "/* /* */", "let s = r##\"\"#", "let s = \"\\\"", "'('; {"] {
            assert!(indent_of_incomplete(source).is_some(), "{source}");
        }
    }

    #[test]
    fn comments_are_no_code() {
        let mut rust = Rust::default();
        for line in ["// a", "/* b", "c */ // d", ""] {
            assert!(rust.before_code() || rust.inside.is_some(), "{line}");
            rust.read(line);
        }
        assert!(rust.before_code());
        rust.read("/* e */ f");
        assert!(!rust.before_code());
    }
}
