//! CBOR (RFC 8949) as Kubernetes uses it for `application/cbor`: self-described (tag 55799), byte strings as text keys and
//! values, shortest forms, map keys sorted by length and bytes.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::json::MAX_DEPTH;
use crate::{Object, Str, Value};

/// Bytes that are no such item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CborError(String);

impl fmt::Display for CborError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CborError {}

/// Tag 55799: what follows is CBOR.
pub const SELF_DESCRIBED: &[u8; 3] = &[0xd9, 0xd9, 0xf7];

/// Tags 21 to 23: byte strings that stand for base64url, base64 and base16 text.
const EXPECTED_BASE64URL: u64 = 21;
const EXPECTED_BASE64: u64 = 22;
const EXPECTED_BASE16: u64 = 23;

/// Decodes one item, with or without the self-description.
pub fn decode(body: &Bytes) -> Result<Value, CborError> {
    let mut reader = Reader { rest: body, depth: 0 };
    let value = reader.value()?;
    match reader.rest.len() {
        0 => Ok(value),
        n => Err(CborError(format!("cbor: {n} bytes of extraneous data"))),
    }
}

/// Takes one item off a sequence (watch streams); `None` while it is not whole.
pub fn decode_next(stream: &mut Bytes) -> Result<Option<Value>, CborError> {
    let mut reader = Reader { rest: stream, depth: 0 };
    match reader.value() {
        Ok(value) => {
            let used = stream.len() - reader.rest.len();
            let _ = stream.split_to(used);
            Ok(Some(value))
        }
        Err(e) if e.0 == UNEXPECTED_END => Ok(None),
        Err(e) => Err(e),
    }
}

/// Encodes a value, self-described.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(SELF_DESCRIBED);
    write(value, &mut out);
    out
}

const UNEXPECTED_END: &str = "unexpected EOF";

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(false) => out.push(0xf4),
        Value::Bool(true) => out.push(0xf5),
        Value::Int(n) if *n < 0 => head(1, !*n as u64, out),
        Value::Int(n) => head(0, *n as u64, out),
        Value::Float(n) => float(*n, out),
        Value::String(s) => text(s, out),
        Value::Array(items) => {
            head(4, items.len() as u64, out);
            items.iter().for_each(|item| write(item, out));
        }
        Value::Object(fields) => {
            head(5, fields.len() as u64, out);
            let mut sorted: Vec<(&Str, &Value)> = fields.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
            for (key, value) in sorted {
                text(key, out);
                write(value, out);
            }
        }
    }
}

/// Go strings may hold any bytes, so upstream writes them as byte strings.
fn text(text: &str, out: &mut Vec<u8>) {
    head(2, text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn head(major: u8, n: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    match n {
        0..24 => out.push(major | n as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, n as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

/// Half or single precision where nothing is lost.
fn float(n: f64, out: &mut Vec<u8>) {
    let single = n as f32;
    if let Some(bits) = to_half(n) {
        out.push(0xf9);
        out.extend_from_slice(&bits.to_be_bytes());
    } else if f64::from(single) == n {
        out.push(0xfa);
        out.extend_from_slice(&single.to_bits().to_be_bytes());
    } else {
        out.push(0xfb);
        out.extend_from_slice(&n.to_bits().to_be_bytes());
    }
}

/// The half precision number of exactly this value.
fn to_half(n: f64) -> Option<u16> {
    let sign = if n.is_sign_negative() { 0x8000 } else { 0 };
    let size = n.abs();
    // Below 2^-14 the exponent stays and the fraction counts in steps of 2^-24.
    let exponent = if size < (-14f64).exp2() { -14 } else { size.log2().floor() as i32 };
    let steps = size / f64::from(exponent - 10).exp2();
    if exponent > 15 || steps.fract() != 0.0 || steps >= 2048.0 {
        return None;
    }
    let steps = steps as u16;
    let biased = if steps < 1024 { 0 } else { (exponent + 15) as u16 };
    Some(sign | biased << 10 | (steps & 0x3ff))
}

struct Reader<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], CborError> {
        let split = self.rest.split_at_checked(len).ok_or_else(|| CborError(UNEXPECTED_END.to_owned()))?;
        self.rest = split.1;
        Ok(split.0)
    }

    /// Major type, additional information and the number that goes with it (`None` for indefinite lengths).
    fn head(&mut self) -> Result<(u8, u8, Option<u64>), CborError> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 0x1f);
        let n = match info {
            0..24 => Some(u64::from(info)),
            24..28 => {
                let bytes = self.take(1 << (info - 24))?;
                Some(bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
            }
            31 => None,
            _ => return Err(CborError(format!("cbor: invalid additional information {info}"))),
        };
        Ok((major, info, n))
    }

    fn value(&mut self) -> Result<Value, CborError> {
        let (major, info, n) = self.head()?;
        if !(4..=6).contains(&major) {
            return self.item(major, info, n);
        }
        if self.depth == MAX_DEPTH {
            return Err(CborError(format!("cbor: exceeded max nested level {MAX_DEPTH}")));
        }
        self.depth += 1;
        let value = self.item(major, info, n);
        self.depth -= 1;
        value
    }

    fn item(&mut self, major: u8, info: u8, n: Option<u64>) -> Result<Value, CborError> {
        match (major, n) {
            (0, Some(n)) => Ok(i64::try_from(n).map_or(Value::Float(n as f64), Value::Int)),
            (1, Some(n)) => Ok(i64::try_from(n).map_or(Value::Float(-1.0 - n as f64), |n| Value::Int(!n))),
            (2 | 3, n) => Ok(Value::String(self.string(major, n)?)),
            (4, n) => self.array(n),
            (5, n) => self.map(n),
            (6, Some(tag)) => self.tagged(tag),
            (7, Some(n)) => simple(info, n),
            _ => Err(CborError(format!("cbor: unexpected item of major type {major}"))),
        }
    }

    fn bytes(&mut self, major: u8, len: Option<u64>) -> Result<Vec<u8>, CborError> {
        if let Some(len) = len {
            let len = usize::try_from(len).map_err(|_| CborError(UNEXPECTED_END.to_owned()))?;
            return Ok(self.take(len)?.to_vec());
        }
        let mut whole = Vec::new();
        while !self.at_break() {
            match self.head()? {
                (chunk, _, Some(len)) if chunk == major => {
                    let len = usize::try_from(len).map_err(|_| CborError(UNEXPECTED_END.to_owned()))?;
                    whole.extend_from_slice(self.take(len)?);
                }
                _ => return Err(CborError("cbor: wrong chunk of an indefinite-length string".to_owned())),
            }
        }
        Ok(whole)
    }

    fn string(&mut self, major: u8, len: Option<u64>) -> Result<Str, CborError> {
        let bytes = self.bytes(major, len)?;
        let text =
            String::from_utf8(bytes).map_err(|_| CborError("cbor: invalid UTF-8 string".to_owned()))?;
        Ok(Str::from(text))
    }

    /// Is a "break" next? Takes it.
    fn at_break(&mut self) -> bool {
        let found = self.rest.first() == Some(&0xff);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn more(&mut self, done: u64, len: Option<u64>) -> bool {
        match len {
            Some(len) => done < len,
            None => !self.at_break(),
        }
    }

    fn array(&mut self, len: Option<u64>) -> Result<Value, CborError> {
        let mut items = Vec::new();
        while self.more(items.len() as u64, len) {
            items.push(self.value()?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, len: Option<u64>) -> Result<Value, CborError> {
        let mut pairs: Vec<(Str, Value)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while self.more(pairs.len() as u64, len) {
            let Value::String(key) = self.value()? else {
                return Err(CborError("cbor: map key is no string".to_owned()));
            };
            if !seen.insert(key.clone()) {
                return Err(CborError(format!("cbor: found duplicate map key {:?}", key.as_str())));
            }
            let value = self.value()?;
            pairs.push((key, value));
        }
        // What is raw JSON in other forms is written with its fields in order of their names, as Go writes what it has read.
        let mut fields = pairs.into_iter().collect::<Object>();
        fields.sort();
        Ok(Value::Object(fields))
    }

    /// Byte strings that stand for encoded text become it; other tags say nothing to us.
    fn tagged(&mut self, tag: u64) -> Result<Value, CborError> {
        if !matches!(tag, EXPECTED_BASE64URL | EXPECTED_BASE64 | EXPECTED_BASE16) {
            return self.value();
        }
        match self.head()? {
            (2, _, len) => {
                let bytes = self.bytes(2, len)?;
                Ok(Value::from(match tag {
                    EXPECTED_BASE64 => STANDARD.encode(bytes),
                    EXPECTED_BASE64URL => base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes),
                    _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                }))
            }
            _ => Err(CborError(format!("cbor: tag {tag} stands only before byte strings"))),
        }
    }
}

fn simple(info: u8, n: u64) -> Result<Value, CborError> {
    let n = match info {
        20 | 21 => return Ok(Value::Bool(info == 21)),
        22 | 23 => return Ok(Value::Null),
        25 => half(n as u16),
        26 => f64::from(f32::from_bits(n as u32)),
        27 => f64::from_bits(n),
        _ => return Err(CborError(format!("cbor: simple value {n} has no meaning in JSON"))),
    };
    if n.is_finite() {
        Ok(Value::Float(n))
    } else {
        Err(CborError("cbor: NaN and infinity have no JSON".to_owned()))
    }
}

/// IEEE 754 half precision.
fn half(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * (-24f64).exp2(),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * f64::from(exponent - 25).exp2(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn decoded(bytes: &[u8]) -> Result<String, String> {
        decode(&Bytes::copy_from_slice(bytes)).map(|v| json::to_string(&v)).map_err(|e| e.to_string())
    }

    #[test]
    fn examples_of_the_rfc() {
        for (bytes, text) in [
            (&b"\x00"[..], "0"),
            (b"\x18\x64", "100"),
            (b"\x1b\x00\x00\x00\xe8\xd4\xa5\x10\x00", "1000000000000"),
            (b"\x20", "-1"),
            (b"\x39\x03\xe7", "-1000"),
            (b"\xf9\x3e\x00", "1.5"),
            (b"\xf9\x00\x01", "5.960464477539063e-8"),
            (b"\xfa\x47\xc3\x50\x00", "100000"),
            (b"\xfb\x3f\xf1\x99\x99\x99\x99\x99\x9a", "1.1"),
            (b"\x83\x01\x02\xf5", "[1,2,true]"),
            (b"\x9f\x01\x02\xff", "[1,2]"),
            (b"\xa1\x61a\x42bc", r#"{"a":"bc"}"#),
            (b"\xbf\x61a\xf6\xff", r#"{"a":null}"#),
            (b"\x7f\x61a\x61b\xff", "\"ab\""),
            (b"\xd9\xd9\xf7\xd6\x43abc", "\"YWJj\""),
        ] {
            assert_eq!(decoded(bytes).unwrap(), text);
        }
    }

    #[test]
    fn broken_items_are_errors() {
        for bytes in [
            &b""[..],
            b"\x18",
            b"\x9f\x01",
            b"\xa1\x01\x02",
            b"\xa2\x61a\x01\x61a\x02",
            b"\x00\x00",
            b"\x1c",
            b"\xf9\x7c\x00",
        ] {
            assert!(decoded(bytes).is_err(), "{bytes:x?}");
        }
        assert!(decoded(&[0x81; 5000]).unwrap_err().contains("max nested level"));
        assert!(decoded(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn floats_take_the_shortest_form() {
        for (n, bytes) in [
            (1.5, &b"\xf9\x3e\x00"[..]),
            (-4.0, b"\xf9\xc4\x00"),
            (65504.0, b"\xf9\x7b\xff"),
            (5.960464477539063e-8, b"\xf9\x00\x01"),
            (0.00006103515625, b"\xf9\x04\x00"),
            (100000.0, b"\xfa\x47\xc3\x50\x00"),
            (1.1, b"\xfb\x3f\xf1\x99\x99\x99\x99\x99\x9a"),
        ] {
            assert_eq!(&encode(&Value::Float(n))[3..], bytes, "{n}");
        }
    }

    #[test]
    fn there_and_back() {
        let text = r#"{"a":[1,-5,300,70000,5000000000,1.5,0.1,true,null,"ü"],"bb":{},"c":{"x":"y"}}"#;
        let value = json::parse(&Bytes::from_static(text.as_bytes())).unwrap();
        let bytes = encode(&value);
        assert!(bytes.starts_with(SELF_DESCRIBED));
        assert_eq!(decode(&Bytes::from(bytes.clone())).unwrap(), value);
        let mut stream = Bytes::from([bytes.clone(), bytes[..9].to_vec()].concat());
        assert_eq!(decode_next(&mut stream).unwrap(), Some(value));
        assert_eq!(decode_next(&mut stream).unwrap(), None);
    }
}
