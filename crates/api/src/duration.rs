//! Durations as Go writes them (`1h30m`, `250ms`, `-1.5s`, `0`): flags, query parameters, schedules and configuration files
//! all take this form, and a client sees its errors.

use std::time::Duration;

use crate::field::Quoted;

/// Nanoseconds of each unit, a longer name before its own beginning: `ms` is no `m`. Both signs that look like a mu count.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds, as Go's `time.ParseDuration` reads them: numbers with a unit in a row, a sign before them all, or a bare `0`.
///
/// # Errors
/// Go's own sentence: `time: invalid duration "x"`, a missing unit, an unknown one.
pub fn nanos(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", text.quoted());
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_number(c)).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", text.quoted()));
        }
        let size =
            UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size).ok_or_else(|| {
                format!("time: unknown unit {} in duration {}", unit.quoted(), text.quoted())
            })?;
        total = times(number, size).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = tail;
    }
    match negative {
        true => 0i64.checked_sub_unsigned(total),
        false => i64::try_from(total).ok(),
    }
    .ok_or_else(invalid)
}

/// A duration that may not be negative.
///
/// # Errors
/// Those of [`nanos`], or that it is negative.
pub fn parse(text: &str) -> Result<Duration, String> {
    let nanos = u64::try_from(nanos(text)?).map_err(|_| format!("duration {} is negative", text.quoted()))?;
    Ok(Duration::from_nanos(nanos))
}

fn is_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

/// `number`, which may have a fraction, times `size`. `None` when that is no number or too large.
fn times(number: &str, size: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut scale = size as f64;
    let below = fraction.bytes().fold(0.0, |sum, digit| {
        scale /= 10.0;
        sum + f64::from(digit - b'0') * scale
    });
    // Rounding keeps `0.3ms` at 300,000 where the sum of the floats falls just short of it.
    whole.checked_mul(size)?.checked_add(below.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("40s", 40_000_000_000),
            ("24h0m0s", 86_400_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("250ms", 250_000_000),
            ("0.3ms", 300_000),
            ("1us1\u{b5}s1\u{3bc}s", 3_000),
            ("-1m", -60_000_000_000),
            ("+2ns", 2),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration() {
        for (text, why) in [
            ("", r#"time: invalid duration """#),
            ("s", r#"time: invalid duration "s""#),
            (".s", r#"time: invalid duration ".s""#),
            ("-", r#"time: invalid duration "-""#),
            ("1.2.3s", r#"time: invalid duration "1.2.3s""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            ("3000000h", r#"time: invalid duration "3000000h""#),
            ("7", r#"time: missing unit in duration "7""#),
            ("1s5", r#"time: missing unit in duration "1s5""#),
            ("1x", r#"time: unknown unit "x" in duration "1x""#),
            ("5 s", r#"time: unknown unit " s" in duration "5 s""#),
        ] {
            assert_eq!(nanos(text), Err(why.to_owned()), "{text}");
        }
        assert_eq!(parse("-1s"), Err(r#"duration "-1s" is negative"#.to_owned()));
        assert_eq!(parse("1m"), Ok(Duration::from_secs(60)));
    }
}
