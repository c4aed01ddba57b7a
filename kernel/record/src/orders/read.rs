//! From a record to its order: pids become roles, times go.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{By, Order, Token};
use crate::timeline::{Family, words};
use crate::{Ending, Event, Nanoseconds, Pid, Record, Status, Stream, What};

/// An order has no more tokens, and no more bytes of text, than this: thousands of them are kept.
const MOST_TOKENS: usize = 2_000;
const MOST_TEXT: usize = 64 << 10;

/// Who did it is no process of the record.
const NOBODY: &str = "?";

/// What happened in a run, in its order, without what differs from run to run for no reason.
///
/// A number in a text that equals the pid of a process of this record, as a word of its own, becomes that
/// process's role in angle brackets. Other numbers stay: a cell that prints times has another
/// order in every run. When a process began to wait and went on is no part of it, as the clock alone
/// decides what is seen of that. Output counts where it was read, which is soon after it was written, so
/// that by events its place among forks and ends is the reader's.
///
/// Roles are given by the order of fork. Where several processes fork at the same time, who is called C3
/// is part of the order, too.
///
/// Of a very long run (2,000 tokens, 64 KiB of text) the order has the beginning and a fingerprint of the rest: two runs
/// that differ only late are still two orders, but where they differ there is not shown.
pub fn order(record: &Record, by: By) -> Order {
    let mut reader = Reader {
        family: Family::new(record),
        begun: Vec::new(),
        begun_at: HashMap::new(),
        messages: HashMap::new(),
        tokens: Vec::new(),
    };
    for event in &record.events {
        match (&event.what, by) {
            (What::Wrote { stream, text }, By::Bytes) => reader.bytes(event, *stream, text),
            (What::Wrote { stream, text }, _) => reader.lines(event, *stream, text),
            (_, By::Events) => reader.event(event),
            _ => {}
        }
    }
    reader.finish(by)
}

/// How a record's run ended, with roles for pids in the text, so that endings can be compared as well.
pub fn ending(record: &Record) -> Ending {
    let family = Family::new(record);
    let masked = |text: &str| mask(text, &family, Nanoseconds::MAX).into_owned();
    match &record.ending {
        Ending::Panicked(message) => Ending::Panicked(masked(message)),
        Ending::Failed(error) => Ending::Failed(masked(error)),
        other => other.clone(),
    }
}

/// A line that has begun. Who writes is known by the index in the record, as pids may be given again.
struct Begun {
    who: String,
    stream: Stream,
    text: String,
    at: Nanoseconds,
}

/// Reads a record's events one after the other.
struct Reader<'a> {
    family: Family<'a>,
    /// By the time of their last piece; none twice of one writer and stream. Empty ones are finished.
    begun: Vec<Begun>,
    begun_at: HashMap<(Option<usize>, Pid, Stream), usize>,
    /// Messages of pipes by the order in which they were sent.
    messages: HashMap<u64, usize>,
    tokens: Vec<Token>,
}

impl Reader<'_> {
    fn who(&self, event: &Event) -> String {
        self.family.process_of(event).map_or_else(|| NOBODY.to_owned(), |index| self.family.process(index).role.clone())
    }

    /// The role of somebody who is named in an event.
    fn role(&self, pid: Pid, at: Nanoseconds) -> String {
        self.family
            .at(pid, at)
            .map_or_else(|| "a process outside".to_owned(), |index| self.family.process(index).role.clone())
    }

    fn bytes(&mut self, event: &Event, stream: Stream, text: &str) {
        let who = self.who(event);
        // Where a reader's piece ends is an accident; who writes next is not.
        match self.tokens.last_mut() {
            Some(last) if last.who == who && last.stream == Some(stream) => last.what.push_str(text),
            _ => {
                self.mask_last(event.at);
                self.tokens.push(Token { who, stream: Some(stream), what: text.to_owned() });
            }
        }
    }

    /// A run of bytes is whole, so that a number in it is whole as well.
    fn mask_last(&mut self, at: Nanoseconds) {
        if let Some(last) = self.tokens.last_mut() {
            last.what = mask(&last.what, &self.family, at).into_owned();
        }
    }

    fn lines(&mut self, event: &Event, stream: Stream, text: &str) {
        let key = (self.family.process_of(event), event.pid, stream);
        let index = match self.begun_at.get(&key) {
            Some(index) => *index,
            None => {
                self.begun.push(Begun { who: self.who(event), stream, text: String::new(), at: event.at });
                self.begun_at.insert(key, self.begun.len() - 1);
                self.begun.len() - 1
            }
        };
        let mut rest = text;
        while let Some((line, after)) = rest.split_once('\n') {
            let begun = &mut self.begun[index];
            let whole = std::mem::take(&mut begun.text) + line;
            let what = mask(&whole, &self.family, event.at).into_owned();
            self.tokens.push(Token { who: begun.who.clone(), stream: Some(stream), what });
            rest = after;
        }
        self.begun[index].text.push_str(rest);
        self.begun[index].at = event.at;
    }

    fn event(&mut self, event: &Event) {
        let role = |pid: Pid| self.role(pid, event.at);
        let what = match &event.what {
            What::Forked(child) => format!("forks {}", role(*child)),
            What::Execed(command) => format!("becomes {}", mask(command, &self.family, event.at)),
            What::Ended(status @ Status::Exited(_)) => format!("ends: {}", words::status(*status)),
            What::Ended(status @ Status::Killed(_)) => format!("is ended by {}", words::status(*status)),
            What::Reaped(child) => {
                let child = self.family.before(*child, event.at);
                let child = child.map_or(NOBODY, |index| &self.family.process(index).role);
                format!("reaps {child}")
            }
            What::Adopted(by) => format!("is adopted by {}", role(*by)),
            What::SignalSent { signal, to } if *to < 0 => {
                format!("sends {} to the group of {}", words::signal(*signal), role(to.saturating_neg()))
            }
            What::SignalSent { signal, to } => format!("sends {} to {}", words::signal(*signal), role(*to)),
            What::SignalReceived { signal, from: Some(from) } if *from > 0 => {
                format!("receives {} from {}", words::signal(*signal), role(*from))
            }
            What::SignalReceived { signal, .. } => format!("receives {}", words::signal(*signal)),
            What::Stopped(signal) => format!("is stopped by {}", words::signal(*signal)),
            What::Continued => "goes on".to_owned(),
            What::Sent { message, .. } => {
                let next = self.messages.len() + 1;
                format!("sends message {}", self.messages.entry(*message).or_insert(next))
            }
            What::Received { message, .. } => {
                let next = self.messages.len() + 1;
                format!("receives message {}", self.messages.entry(*message).or_insert(next))
            }
            What::Wrote { .. } | What::Blocked(_) | What::Running => return,
        };
        let who = self.who(event);
        self.tokens.push(Token { who, stream: None, what });
    }

    /// What has no newline comes last, in the order of its last pieces.
    fn finish(mut self, by: By) -> Order {
        if by == By::Bytes {
            self.mask_last(Nanoseconds::MAX);
        }
        let mut rest: Vec<Begun> = self.begun.into_iter().filter(|begun| !begun.text.is_empty()).collect();
        rest.sort_by_key(|begun| begun.at);
        for Begun { who, stream, text, at } in rest {
            let what = mask(&text, &self.family, at).into_owned();
            self.tokens.push(Token { who, stream: Some(stream), what });
        }
        Order { by, tokens: short(self.tokens) }
    }
}

/// The tokens, or the first of them and one that stands for the rest.
fn short(mut tokens: Vec<Token>) -> Vec<Token> {
    let mut text = 0;
    let mut fits = |token: &Token| {
        text += token.what.len();
        text <= MOST_TEXT
    };
    let most = tokens.iter().take(MOST_TOKENS).take_while(|token| fits(token)).count();
    if most == tokens.len() {
        return tokens;
    }
    let mut rest = tokens.split_off(most);
    // Without keys: the same for the same rest in every process.
    let mut hasher = DefaultHasher::new();
    rest.hash(&mut hasher);
    let more = words::grouped(rest.len());
    let fingerprint = hasher.finish();
    // A token that is too long by itself is there with its beginning.
    if most < MOST_TOKENS {
        let first = &mut rest[0];
        let room = MOST_TEXT - tokens.iter().map(|token| token.what.len()).sum::<usize>();
        first.what.truncate(first.what.floor_char_boundary(room));
        tokens.push(rest.swap_remove(0));
    }
    tokens.push(Token {
        who: "…".to_owned(),
        stream: None,
        what: format!("{more} more that are not shown (fingerprint {fingerprint:016x})"),
    });
    tokens
}

/// The text with roles for pids: numbers that are words of their own and a pid of the record at that time.
fn mask<'t>(text: &'t str, family: &Family, at: Nanoseconds) -> Cow<'t, str> {
    let mut out = String::new();
    let mut copied = 0;
    for (start, end) in numbers(text) {
        let pid = text[start..end].parse().ok().filter(|pid: &Pid| *pid > 0);
        if let Some(index) = pid.and_then(|pid| family.at(pid, at)) {
            out.push_str(&text[copied..start]);
            out.push('⟨');
            out.push_str(&family.process(index).role);
            out.push('⟩');
            copied = end;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Where numbers stand that could be pids: digits without a leading zero, with no letter, digit or
/// underscore beside them, and not a part of a number with a point in it.
fn numbers(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let bytes = text.as_bytes();
    let mut from = 0;
    std::iter::from_fn(move || {
        while from < bytes.len() {
            let start = from + bytes[from..].iter().position(u8::is_ascii_digit)?;
            let end = bytes[start..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |n| start + n);
            from = end;
            let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
            let before = text[..start].chars().next_back();
            let after = text[end..].chars().next();
            let fraction = before == Some('.') && start > 1 && digit(bytes.get(start - 2));
            let whole = after == Some('.') && digit(bytes.get(end + 1));
            if bytes[start] != b'0' && end - start <= 10 && !part(before) && !part(after) && !fraction && !whole {
                return Some((start, end));
            }
        }
        None
    })
}
