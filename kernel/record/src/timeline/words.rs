//! Times, signals, statuses, events and output as short texts that are safe to show: cut, without
//! control characters, and escaped where markup is written.

use super::family::Family;
use crate::{Ending, Event, Nanoseconds, Pid, Status, Stream, What};

/// A duration or a point in time with three significant digits: `800 ns`, `12.3 µs`, `1.05 s`.
pub fn time(nanoseconds: Nanoseconds) -> String {
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")];
    for (index, (unit, name)) in units.iter().enumerate() {
        let value = nanoseconds as f64 / *unit as f64;
        // 999.96 µs would be written `1000 µs`; it belongs to the next unit.
        if value >= 0.9995 || (index == 0 && nanoseconds >= 999_500_000) {
            let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            let text = format!("{value:.decimals$}");
            let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            return format!("{text} {name}");
        }
    }
    if nanoseconds == 0 { "0".to_owned() } else { format!("{nanoseconds} ns") }
}

/// A time in one unit with a fixed number of decimals, for labels that stand in a row.
pub fn time_in(nanoseconds: Nanoseconds, step: Nanoseconds, largest: Nanoseconds) -> String {
    let (unit, name) = match largest {
        1_000_000_000.. => (1_000_000_000, "s"),
        1_000_000.. => (1_000_000, "ms"),
        1_000.. => (1_000, "µs"),
        _ => (1, "ns"),
    };
    if nanoseconds == 0 {
        return "0".to_owned();
    }
    let mut decimals = 0;
    let mut rest = step % unit;
    let mut digit = unit / 10;
    while rest > 0 && digit > 0 {
        rest %= digit;
        digit /= 10;
        decimals += 1;
    }
    format!("{:.decimals$} {name}", nanoseconds as f64 / unit as f64)
}

/// A point in time with so many digits that points near to each other can be told apart: `1.0003 s`.
pub fn precise(nanoseconds: Nanoseconds) -> String {
    let step = if nanoseconds >= 1_000_000_000 { 100_000 } else { 1_000 };
    // To the nearest step, so that what is a hair below a second is a second.
    let rounded = (nanoseconds + step / 2) / step * step;
    let mut least = step;
    while least < 1_000_000_000 && rounded.is_multiple_of(least * 10) {
        least *= 10;
    }
    time_in(rounded, least, rounded)
}

/// A number of bytes.
pub fn bytes(count: u64) -> String {
    match count {
        1 => "1 byte".to_owned(),
        0..=9_999 => format!("{count} bytes"),
        10_000..=9_999_999 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}

/// `1 process`, `2 processes`: a number, grouped by thousands, and its word.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// A number with commas between its thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A signal's name as signal(7) has it on Linux.
pub fn signal(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    match number {
        1..=31 => format!("SIG{}", NAMES[number as usize - 1]),
        // The C library keeps 32 and 33 for itself.
        34 => "SIGRTMIN".to_owned(),
        35..=64 => format!("SIGRTMIN+{}", number - 34),
        _ => format!("signal {number}"),
    }
}

/// How a process ended: `exit 0`, `SIGKILL`.
pub fn status(status: Status) -> String {
    match status {
        Status::Exited(code) => format!("exit {code}"),
        Status::Killed(number) => signal(number),
    }
}

/// How a run ended, in a few words.
pub fn ending(ending: &Ending) -> String {
    match ending {
        Ending::Finished => "end of the cell".to_owned(),
        Ending::Panicked(_) => "the cell panicked".to_owned(),
        Ending::Failed(_) => "the cell failed".to_owned(),
        Ending::Died(how) => format!("the cell's process ended: {}", status(*how)),
        Ending::TimedOut => "the cell timed out".to_owned(),
        Ending::Interrupted => "interrupted".to_owned(),
        Ending::OverLimit(_) => "over a limit".to_owned(),
    }
}

/// The name of a program by its command line: the last part of its first word.
pub fn program(command: &str) -> String {
    let first = command.split_whitespace().next().unwrap_or(command);
    cut(&clean(first.rsplit('/').next().unwrap_or(first)), 18)
}

/// Text with control characters made visible, so that it can stand in one line of a picture, a terminal
/// or XML, which forbids most of them. The newline at the end is not shown, the others as `⏎`.
pub fn clean(text: &str) -> String {
    let shown = text.strip_suffix('\n').unwrap_or(text);
    shown
        .chars()
        .map(|c| match c {
            '\n' => '⏎',
            '\t' => ' ',
            '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
            '\u{7f}' => '␡',
            // The second control block, marks that turn the direction of what follows, and what is no character.
            '\u{80}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                '\u{fffd}'
            }
            '\u{feff}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
            _ => c,
        })
        .collect()
}

/// The columns that a character takes in a terminal, near enough: East Asian wide ones and emoji take
/// two, combining marks and joiners none.
fn columns(c: char) -> usize {
    match c as u32 {
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f | 0x20d0..=0x20ff | 0x1f3fb..=0x1f3ff => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 => 2,
        0xffe0..=0xffe6 | 0x1f000..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The columns that a text takes in a terminal.
pub fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The text, or its beginning and `…` when it is wider than `most` columns.
pub fn cut(text: &str, most: usize) -> String {
    // No more than this is looked at: a line may have megabytes.
    if text.len() <= most || (text.len() <= most * 16 && width(text) <= most) {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += columns(c);
        if used > most || kept.len() > most * 16 {
            break;
        }
        kept.push(c);
    }
    // A joiner without what it joined would join the ellipsis.
    let kept = kept.trim_end_matches('\u{200d}');
    format!("{kept}…")
}

/// The beginning of some output, cleaned and quoted.
pub fn quoted(text: &str, most: usize) -> String {
    format!("“{}”", shown(text, most))
}

/// The beginning of some output, cleaned. Megabytes are not looked through for it.
pub fn shown(text: &str, most: usize) -> String {
    let end = text.char_indices().nth(most * 4).map_or(text.len(), |(index, _)| index);
    let more = if end < text.len() { "…" } else { "" };
    cut(&(clean(&text[..end]) + more), most)
}

/// Text as XML and HTML have it, in elements and in attributes. It must be [`clean`] already.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// What happened in an event, as a sentence without its subject: `forks C1 (pid 12)`.
pub fn event(family: &Family, event: &Event, most: usize) -> String {
    let role = |pid: Pid| family.role(pid, event.at);
    match &event.what {
        What::Forked(child) => format!("forks {}", family.full(*child, event.at)),
        What::Execed(command) => format!("becomes {}", shown(command, most)),
        What::Ended(how @ Status::Exited(_)) => format!("ends: {}", status(*how)),
        What::Ended(how @ Status::Killed(_)) => format!("is ended by {}", status(*how)),
        What::Reaped(child) => format!("reaps {}", family.role_before(*child, event.at)),
        What::Adopted(by) => format!("is an orphan, adopted by {}", role(*by)),
        What::SignalSent { signal: number, to } if *to < 0 => {
            format!("sends {} to the process group {}", signal(*number), to.unsigned_abs())
        }
        What::SignalSent { signal: number, to } => format!("sends {} to {}", signal(*number), role(*to)),
        What::SignalReceived { signal: number, from: Some(from) } if *from > 0 => {
            format!("receives {} from {}", signal(*number), role(*from))
        }
        What::SignalReceived { signal: number, .. } => format!("receives {}", signal(*number)),
        What::Stopped(number) => format!("is stopped by {}", signal(*number)),
        What::Continued => "goes on".to_owned(),
        What::Wrote { stream: Stream::Stdout, text } => format!("writes {}", quoted(text, most)),
        What::Wrote { stream: Stream::Stderr, text } => format!("writes to stderr {}", quoted(text, most)),
        What::Sent { bytes: size, .. } => format!("sends a message of {}", bytes(*size)),
        What::Received { bytes: size, .. } => format!("receives a message of {}", bytes(*size)),
        What::Blocked(on) => format!("waits: {}", shown(on, 20)),
        What::Running => "runs".to_owned(),
    }
}
