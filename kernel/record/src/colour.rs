//! Output coloured by its writer, with ANSI's escape sequences, as terminals and notebooks show them.
//!
//! The colours are of the palette of 256, which front ends show the same in every theme, and each can be
//! read on white and on the dark grey of dark themes.

use std::fmt::Write;

use crate::Record;

/// More processes than this are counted only.
const MOST_NAMED: usize = 16;

/// Of the palette of 256; neighbours are far apart in hue. All have a contrast of at least 3.5 to 1 with
/// white and with `#111111`, which a test asks of each.
const COLOURS: [u8; 12] = [32, 166, 28, 163, 37, 160, 98, 100, 168, 65, 63, 136];

/// The colour of a role's output, as a number of the palette of 256. `P` and `C1` to `C11` have colours of
/// their own; then they come again.
pub fn of(role: &str) -> u8 {
    let number = match role.strip_prefix('C') {
        Some(number) => number.parse().unwrap_or(0),
        None => 0,
    };
    COLOURS[number % COLOURS.len()]
}

/// A piece of one writer's text in its colour. Each line is coloured for itself, so that pieces can be cut
/// and put together at will, and where the text goes back to the normal colour, it goes back to the role's.
pub fn wrap(role: &str, text: &str) -> String {
    let on = format!("\x1b[38;5;{}m", of(role));
    let mut out = String::with_capacity(text.len() + 32);
    for line in text.split_inclusive('\n') {
        let (body, newline) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        if !body.is_empty() {
            let mut body = body.to_owned();
            for reset in ["\x1b[0m", "\x1b[m", "\x1b[39m"] {
                body = body.replace(reset, &format!("{reset}{on}"));
            }
            let _ = write!(out, "{on}{body}\x1b[39m");
        }
        out.push_str(newline);
    }
    out
}

/// One line that says whose colour is whose: each role and pid in its colour.
pub fn legend(record: &Record) -> String {
    let named = record.processes.iter().take(MOST_NAMED);
    let mut out: Vec<String> =
        named.map(|process| wrap(&process.role, &format!("■ {} {}", process.role, process.pid))).collect();
    if record.processes.len() > MOST_NAMED {
        out.push(format!("… and {} more", record.processes.len() - MOST_NAMED));
    }
    out.join("  ")
}
