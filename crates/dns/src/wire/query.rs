//! A query as it comes in: what is asked, and how the client wants the answer.

use super::{CLASS_IN, HEADER, MAX_UDP, MIN_UDP, Malformed, Name, flag, rtype, u16_at};

/// More records than this beside the question, and it is no query.
const MAX_EXTRA_RECORDS: u16 = 16;
/// EDNS "DNSSEC OK".
const DO: u16 = 0x8000;

/// What the OPT record of a query says (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// What the client takes over UDP.
    pub payload: u16,
    /// Its version; we speak 0.
    pub version: u8,
    /// It wants DNSSEC records.
    pub dnssec_ok: bool,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Query {
    /// Identifies the exchange.
    pub id: u16,
    /// The header's second word.
    pub flags: u16,
    /// What is asked about, in lower case.
    pub name: Name,
    /// Type.
    pub qtype: u16,
    /// Class.
    pub class: u16,
    /// EDNS, if the client speaks it.
    pub edns: Option<Edns>,
    /// Where the question ends in the message.
    pub question_end: usize,
}

/// What came in.
#[derive(Debug)]
pub enum Parsed {
    /// A question.
    Query(Box<Query>),
    /// Something that must not be answered: too short, or itself an answer.
    Ignore,
    /// An operation other than a query.
    NotImplemented,
    /// Not understood.
    Malformed,
}

impl Query {
    /// Reads a message. Names in the question may not be compressed: nothing stands before it.
    pub fn parse(message: &[u8]) -> Parsed {
        if message.len() < HEADER || message[2] & 0x80 != 0 {
            return Parsed::Ignore;
        }
        match Self::read(message) {
            Ok(query) if query.flags & flag::OPCODE != 0 => Parsed::NotImplemented,
            Ok(query) => Parsed::Query(Box::new(query)),
            Err(Malformed) if message[2] & 0x78 != 0 => Parsed::NotImplemented,
            Err(Malformed) => Parsed::Malformed,
        }
    }

    fn read(message: &[u8]) -> Result<Query, Malformed> {
        let counts = [u16_at(message, 4)?, u16_at(message, 6)?, u16_at(message, 8)?, u16_at(message, 10)?];
        let extra = counts[1].saturating_add(counts[2]).saturating_add(counts[3]);
        if counts[0] != 1 || extra > MAX_EXTRA_RECORDS {
            return Err(Malformed);
        }
        let (name, end) = Name::read(message, HEADER)?;
        let mut query = Query {
            id: u16_at(message, 0)?,
            flags: u16_at(message, 2)?,
            name,
            qtype: u16_at(message, end)?,
            class: u16_at(message, end + 2)?,
            edns: None,
            question_end: end + 4,
        };
        if query.qtype == rtype::OPT || query.name.as_wire().len() + HEADER != end {
            return Err(Malformed);
        }
        query.read_extra(message, extra)?;
        Ok(query)
    }

    /// Looks for the OPT record behind the question.
    fn read_extra(&mut self, message: &[u8], records: u16) -> Result<(), Malformed> {
        let mut at = self.question_end;
        for _ in 0..records {
            let start = at;
            at = skip_name(message, at)?;
            let (kind, size) = (u16_at(message, at)?, u16_at(message, at + 2)?);
            let length = usize::from(u16_at(message, at + 8)?);
            if kind == rtype::OPT {
                if self.edns.is_some() || at != start + 1 {
                    return Err(Malformed);
                }
                let (version, flags) = (*message.get(at + 5).ok_or(Malformed)?, u16_at(message, at + 6)?);
                self.edns = Some(Edns { payload: size, version, dnssec_ok: flags & DO != 0 });
            }
            at += 10 + length;
            if at > message.len() {
                return Err(Malformed);
            }
        }
        Ok(())
    }

    /// How long an answer over UDP may be.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(MIN_UDP, |edns| usize::from(edns.payload).clamp(MIN_UDP, MAX_UDP))
    }

    /// Is it about the Internet?
    pub fn is_internet(&self) -> bool {
        self.class == CLASS_IN
    }

    /// Does the client want DNSSEC records?
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }
}

/// Where what follows the name at `at` begins.
pub(crate) fn skip_name(message: &[u8], mut at: usize) -> Result<usize, Malformed> {
    loop {
        let length = *message.get(at).ok_or(Malformed)?;
        match length {
            0 => return Ok(at + 1),
            1..=63 => at += 1 + usize::from(length),
            192.. => return if at + 2 <= message.len() { Ok(at + 2) } else { Err(Malformed) },
            _ => return Err(Malformed),
        }
    }
}

/// A query of ours: recursion desired, EDNS with our size.
pub fn build(id: u16, name: &Name, qtype: u16, dnssec_ok: bool, checking_disabled: bool) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + name.as_wire().len() + 15);
    let flags = flag::RD | if checking_disabled { flag::CD } else { 0 };
    for word in [id, flags, 1, 0, 0, 1] {
        message.extend(word.to_be_bytes());
    }
    message.extend(name.as_wire());
    message.extend(qtype.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    let flags = if dnssec_ok { DO } else { 0 };
    message.push(0);
    for word in [rtype::OPT, MAX_UDP as u16, 0, flags, 0] {
        message.extend(word.to_be_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(change: impl FnOnce(&mut Vec<u8>)) -> Parsed {
        let mut message = build(7, &Name::from_text("a.b").unwrap(), rtype::A, true, false);
        change(&mut message);
        Query::parse(&message)
    }

    #[test]
    fn what_is_a_query() {
        let Parsed::Query(parsed) = query(|_| {}) else { panic!() };
        assert_eq!((parsed.id, parsed.qtype, parsed.question_end), (7, rtype::A, 21));
        assert_eq!(parsed.edns, Some(Edns { payload: 1232, version: 0, dnssec_ok: true }));
        assert!(matches!(query(|m| m.truncate(11)), Parsed::Ignore));
        assert!(matches!(query(|m| m[2] |= 0x80), Parsed::Ignore));
        assert!(matches!(query(|m| m[2] |= 0x20), Parsed::NotImplemented));
        assert!(matches!(query(|m| m[5] = 0), Parsed::Malformed));
        assert!(matches!(query(|m| m[5] = 2), Parsed::Malformed));
        assert!(matches!(query(|m| m.truncate(30)), Parsed::Malformed));
        assert!(matches!(query(|m| m[11] = 2), Parsed::Malformed));
        assert!(matches!(query(|m| m[12] = 0xc0), Parsed::Malformed));
        let twice = |m: &mut Vec<u8>| {
            let opt = m[21..].to_vec();
            m.extend(opt);
            m[11] = 2;
        };
        assert!(matches!(query(twice), Parsed::Malformed));
    }

    #[test]
    fn limits_are_ours_at_most() {
        for (payload, limit) in [(0u16, 512), (600, 600), (4096, 1232)] {
            let Parsed::Query(parsed) = query(|m| m[24..26].copy_from_slice(&payload.to_be_bytes())) else {
                panic!()
            };
            assert_eq!(parsed.udp_limit(), limit);
        }
    }
}
