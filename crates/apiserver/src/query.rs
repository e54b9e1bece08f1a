//! Query parameters and percent encoding.

use std::time::Duration;

use corten_api::field::Quoted;
use corten_api::{Status, duration};

/// The parameters of a request in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses `a=1&b=x%20y`; what cannot be decoded stays as it is.
    pub fn parse(raw: Option<&str>) -> Self {
        let pairs = raw
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(key, true), decode(value, true))
            })
            .collect();
        Query { pairs }
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The first value of a parameter, `""` where it is missing.
    pub fn str(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A boolean as upstream reads it: missing, `0` and `false` are false, everything else (empty too) is true.
    pub fn flag(&self, key: &str) -> bool {
        self.flag_opt(key).unwrap_or(false)
    }

    /// The same, `None` where it is missing.
    pub fn flag_opt(&self, key: &str) -> Option<bool> {
        self.get(key).map(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }

    /// An integer; `Err` with the text when it is none.
    pub fn int(&self, key: &str) -> Result<Option<i64>, &str> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| text),
        }
    }

    /// A duration as Go writes it (`1m30s`, `250ms`), a negative one as zero; `Err` with a sentence when it is none.
    pub fn duration(&self, key: &str) -> Result<Option<Duration>, String> {
        let Some(text) = self.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
        duration::nanos(text).map(|nanos| Some(Duration::from_nanos(nanos.max(0).unsigned_abs())))
    }

    /// An integer option of a list or watch.
    ///
    /// Errors: 400 in the words of Go's number parser.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Box<Status>> {
        self.int(key).map_err(|text| {
            let is_number = text.strip_prefix(['-', '+']).unwrap_or(text).bytes().all(|b| b.is_ascii_digit());
            let why = if is_number && text.len() > 1 { "value out of range" } else { "invalid syntax" };
            Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", text.quoted()))
        })
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// Undoes percent encoding; `plus` also turns `+` into a space, as in queries. Bytes that are no UTF-8 are replaced.
pub fn decode(text: &str, plus: bool) -> String {
    let encoded = text.contains('%') || (plus && text.contains('+'));
    if !encoded {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten().and_then(hex_pair);
        match (bytes[at], escaped) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', None) if plus => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| (b as char).to_digit(16);
    Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)
}

/// Percent-encodes one query value or path segment.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let q =
            Query::parse(Some("watch&limit=5&labelSelector=a%3Db%2Cc+in+(d)&command=a&command=b%20c&x=%zz"));
        assert!(q.flag("watch") && !q.flag("none"));
        assert_eq!(q.int("limit"), Ok(Some(5)));
        assert_eq!(q.int("x"), Err("%zz"));
        assert_eq!(q.number("limit").unwrap(), Some(5));
        let numbers = Query::parse(Some("a=abc&b=99999999999999999999&c=-"));
        for (key, why) in
            [("a", "\"abc\": invalid"), ("b", "\"99999999999999999999\": value"), ("c", "\"-\": invalid")]
        {
            let message = numbers.number(key).unwrap_err().message;
            assert!(message.starts_with(&format!("strconv.ParseInt: parsing {why}")), "{message}");
        }
        assert_eq!(q.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["a", "b c"]);
        assert!(!Query::parse(Some("a=false&b=0")).flag("a"));
        assert_eq!(decode("/a%2Fb+c", false), "/a/b+c");
        assert_eq!(encode("a b/ü"), "a%20b%2F%C3%BC");
    }
}
