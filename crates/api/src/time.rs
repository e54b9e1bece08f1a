//! Times of the API: RFC 3339 in and out, and the short durations of `kubectl get`'s AGE column. Now is always passed in.

use std::fmt;

/// A point in time; what `metav1.Time` and `metav1.MicroTime` hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Unix time.
    pub seconds: i64,
    /// 0..1,000,000,000
    pub nanos: u32,
}

/// The text is no RFC 3339 time, in the words of Go's `time.Parse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

impl Time {
    /// Go's zero time, which stands for no time: year 1.
    pub const GO_ZERO: Time = Time { seconds: -62_135_596_800, nanos: 0 };

    /// Parses RFC 3339 with an optional fraction and any offset, as strictly as Go.
    pub fn parse(text: &str) -> Result<Time, ParseError> {
        let mut parser = Parser { text, rest: text };
        parser.time()
    }

    /// From Unix time in milliseconds.
    pub fn from_ms(ms: i64) -> Time {
        Time { seconds: ms.div_euclid(1000), nanos: ms.rem_euclid(1000) as u32 * 1_000_000 }
    }

    /// Unix time in milliseconds.
    pub fn ms(self) -> i64 {
        self.seconds.saturating_mul(1000).saturating_add(i64::from(self.nanos / 1_000_000))
    }

    /// `2006-01-02T15:04:05Z`, as `metav1.Time` is written.
    pub fn to_seconds_text(self) -> String {
        let mut text = self.text_without_zone();
        text.push('Z');
        text
    }

    /// `2006-01-02T15:04:05.000000Z`, as `metav1.MicroTime` is written.
    pub fn to_micros_text(self) -> String {
        format!("{}.{:06}Z", self.text_without_zone(), self.nanos / 1000)
    }

    fn text_without_zone(self) -> String {
        let (year, month, day) = date_of(self.seconds.div_euclid(SECONDS_PER_DAY));
        let second = self.seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let mut text = Vec::with_capacity(28);
        for (n, width, after) in [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (hour, 2, b':'),
            (minute, 2, b':'),
            (second, 2, 0),
        ] {
            if !(0..10_000).contains(&n) {
                return format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            }
            let digits = [n / 1000, n / 100 % 10, n / 10 % 10, n % 10].map(|digit| b'0' + digit as u8);
            text.extend_from_slice(&digits[4 - width..]);
            text.extend((after != 0).then_some(after));
        }
        String::from_utf8(text).expect("digits and punctuation")
    }
}

const SECONDS_PER_DAY: i64 = 86_400;

/// Days since 1970-01-01 of a date of the Gregorian calendar. Years begin in March here, so that the leap day is the last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The date so many days after 1970-01-01; the inverse of [`days_of`].
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days - era * 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

/// As Go's package of times quotes: nothing but plain ASCII as it is.
fn go_quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            other => quoted.push_str(&format!("\\x{other:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

impl Parser<'_> {
    fn time(&mut self) -> Result<Time, ParseError> {
        let year = self.number(4, "2006")?;
        self.expect("-")?;
        let month = self.number(2, "01")?;
        if !(1..=12).contains(&month) {
            return Err(self.out_of_range("month"));
        }
        self.expect("-")?;
        let day = self.number(2, "02")?;
        self.expect("T")?;
        let hour = self.below(24, "15", "hour")?;
        self.expect(":")?;
        let minute = self.below(60, "04", "minute")?;
        self.expect(":")?;
        let second = self.below(60, "05", "second")?;
        let nanos = self.fraction();
        let offset = self.offset()?;
        if !self.rest.is_empty() {
            return Err(self.error(format!(": extra text: {}", go_quoted(self.rest))));
        }
        if !(1..=days_in(year, month)).contains(&day) {
            return Err(self.out_of_range("day"));
        }
        let seconds =
            days_of(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
        Ok(Time { seconds, nanos })
    }

    fn error(&self, what: String) -> ParseError {
        ParseError { message: format!("parsing time {}{what}", go_quoted(self.text)) }
    }

    fn out_of_range(&self, what: &str) -> ParseError {
        self.error(format!(": {what} out of range"))
    }

    /// Go names the piece of its layout that the rest does not fit.
    fn misfit(&self, element: &str) -> ParseError {
        let rest = go_quoted(self.rest);
        self.error(format!(" as \"2006-01-02T15:04:05Z07:00\": cannot parse {rest} as {element:?}"))
    }

    fn expect(&mut self, separator: &str) -> Result<(), ParseError> {
        self.rest = self.rest.strip_prefix(separator).ok_or_else(|| self.misfit(separator))?;
        Ok(())
    }

    fn number(&mut self, digits: usize, element: &str) -> Result<i64, ParseError> {
        let all_digits = |text: &&str| text.bytes().all(|c| c.is_ascii_digit());
        let number = self.rest.get(..digits).filter(all_digits).ok_or_else(|| self.misfit(element))?;
        self.rest = &self.rest[digits..];
        Ok(number.bytes().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
    }

    fn below(&mut self, bound: i64, element: &str, name: &str) -> Result<i64, ParseError> {
        let n = self.number(2, element)?;
        if n < bound { Ok(n) } else { Err(self.out_of_range(name)) }
    }

    /// `.123`, `,123`: digits beyond nanoseconds are dropped.
    fn fraction(&mut self) -> u32 {
        let Some(rest) = self.rest.strip_prefix(['.', ',']) else { return 0 };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return 0;
        }
        self.rest = &rest[digits..];
        let padded = rest[..digits].bytes().chain(std::iter::repeat(b'0'));
        padded.take(9).fold(0, |n, digit| n * 10 + u32::from(digit - b'0'))
    }

    /// `Z` or `±hh:mm`, in seconds east.
    fn offset(&mut self) -> Result<i64, ParseError> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let whole = Parser { text: self.text, rest: self.rest };
        let sign = match self.rest.as_bytes().first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(self.misfit("Z07:00")),
        };
        self.rest = &self.rest[1..];
        let hours = self.number(2, "").map_err(|_| whole.misfit("Z07:00"))?;
        self.expect(":").map_err(|_| whole.misfit("Z07:00"))?;
        let minutes = self.number(2, "").map_err(|_| whole.misfit("Z07:00"))?;
        if hours > 24 || minutes > 60 {
            return Err(self.out_of_range(if hours > 24 {
                "time zone offset hour"
            } else {
                "time zone offset minute"
            }));
        }
        Ok(sign * (hours * 3600 + minutes * 60))
    }
}

/// Unix milliseconds as `metav1.Time` writes them.
pub fn rfc3339(ms: i64) -> String {
    Time::from_ms(ms).to_seconds_text()
}

/// Unix milliseconds as `metav1.MicroTime` writes them.
pub fn rfc3339_micro(ms: i64) -> String {
    Time::from_ms(ms).to_micros_text()
}

/// Unix milliseconds of an RFC 3339 time; `None` for anything else.
pub fn parse_ms(text: &str) -> Option<i64> {
    Time::parse(text).ok().map(Time::ms)
}

/// The AGE column: two units at most, fewer the longer ago (upstream's `HumanDuration`).
pub fn human_duration(ms: i64) -> String {
    let seconds = ms / 1000;
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let pair = |big: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 60 * 2 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        () if minutes < 60 * 3 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(days, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_in_and_out() {
        for (text, seconds, micros) in [
            ("2024-02-29T12:34:56Z", "2024-02-29T12:34:56Z", "2024-02-29T12:34:56.000000Z"),
            ("2024-02-29T12:34:56.789012345Z", "2024-02-29T12:34:56Z", "2024-02-29T12:34:56.789012Z"),
            ("2024-03-01T00:34:56+12:00", "2024-02-29T12:34:56Z", "2024-02-29T12:34:56.000000Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z", "1969-12-31T23:59:59.500000Z"),
        ] {
            let t = Time::parse(text).unwrap();
            assert_eq!((t.to_seconds_text().as_str(), t.to_micros_text().as_str()), (seconds, micros));
            assert_eq!(Time::from_ms(t.ms()).seconds, t.seconds);
        }
    }

    #[test]
    fn errors_as_go_words_them() {
        let layout = "as \"2006-01-02T15:04:05Z07:00\": cannot parse";
        for (text, message) in [
            ("x", format!("{layout} \"x\" as \"2006\"")),
            ("2024", format!("{layout} \"\" as \"-\"")),
            ("2024-02-29 12:34:56Z", format!("{layout} \" 12:34:56Z\" as \"T\"")),
            ("2024-02-29T12:34:56", format!("{layout} \"\" as \"Z07:00\"")),
            ("2024-02-29T12:34:56+0100", format!("{layout} \"+0100\" as \"Z07:00\"")),
        ] {
            let message = format!("parsing time {text:?} {message}");
            assert_eq!(Time::parse(text).unwrap_err().to_string(), message);
        }
        for (text, message) in [
            ("2024-13-01T00:00:00Z", ": month out of range"),
            ("2024-02-30T00:00:00Z", ": day out of range"),
            ("2024-02-01T24:00:00Z", ": hour out of range"),
            ("2024-02-01T23:00:60Z", ": second out of range"),
            ("2024-02-01T23:00:00Zx", ": extra text: \"x\""),
        ] {
            assert_eq!(Time::parse(text).unwrap_err().to_string(), format!("parsing time {text:?}{message}"));
        }
    }

    #[test]
    fn every_day_of_eight_centuries_has_one_date() {
        let (mut year, mut month, mut day) = (1600, 1, 1);
        for days in days_of(1600, 1, 1)..days_of(2400, 1, 1) {
            assert_eq!((days_of(year, month, day), date_of(days)), (days, (year, month, day)));
            day += 1;
            if day > days_in(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!(Time::GO_ZERO.to_seconds_text(), "0001-01-01T00:00:00Z");
        assert_eq!(Time::parse("0001-01-01T00:00:00Z"), Ok(Time::GO_ZERO));
    }

    #[test]
    fn ages_as_kubectl_prints_them() {
        let (m, h, d) = (60, 3600, 86400);
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (2 * m, "2m"),
            (2 * m + 5, "2m5s"),
            (10 * m + 5, "10m"),
            (179 * m, "179m"),
            (3 * h, "3h"),
            (3 * h + 5 * m, "3h5m"),
            (8 * h + 5 * m, "8h"),
            (47 * h, "47h"),
            (2 * d, "2d"),
            (2 * d + 3 * h, "2d3h"),
            (8 * d + 3 * h, "8d"),
            (729 * d, "729d"),
            (730 * d, "2y"),
            (731 * d, "2y1d"),
            (8 * 365 * d + 1, "8y"),
        ] {
            assert_eq!(human_duration(seconds * 1000), text, "{seconds} s");
        }
    }
}
