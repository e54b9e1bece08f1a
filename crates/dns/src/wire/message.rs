//! What an upstream server answers: checked against the question, and its records walked.

use super::query::skip_name;
use super::{CLASS_IN, HEADER, Malformed, Name, flag, rtype, u16_at, u32_at};

/// Most records of an answer that we look at.
const MAX_RECORDS: usize = 4096;

/// One record of a message.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Where its owner's name begins.
    pub start: usize,
    /// Type.
    pub kind: u16,
    /// Class.
    pub class: u16,
    /// Where its time to live stands.
    pub ttl_at: usize,
    /// Seconds.
    pub ttl: u32,
    /// Where its data begin.
    pub data: usize,
    /// Where it ends.
    pub end: usize,
}

/// An answer that belongs to a question of ours.
#[derive(Debug)]
pub struct Answer {
    /// The message.
    pub bytes: Vec<u8>,
    /// Records of the three sections, one after the other.
    pub records: Vec<Record>,
    /// How many of them are answers, and how many authority.
    pub counts: [usize; 2],
}

impl Answer {
    /// Reads a message; an error when it is none, or answers something else.
    pub fn read(bytes: Vec<u8>, id: u16, name: &Name, qtype: u16) -> Result<Answer, Malformed> {
        let (found, end) = Name::read(&bytes, HEADER)?;
        let is_ours = u16_at(&bytes, 0)? == id
            && u16_at(&bytes, 2)? & flag::QR != 0
            && u16_at(&bytes, 4)? == 1
            && found == *name
            && u16_at(&bytes, end)? == qtype
            && u16_at(&bytes, end + 2)? == CLASS_IN;
        if !is_ours {
            return Err(Malformed);
        }
        let counts = [u16_at(&bytes, 6)?, u16_at(&bytes, 8)?, u16_at(&bytes, 10)?].map(usize::from);
        let question_end = end + 4;
        // Where a cut message ends is nobody's promise: the whole one comes over TCP.
        let counts = if u16_at(&bytes, 2)? & flag::TC != 0 { [0; 3] } else { counts };
        let records = records(&bytes, question_end, counts)?;
        Ok(Answer { bytes, records, counts: [counts[0], counts[1]] })
    }

    /// The response code with the upper bits of EDNS.
    pub fn rcode(&self) -> u16 {
        let low = u16::from(self.bytes[3] & 15);
        let opt = self.records.iter().find(|record| record.kind == rtype::OPT);
        low | opt.map_or(0, |opt| (opt.ttl >> 24) as u16) << 4
    }

    /// Was it cut?
    pub fn is_truncated(&self) -> bool {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]]) & flag::TC != 0
    }

    /// The answers.
    pub fn answers(&self) -> &[Record] {
        &self.records[..self.counts[0]]
    }

    /// The authority section.
    pub fn authority(&self) -> &[Record] {
        &self.records[self.counts[0]..self.counts[0] + self.counts[1]]
    }
}

/// All records from `at` on.
fn records(bytes: &[u8], mut at: usize, counts: [usize; 3]) -> Result<Vec<Record>, Malformed> {
    let total: usize = counts.iter().sum();
    if total > MAX_RECORDS {
        return Err(Malformed);
    }
    let mut all = Vec::with_capacity(total.min(64));
    for _ in 0..total {
        let start = at;
        at = skip_name(bytes, at)?;
        let data = at + 10;
        let end = data + usize::from(u16_at(bytes, at + 8)?);
        if end > bytes.len() {
            return Err(Malformed);
        }
        let (kind, class, ttl) = (u16_at(bytes, at)?, u16_at(bytes, at + 2)?, u32_at(bytes, at + 4)?);
        all.push(Record { start, kind, class, ttl_at: at + 4, ttl, data, end });
        at = end;
    }
    Ok(all)
}
