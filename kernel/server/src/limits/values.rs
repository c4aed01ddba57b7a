//! The words for sizes, times and counts: `512M`, `1.5GiB`, `10s`, `1h30m`, `20`.
//!
//! Errors are fragments that say what was read and how it is written right; who reads the word adds
//! where it stood.

use std::time::Duration;

/// A size in bytes. K, M and G are powers of 1024, with or without `B` or `iB`, in either case.
///
/// # Errors
/// The text is no size.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is no size: write `512M`, `1.5GiB` or a number of bytes (K, M and G are powers of 1024)");
    let size = parse_size::Config::new().with_binary();
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(wrong());
    }
    size.parse_size(text).map_err(|_| wrong())
}

/// A time: `10s`, `500ms`, `2m`, `1h30m`, or a number of seconds.
///
/// # Errors
/// The text is no time.
pub fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write `10s`, `500ms`, `2m`, `1h30m` or a number of seconds");
    if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        let seconds: f64 = text.parse().map_err(|_| wrong())?;
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    // `M` would be a month; whoever writes it means minutes, and must not get a limit that is none.
    if text.contains('M') {
        return Err(wrong());
    }
    humantime::parse_duration(text).map_err(|_| wrong())
}

/// A number of things.
///
/// # Errors
/// The text is no whole number.
pub fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number: write it in digits, as `20`"))
}

/// A size as [`size`] reads it and as short as it is exact: `64M`, `1536K`, `1000`.
pub fn short_size(bytes: u64) -> String {
    let unit = |shift: u32, letter: &str| {
        let whole = bytes >> shift;
        (whole > 0 && whole << shift == bytes).then(|| format!("{whole}{letter}"))
    };
    unit(30, "G").or_else(|| unit(20, "M")).or_else(|| unit(10, "K")).unwrap_or_else(|| bytes.to_string())
}

/// A size for a person: `512 MiB`, `1.5 GiB`, `100 bytes`.
pub fn long_size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = UNITS.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return counted(bytes, "byte", "bytes");
    };
    // In tenths, rounded down: a limit is not said to be more than it is.
    let tenths = (u128::from(bytes) * 10) >> shift;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

/// A time as [`time`] reads it, exact: `10s`, `500ms`, `1h30m`.
pub fn short_time(time: Duration) -> String {
    parts(time).concat().replace(' ', "")
}

/// A time for a person: `10 s`, `2.5 s`, `500 ms`, `1 h 30 m`.
pub fn long_time(time: Duration) -> String {
    if (1..60).contains(&time.as_secs()) && time.subsec_nanos() > 0 {
        return format!("{} s", (time.as_secs_f64() * 1e3).floor() / 1e3);
    }
    parts(time).join(" ")
}

/// The amount of each unit that there is any of.
fn parts(time: Duration) -> Vec<String> {
    let (seconds, rest) = (time.as_secs(), u64::from(time.subsec_nanos()));
    let amounts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (rest / 1_000_000, "ms"),
        (rest / 1_000 % 1_000, "us"),
        (rest % 1_000, "ns"),
    ];
    let parts: Vec<String> =
        amounts.iter().filter(|(amount, _)| *amount > 0).map(|(amount, unit)| format!("{amount} {unit}")).collect();
    if parts.is_empty() { vec!["0 s".to_owned()] } else { parts }
}

/// A number and its noun.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let sizes = [
            ("512M", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("64MB", 64 << 20),
            ("1k", 1 << 10),
            ("1000", 1000),
            ("10 MiB", 10 << 20),
            ("0", 0),
        ];
        for (text, bytes) in sizes {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1X", "much", "1e99", ".5G", "+1"] {
            assert!(size(text).is_err_and(|error| error.contains(&format!("`{text}` is no size"))), "{text}");
        }
    }

    #[test]
    fn times_have_units_or_are_seconds() {
        let times = [
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("10", 10_000),
            ("2.5", 2_500),
            ("2.5s", 2_500),
            ("0", 0),
        ];
        for (text, milliseconds) in times {
            assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1", "-1s", "10M", "1..2", "soon", "inf", "nan", "99999999999999999999999"] {
            assert!(time(text).is_err_and(|error| error.contains("is no time")), "{text}");
        }
    }

    #[test]
    fn counts_are_whole() {
        assert_eq!(count("20"), Ok(20));
        for text in ["", "-1", "1.5", "many", "20k", "99999999999999999999999"] {
            assert!(count(text).is_err_and(|error| error.contains("is no number")), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_as_the_same() {
        for bytes in [0, 1, 1000, 1024, 1536, 64 << 20, (3 << 30) + 1, 5 << 30, u64::MAX] {
            assert_eq!(size(&short_size(bytes)), Ok(bytes));
        }
        for milliseconds in [0, 1, 500, 1_000, 61_000, 5_400_000, 86_400_000, 2_500] {
            let length = Duration::from_millis(milliseconds);
            assert_eq!(time(&short_time(length)), Ok(length), "{}", short_time(length));
        }
    }

    #[test]
    fn people_read_units() {
        assert_eq!(long_size(512 << 20), "512 MiB");
        assert_eq!(long_size(3 << 29), "1.5 GiB");
        assert_eq!(long_size(1), "1 byte");
        assert_eq!(long_size(1023), "1023 bytes");
        assert_eq!(long_size((1 << 20) - 1), "1023.9 KiB");
        assert_eq!(long_size(u64::MAX), "16777215.9 TiB");
        assert_eq!(long_time(Duration::from_secs(5400)), "1 h 30 m");
        assert_eq!(long_time(Duration::from_millis(2500)), "2.5 s");
        assert_eq!(long_time(Duration::ZERO), "0 s");
    }
}
