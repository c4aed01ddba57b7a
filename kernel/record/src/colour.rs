//! Output coloured by its writer, with ANSI's escape sequences, as terminals and notebooks show them.
//!
//! The colours are of the palette of 256, which front ends show the same in every theme, and each can be
//! read on white and on the dark grey of dark themes.

use std::fmt::Write;

use crate::Record;

/// More processes than this are counted only.
const MOST_NAMED: usize = 16;

/// Of the palette of 256; neighbours are far apart in hue. Each has a contrast of 3.5 to 1 and more with white
/// and with `#111111`. The first is the parent's.
const COLOURS: [u8; 12] = [32, 166, 28, 162, 99, 30, 197, 100, 133, 64, 27, 131];

/// The colour of a role's output, as a number of the palette of 256. `P` and `C1` to `C11` have colours of
/// their own; `C12` has that of `C1`, and so on.
pub fn of(role: &str) -> u8 {
    let number = role.strip_prefix('C').and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
    match number.checked_sub(1) {
        Some(child) => COLOURS[1 + child % (COLOURS.len() - 1)],
        None => COLOURS[0],
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance and contrast as WCAG 2 defines them.
    fn luminance(colour: [u8; 3]) -> f64 {
        let linear = |value: u8| {
            let value = f64::from(value) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2])
    }

    fn contrast(one: [u8; 3], other: [u8; 3]) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    /// The palette's cube of colours, as xterm has it.
    fn cube(number: u8) -> [u8; 3] {
        let levels = [0, 95, 135, 175, 215, 255];
        let number = usize::from(number - 16);
        [levels[number / 36], levels[number / 6 % 6], levels[number % 6]]
    }

    #[test]
    fn every_colour_can_be_read_on_light_and_dark() {
        for number in COLOURS {
            for page in [[255; 3], [0x11; 3]] {
                assert!(contrast(cube(number), page) >= 3.5, "{number} on {page:?}");
            }
        }
    }

    #[test]
    fn roles_have_colours_of_their_own_until_there_are_none() {
        let mut first: Vec<u8> = (1..=11).map(|number| of(&format!("C{number}"))).chain([of("P")]).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 12);
        assert_eq!(of("C12"), of("C1"));
        assert_eq!(of("?"), of("P"));
    }

    #[test]
    fn each_line_is_coloured_for_itself() {
        assert_eq!(wrap("P", "a\n\nb"), "\x1b[38;5;32ma\x1b[39m\n\n\x1b[38;5;32mb\x1b[39m");
        assert_eq!(wrap("P", ""), "");
        assert_eq!(wrap("P", "\x1b[1mx\x1b[0my"), "\x1b[38;5;32m\x1b[1mx\x1b[0m\x1b[38;5;32my\x1b[39m");
    }
}
