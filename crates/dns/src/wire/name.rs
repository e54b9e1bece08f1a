//! A domain name in wire form (length-prefixed labels), in lower case, with the places of its labels.

use std::fmt;

use super::Malformed;

/// Longest name on the wire, its closing zero included.
pub const MAX_NAME: usize = 255;
/// Labels in the longest name (127, and the root).
const MAX_LABELS: usize = 128;
/// Longest label.
pub const MAX_LABEL: usize = 63;
/// Both upper bits set: the rest of the name stands elsewhere.
const POINTER: u8 = 0xc0;
/// Each pointer leads backwards, and no honest message needs many.
const MAX_JUMPS: usize = 32;

/// `svc.ns` as `\x03svc\x02ns\x00`, in lower case: names are compared without case (RFC 4343).
#[derive(Clone)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
    offsets: [u8; MAX_LABELS],
    labels: u8,
}

impl Default for Name {
    fn default() -> Self {
        Name { bytes: [0; MAX_NAME], len: 1, offsets: [0; MAX_LABELS], labels: 0 }
    }
}

impl Name {
    /// The name at `at` of a message, and where what follows it begins.
    pub fn read(message: &[u8], at: usize) -> Result<(Name, usize), Malformed> {
        let mut name = Name::default();
        let end = name.fill(message, at)?;
        Ok((name, end))
    }

    /// As [`Name::read`], into this one.
    pub fn fill(&mut self, message: &[u8], mut at: usize) -> Result<usize, Malformed> {
        (self.len, self.labels) = (0, 0);
        let (mut end, mut jumps) = (None, 0);
        loop {
            let length = *message.get(at).ok_or(Malformed)?;
            match length & POINTER {
                0 if length == 0 => break,
                0 => {
                    let label = message.get(at + 1..at + 1 + usize::from(length)).ok_or(Malformed)?;
                    self.push(label)?;
                    at += 1 + usize::from(length);
                }
                POINTER => {
                    let low = *message.get(at + 1).ok_or(Malformed)?;
                    end.get_or_insert(at + 2);
                    let target = usize::from(length & !POINTER) << 8 | usize::from(low);
                    jumps += 1;
                    if target >= at || jumps > MAX_JUMPS {
                        return Err(Malformed);
                    }
                    at = target;
                }
                _ => return Err(Malformed),
            }
        }
        self.close();
        Ok(end.unwrap_or(at + 1))
    }

    /// From text such as `a.b.c` or `a.b.c.`; `None` when it is no name. Escapes are not known.
    pub fn from_text(text: &str) -> Option<Name> {
        let mut name = Name { len: 0, ..Name::default() };
        let text = text.strip_suffix('.').unwrap_or(text);
        for label in text.split('.').filter(|_| !text.is_empty()) {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            name.push(label.as_bytes()).ok()?;
        }
        name.close();
        Some(name)
    }

    fn push(&mut self, label: &[u8]) -> Result<(), Malformed> {
        let start = usize::from(self.len);
        // One byte stays for the closing zero.
        if start + 1 + label.len() >= MAX_NAME {
            return Err(Malformed);
        }
        self.offsets[usize::from(self.labels)] = self.len;
        self.bytes[start] = label.len() as u8;
        for (to, from) in self.bytes[start + 1..].iter_mut().zip(label) {
            *to = from.to_ascii_lowercase();
        }
        self.labels += 1;
        self.len += 1 + label.len() as u8;
        Ok(())
    }

    fn close(&mut self) {
        self.bytes[usize::from(self.len)] = 0;
        self.len += 1;
    }

    /// The wire form, closing zero included.
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// How many labels, the root not counted.
    pub fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// Where label `index` begins (its length byte); for `index == labels()`: the closing zero.
    pub fn offset(&self, index: usize) -> usize {
        if index < self.labels() { usize::from(self.offsets[index]) } else { usize::from(self.len) - 1 }
    }

    /// Label `index` from the left, without its length; empty when there is none.
    pub fn label(&self, index: usize) -> &[u8] {
        if index >= self.labels() {
            return &[];
        }
        &self.bytes[self.offset(index) + 1..self.offset(index + 1)]
    }

    /// Labels `from..to` in wire form without a closing zero.
    pub fn slice(&self, from: usize, to: usize) -> &[u8] {
        &self.bytes[self.offset(from)..self.offset(to)]
    }

    /// How many labels stand before the suffix `zone`; `None` when the name is not below it (or it).
    pub fn labels_before(&self, zone: &Name) -> Option<usize> {
        let before = self.labels().checked_sub(zone.labels())?;
        (self.bytes[self.offset(before)..usize::from(self.len)] == *zone.as_wire()).then_some(before)
    }

    /// The address whose reverse name (`d.c.b.a.in-addr.arpa`, 32 nibbles `.ip6.arpa`) this is.
    pub fn reversed_address(&self) -> Option<std::net::IpAddr> {
        let labels = self.labels();
        if labels == 6 && self.slice(4, 6) == b"\x07in-addr\x04arpa" {
            let mut octets = [0u8; 4];
            for (index, octet) in octets.iter_mut().rev().enumerate() {
                *octet = std::str::from_utf8(self.label(index)).ok().and_then(decimal)?;
            }
            return Some(octets.into());
        }
        if labels == 34 && self.slice(32, 34) == b"\x03ip6\x04arpa" {
            let mut octets = [0u8; 16];
            for (index, octet) in octets.iter_mut().rev().enumerate() {
                *octet = nibble(self.label(2 * index))? | nibble(self.label(2 * index + 1))? << 4;
            }
            return Some(octets.into());
        }
        None
    }

    /// Is it below `in-addr.arpa` or `ip6.arpa`?
    pub fn is_reverse(&self) -> bool {
        let labels = self.labels();
        labels >= 2 && matches!(self.slice(labels - 2, labels), b"\x07in-addr\x04arpa" | b"\x03ip6\x04arpa")
    }
}

/// `7`, `255`, and neither `07` nor `+7`.
fn decimal(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn nibble(label: &[u8]) -> Option<u8> {
    match label {
        [digit] => char::from(*digit).to_digit(16).map(|n| n as u8),
        _ => None,
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.as_wire() == other.as_wire()
    }
}

impl Eq for Name {}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for index in 0..self.labels() {
            write!(f, "{}.", self.label(index).escape_ascii())?;
        }
        if self.labels() == 0 { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_labels() {
        let name = Name::from_text("A.bC.d.").unwrap();
        assert_eq!(name.as_wire(), b"\x01a\x02bc\x01d\x00");
        assert_eq!((name.labels(), name.label(1), name.label(3)), (3, &b"bc"[..], &b""[..]));
        assert_eq!(name.slice(0, 2), b"\x01a\x02bc");
        assert_eq!(name.to_string(), "a.bc.d.");
        assert_eq!(Name::from_text(".").unwrap().as_wire(), b"\x00");
        let longest = format!("{}yyy", "x.".repeat(125));
        assert_eq!(Name::from_text(&longest).unwrap().as_wire().len(), MAX_NAME);
        for bad in ["a..b", &"x".repeat(64), &format!("{longest}y")] {
            assert!(Name::from_text(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn suffixes_end_at_labels() {
        let zone = Name::from_text("cluster.local").unwrap();
        for (name, before) in [
            ("cluster.local", Some(0)),
            ("a.b.Cluster.Local", Some(2)),
            ("xcluster.local", None),
            ("local", None),
        ] {
            assert_eq!(Name::from_text(name).unwrap().labels_before(&zone), before, "{name}");
        }
        // The same bytes, but inside of a label.
        let trick = Name::read(b"\x10a\x07cluster\x05local\x00\x00", 0).unwrap().0;
        assert_eq!(trick.labels_before(&zone), None);
    }

    #[test]
    fn pointers_lead_backwards_only() {
        let message = b"\x01a\x00\x01b\xc0\x00\xc0\x07\x01c\xc0\x03";
        let (name, end) = Name::read(message, 3).unwrap();
        assert_eq!((name.to_string().as_str(), end), ("b.a.", 7));
        assert!(Name::read(message, 7).is_err(), "to itself");
        assert_eq!(Name::read(message, 9).unwrap().0.to_string(), "c.b.a.");
        assert!(Name::read(b"\x40a\x00", 0).is_err(), "reserved label type");
        assert!(Name::read(b"\x05a", 0).is_err(), "cut off");
    }

    #[test]
    fn reverse_names() {
        for (name, address) in [
            ("10.0.96.10.in-addr.arpa", Some("10.96.0.10")),
            ("010.0.96.10.in-addr.arpa", None),
            ("256.0.96.10.in-addr.arpa", None),
            ("0.96.10.in-addr.arpa", None),
            ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.ip6.arpa", Some("2001:db8::1")),
            ("10.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", None),
        ] {
            let found = Name::from_text(name).unwrap().reversed_address();
            assert_eq!(found, address.map(|a| a.parse().unwrap()), "{name}");
        }
    }
}
