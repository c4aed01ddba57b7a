//! How a run is shown as the last expression of a cell: pictures, and the same as text for front ends without.

use std::io::{self, Write};

use forklab_record::timeline;

use super::{Run, Runs, orders};

impl Run {
    /// Shows the timeline and the table of processes under the cell. evcxr calls this for a cell's last
    /// expression.
    pub fn evcxr_display(&self) {
        show(&timeline::html(self, &timeline::Options::default()), &self.to_string());
    }
}

impl Runs {
    /// Shows the orders under the cell. evcxr calls this for a cell's last expression.
    pub fn evcxr_display(&self) {
        show(&orders::html(self, &orders::Options::default()), &self.to_string());
    }
}

fn show(html: &str, text: &str) {
    let mut out = io::stdout().lock();
    // As with print!, but a cell that has closed its stdout gets no panic from a picture.
    let _ = write!(out, "{}{}", block("text/html", html), block("text/plain", text)).and_then(|()| out.flush());
}

/// A content between the marks that the kernel looks for. The content may hold output of any process, and
/// so the mark of its own end: there an invisible character goes between.
fn block(mime: &str, content: &str) -> String {
    let content = content.replace("EVCXR_END_CONTENT", "EVCXR_END\u{200b}_CONTENT");
    format!("EVCXR_BEGIN_CONTENT {mime}\n{}\nEVCXR_END_CONTENT\n", content.trim_end_matches('\n'))
}
