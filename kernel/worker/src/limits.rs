//! How much of what a cell tells is passed on.
//!
//! A report goes to the server in one frame, and a frame has a longest length: one that is longer
//! would cost the person the cell and its worker. And what a notebook shows it also stores. So what
//! is too long is cut where it is taken in, and each cut says that it is one.

/// The most that one cell may show, in bytes, MIME types included.
const MOST_SHOWN: usize = 8 << 20;

/// What one entry costs besides its texts, so that empty ones have a limit too.
const ENTRY: usize = 16;

/// Room for the words that stand for what is not shown.
const NOTE: usize = 256;

/// The longest message of a panic or an error, in bytes.
const LONGEST_MESSAGE: usize = 64 << 10;

/// A display: MIME type and content.
type Display = (String, String);

/// Counts what one cell shows.
#[derive(Debug, Default)]
pub struct Shown {
    bytes: usize,
    omitted: usize,
}

impl Shown {
    pub const fn nothing() -> Shown {
        Shown { bytes: 0, omitted: 0 }
    }

    /// What is to be shown in place of a display: the display itself where there is room for it, its
    /// beginning where it is text, words about it where its parts are of no use; or nothing.
    pub fn admit(&mut self, (mime, content): Display) -> Option<Display> {
        let left = MOST_SHOWN.saturating_sub(self.bytes);
        let text = mime == "text/plain";
        let admitted = if ENTRY + mime.len() + content.len() <= left {
            (mime, content)
        } else if left < NOTE {
            self.omitted += 1;
            return None;
        } else if text {
            let content = cut(&content, left - NOTE, "the value's text");
            (mime, content)
        } else {
            let (kind, len) = (head(&mime, 64), content.len());
            let note = format!("[not shown: the value's {kind} has {len} bytes, a cell may show {MOST_SHOWN} in all]");
            ("text/plain".to_owned(), note)
        };
        self.bytes += ENTRY + admitted.0.len() + admitted.1.len();
        Some(admitted)
    }

    /// Words about those for which there was no room, if there are any.
    pub fn rest(self) -> Option<Display> {
        let note =
            || format!("… [cut: {} more are not shown, a cell may show {MOST_SHOWN} bytes in all]", self.omitted);
        (self.omitted > 0).then(|| ("text/plain".to_owned(), note()))
    }
}

/// A message of a panic or an error, cut where it is too long. `what` names it.
pub fn message(text: String, what: &str) -> String {
    if text.len() <= LONGEST_MESSAGE { text } else { cut(&text, LONGEST_MESSAGE, what) }
}

fn cut(text: &str, longest: usize, what: &str) -> String {
    let shown = head(text, longest);
    format!("{shown}\n… [cut: {what} has {} bytes, {} are shown]", text.len(), shown.len())
}

/// The beginning of a text, of whole characters.
fn head(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(content: &str) -> Display {
        ("text/plain".to_owned(), content.to_owned())
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let text = "é".repeat(LONGEST_MESSAGE);
        let message = message(format!("x{text}"), "the text");
        let expected = format!("… [cut: the text has {} bytes, {} are shown]", text.len() + 1, LONGEST_MESSAGE - 1);
        let (head, note) = message.rsplit_once('\n').expect("two lines");
        assert_eq!((head.len(), note), (LONGEST_MESSAGE - 1, expected.as_str()));
        assert_eq!(super::message("short".to_owned(), "the text"), "short");
    }

    #[test]
    fn what_fits_is_shown_and_the_rest_is_counted() {
        let mut shown = Shown::nothing();
        let image = ("image/png".to_owned(), "x".repeat(MOST_SHOWN));
        let (mime, note) = shown.admit(image).expect("words about it");
        assert_eq!(mime, "text/plain");
        assert!(note.starts_with("[not shown: the value's image/png has 8388608 bytes"), "{note}");
        assert_eq!(shown.admit(plain("small")), Some(plain("small")));
        let (_, text) = shown.admit(plain(&"y".repeat(2 * MOST_SHOWN))).expect("its beginning");
        assert!(text.len() < MOST_SHOWN && text.ends_with(" are shown]"));
        while shown.admit(plain("")).is_some() {}
        assert_eq!(shown.admit(plain("z")), None);
        assert!(shown.bytes <= MOST_SHOWN, "{}", shown.bytes);
        let (_, rest) = shown.rest().expect("words about the rest");
        assert!(rest.starts_with("… [cut: 2 more are not shown"), "{rest}");
    }
}
