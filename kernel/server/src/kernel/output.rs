//! What the processes of a cell write, on its way to the front end.
//!
//! Bytes come from the two sockets of the cell, each piece with the pid of its writer. They leave
//! as text, in the order in which this one reader saw them. A character that a writer has only
//! begun waits for that writer's next bytes. Text is held for a moment so that many small writes
//! become one message; an unfinished line is held a little longer, because a process that then
//! waits for input has written a prompt ([`Output::take_prompt`]).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use forklab_sys::capture::{self, Capture, Piece as Found};
use forklab_sys::trace::now;

/// Text waits this long for more of it.
const GATHER: Duration = Duration::from_millis(15);
/// An unfinished line waits this long for its reader of input. Contract: shown within 50 ms.
const HOLD_PROMPT: Duration = Duration::from_millis(35);
/// More than this is sent at once.
const ENOUGH: usize = 256 << 10;
/// The longest unfinished line that can be a prompt.
const LONGEST_PROMPT: usize = 1024;

/// The two streams of the specification's `stream` message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// A piece of text for one `stream` message.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it was written.
    pub stream: Stream,
    /// What was written.
    pub text: String,
    /// By whom; 0 for the kernel's own text, and for several writers where they are not kept apart.
    pub pid: i32,
}

/// Something that a process has written, for the record.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    /// When it was read: nanoseconds of the monotonic clock.
    pub at: u64,
    /// By whom.
    pub pid: i32,
    /// Where.
    pub stream: Stream,
    /// What, in whole characters.
    pub text: String,
}

/// The output of one cell, for as long as any process can write to it.
#[derive(Debug)]
pub struct Output {
    sources: [Option<Capture>; 2],
    text: Text,
    /// How many bytes may yet be taken; what is written beyond them is read and thrown away.
    room: Option<u64>,
    /// How many were taken.
    taken: u64,
    full: bool,
}

impl Output {
    /// Makes a cell's two sockets: the reading side, and the descriptors for the cell's 1 and 2. At
    /// most `room` bytes of what is written are kept.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn new(room: Option<u64>) -> io::Result<(Output, [OwnedFd; 2])> {
        let (stdout, stdout_writer) = capture::pair()?;
        let (stderr, stderr_writer) = capture::pair()?;
        let sources = [Some(stdout), Some(stderr)];
        let output = Output { sources, text: Text::default(), room, taken: 0, full: false };
        Ok((output, [stdout_writer, stderr_writer]))
    }

    /// Keeps what processes write for [`Output::take_heard`] as well, or does not any more.
    pub fn listen(&mut self, listen: bool) {
        self.text.heard = if listen { Some(self.text.heard.take().unwrap_or_default()) } else { None };
    }

    /// What processes have written since the last call.
    pub fn take_heard(&mut self) -> Vec<Heard> {
        self.text.heard.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Keeps the texts of several writers apart from here on.
    pub fn keep_writers(&mut self) {
        self.text.keep_writers = true;
    }

    /// The writers of what waits to be sent, and since when the first of it does.
    pub fn waiting(&self) -> Option<(Instant, impl Iterator<Item = i32>)> {
        self.text.first.map(|first| (first, self.text.pieces.iter().map(|piece| piece.pid)))
    }

    /// The descriptors to wait for, while there is room for what they hold.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sources.iter().flatten().map(AsFd::as_fd)
    }

    /// Whether nobody can write any more and everything has been taken.
    pub fn is_over(&self) -> bool {
        self.sources.iter().all(Option::is_none) && self.text.pieces.is_empty()
    }

    /// Reads what is there, at most `limit` bytes of each stream. Returns whether there may be more.
    pub fn read(&mut self, buffer: &mut [u8], limit: usize) -> bool {
        let mut more = false;
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let mut taken = 0;
            while let Some(source) = &self.sources[index] {
                if taken >= limit {
                    more = true;
                    break;
                }
                match source.read(buffer) {
                    Ok(Found::Data { len, pid }) => {
                        taken += len;
                        // A writer whose pid cannot be told is one writer with all such.
                        let pid = pid.map_or(0, |pid| pid.as_raw());
                        let kept = self.keep(len);
                        self.text.write(stream, pid, &buffer[..kept]);
                    }
                    Ok(Found::WouldBlock) => break,
                    Ok(Found::End) => self.close(index, stream),
                    Err(error) => {
                        tracing::warn!(%error, "a cell's output cannot be read any more");
                        self.close(index, stream);
                    }
                }
            }
        }
        more
    }

    /// How many of so many new bytes there is room for.
    fn keep(&mut self, len: usize) -> usize {
        let kept = self.room.map_or(len, |room| len.min(usize::try_from(room).unwrap_or(usize::MAX)));
        if let Some(room) = &mut self.room {
            *room -= kept as u64;
        }
        self.taken += kept as u64;
        self.full |= kept < len;
        kept
    }

    /// Whether more was written than there was room for.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// How many bytes were kept.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    fn close(&mut self, index: usize, stream: Stream) {
        self.sources[index] = None;
        self.text.end(|of, _| of == stream);
    }

    /// Text of the kernel's that belongs between the processes' output, such as a scripted answer.
    pub fn insert(&mut self, text: &str) {
        self.text.push(Stream::Stdout, 0, text);
    }

    /// Gives up the characters that these writers have begun.
    pub fn end_characters(&mut self, gone: impl Fn(i32) -> bool) {
        self.text.end(|_, pid| gone(pid));
    }

    /// When [`Output::ready`] will have something, if nothing more is read.
    pub fn deadline(&self) -> Option<Instant> {
        self.text.deadline()
    }

    /// What is to be sent by now.
    pub fn ready(&mut self, now: Instant) -> Vec<Piece> {
        self.text.ready(now)
    }

    /// Everything that was read, whole lines or not. Begun characters stay with their writers.
    pub fn take_all(&mut self) -> Vec<Piece> {
        self.text.take_all()
    }

    /// Whether what was written ends with a whole line, or nothing was written.
    pub fn at_line_start(&self) -> bool {
        self.text.line.is_empty()
    }

    /// The unfinished line, as the prompt of a process that waits for input. If it has not been
    /// sent yet, it never is: the front end shows it with its input box.
    pub fn take_prompt(&mut self) -> String {
        self.text.take_prompt()
    }

    /// The unfinished line, which stays output.
    #[cfg(test)]
    fn line(&self) -> &str {
        &self.text.line
    }
}

/// Decoded text on its way. Knows no sockets.
#[derive(Debug, Default)]
struct Text {
    pieces: Vec<Piece>,
    size: usize,
    first: Option<Instant>,
    last: Option<Instant>,
    /// The characters that writers have begun.
    begun: HashMap<(Stream, i32), Vec<u8>>,
    /// The unfinished line over both streams, sent or not.
    line: String,
    /// What was written, if somebody wants it.
    heard: Option<Vec<Heard>>,
    /// Whether pieces are one writer's.
    keep_writers: bool,
}

impl Text {
    fn write(&mut self, stream: Stream, pid: i32, bytes: &[u8]) {
        match self.begun.remove(&(stream, pid)) {
            None => self.decode(stream, pid, bytes),
            Some(mut begun) => {
                begun.extend_from_slice(bytes);
                self.decode(stream, pid, &begun);
            }
        }
    }

    fn decode(&mut self, stream: Stream, pid: i32, bytes: &[u8]) {
        let mut rest = bytes;
        let mut text = String::new();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &bad[length..];
                        }
                        None => {
                            self.begun.insert((stream, pid), bad.to_vec());
                            break;
                        }
                    }
                }
            }
        }
        self.hear(stream, pid, &text);
        self.push(stream, pid, &text);
    }

    fn hear(&mut self, stream: Stream, pid: i32, text: &str) {
        if let Some(heard) = self.heard.as_mut().filter(|_| !text.is_empty()) {
            heard.push(Heard { at: now(), pid, stream, text: text.to_owned() });
        }
    }

    fn push(&mut self, stream: Stream, pid: i32, text: &str) {
        if text.is_empty() {
            return;
        }
        let pid = if self.keep_writers { pid } else { 0 };
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.size += text.len();
        match text.rfind('\n') {
            Some(end) => self.line = text[end + 1..].to_owned(),
            None => self.line.push_str(text),
        }
        if self.line.len() > LONGEST_PROMPT {
            let cut = self.line.ceil_char_boundary(self.line.len() - LONGEST_PROMPT);
            self.line.drain(..cut);
        }
        match self.pieces.last_mut() {
            Some(piece) if (piece.stream, piece.pid) == (stream, pid) => piece.text.push_str(text),
            _ => self.pieces.push(Piece { stream, text: text.to_owned(), pid }),
        }
    }

    /// The writers are gone: what they had begun will never be a character.
    fn end(&mut self, gone: impl Fn(Stream, i32) -> bool) {
        let broken: Vec<(Stream, i32)> =
            self.begun.extract_if(|key, _| gone(key.0, key.1)).map(|(key, _)| key).collect();
        for (stream, pid) in broken {
            self.hear(stream, pid, "\u{FFFD}");
            self.push(stream, pid, "\u{FFFD}");
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        let whole = self.pieces.last().is_some_and(|piece| piece.text.ends_with('\n')) || self.pieces.len() > 1;
        let multiline = self.pieces.last().is_some_and(|piece| piece.text.contains('\n'));
        Some(if whole || multiline { first + GATHER } else { (first + HOLD_PROMPT).min(last + HOLD_PROMPT) })
    }

    fn ready(&mut self, now: Instant) -> Vec<Piece> {
        let Some((first, last)) = self.first.zip(self.last) else { return Vec::new() };
        if self.size >= ENOUGH || now >= first + HOLD_PROMPT {
            return self.take_all();
        }
        if now < first + GATHER {
            return Vec::new();
        }
        let held = self.split_unfinished();
        let ready = std::mem::take(&mut self.pieces);
        self.size = held.as_ref().map_or(0, |piece| piece.text.len());
        // The unfinished line's own time begins with its last byte, not with the lines before it.
        self.first = held.is_some().then_some(last);
        self.last = self.first;
        self.pieces.extend(held);
        ready
    }

    /// Takes the text behind the last newline off the last piece.
    fn split_unfinished(&mut self) -> Option<Piece> {
        let piece = self.pieces.last_mut()?;
        let from = piece.text.rfind('\n').map_or(0, |end| end + 1);
        let text = piece.text.split_off(from);
        let held = (!text.is_empty()).then_some(Piece { stream: piece.stream, text, pid: piece.pid });
        if piece.text.is_empty() {
            self.pieces.pop();
        }
        held
    }

    fn take_all(&mut self) -> Vec<Piece> {
        self.size = 0;
        self.first = None;
        self.last = None;
        std::mem::take(&mut self.pieces)
    }

    fn take_prompt(&mut self) -> String {
        let held = self.split_unfinished();
        self.size = self.pieces.iter().map(|piece| piece.text.len()).sum();
        let line = std::mem::take(&mut self.line);
        match held {
            // The line may have begun in text that was sent already, or in the other stream.
            Some(piece) if !line.ends_with(&piece.text) => piece.text,
            _ => line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pieces: Vec<Piece>) -> Vec<String> {
        pieces.into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn a_character_split_over_two_writes_is_whole_even_with_another_writer_between() {
        let mut text = Text::default();
        text.write(Stream::Stdout, 1, b"\xc3");
        text.write(Stream::Stdout, 2, b"x");
        text.write(Stream::Stdout, 1, b"\xa9!");
        assert_eq!(texts(text.take_all()), ["xé!"]);
    }

    #[test]
    fn bytes_that_are_not_utf8_cost_one_replacement_each() {
        let mut text = Text::default();
        text.write(Stream::Stdout, 1, b"a\xffb\xfe\n");
        assert_eq!(texts(text.take_all()), ["a\u{FFFD}b\u{FFFD}\n"]);
        text.write(Stream::Stdout, 1, b"\xe2\x82");
        text.end(|stream, pid| (stream, pid) == (Stream::Stdout, 1));
        assert_eq!(texts(text.take_all()), ["\u{FFFD}"]);
    }

    #[test]
    fn streams_keep_their_order() {
        let mut text = Text::default();
        text.write(Stream::Stdout, 1, b"a");
        text.write(Stream::Stderr, 1, b"b");
        text.write(Stream::Stdout, 1, b"c");
        assert_eq!(texts(text.take_all()), ["a", "b", "c"]);
    }

    #[test]
    fn writers_are_heard_and_kept_apart_where_that_is_wanted() {
        let mut text = Text { heard: Some(Vec::new()), keep_writers: true, ..Text::default() };
        text.write(Stream::Stdout, 1, b"a\xc3");
        text.write(Stream::Stdout, 2, b"b");
        text.write(Stream::Stdout, 1, b"\xa9");
        let pieces: Vec<_> = text.take_all().into_iter().map(|piece| (piece.pid, piece.text)).collect();
        assert_eq!(pieces, [(1, "a".to_owned()), (2, "b".to_owned()), (1, "é".to_owned())]);
        let heard = text.heard.expect("it was wanted");
        assert!(heard.is_sorted_by_key(|heard| heard.at) && heard[2].text == "é" && heard[2].pid == 1, "{heard:?}");
    }

    #[test]
    fn lines_go_first_and_the_prompt_is_held() {
        let mut text = Text::default();
        text.write(Stream::Stdout, 1, b"line\nName: ");
        let now = text.first.expect("there is text");
        assert_eq!(texts(text.ready(now)), [] as [&str; 0]);
        assert_eq!(texts(text.ready(now + GATHER)), ["line\n"]);
        assert_eq!(text.take_prompt(), "Name: ");
        assert!(text.pieces.is_empty(), "a prompt is not output as well");
    }

    #[test]
    fn an_unfinished_line_is_sent_within_the_contract() {
        let mut text = Text::default();
        text.write(Stream::Stdout, 1, b"...");
        let now = text.first.expect("there is text");
        assert_eq!(texts(text.ready(now + GATHER)), [] as [&str; 0]);
        assert_eq!(texts(text.ready(now + Duration::from_millis(50))), ["..."]);
        assert_eq!(text.take_prompt(), "...", "what was sent is the prompt all the same");
    }

    #[test]
    fn sockets_deliver_and_end() -> io::Result<()> {
        use std::io::Write;
        let (mut output, [stdout, stderr]) = Output::new(Some(5))?;
        std::fs::File::from(stdout).write_all(b"out")?;
        std::fs::File::from(stderr).write_all(b"err")?;
        let mut buffer = [0; 64];
        output.read(&mut buffer, 1024);
        assert_eq!(output.line(), "outer");
        assert_eq!(texts(output.take_all()), ["out", "er"]);
        assert_eq!((output.taken(), output.is_full()), (5, true));
        assert!(output.is_over());
        Ok(())
    }
}
