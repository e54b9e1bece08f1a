//! The parser: strings without escapes become slices of the body; everything is checked on the way, nothing twice.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use crate::value::{Str, Value, settle_duplicates};

/// How deep lists and maps may nest. Upstream stops at 10,000; this bound keeps every later walk within a small stack.
pub const MAX_DEPTH: usize = 256;

/// Upstream stops collecting strict errors here.
pub const MAX_DUPLICATES: usize = 100;

/// A body that is no JSON, in the words of Go's decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    message: String,
    /// Where, in bytes from the start.
    pub offset: usize,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SyntaxError {}

/// What [`parse_strict`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strict {
    /// The value; of duplicate fields the last one.
    pub value: Value,
    /// Paths of fields given twice (`spec.replicas`), each once, at most [`MAX_DUPLICATES`].
    pub duplicates: Vec<String>,
}

impl Strict {
    /// The findings as upstream words them one by one: `duplicate field "spec.replicas"`.
    pub fn messages(&self) -> impl Iterator<Item = String> {
        self.duplicates.iter().map(|path| format!("duplicate field \"{path}\""))
    }
}

/// Parses a body. Invalid UTF-8 becomes U+FFFD, of duplicate fields the last one wins, integers beyond i64 become floats.
pub fn parse(body: &Bytes) -> Result<Value, SyntaxError> {
    parse_strict(body).map(|strict| strict.value)
}

/// Parses a body and reports fields that are given twice.
pub fn parse_strict(body: &Bytes) -> Result<Strict, SyntaxError> {
    match ByteString::try_from(body.clone()) {
        Ok(text) => parse_text(&text),
        Err(_) => parse_text(&ByteString::from(repaired(body))),
    }
}

/// The same from text that is known to be UTF-8.
pub fn parse_text(text: &ByteString) -> Result<Strict, SyntaxError> {
    let mut parser = Parser {
        text,
        bytes: text.as_bytes(),
        at: 0,
        depth: 0,
        pairs: Vec::new(),
        items: Vec::new(),
        duplicates: Vec::new(),
    };
    let value = parser.value(None)?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(Strict { value, duplicates: parser.duplicates }),
        Some(c) => Err(parser.unexpected(c, "after top-level value")),
    }
}

/// Each byte that is no part of valid UTF-8 becomes one U+FFFD, as in Go (not one per broken sequence).
fn repaired(mut bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 16);
    loop {
        match std::str::from_utf8(bytes) {
            Ok(rest) => {
                out.push_str(rest);
                return out;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                out.push_str(&String::from_utf8_lossy(valid));
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[1..];
            }
        }
    }
}

/// The way from the root to here, for the paths of duplicates.
#[derive(Clone, Copy)]
struct Trail<'a> {
    parent: Option<&'a Trail<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Key(key) if self.parent.is_some() => write!(f, ".{key}"),
            Step::Key(key) => f.write_str(key),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

struct Parser<'a> {
    text: &'a ByteString,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Fields and items of all open objects and lists: each takes its own off the end into a vector of the right size.
    pairs: Vec<(Str, Value)>,
    items: Vec<Value>,
    duplicates: Vec<String>,
}

type Parsed<T> = Result<T, SyntaxError>;

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// The next byte after white space, not consumed.
    fn next(&mut self) -> Parsed<u8> {
        self.skip_space();
        self.peek().ok_or_else(|| self.end())
    }

    fn end(&self) -> SyntaxError {
        SyntaxError { message: "unexpected end of JSON input".to_owned(), offset: self.at }
    }

    /// `invalid character 'x' CONTEXT` about the byte here.
    fn unexpected(&self, c: u8, context: &str) -> SyntaxError {
        SyntaxError { message: format!("invalid character {} {context}", quoted(c)), offset: self.at + 1 }
    }

    fn value(&mut self, trail: Option<&Trail<'_>>) -> Parsed<Value> {
        match self.next()? {
            b'{' => self.nested(b'{', |parser| parser.object(trail)),
            b'[' => self.nested(b'[', |parser| parser.array(trail)),
            b'"' => Ok(Value::String(self.string()?)),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'n' => self.word("null", Value::Null),
            b'-' | b'0'..=b'9' => self.number(),
            c => Err(self.unexpected(c, "looking for beginning of value")),
        }
    }

    fn nested(&mut self, open: u8, parse: impl FnOnce(&mut Self) -> Parsed<Value>) -> Parsed<Value> {
        if self.depth == MAX_DEPTH {
            return Err(self.unexpected(open, "exceeded max depth"));
        }
        self.depth += 1;
        self.at += 1;
        let value = parse(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self, trail: Option<&Trail<'_>>) -> Parsed<Value> {
        let start = self.pairs.len();
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(Value::object());
        }
        loop {
            match self.next()? {
                b'"' => {}
                c => return Err(self.unexpected(c, "looking for beginning of object key string")),
            }
            let key = self.string()?;
            match self.next()? {
                b':' => self.at += 1,
                c => return Err(self.unexpected(c, "after object key")),
            }
            let value = self.value(Some(&Trail { parent: trail, step: Step::Key(&key) }))?;
            self.pairs.push((key, value));
            match self.next()? {
                b',' => self.at += 1,
                b'}' => break,
                c => return Err(self.unexpected(c, "after object key:value pair")),
            }
        }
        self.at += 1;
        let duplicates = &mut self.duplicates;
        settle_duplicates(&mut self.pairs, start, |key| {
            let path = Trail { parent: trail, step: Step::Key(key) }.to_string();
            if duplicates.len() < MAX_DUPLICATES && !duplicates.contains(&path) {
                duplicates.push(path);
            }
        });
        Ok(Value::Object(self.pairs.drain(start..).collect()))
    }

    fn array(&mut self, trail: Option<&Trail<'_>>) -> Parsed<Value> {
        let start = self.items.len();
        if self.next()? == b']' {
            self.at += 1;
            return Ok(Value::Array(Vec::new()));
        }
        loop {
            let step = Step::Index(self.items.len() - start);
            let value = self.value(Some(&Trail { parent: trail, step }))?;
            self.items.push(value);
            match self.next()? {
                b',' => self.at += 1,
                b']' => break,
                c => return Err(self.unexpected(c, "after array element")),
            }
        }
        self.at += 1;
        Ok(Value::Array(self.items.drain(start..).collect()))
    }

    fn word(&mut self, word: &'static str, value: Value) -> Parsed<Value> {
        for expected in word.bytes() {
            match self.peek() {
                Some(c) if c == expected => self.at += 1,
                Some(c) => {
                    let context = format!("in literal {word} (expecting {})", quoted(expected));
                    return Err(self.unexpected(c, &context));
                }
                None => return Err(self.end()),
            }
        }
        Ok(value)
    }

    fn number(&mut self) -> Parsed<Value> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(c) => return Err(self.unexpected(c, "in numeric literal")),
            None => return Err(self.end()),
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            integer = false;
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        let literal = &self.text[start..self.at];
        match literal.parse::<i64>() {
            Ok(n) if integer => Ok(Value::Int(n)),
            _ => self.float(literal),
        }
    }

    fn float(&self, literal: &str) -> Parsed<Value> {
        match literal.parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(Value::Float(n)),
            _ => Err(SyntaxError {
                message: format!("json: cannot unmarshal number {literal} into Go value of type float64"),
                offset: self.at,
            }),
        }
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Parsed<()> {
        match self.peek() {
            Some(b'0'..=b'9') => self.digits(),
            Some(c) => return Err(self.unexpected(c, context)),
            None => return Err(self.end()),
        }
        Ok(())
    }

    /// A string from its opening quote on: a slice of the body unless an escape is in it.
    fn string(&mut self) -> Parsed<Str> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let slice = self.text.slice_ref(&self.text[start..self.at]);
                    self.at += 1;
                    return Ok(Str::shared(slice));
                }
                Some(b'\\') => return self.escaped(start),
                Some(c) if c < b' ' => return Err(self.unexpected(c, "in string literal")),
                Some(_) => self.at += 1,
                None => return Err(self.end()),
            }
        }
    }

    fn escaped(&mut self, start: usize) -> Parsed<Str> {
        let mut out = String::with_capacity(self.at - start + 64);
        out.push_str(&self.text[start..self.at]);
        loop {
            let run = self.at;
            while self.peek().is_some_and(|c| c != b'"' && c != b'\\' && c >= b' ') {
                self.at += 1;
            }
            out.push_str(&self.text[run..self.at]);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    out.push(c);
                }
                Some(c) => return Err(self.unexpected(c, "in string literal")),
                None => return Err(self.end()),
            }
        }
        self.at += 1;
        Ok(Str::from(out))
    }

    /// The character that an escape stands for; `at` is behind the backslash.
    fn escape(&mut self) -> Parsed<char> {
        let c = self.peek().ok_or_else(|| self.end())?;
        let plain = match c {
            b'"' | b'\\' | b'/' => c as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.unexpected(c, "in string escape code")),
        };
        self.at += 1;
        Ok(plain)
    }

    /// Four hex digits, and four more where they are the first half of a surrogate pair; a lone half becomes U+FFFD.
    fn unicode_escape(&mut self) -> Parsed<char> {
        let unit = self.hex4()?;
        if !(0xD800..0xDC00).contains(&unit) {
            return Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        if self.bytes[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                let code = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Parsed<u32> {
        let mut unit = 0;
        for _ in 0..4 {
            let c = self.peek().ok_or_else(|| self.end())?;
            let Some(digit) = (c as char).to_digit(16) else {
                return Err(self.unexpected(c, "in \\u hexadecimal character escape"));
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }
}

/// A byte as Go quotes it in syntax errors: taken for a Latin-1 character.
fn quoted(c: u8) -> String {
    match c {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        0x07 => "'\\a'".to_owned(),
        0x08 => "'\\b'".to_owned(),
        0x0b => "'\\v'".to_owned(),
        0x0c => "'\\f'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{c:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{:04x}'", u32::from(c)),
        _ => format!("'{}'", c as char),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn parsed(text: &'static str) -> Result<Strict, String> {
        parse_strict(&Bytes::from_static(text.as_bytes())).map_err(|e| e.to_string())
    }

    #[test]
    fn errors_as_go_words_them() {
        for (text, message) in [
            ("", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{", "unexpected end of JSON input"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("1 2", "invalid character '2' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("nul", "unexpected end of JSON input"),
            ("nulx", "invalid character 'x' in literal null (expecting 'l')"),
            ("trie", "invalid character 'i' in literal true (expecting 'u')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("1e999", "json: cannot unmarshal number 1e999 into Go value of type float64"),
            ("\u{feff}{}", "invalid character 'ï' looking for beginning of value"),
        ] {
            assert_eq!(parsed(text).unwrap_err(), message, "{text:?}");
        }
    }

    #[test]
    fn numbers_stay_integers_where_they_can() {
        for (text, value) in [
            ("0", Value::Int(0)),
            ("-0", Value::Int(0)),
            ("9223372036854775807", Value::Int(i64::MAX)),
            ("9223372036854775808", Value::Float(9223372036854775808.0)),
            ("1.0", Value::Float(1.0)),
            ("1e3", Value::Float(1000.0)),
            ("-1.5E-2", Value::Float(-0.015)),
        ] {
            assert_eq!(parsed(text).unwrap().value, value, "{text}");
        }
    }

    #[test]
    fn strings_are_slices_or_unescaped() {
        for (text, value) in [
            (r#""plain ü""#, "plain ü"),
            (r#""a\"\\\/\b\f\n\r\t""#, "a\"\\/\u{8}\u{c}\n\r\t"),
            (r#""\u00e9\u4e2d""#, "é中"),
            (r#""\ud83d\ude00!""#, "😀!"),
            (r#""\ud83dx""#, "\u{fffd}x"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\ude00""#, "\u{fffd}"),
        ] {
            assert_eq!(parsed(text).unwrap().value, Value::from(value), "{text}");
        }
    }

    #[test]
    fn invalid_utf8_becomes_one_replacement_a_byte() {
        let body = Bytes::from_static(b"{\"k\":\"a\xff\xe2\x82b\"}");
        assert_eq!(parse(&body).unwrap().str_at(&["k"]), "a\u{fffd}\u{fffd}\u{fffd}b");
    }

    #[test]
    fn duplicates_are_found_with_their_path_and_the_last_wins() {
        let strict =
            parsed(r#"{"spec":{"replicas":1,"list":[{"a":1,"a":2}],"replicas":3,"replicas":4}}"#).unwrap();
        assert_eq!(strict.duplicates, ["spec.list[0].a", "spec.replicas"]);
        assert_eq!(json::to_string(&strict.value), r#"{"spec":{"replicas":4,"list":[{"a":2}]}}"#);
        assert_eq!(strict.messages().last().unwrap(), "duplicate field \"spec.replicas\"");
    }

    #[test]
    fn large_maps_find_duplicates_too() {
        let body: String = (0..40).map(|i| format!("\"k{}\":{i},", i % 39)).collect();
        let strict = parse_strict(&Bytes::from(format!("{{{}}}", body.trim_end_matches(',')))).unwrap();
        assert_eq!(strict.duplicates, ["k0"]);
        assert_eq!(strict.value.get("k0"), Some(&Value::Int(39)));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| Bytes::from("[".repeat(n) + &"]".repeat(n));
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        for n in [MAX_DEPTH + 1, 5_000, 1_000_000] {
            let error = parse(&nested(n)).unwrap_err();
            assert_eq!(error.to_string(), "invalid character '[' exceeded max depth");
        }
    }
}
