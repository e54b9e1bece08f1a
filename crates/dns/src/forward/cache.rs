//! Answers of upstream servers, kept for their time to live, which is bounded as CoreDNS' `cache 30` does.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::wire::message::{Answer, Record};
use crate::wire::name::MAX_NAME;
use crate::wire::reply::Section;
use crate::wire::{Name, Query, Rcode, Reply, flag, rtype, u32_at};

/// Longest time that anything is kept, in seconds.
pub const MAX_TTL: u32 = 30;
/// How long a server's own failure is believed, in seconds (RFC 2308 allows up to five minutes).
const FAILURE_TTL: u32 = 5;
/// Longer answers are not kept.
const MAX_KEPT_BYTES: usize = 8192;
/// So many locks share the entries.
const SHARDS: usize = 16;
/// AD: the server has checked the signatures.
const AD: u16 = 0x0020;

/// What an answer depends on: name, type, and whether DNSSEC records and unchecked ones are wanted.
#[derive(Clone, Debug)]
pub struct Question {
    /// In lower case.
    pub name: Name,
    /// Type.
    pub qtype: u16,
    /// DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Unchecked ones, too.
    pub checking_disabled: bool,
}

impl Question {
    /// What a client asks.
    pub fn of(query: &Query) -> Question {
        Question {
            name: query.name.clone(),
            qtype: query.qtype,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.flags & flag::CD != 0,
        }
    }

    fn key<'k>(&self, space: &'k mut [u8; MAX_NAME + 3]) -> &'k [u8] {
        let name = self.name.as_wire();
        space[..name.len()].copy_from_slice(name);
        let flags = u8::from(self.dnssec_ok) | u8::from(self.checking_disabled) << 1;
        let [high, low] = self.qtype.to_be_bytes();
        space[name.len()..name.len() + 3].copy_from_slice(&[high, low, flags]);
        &space[..name.len() + 3]
    }
}

/// An answer, and when it came.
#[derive(Debug)]
pub struct Kept {
    answer: Answer,
    ttl: u32,
    came: Instant,
}

impl Kept {
    /// An answer that has just come.
    pub fn new(answer: Answer, now: Instant) -> Kept {
        let ttl = time_to_live(&answer);
        Kept { answer, ttl, came: now }
    }

    fn age(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.came).as_secs()).unwrap_or(u32::MAX)
    }

    /// The four bits that every client understands; the others become "server failure".
    fn rcode(&self) -> Rcode {
        match self.answer.rcode() {
            0 => Rcode::NoError,
            3 => Rcode::NxDomain,
            4 => Rcode::NotImp,
            5 => Rcode::Refused,
            _ => Rcode::ServFail,
        }
    }

    /// Did the server say that it cannot or does not want to?
    pub fn is_failure(&self) -> bool {
        !matches!(self.rcode(), Rcode::NoError | Rcode::NxDomain)
    }

    /// Writes it as the reply to `query`, whose name has the same length: pointers stay right.
    pub fn write(&self, query: &Query, message: &[u8], limit: usize, now: Instant, out: &mut Vec<u8>) {
        let mut reply = Reply::new(out, query, message, limit);
        reply.set(flag::RA | self.checked(query));
        let age = self.age(now);
        let [answers, authority] = self.answer.counts;
        for (index, record) in self.answer.records.iter().enumerate() {
            let section = match index {
                _ if index < answers => Section::Answer,
                _ if index < answers + authority => Section::Authority,
                _ => Section::Additional,
            };
            // Later names may point behind what is left out: nothing follows it.
            if record.kind == rtype::OPT
                || !reply.raw(section, &self.answer.bytes, record, self.left(record, age))
            {
                break;
            }
        }
        reply.finish(self.rcode());
    }

    fn checked(&self, query: &Query) -> u16 {
        let wanted = query.dnssec_ok() || query.flags & AD != 0;
        if wanted { u16::from_be_bytes([self.answer.bytes[2], self.answer.bytes[3]]) & AD } else { 0 }
    }

    fn left(&self, record: &Record, age: u32) -> u32 {
        record.ttl.min(self.ttl.max(1)).saturating_sub(age)
    }

    /// Writes what an alias leads to: further aliases and records of the type asked for, names in full.
    pub fn write_tail(&self, qtype: u16, now: Instant, reply: &mut Reply<'_>) {
        let (bytes, age) = (&self.answer.bytes, self.age(now));
        let wanted = |record: &&Record| record.kind == qtype || record.kind == rtype::CNAME;
        for record in self.answer.answers().iter().filter(wanted) {
            let Ok((owner, _)) = Name::read(bytes, record.start) else { return };
            let alias = Name::read(bytes, record.data);
            let data = match (record.kind, &alias) {
                (rtype::CNAME, Ok((target, _))) => target.as_wire(),
                (rtype::CNAME, Err(_)) => return,
                _ => &bytes[record.data..record.end],
            };
            let owner = [owner.as_wire()];
            let owner = crate::wire::reply::Owner::Pieces(&owner);
            if !reply.answer(owner, record.kind, self.left(record, age), data) {
                return;
            }
        }
    }
}

/// The least of the answers' times; for a negative answer what the SOA record says (RFC 2308), 0 when there is none.
fn time_to_live(answer: &Answer) -> u32 {
    let least = answer.answers().iter().map(|record| record.ttl).min();
    let ttl = match answer.rcode() {
        0 if least.is_some() => least.unwrap_or(0),
        0 | 3 => negative_ttl(answer),
        2 => FAILURE_TTL,
        _ => 0,
    };
    ttl.min(MAX_TTL)
}

fn negative_ttl(answer: &Answer) -> u32 {
    let soa = answer.authority().iter().find(|record| record.kind == rtype::SOA);
    let minimum = |record: &Record| u32_at(&answer.bytes, record.end.checked_sub(4)?).ok();
    soa.and_then(|record| Some(record.ttl.min(minimum(record)?))).unwrap_or(0)
}

type Shard = HashMap<Box<[u8]>, Arc<Kept>>;

/// A bounded cache.
#[derive(Debug)]
pub struct Cache {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    most_in_shard: usize,
}

impl Cache {
    /// For at most so many answers.
    pub fn new(most: usize) -> Cache {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Cache { hasher: RandomState::new(), shards, most_in_shard: most.div_ceil(SHARDS) }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known and still valid.
    pub fn get(&self, question: &Question, now: Instant) -> Option<Arc<Kept>> {
        let mut space = [0; MAX_NAME + 3];
        let key = question.key(&mut space);
        let kept = self.shard(key).get(key).cloned()?;
        (kept.age(now) < kept.ttl).then_some(kept)
    }

    /// Keeps an answer, if it may be kept. When all places are taken, an expired one goes, or any.
    pub fn put(&self, question: &Question, kept: &Arc<Kept>, now: Instant) {
        if kept.ttl == 0 || kept.answer.bytes.len() > MAX_KEPT_BYTES || self.most_in_shard == 0 {
            return;
        }
        let mut space = [0; MAX_NAME + 3];
        let key = question.key(&mut space);
        let mut shard = self.shard(key);
        if shard.len() >= self.most_in_shard && !shard.contains_key(key) {
            shard.retain(|_, old| old.age(now) < old.ttl);
            if shard.len() >= self.most_in_shard
                && let Some(victim) = shard.keys().next().cloned()
            {
                shard.remove(&victim);
            }
        }
        shard.insert(key.into(), kept.clone());
    }

    /// How many answers are kept, expired ones included.
    pub fn kept(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}
