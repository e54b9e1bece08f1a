//! One message in, one message out: what the sockets call. Questions that need another server become a [`Job`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use crate::answer::{self, Settings, Verdict};
use crate::forward::cache::{Kept, Question};
use crate::forward::upstream::loop_token;
use crate::forward::{Failure, Forwarder};
use crate::wire::query::Parsed;
use crate::wire::reply::{Owner, header_only};
use crate::wire::{MAX_TCP, Name, Query, Rcode, Reply, flag, rtype};
use crate::zone::Zone;

/// Response codes that are counted one by one.
const RCODES: usize = 6;

/// How a message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Answers are bounded by what the client says.
    Udp,
    /// Answers may be long.
    Tcp,
}

/// What happens with a message.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing: it deserves no answer.
    Ignore,
    /// The reply is in the buffer.
    Reply,
    /// Another server has to be asked: [`Responder::finish`].
    Forward(Box<Job>),
}

/// A question for another server.
#[derive(Debug)]
pub struct Job {
    query: Box<Query>,
    /// Header and question as they came.
    message: Vec<u8>,
    limit: usize,
    /// Aliases in the zone that lead to what must be asked; empty when the question itself must.
    chain: Vec<Name>,
    _permit: OwnedSemaphorePermit,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages over UDP.
    pub udp: AtomicU64,
    /// Messages over TCP.
    pub tcp: AtomicU64,
    /// Replies by response code.
    pub rcodes: [AtomicU64; RCODES],
    /// Questions put to other servers.
    pub forwarded: AtomicU64,
    /// Answers of other servers that were known.
    pub known: AtomicU64,
}

/// Answers messages. Shared by all sockets.
#[derive(Debug)]
pub struct Responder {
    /// The zone.
    pub zone: Arc<Zone>,
    /// Other names.
    pub forwarder: Forwarder,
    /// How answers are made.
    pub settings: Settings,
    /// What happened.
    pub counters: Counters,
}

impl Responder {
    /// Answers `message` into `out`, whose old content is gone.
    pub fn respond(&self, message: &[u8], transport: Transport, out: &mut Vec<u8>) -> Outcome {
        let counter = if transport == Transport::Udp { &self.counters.udp } else { &self.counters.tcp };
        counter.fetch_add(1, Ordering::Relaxed);
        out.clear();
        let outcome = match Query::parse(message) {
            Parsed::Ignore => return Outcome::Ignore,
            Parsed::Malformed => {
                header_only(out, message, Rcode::FormErr);
                Outcome::Reply
            }
            Parsed::NotImplemented => {
                header_only(out, message, Rcode::NotImp);
                Outcome::Reply
            }
            Parsed::Query(query) => self.answer(query, message, transport, out),
        };
        self.count(out);
        outcome
    }

    fn count(&self, reply: &[u8]) {
        if let Some(counter) =
            reply.get(3).and_then(|flags| self.counters.rcodes.get(usize::from(flags & 15)))
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answer(&self, query: Box<Query>, message: &[u8], transport: Transport, out: &mut Vec<u8>) -> Outcome {
        let limit = if transport == Transport::Udp { query.udp_limit() } else { MAX_TCP };
        let mut reply = Reply::new(out, &query, message, limit);
        if self.forwarder.has_servers(&query.name) {
            reply.set(flag::RA);
        }
        let early = match &query {
            query if query.edns.is_some_and(|edns| edns.version != 0) => Some(Rcode::BadVers),
            query if !query.is_internet() => Some(Rcode::Refused),
            _ => None,
        };
        if let Some(rcode) = early {
            reply.finish(rcode);
            return Outcome::Reply;
        }
        let verdict = match query.name.labels_before(self.zone.name()) {
            Some(before) => answer::answer(&self.zone, &self.settings, &query, before, &mut reply),
            None => match self.elsewhere(&query, &mut reply) {
                Some(rcode) => Verdict::Done(rcode),
                None => Verdict::Chase(Vec::new()),
            },
        };
        match verdict {
            Verdict::Done(rcode) => {
                reply.finish(rcode);
                Outcome::Reply
            }
            Verdict::Chase(chain) => self.forward(query, message, limit, chain, out),
        }
    }

    /// Names outside of the zone that we have an answer to ourselves.
    fn elsewhere(&self, query: &Query, reply: &mut Reply<'_>) -> Option<Rcode> {
        match query.qtype {
            rtype::AXFR | rtype::IXFR => return Some(Rcode::Refused),
            rtype::ANY => {
                answer::any(reply);
                return Some(Rcode::NoError);
            }
            rtype::PTR => {
                let address = query.name.reversed_address()?;
                return answer::reverse(&self.zone, &self.settings, address, reply).then_some(Rcode::NoError);
            }
            rtype::HINFO => {
                let token = loop_token(&query.name)?;
                return self.forwarder.came_back(token).then_some(Rcode::Refused);
            }
            _ => {}
        }
        None
    }

    fn forward(
        &self,
        query: Box<Query>,
        message: &[u8],
        limit: usize,
        chain: Vec<Name>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let question = asked(&query, &chain);
        let now = Instant::now();
        let known = self.forwarder.known(&question, now);
        if known.is_some() {
            self.counters.known.fetch_add(1, Ordering::Relaxed);
        }
        match known {
            Some(kept) if chain.is_empty() => kept.write(&query, message, limit, now, out),
            Some(kept) => self.write_chain(&query, message, limit, &chain, Some(&kept), out),
            // The alias alone is true, and more than nothing.
            None if !chain.is_empty() && !self.forwarder.has_servers(&question.name) => {
                self.write_chain(&query, message, limit, &chain, None, out);
            }
            None => {
                let Some(permit) =
                    self.forwarder.permit().filter(|_| self.forwarder.has_servers(&question.name))
                else {
                    Reply::new(out, &query, message, limit).finish(Rcode::Refused);
                    return Outcome::Reply;
                };
                self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
                out.clear();
                let message = message[..query.question_end].to_vec();
                return Outcome::Forward(Box::new(Job { query, message, limit, chain, _permit: permit }));
            }
        }
        Outcome::Reply
    }

    /// Asks another server and writes the reply.
    pub async fn finish(&self, job: Box<Job>, out: &mut Vec<u8>) {
        let Job { query, message, limit, chain, _permit } = *job;
        match self.forwarder.resolve(&asked(&query, &chain)).await {
            Ok(kept) if chain.is_empty() => kept.write(&query, &message, limit, Instant::now(), out),
            Ok(kept) => self.write_chain(&query, &message, limit, &chain, Some(&kept), out),
            Err(failure) => {
                let rcode = match failure {
                    Failure::Refused => Rcode::Refused,
                    Failure::Failed => Rcode::ServFail,
                };
                let mut reply = Reply::new(out, &query, &message, limit);
                reply.set(flag::RA);
                reply.finish(rcode);
            }
        }
        self.count(out);
    }

    /// Our aliases, then what another server says about the last of them.
    fn write_chain(
        &self,
        query: &Query,
        message: &[u8],
        limit: usize,
        chain: &[Name],
        kept: Option<&Kept>,
        out: &mut Vec<u8>,
    ) {
        let mut reply = Reply::new(out, query, message, limit);
        reply.set(flag::AA | if self.forwarder.has_servers(&query.name) { flag::RA } else { 0 });
        let mut owner: Option<&Name> = None;
        for target in chain {
            let pieces = [owner.map_or(&[][..], Name::as_wire)];
            let place = owner.map_or(Owner::Question, |_| Owner::Pieces(&pieces));
            if !reply.answer(place, rtype::CNAME, self.settings.ttl, target.as_wire()) {
                break;
            }
            owner = Some(target);
        }
        if kept.is_some_and(Kept::is_failure) {
            return Reply::new(out, query, message, limit).finish(Rcode::ServFail);
        }
        if let Some(kept) = kept.filter(|_| !reply.is_truncated()) {
            kept.write_tail(query.qtype, Instant::now(), &mut reply);
        }
        reply.finish(Rcode::NoError);
    }
}

/// What another server is asked.
fn asked(query: &Query, chain: &[Name]) -> Question {
    let mut question = Question::of(query);
    if let Some(last) = chain.last() {
        question.name = last.clone();
    }
    question
}
