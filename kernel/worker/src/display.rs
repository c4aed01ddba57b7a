//! Cutting the text of an `evcxr_display` into what is to be shown and what is output.

const BEGIN: &str = "EVCXR_BEGIN_CONTENT ";
const END: &str = "EVCXR_END_CONTENT";

/// What a text holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// MIME type and content, in order.
    pub displays: Vec<(String, String)>,
    /// Everything else.
    pub output: String,
}

/// Cuts along evcxr's markers, as evcxr does: a begin may stand anywhere in a line, and its MIME
/// type ends with the line; content that never ends is shown all the same.
pub fn cut(text: &str) -> Cut {
    let mut cut = Cut::default();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        cut.output.push_str(before);
        let (mime, after) = after.split_once('\n').unwrap_or((after, ""));
        let (content, after) = after.split_once(END).unwrap_or((after, ""));
        let content = content.strip_suffix('\n').unwrap_or(content);
        cut.displays.push((mime.trim().to_owned(), content.to_owned()));
        rest = after.strip_prefix('\n').unwrap_or(after);
    }
    cut.output.push_str(rest);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_and_output_are_told_apart() {
        let text = "a\nEVCXR_BEGIN_CONTENT text/plain\nx\ny\nEVCXR_END_CONTENT\nbEVCXR_BEGIN_CONTENT text/html\n<b>\nEVCXR_END_CONTENT\n";
        let pair = |mime: &str, content: &str| (mime.to_owned(), content.to_owned());
        assert_eq!(cut(text).displays, [pair("text/plain", "x\ny"), pair("text/html", "<b>")]);
        assert_eq!(cut(text).output, "a\nb");
        assert_eq!(cut("plain"), Cut { displays: vec![], output: "plain".to_owned() });
        assert_eq!(cut("EVCXR_BEGIN_CONTENT a/b\nhalf").displays, [pair("a/b", "half")]);
    }
}
