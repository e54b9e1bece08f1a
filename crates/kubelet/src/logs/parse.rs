//! One line of a CRI log: `2016-10-06T00:17:09.669794202Z stdout F text`; `P` marks a part of a long line.

use jiff::Timestamp;

/// A line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as it stands in the file.
    pub stamp: &'a str,
    /// Same, read.
    pub at: Timestamp,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The line ends here (no part).
    pub complete: bool,
    /// Text without the line feed.
    pub text: &'a [u8],
}

/// Takes a line apart; `None` for what is none.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let stamp = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next().unwrap_or_default();
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    let complete = tags.split(|byte| *byte == b':').next() != Some(b"P");
    Some(Line { stamp, at: stamp.parse().ok()?, stream, complete, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let found = parse(b"2016-10-06T00:17:09.669794202Z stdout F a b  c\n").unwrap();
        assert_eq!((found.stream, found.complete, found.text), ("stdout", true, &b"a b  c"[..]));
        assert_eq!(found.at.subsec_nanosecond(), 669_794_202);
        assert!(!parse(b"2016-10-06T00:17:09Z stderr P part").unwrap().complete);
        assert_eq!(parse(b"2016-10-06T00:17:09Z stdout F ").unwrap().text, b"");
        assert_eq!(parse(b"2016-10-06T00:17:09+02:00 stdout F x").unwrap().text, b"x");
        for bad in
            [&b""[..], b"x", b"2016-10-06T00:17:09Z other F x", b"yesterday stdout F x", b"\xff stdout F x"]
        {
            assert_eq!(parse(bad), None);
        }
    }
}
