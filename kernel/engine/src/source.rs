//! Rust text cut into lines, with the nesting of brackets: as much of a lexer as it takes not to be
//! fooled by brackets in strings, characters and comments.

use std::collections::HashMap;
use std::ops::Range;

/// A text and what its brackets say.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// The lines, without their ends.
    pub lines: Vec<&'a str>,
    /// For each line: how many brackets are open where it starts; `None` within a literal or comment.
    pub depth: Vec<Option<usize>>,
    /// Whether every bracket, literal and comment is closed, each by its own kind.
    pub balanced: bool,
    /// The byte of the innermost bracket that is left open.
    pub unclosed: Option<usize>,
    /// For each closing bracket, as line and byte in it, the place of its opening one.
    pub opening: HashMap<(usize, usize), (usize, usize)>,
}

impl<'a> Source<'a> {
    /// Reads a text.
    pub fn read(text: &'a str) -> Source<'a> {
        let mut lexer = Lexer::new(text);
        lexer.run();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .filter(|at| *at < text.len())
            .collect();
        let place = |at: usize| {
            let line = starts.partition_point(|start| *start <= at) - 1;
            (line, at - starts[line])
        };
        let opening = lexer.pairs.iter().map(|(close, open)| (place(*close), place(*open))).collect();
        let mut depths: HashMap<usize, usize> = lexer.plain.into_iter().collect();
        depths.insert(0, 0);
        let depth = starts.iter().map(|start| depths.get(start).copied()).collect();
        let balanced = lexer.balanced && lexer.open.is_empty();
        let unclosed = lexer.open.last().map(|(_, at)| *at);
        Source { lines: text.lines().collect(), depth, balanced, unclosed, opening }
    }
}

/// A text with blanks in the place of everything in literals and comments but line ends.
pub(crate) fn without_literals(text: &str) -> String {
    let mut lexer = Lexer::new(text);
    lexer.run();
    let mut bytes = text.as_bytes().to_vec();
    for range in lexer.literals {
        bytes[range].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    // Only whole characters were replaced.
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    open: Vec<(char, usize)>,
    pairs: Vec<(usize, usize)>,
    balanced: bool,
    /// Line starts outside literals and comments, and the depth there.
    plain: Vec<(usize, usize)>,
    /// The bytes of literals and comments.
    literals: Vec<Range<usize>>,
}

impl Lexer<'_> {
    fn new(text: &str) -> Lexer<'_> {
        let (open, pairs, plain, literals) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Lexer { text, at: 0, open, pairs, balanced: true, plain, literals }
    }

    fn run(&mut self) {
        while let Some(c) = self.peek() {
            let start = self.at;
            self.at += c.len_utf8();
            match c {
                '\n' => self.plain.push((self.at, self.open.len())),
                '/' if self.peek() == Some('/') => drop(self.skip_to("\n")),
                '/' if self.peek() == Some('*') => self.block_comment(),
                '"' => self.string(),
                '\'' => self.character(),
                '(' | '[' | '{' => self.open.push((c, start)),
                ')' | ']' | '}' => self.close(c, start),
                c if c == '_' || c.is_alphabetic() => self.word(start),
                _ => {}
            }
            // A raw string's prefix is blanked with it, and so is nothing but a literal.
            let is_comment = c == '/' && self.at > start + 1;
            let is_raw = c.is_alphabetic() && self.text[..self.at].ends_with(['"', '#']);
            if is_comment || is_raw || (matches!(c, '"' | '\'') && self.at > start + 1) {
                self.literals.push(start..self.at);
            }
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes to the next `end`, which is left unread; to the text's end when there is none.
    fn skip_to(&mut self, end: &str) -> bool {
        let found = self.rest().find(end);
        self.at = found.map_or(self.text.len(), |offset| self.at + offset);
        found.is_some()
    }

    fn block_comment(&mut self) {
        self.at += 1;
        let mut depth = 1;
        while depth > 0 {
            let next = [self.rest().find("/*"), self.rest().find("*/")];
            match next {
                [Some(open), Some(close)] if open < close => (self.at, depth) = (self.at + open + 2, depth + 1),
                [_, Some(close)] => (self.at, depth) = (self.at + close + 2, depth - 1),
                [_, None] => {
                    self.at = self.text.len();
                    self.balanced = false;
                    return;
                }
            }
        }
    }

    fn string(&mut self) {
        while let Some(c) = self.peek() {
            self.at += c.len_utf8();
            match c {
                '"' => return,
                '\\' => self.at += self.peek().map_or(0, char::len_utf8),
                _ => {}
            }
        }
        self.balanced = false;
    }

    /// A character, or a lifetime, which has no end to look for.
    fn character(&mut self) {
        let mut next = self.rest().chars();
        match (next.next(), next.next()) {
            (Some('\\'), Some(escaped)) => {
                self.at += 1 + escaped.len_utf8();
                self.skip_to("'");
                self.at = (self.at + 1).min(self.text.len());
            }
            (Some(c), Some('\'')) => self.at += c.len_utf8() + 1,
            _ => {}
        }
    }

    /// A word, and the raw string whose prefix it may be.
    fn word(&mut self, start: usize) {
        let end = self.rest().find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(self.rest().len());
        self.at += end;
        if !matches!(&self.text[start..self.at], "r" | "br" | "cr") {
            return;
        }
        let hashes = self.rest().len() - self.rest().trim_start_matches('#').len();
        if !self.rest()[hashes..].starts_with('"') {
            return;
        }
        self.at += hashes + 1;
        let end = format!("\"{}", "#".repeat(hashes));
        self.balanced &= self.skip_to(&end);
        self.at = (self.at + end.len()).min(self.text.len());
    }

    fn close(&mut self, c: char, at: usize) {
        let expected = match c {
            ')' => '(',
            ']' => '[',
            _ => '{',
        };
        match self.open.pop() {
            Some((open, opened)) => {
                self.balanced &= open == expected;
                self.pairs.push((at, opened));
            }
            None => self.balanced = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_literals_and_comments_do_not_count() {
        let text = "fn f() {\n\
            let a = \"}\\\"}\"; let b = '}'; let c = '\\''; let d: &'static str = r#\"}\"\n}\"#;\n\
            // }\n/* } /* } */ } */ let e = br\"\\\"; let r#fn = b'{'; let g = '\\u{7d}';\n}\nlast";
        let source = Source::read(text);
        assert!(source.balanced);
        assert_eq!(source.depth, [Some(0), Some(1), None, Some(1), Some(1), Some(1), Some(0)]);
        assert_eq!(source.opening[&(5, 0)], (0, 7));
    }

    #[test]
    fn without_literals_code_is_left() {
        let text = "a?; \"b? \\\" \"; c::<'d>('e', r#\"f?\"#, \"é\") // g?\n/* h?\n */ i / j";
        let left = "a?;          ; c::<'d>(   ,        ,    )      \n      \n    i / j";
        let found = without_literals(text);
        assert_eq!(found.split_whitespace().collect::<Vec<_>>(), left.split_whitespace().collect::<Vec<_>>());
        assert_eq!(found.len(), text.len());
    }

    #[test]
    fn what_is_not_closed_is_not_balanced() {
        for text in ["{", "}", "(]", "\"", "/* /* */", "r#\"\"", "'"] {
            assert_eq!(Source::read(text).balanced, text == "'", "{text}");
        }
    }
}
