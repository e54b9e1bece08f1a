//! What the zone answers, by the Kubernetes DNS specification 1.1.0 and, where it is silent, as CoreDNS does.
//!
//! Below the zone: `svc.ns.svc`, `endpoint.svc.ns.svc`, `_port._proto.svc.ns.svc`, `a-b-c-d.ns.pod`, `dns-version`, `ns.dns`.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::wire::reply::{Owner, Section};
use crate::wire::{HEADER, Name, Query, Rcode, Reply, flag, rtype};
use crate::zone::facts::{Endpoint, Kind, Port, split};
use crate::zone::{Entry, Zone};

/// Version of the specification that we follow, and how long it is valid.
const VERSION: &[u8] = b"\x051.1.0";
const VERSION_TTL: u32 = 28_800;
/// Aliases that lead from one to the next within the zone (CoreDNS' bound).
const MAX_ALIASES: usize = 10;
/// SOA: refresh, retry and expire; nobody transfers this zone.
const SOA_TIMERS: [u32; 3] = [7200, 1800, 86_400];
/// Weights of SRV records sum up to about this.
const SRV_WEIGHTS: usize = 100;
/// The answer to ANY (RFC 8482): no reason to ask again soon.
const ANY_TTL: u32 = 8482;
const ANY_DATA: &[u8] = b"\x07RFC8482\x00";
/// Room for the longest address as text.
const LONGEST_ADDRESS: usize = 45;

/// What answers are made with, beside the zone.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time to live of answers, also of negative ones.
    pub ttl: u32,
    /// Addresses of `ns.dns.ZONE`.
    pub servers: Vec<IpAddr>,
}

/// How a question about the zone ends.
#[derive(Debug)]
pub enum Verdict {
    /// The reply is complete.
    Done(Rcode),
    /// These aliases lead out of the zone; the last has to be looked up elsewhere.
    Chase(Vec<Name>),
}

/// One step from a name.
enum Step {
    Found,
    /// The name exists, records of this type do not.
    NoData,
    NoName,
    Alias(Box<Name>),
}

/// Answers a question about a name in the zone, `before` labels before its end.
pub fn answer(
    zone: &Zone,
    settings: &Settings,
    query: &Query,
    before: usize,
    reply: &mut Reply<'_>,
) -> Verdict {
    reply.set(flag::AA);
    let mut writer = Writer { zone, settings, query, reply, alias: None };
    let rcode = match query.qtype {
        rtype::AXFR | rtype::IXFR => return Verdict::Done(Rcode::Refused),
        rtype::ANY => writer.any(before),
        _ => match writer.follow(before) {
            Ok(rcode) => rcode,
            Err(chain) => return Verdict::Chase(chain),
        },
    };
    if rcode == Rcode::NxDomain && !zone.is_synced() {
        return Verdict::Done(Rcode::ServFail);
    }
    let complete = reply.answers() > 0 || reply.is_truncated();
    if rcode == Rcode::NxDomain || (rcode == Rcode::NoError && !complete) {
        soa(zone, settings, query, before, Section::Authority, reply);
    }
    Verdict::Done(rcode)
}

/// The answer to ANY, whatever the name.
pub fn any(reply: &mut Reply<'_>) {
    reply.answer(Owner::Question, rtype::HINFO, ANY_TTL, ANY_DATA);
}

/// Answers for the reverse name of an address; `false` when nobody here has it.
pub fn reverse(zone: &Zone, settings: &Settings, address: IpAddr, reply: &mut Reply<'_>) -> bool {
    zone.with_pointers(address, |pointers| {
        let Some(pointers) = pointers else { return false };
        reply.set(flag::AA);
        let mut write = |host: &[&[u8]], service: &[u8]| {
            let fits = reply.record(Section::Answer, Owner::Question, rtype::PTR, settings.ttl, |out| {
                host.iter().for_each(|piece| out.extend_from_slice(piece));
                out.extend_from_slice(service);
                out.extend_from_slice(b"\x03svc");
                out.extend_from_slice(zone.name().as_wire());
            });
            if fits.is_none() {
                reply.set(flag::TC);
            }
            fits.is_some()
        };
        match &pointers.service {
            Some(service) => {
                write(&[], service);
            }
            None => {
                let mut names = pointers.endpoints.iter();
                while let Some(name) = names.next()
                    && write(&[&[name.host.len() as u8], &name.host], &name.service)
                {}
            }
        }
        true
    })
}

fn soa(
    zone: &Zone,
    settings: &Settings,
    query: &Query,
    before: usize,
    section: Section,
    reply: &mut Reply<'_>,
) -> bool {
    let at = query.name.offset(before);
    let pointer = (0xc000 | (HEADER + at) as u16).to_be_bytes();
    let written = reply.record(section, Owner::QuestionFrom(at), rtype::SOA, settings.ttl, |out| {
        for name in [&b"\x02ns\x03dns"[..], b"\x0ahostmaster"] {
            out.extend_from_slice(name);
            out.extend_from_slice(&pointer);
        }
        let [refresh, retry, expire] = SOA_TIMERS;
        for word in [zone.serial(), refresh, retry, expire, settings.ttl] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    });
    written.is_some()
}

/// What stands before service and namespace.
#[derive(Clone, Copy)]
struct Selector<'a> {
    endpoint: Option<&'a [u8]>,
    /// Port and protocol; empty ones match everything.
    port: Option<(&'a [u8], &'a [u8])>,
}

impl Selector<'_> {
    fn is_empty(&self) -> bool {
        self.endpoint.is_none() && self.port.is_none()
    }

    fn takes(&self, port: &Port) -> bool {
        self.port.is_none_or(|(name, protocol)| {
            (name.is_empty() || *port.name == *name) && (protocol.is_empty() || *port.protocol == *protocol)
        })
    }
}

/// The wire form of a name that an alias led to, and where it stands in the reply.
struct Alias {
    at: usize,
    name: Box<Name>,
}

struct Writer<'w, 'r> {
    zone: &'w Zone,
    settings: &'w Settings,
    query: &'w Query,
    reply: &'w mut Reply<'r>,
    alias: Option<Alias>,
}

impl Writer<'_, '_> {
    /// Follows aliases as long as they stay in the zone; the chain when it leads out.
    fn follow(&mut self, before: usize) -> Result<Rcode, Vec<Name>> {
        let mut chain: Vec<Name> = Vec::new();
        let mut step = self.step(&self.query.name, before, self.query.qtype);
        loop {
            let target = match step {
                Step::Found | Step::NoData => return Ok(Rcode::NoError),
                Step::NoName => return Ok(Rcode::NxDomain),
                Step::Alias(target) => target,
            };
            let loops = chain.contains(&target) || *target == self.query.name;
            if self.query.qtype != rtype::CNAME && (loops || chain.len() >= MAX_ALIASES) {
                return Ok(Rcode::ServFail);
            }
            chain.push((*target).clone());
            if !self.put_alias(&target) {
                return Ok(Rcode::NoError);
            }
            if self.query.qtype == rtype::CNAME {
                return Ok(Rcode::NoError);
            }
            let Some(before) = target.labels_before(self.zone.name()) else { return Err(chain) };
            step = self.step(&target, before, self.query.qtype);
        }
    }

    fn put_alias(&mut self, target: &Name) -> bool {
        let before = self.alias.take();
        let pieces = [before.as_ref().map_or(&[][..], |alias| alias.name.as_wire())];
        let owner = before.as_ref().map_or(Owner::Question, |alias| Owner::At(alias.at, &pieces));
        let place = self.reply.record(Section::Answer, owner, rtype::CNAME, self.settings.ttl, |out| {
            out.extend_from_slice(target.as_wire());
        });
        match place {
            Some(at) => self.alias = Some(Alias { at, name: Box::new(target.clone()) }),
            None => self.reply.set(flag::TC),
        }
        place.is_some()
    }

    /// ANY gets one small record where the name exists.
    fn any(&mut self, before: usize) -> Rcode {
        match self.step(&self.query.name, before, rtype::ANY) {
            Step::NoName => Rcode::NxDomain,
            _ => {
                any(self.reply);
                Rcode::NoError
            }
        }
    }

    fn step(&mut self, name: &Name, before: usize, qtype: u16) -> Step {
        let Some(last) = before.checked_sub(1) else { return self.apex(before, qtype) };
        match (name.label(last), last) {
            (b"svc", _) => self.services(name, last, qtype),
            (b"pod", _) => self.pods(name, last, qtype),
            (b"dns-version", 0) => self.version(qtype),
            (b"dns", 0) => Step::NoData,
            (b"dns", 1) if name.label(0) == b"ns" => {
                let settings = self.settings;
                self.unprepared(settings.servers.iter().copied(), qtype)
            }
            _ => Step::NoName,
        }
    }

    fn apex(&mut self, before: usize, qtype: u16) -> Step {
        match qtype {
            rtype::SOA => {
                soa(self.zone, self.settings, self.query, before, Section::Answer, self.reply);
                Step::Found
            }
            rtype::NS => {
                self.name_server();
                Step::Found
            }
            _ => Step::NoData,
        }
    }

    fn name_server(&mut self) {
        let (zone, ttl) = (self.zone.name().as_wire(), self.settings.ttl);
        let place = self.reply.record(Section::Answer, Owner::Question, rtype::NS, ttl, |out| {
            out.extend_from_slice(b"\x02ns\x03dns");
            out.extend_from_slice(zone);
        });
        let pieces = [&b"\x02ns\x03dns"[..], zone];
        for address in place.iter().flat_map(|_| &self.settings.servers) {
            additional_address(self.reply, Owner::At(place.unwrap_or(0), &pieces), *address, ttl);
        }
    }

    fn version(&mut self, qtype: u16) -> Step {
        if qtype != rtype::TXT {
            return Step::NoData;
        }
        self.put(rtype::TXT, VERSION_TTL, VERSION);
        Step::Found
    }

    /// `label.ns.pod`: the address is in the name, and only the namespace must exist ("pods insecure").
    fn pods(&mut self, name: &Name, last: usize, qtype: u16) -> Step {
        if last == 0 {
            return Step::NoData;
        }
        if last > 2 || !self.zone.has_namespace(name.label(last - 1)) {
            return Step::NoName;
        }
        if last == 1 {
            return Step::NoData;
        }
        match dashed_address(name.label(0)) {
            Some(address) => self.unprepared([address].into_iter(), qtype),
            None => Step::NoName,
        }
    }

    /// `….svc.ns.svc`, the last `svc` being label `last`.
    fn services(&mut self, name: &Name, last: usize, qtype: u16) -> Step {
        let selector = match last {
            0 => return Step::NoData,
            1 if self.zone.has_namespace(name.label(0)) => return Step::NoData,
            1 => return Step::NoName,
            2 => Selector { endpoint: None, port: None },
            3 => Selector { endpoint: Some(name.label(0)), port: None },
            4 => Selector { endpoint: None, port: Some((plain(name.label(0)), plain(name.label(1)))) },
            _ => return Step::NoName,
        };
        let key = name.slice(last - 2, last);
        let zone = self.zone;
        zone.with(key, |entry| match entry.and_then(|entry| Some((entry, entry.kind.as_ref()?))) {
            Some((entry, kind)) => self.service(key, entry, kind, selector, qtype),
            None => Step::NoName,
        })
    }

    fn service(
        &mut self,
        key: &[u8],
        entry: &Entry,
        kind: &Kind,
        selector: Selector<'_>,
        qtype: u16,
    ) -> Step {
        match kind {
            Kind::External(Some(target)) if selector.is_empty() => match qtype {
                rtype::A | rtype::AAAA | rtype::CNAME => Step::Alias(target.clone()),
                _ => Step::NoData,
            },
            Kind::External(_) => Step::NoName,
            Kind::Headless if selector.is_empty() && qtype != rtype::SRV => {
                match entry.v4.is_empty() && entry.v6.is_empty() {
                    true => Step::NoName,
                    false => self.addresses(&Families { v4: &entry.v4, v6: &entry.v6 }, qtype),
                }
            }
            Kind::ClusterIp { v4, v6, all, ports } if selector.endpoint.is_none() => {
                let mut ports = ports.iter().filter(|port| selector.takes(port)).peekable();
                if ports.peek().is_none() {
                    return Step::NoName;
                }
                match qtype {
                    rtype::SRV => self.cluster_ip_srv(key, &ports.collect::<Vec<_>>(), all),
                    _ => self.addresses(&Families { v4, v6 }, qtype),
                }
            }
            Kind::Headless | Kind::ClusterIp { .. } => self.endpoints(key, entry, selector, qtype),
        }
    }

    fn cluster_ip_srv(&mut self, key: &[u8], ports: &[&Port], all: &[IpAddr]) -> Step {
        let weight = weight(ports.len() * all.len());
        let mut first = None;
        for number in ports.iter().filter_map(|port| port.number) {
            let place = self.put_srv(weight, number, &[], key);
            first = first.or(place);
        }
        let Some(place) = first else { return Step::NoData };
        let pieces = [key, b"\x03svc", self.zone.name().as_wire()];
        for address in all {
            additional_address(self.reply, Owner::At(place, &pieces), *address, self.settings.ttl);
        }
        Step::Found
    }

    /// Of single endpoints: by name, by port, or all of a headless service.
    fn endpoints(&mut self, key: &[u8], entry: &Entry, selector: Selector<'_>, qtype: u16) -> Step {
        let mut found: Vec<(&Endpoint, Option<u16>)> = Vec::new();
        for slice in &entry.slices {
            let ports: Vec<Option<u16>> =
                slice.ports.iter().filter(|port| selector.takes(port)).map(|port| port.number).collect();
            let chosen = selector.endpoint.map_or(&slice.endpoints[..], |host| slice.named(host));
            for endpoint in chosen {
                found.extend(ports.iter().map(|port| (endpoint, *port)));
            }
        }
        if found.is_empty() {
            return Step::NoName;
        }
        match qtype {
            rtype::SRV => self.endpoint_srv(key, &found),
            _ => self.unprepared(found.iter().map(|(endpoint, _)| endpoint.address), qtype),
        }
    }

    fn endpoint_srv(&mut self, key: &[u8], found: &[(&Endpoint, Option<u16>)]) -> Step {
        let weight = weight(found.len());
        let (mut records, mut places) = (HashSet::new(), HashMap::new());
        for (endpoint, port) in found {
            let Some(number) = *port else { continue };
            if !records.insert((&endpoint.host, number)) {
                continue;
            }
            match self.put_srv(weight, number, &endpoint.host, key) {
                Some(place) => {
                    places.entry(&endpoint.host).or_insert(place);
                }
                None => return Step::Found,
            }
        }
        let mut told = HashSet::new();
        for (endpoint, _) in found {
            let Some(place) = places.get(&endpoint.host) else { continue };
            if told.insert(*endpoint) {
                let length = [endpoint.host.len() as u8];
                let pieces = [&length[..], &endpoint.host, key, b"\x03svc", self.zone.name().as_wire()];
                let owner = Owner::At(*place, &pieces);
                additional_address(self.reply, owner, endpoint.address, self.settings.ttl);
            }
        }
        if places.is_empty() { Step::NoData } else { Step::Found }
    }

    /// Writes an SRV record; gives the place of its target. Targets are never compressed (RFC 2782).
    fn put_srv(&mut self, weight: u16, port: u16, host: &[u8], key: &[u8]) -> Option<usize> {
        let zone = self.zone.name().as_wire();
        let place =
            self.reply.record(Section::Answer, Owner::Question, rtype::SRV, self.settings.ttl, |out| {
                for word in [0, weight, port] {
                    out.extend_from_slice(&word.to_be_bytes());
                }
                if !host.is_empty() {
                    out.push(host.len() as u8);
                    out.extend_from_slice(host);
                }
                out.extend_from_slice(key);
                out.extend_from_slice(b"\x03svc");
                out.extend_from_slice(zone);
            });
        if place.is_none() {
            self.reply.set(flag::TC);
        }
        place.map(|at| at + 6)
    }

    /// The addresses of the family asked for, beginning at one that the query's id decides: clients take the first.
    fn addresses(&mut self, addresses: &Families<'_>, qtype: u16) -> Step {
        let turn = usize::from(self.query.id);
        match qtype {
            rtype::A => self.rotated(addresses.v4, turn, |address| address.octets()),
            rtype::AAAA => self.rotated(addresses.v6, turn, |address| address.octets()),
            _ => Step::NoData,
        }
    }

    /// Each address once, for the few answers that are not prepared.
    fn unprepared(&mut self, addresses: impl Iterator<Item = IpAddr>, qtype: u16) -> Step {
        let (v4, v6) = split(addresses);
        self.addresses(&Families { v4: &v4, v6: &v6 }, qtype)
    }

    fn rotated<T: Copy, const N: usize>(
        &mut self,
        list: &[T],
        turn: usize,
        octets: impl Fn(T) -> [u8; N],
    ) -> Step {
        let Some(first) = turn.checked_rem(list.len()) else { return Step::NoData };
        let kind = if N == 4 { rtype::A } else { rtype::AAAA };
        for address in list[first..].iter().chain(&list[..first]) {
            if !self.put(kind, self.settings.ttl, &octets(*address)) {
                break;
            }
        }
        Step::Found
    }

    fn put(&mut self, kind: u16, ttl: u32, data: &[u8]) -> bool {
        match &self.alias {
            None => self.reply.answer(Owner::Question, kind, ttl, data),
            Some(alias) => self.reply.answer(Owner::At(alias.at, &[alias.name.as_wire()]), kind, ttl, data),
        }
    }
}

/// Addresses by family.
struct Families<'a> {
    v4: &'a [std::net::Ipv4Addr],
    v6: &'a [Ipv6Addr],
}

fn additional_address(reply: &mut Reply<'_>, owner: Owner<'_>, address: IpAddr, ttl: u32) {
    // What does not fit, the client asks for.
    let _ = match address {
        IpAddr::V4(address) => reply.record(Section::Additional, owner, rtype::A, ttl, |out| {
            out.extend_from_slice(&address.octets())
        }),
        IpAddr::V6(address) => reply.record(Section::Additional, owner, rtype::AAAA, ttl, |out| {
            out.extend_from_slice(&address.octets());
        }),
    };
}

fn weight(records: usize) -> u16 {
    (SRV_WEIGHTS / records.max(1)).max(1) as u16
}

/// `_http` is `http`; without the underscore it is taken, too.
fn plain(label: &[u8]) -> &[u8] {
    label.strip_prefix(b"_").unwrap_or(label)
}

/// `10-0-0-1`, `2001-db8--1`.
fn dashed_address(label: &[u8]) -> Option<IpAddr> {
    let mut text = [0u8; LONGEST_ADDRESS];
    let text = text.get_mut(..label.len())?;
    let dashes = label.iter().filter(|b| **b == b'-').count();
    let v4 = dashes == 3 && !label.windows(2).any(|pair| pair == b"--");
    for (to, from) in text.iter_mut().zip(label) {
        *to = match from {
            b'-' if v4 => b'.',
            b'-' => b':',
            b'.' | b':' => return None,
            other => *other,
        };
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
