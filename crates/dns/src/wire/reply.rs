//! A reply being written: header and question from the query, then records as long as they fit, then EDNS.

use super::message::Record;
use super::{CLASS_IN, HEADER, MAX_UDP, Query, Rcode, flag, rtype};

/// Bytes of our OPT record.
const OPT_SIZE: usize = 11;
/// Pointers reach no further.
const POINTER_REACH: usize = 0x3fff;
/// EDNS "DNSSEC OK".
const DO: u32 = 0x8000;

/// Sections of a message that have records, in the order in which they must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who says that there is none.
    Authority,
    /// What the client will ask next.
    Additional,
}

/// The name that a record belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// The name in the question, as the client wrote it.
    Question,
    /// The end of the question's name, from this byte of it.
    QuestionFrom(usize),
    /// A name written before, at this place of the message.
    At(usize, &'a [&'a [u8]]),
    /// A name in pieces of wire form, the last of which closes it.
    Pieces(&'a [&'a [u8]]),
}

/// A reply in `buffer`, never longer than its limit.
pub struct Reply<'a> {
    buffer: &'a mut Vec<u8>,
    limit: usize,
    flags: u16,
    counts: [u16; 3],
    edns: Option<bool>,
}

impl<'a> Reply<'a> {
    /// Begins the reply to `query`, which stands in `message`.
    pub fn new(buffer: &'a mut Vec<u8>, query: &Query, message: &[u8], limit: usize) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&[0; HEADER]);
        buffer[..2].copy_from_slice(&query.id.to_be_bytes());
        buffer.extend_from_slice(&message[HEADER..query.question_end]);
        let edns = query.edns.map(|edns| edns.dnssec_ok);
        let flags = flag::QR | query.flags & (flag::RD | flag::CD);
        let limit = limit - if edns.is_some() { OPT_SIZE } else { 0 };
        Reply { buffer, limit, flags, counts: [0; 3], edns }
    }

    /// Sets more of the header's flags.
    pub fn set(&mut self, flags: u16) {
        self.flags |= flags;
    }

    /// Writes a record; gives the place of its data, or `None` when it did not fit and is not there.
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        kind: u16,
        ttl: u32,
        data: impl FnOnce(&mut Vec<u8>),
    ) -> Option<usize> {
        let start = self.buffer.len();
        self.owner(owner);
        self.buffer.extend_from_slice(&kind.to_be_bytes());
        self.buffer.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.buffer.extend_from_slice(&ttl.to_be_bytes());
        self.buffer.extend_from_slice(&[0, 0]);
        let place = self.buffer.len();
        data(self.buffer);
        let Ok(length) = u16::try_from(self.buffer.len() - place) else {
            self.buffer.truncate(start);
            return None;
        };
        if self.buffer.len() > self.limit {
            self.buffer.truncate(start);
            return None;
        }
        self.buffer[place - 2..place].copy_from_slice(&length.to_be_bytes());
        self.counts[section as usize] += 1;
        Some(place)
    }

    fn owner(&mut self, owner: Owner<'_>) {
        let pointer = match owner {
            Owner::Question => Some(HEADER),
            Owner::QuestionFrom(at) => Some(HEADER + at),
            Owner::At(at, _) if at <= POINTER_REACH => Some(at),
            Owner::At(..) | Owner::Pieces(_) => None,
        };
        match (pointer, owner) {
            (Some(at), _) => self.buffer.extend_from_slice(&(0xc000 | at as u16).to_be_bytes()),
            (None, Owner::At(_, pieces) | Owner::Pieces(pieces)) => {
                pieces.iter().for_each(|piece| self.buffer.extend_from_slice(piece));
            }
            (None, _) => {}
        }
    }

    /// An answer; one that does not fit makes the reply truncated.
    pub fn answer(&mut self, owner: Owner<'_>, kind: u16, ttl: u32, data: &[u8]) -> bool {
        let fits =
            self.record(Section::Answer, owner, kind, ttl, |out| out.extend_from_slice(data)).is_some();
        if !fits {
            self.set(flag::TC);
        }
        fits
    }

    /// Copies a record of another message with a new time to live. Its pointers are right as long as everything before it
    /// was copied, too. `false` when it does not fit; an answer that does not makes the reply truncated.
    pub fn raw(&mut self, section: Section, from: &[u8], record: &Record, ttl: u32) -> bool {
        let start = self.buffer.len();
        if start + (record.end - record.start) > self.limit {
            if section == Section::Answer {
                self.set(flag::TC);
            }
            return false;
        }
        self.buffer.extend_from_slice(&from[record.start..record.end]);
        let place = start + (record.ttl_at - record.start);
        self.buffer[place..place + 4].copy_from_slice(&ttl.to_be_bytes());
        self.counts[section as usize] += 1;
        true
    }

    /// Is an answer missing because it did not fit?
    pub fn is_truncated(&self) -> bool {
        self.flags & flag::TC != 0
    }

    /// How many answers are written.
    pub fn answers(&self) -> u16 {
        self.counts[Section::Answer as usize]
    }

    /// Writes EDNS and the header. The reply is in the buffer.
    pub fn finish(self, rcode: Rcode) {
        let Reply { buffer, flags, counts, edns, .. } = self;
        let (low, high) = (u16::from(rcode as u8 & 15), u32::from(rcode as u8 >> 4));
        let mut additional = counts[2];
        if let Some(dnssec_ok) = edns {
            buffer.push(0);
            buffer.extend_from_slice(&rtype::OPT.to_be_bytes());
            buffer.extend_from_slice(&(MAX_UDP as u16).to_be_bytes());
            buffer.extend_from_slice(&(high << 24 | if dnssec_ok { DO } else { 0 }).to_be_bytes());
            buffer.extend_from_slice(&[0, 0]);
            additional += 1;
        }
        for (at, word) in [(2, flags | low), (4, 1), (6, counts[0]), (8, counts[1]), (10, additional)] {
            buffer[at..at + 2].copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// A reply that has only a header, to a message that was not understood.
pub fn header_only(buffer: &mut Vec<u8>, message: &[u8], rcode: Rcode) {
    buffer.clear();
    buffer.extend_from_slice(&[0; HEADER]);
    buffer[..2].copy_from_slice(&message[..2]);
    let kept = u16::from_be_bytes([message[2], message[3]]) & (flag::OPCODE | flag::RD);
    buffer[2..4].copy_from_slice(&(flag::QR | kept | u16::from(rcode as u8 & 15)).to_be_bytes());
}
