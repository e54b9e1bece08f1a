//! Times of the API: RFC 3339 in and out, and the short durations of `kubectl get`'s AGE column. Now is always passed in.

use std::fmt;

use jiff::Timestamp;

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

    /// Parses RFC 3339 with an optional fraction and any offset.
    pub fn parse(text: &str) -> Result<Time, ParseError> {
        parse_rfc3339(text).ok_or_else(|| ParseError {
            message: format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            ),
        })
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
        let t = Timestamp::from_second(self.seconds).unwrap_or(Timestamp::UNIX_EPOCH);
        t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// `2006-01-02T15:04:05.000000Z`, as `metav1.MicroTime` is written.
    pub fn to_micros_text(self) -> String {
        let seconds = self.to_seconds_text();
        format!("{}.{:06}Z", seconds.trim_end_matches('Z'), self.nanos / 1000)
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
    parse_rfc3339(text).map(Time::ms)
}

fn parse_rfc3339(text: &str) -> Option<Time> {
    // Go takes only the letters T and Z in capitals; jiff is more lenient.
    let strict = text.len() >= 20 && text.as_bytes()[10] == b'T' && !text.ends_with('z');
    let t: Timestamp = strict.then(|| text.parse().ok())??;
    let nanos = t.as_nanosecond();
    Some(Time {
        seconds: i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?,
        nanos: nanos.rem_euclid(1_000_000_000) as u32,
    })
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
        for bad in ["", "2024", "2024-02-30T00:00:00Z", "2024-02-29 12:34:56Z", "2024-02-29T12:34:56", "x"] {
            assert!(Time::parse(bad).is_err(), "{bad}");
        }
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
