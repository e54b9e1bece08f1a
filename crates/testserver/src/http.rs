//! As much of HTTP/1.1 as tests need: one request per connection, bodies by Content-Length.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Longest line that is read.
const MAX_LINE: u64 = 16 << 10;
/// Most header lines.
const MAX_HEADERS: usize = 200;
/// Longest body that is read.
const MAX_BODY: usize = 64 << 20;

/// What was asked.
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Reads one request.
    pub fn read(stream: &TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let first = line(&mut reader)?;
        let mut words = first.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::Error::other("not a request line"));
        };
        let headers = read_headers(&mut reader)?;
        let body = read_body(&mut reader, &headers)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Self { method: method.to_owned(), path: decode(path), query: pairs(query), headers, body })
    }

    /// A query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads header lines up to the empty one; names in lower case.
pub fn read_headers(reader: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    while headers.len() < MAX_HEADERS {
        let text = line(reader)?;
        if text.is_empty() {
            return Ok(headers);
        }
        let (name, value) = text.split_once(':').unwrap_or((&text, ""));
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Err(io::Error::other("too many headers"))
}

/// One line without its end.
pub fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    reader.take(MAX_LINE).read_line(&mut text)?;
    Ok(text.trim_end().to_owned())
}

fn read_body(reader: &mut impl Read, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length.min(MAX_BODY)];
    reader.read_exact(&mut body)?;
    Ok(body)
}

/// Answers and closes.
pub fn answer(mut stream: &TcpStream, status: u16, body: &[u8]) -> io::Result<()> {
    let reason = if status < 400 { "OK" } else { "Error" };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(k, v)| (decode(k), decode(v)))
        .collect()
}

/// Percent-encoding and `+` undone; what is malformed stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 2;
            }
            (b'+', _) => plain.push(b' '),
            (byte, _) => plain.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_decoded() {
        for (escaped, plain) in
            [("a+b%20c", "a b c"), ("%2Fetc", "/etc"), ("100%", "100%"), ("%zz", "%zz"), ("%e4", "\u{fffd}")]
        {
            assert_eq!(decode(escaped), plain, "{escaped}");
        }
        assert_eq!(pairs("a=1&b"), [("a".into(), "1".into()), ("b".into(), String::new())]);
    }

    #[test]
    fn headers_end_at_the_empty_line() {
        let mut text = &b"Host: a\r\nX-B:  c \r\n\r\nbody"[..];
        let headers = read_headers(&mut text).unwrap();
        assert_eq!(headers, [("host".into(), "a".into()), ("x-b".into(), "c".into())]);
        assert_eq!(text, b"body");
    }
}
