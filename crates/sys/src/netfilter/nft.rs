//! nftables: tables, chains, rules, sets and their elements, gathered in a [`Batch`] that the kernel takes as a whole or not at
//! all.
//!
//! Registers are counted in words of four bytes from [`R0`]; an IPv4 address takes one, an IPv6 address four, everything shorter
//! one, zero behind it. Keys of several parts are words in a row, in registers as in elements.

use std::time::Duration;

use super::wire::{ACK, APPEND, CREATE, DUMP, FULL_HEADER, HEADER, Open, REQUEST, Writer, attributes, find};
use super::{Family, Socket};
use crate::error::Result;

pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// An attribute's length has 16 bits: elements are sent in portions.
const ELEMENTS_A_MESSAGE: usize = 60_000;
const LIST_ELEMENT: u16 = 1;

/// The first register for data.
pub const R0: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

/// Messages about nftables (`NFT_MSG_*`).
#[derive(Clone, Copy, Debug)]
enum Kind {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    DelChain = 5,
    NewRule = 6,
    DelRule = 8,
    NewSet = 9,
    DelSet = 11,
    NewElements = 12,
    GetElements = 13,
    DelElements = 14,
}

/// A table by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family of its packets.
    pub family: Family,
    /// Name.
    pub name: String,
}

/// Where packets come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// To this host.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainType {
    /// Every packet.
    Filter,
    /// The first packet of each flow.
    Nat,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Gone without an answer.
    Drop,
    /// On to the next base chain.
    Accept,
    /// Back to the chain that jumped here.
    Return,
    /// Into that chain, and back.
    Jump(String),
    /// Into that chain for good.
    Goto(String),
}

/// The type of one part of a key, for people who list the rules (`nft`'s own numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// An IPv4 address.
    Ip = 7,
    /// An IPv6 address.
    Ip6 = 8,
    /// A transport protocol.
    Protocol = 12,
    /// A port.
    Port = 13,
    /// Any number.
    Mark = 19,
}

impl DataType {
    fn words(self) -> u32 {
        if self == DataType::Ip6 { 4 } else { 1 }
    }
}

/// What a set's elements stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// Nothing: a set.
    None,
    /// Verdicts: a verdict map.
    Verdicts,
    /// Data: a map.
    Data(Vec<DataType>),
}

/// A set or map to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Name.
    pub name: String,
    /// Parts of the key.
    pub key: Vec<DataType>,
    /// What elements stand for.
    pub values: Values,
    /// Most elements, for a set that rules add to; elements then have a time to live.
    pub dynamic: Option<u32>,
}

/// One element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Words of the key.
    pub key: Vec<u8>,
    /// What it stands for.
    pub value: Value,
    /// Of a dynamic set: the time it lives, and what is left of it.
    pub life: Option<(Duration, Duration)>,
}

/// What an element stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// Words.
    Data(Vec<u8>),
}

/// Messages that take effect together.
#[derive(Clone, Debug)]
pub struct Batch {
    writer: Writer,
    kinds: Vec<Kind>,
    last: usize,
    sets: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// With nothing in it.
    pub fn new() -> Self {
        let mut writer = Writer::default();
        let open = writer.message(BATCH_BEGIN, REQUEST, 0, 0, SUBSYSTEM);
        writer.end_message(open);
        Batch { writer, kinds: Vec::new(), last: 0, sets: 0 }
    }

    /// Nothing to send?
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// How many messages.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.writer.bytes.len()
    }

    /// Carries everything out, or nothing.
    pub fn commit(mut self, socket: &Socket) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        // One acknowledgement is enough: errors come unasked.
        self.writer.set_flag(self.last, ACK);
        let end = u32::try_from(self.kinds.len() + 1).unwrap_or(u32::MAX);
        let open = self.writer.message(BATCH_END, REQUEST, end, 0, SUBSYSTEM);
        self.writer.end_message(open);
        let name = |sequence: u32| {
            let kind = (sequence as usize).checked_sub(1).and_then(|at| self.kinds.get(at));
            kind.map_or_else(
                || "nftables".to_owned(),
                |kind| format!("nftables message {sequence}, {kind:?}"),
            )
        };
        socket.transact(&self.writer.bytes, name)
    }

    fn message(&mut self, kind: Kind, flags: u16, family: Family) -> Open {
        self.message_of(kind, flags, family.number())
    }

    fn message_of(&mut self, kind: Kind, flags: u16, family: u8) -> Open {
        self.last = self.writer.bytes.len();
        self.kinds.push(kind);
        let sequence = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
        self.writer.message((SUBSYSTEM << 8) | kind as u16, REQUEST | flags, sequence, family, 0)
    }

    /// Makes a table; fine when it is there.
    pub fn add_table(&mut self, table: &Table) {
        let open = self.message(Kind::NewTable, CREATE, table.family);
        self.writer.name(1, &table.name);
        self.writer.end_message(open);
    }

    /// Removes a table and everything in it; it must be there.
    pub fn delete_table(&mut self, table: &Table) {
        let open = self.message(Kind::DelTable, 0, table.family);
        self.writer.name(1, &table.name);
        self.writer.end_message(open);
    }

    /// Removes a table of family `inet`, there or not: what came from the `nft` program.
    pub fn forget_inet_table(&mut self, name: &str) {
        const INET: u8 = 1;
        for (kind, flags) in [(Kind::NewTable, CREATE), (Kind::DelTable, 0)] {
            let open = self.message_of(kind, flags, INET);
            self.writer.name(1, name);
            self.writer.end_message(open);
        }
    }

    /// Makes a chain that others jump to; fine when it is there.
    pub fn add_chain(&mut self, table: &Table, name: &str) {
        let open = self.message(Kind::NewChain, CREATE, table.family);
        self.writer.name(1, &table.name);
        self.writer.name(3, name);
        self.writer.end_message(open);
    }

    /// Makes a chain at a hook, policy accept.
    pub fn add_base_chain(&mut self, table: &Table, name: &str, kind: ChainType, hook: Hook, priority: i32) {
        let open = self.message(Kind::NewChain, CREATE, table.family);
        self.writer.name(1, &table.name);
        self.writer.name(3, name);
        self.writer.nested(4, |w| {
            w.number(1, hook as u32);
            w.number(2, priority.cast_unsigned());
        });
        self.writer.name(7, if kind == ChainType::Nat { "nat" } else { "filter" });
        self.writer.end_message(open);
    }

    /// Takes all rules out of a chain.
    pub fn flush_chain(&mut self, table: &Table, name: &str) {
        let open = self.message(Kind::DelRule, 0, table.family);
        self.writer.name(1, &table.name);
        self.writer.name(2, name);
        self.writer.end_message(open);
    }

    /// Removes an empty chain that nothing leads to.
    pub fn delete_chain(&mut self, table: &Table, name: &str) {
        let open = self.message(Kind::DelChain, 0, table.family);
        self.writer.name(1, &table.name);
        self.writer.name(3, name);
        self.writer.end_message(open);
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        let open = self.message(Kind::NewRule, CREATE | APPEND, table.family);
        self.writer.name(1, &table.name);
        self.writer.name(2, chain);
        self.writer.nested(4, |w| w.bytes.extend(&rule.expressions.bytes));
        self.writer.end_message(open);
    }

    /// Makes a set or map; fine when the same is there.
    pub fn add_set(&mut self, table: &Table, set: &Set) {
        const MAP: u32 = 0x8;
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        const VERDICTS: u32 = 0xffff_ff00;
        let of_values = if set.values == Values::None { 0 } else { MAP };
        let of_life = if set.dynamic.is_some() { TIMEOUT | EVAL } else { 0 };
        self.sets += 1;
        let id = self.sets;
        let open = self.message(Kind::NewSet, CREATE, table.family);
        let w = &mut self.writer;
        w.name(1, &table.name);
        w.name(2, &set.name);
        w.number(3, of_values | of_life);
        w.number(4, concatenated(&set.key));
        w.number(5, 4 * set.key.iter().map(|t| t.words()).sum::<u32>());
        match &set.values {
            Values::None => {}
            Values::Verdicts => w.number(6, VERDICTS),
            Values::Data(types) => {
                w.number(6, concatenated(types));
                w.number(7, 4 * types.iter().map(|t| t.words()).sum::<u32>());
            }
        }
        if let Some(size) = set.dynamic {
            w.nested(9, |w| w.number(1, size));
        }
        w.number(10, id);
        w.end_message(open);
    }

    /// Removes a set that no rule looks into.
    pub fn delete_set(&mut self, table: &Table, name: &str) {
        let open = self.message(Kind::DelSet, 0, table.family);
        self.writer.name(1, &table.name);
        self.writer.name(2, name);
        self.writer.end_message(open);
    }

    /// Puts elements into a set. One that is there with another value is an error.
    pub fn add_elements<'a>(
        &mut self,
        table: &Table,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.elements(Kind::NewElements, CREATE, table, set, elements);
    }

    /// Takes elements out of a set, by their keys; each must be there.
    pub fn delete_elements<'a>(
        &mut self,
        table: &Table,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.elements(Kind::DelElements, 0, table, set, elements);
    }

    fn elements<'a>(
        &mut self,
        kind: Kind,
        flags: u16,
        table: &Table,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let open = self.message(kind, flags, table.family);
            self.writer.name(1, &table.name);
            self.writer.name(2, set);
            let list = self.writer.nest(3);
            let begin = self.writer.bytes.len();
            while self.writer.bytes.len() - begin < ELEMENTS_A_MESSAGE {
                let Some(element) = elements.next() else { break };
                write_element(&mut self.writer, element, matches!(kind, Kind::NewElements));
            }
            self.writer.end_nest(list);
            self.writer.end_message(open);
        }
    }
}

fn concatenated(types: &[DataType]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | *one as u32)
}

fn write_element(writer: &mut Writer, element: &Element, is_new: bool) {
    let open = writer.nest(LIST_ELEMENT);
    writer.nested(1, |w| w.attribute(1, &element.key));
    if is_new {
        match &element.value {
            Value::None => {}
            Value::Verdict(verdict) => writer.nested(2, |w| write_verdict(w, verdict)),
            Value::Data(bytes) => writer.nested(2, |w| w.attribute(1, bytes)),
        }
        if let Some((whole, left)) = element.life {
            writer.attribute(4, &milliseconds(whole).to_be_bytes());
            writer.attribute(5, &milliseconds(left).to_be_bytes());
        }
    }
    writer.end_nest(open);
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// As the content of a data attribute.
fn write_verdict(writer: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    writer.nested(2, |w| {
        w.number(1, i32::cast_unsigned(code));
        if let Some(chain) = chain {
            w.name(2, chain);
        }
    });
}

/// What a payload expression counts from.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// The IP header.
    Network = 1,
    /// The transport header.
    Transport = 2,
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug)]
pub enum Meta {
    /// The mark.
    Mark = 3,
    /// The transport protocol.
    Protocol = 16,
}

/// What is known of a packet's flow.
#[derive(Clone, Copy, Debug)]
pub enum Ct {
    /// A bit for each state: 8 is new.
    State = 0,
    /// Bits of `IPS_*`: 32 is destination NAT.
    Status = 2,
    /// The port that the first packet was sent to.
    OriginalPort = 12,
    /// The IPv4 address that the first packet was sent to.
    OriginalIp = 20,
    /// The IPv6 address that the first packet was sent to.
    OriginalIp6 = 22,
}

/// An address of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// Source.
    Source = 1,
    /// Destination.
    Destination = 2,
}

/// The expressions of one rule, in the order in which they run. An expression that does not match ends the rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    expressions: Writer,
}

impl Rule {
    /// Without any expression.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, name: &str, data: impl FnOnce(&mut Writer)) -> Self {
        self.expressions.nested(LIST_ELEMENT, |w| {
            w.name(1, name);
            w.nested(2, data);
        });
        self
    }

    /// Loads bytes of a header.
    pub fn load(self, base: Base, offset: u32, length: u32, into: u32) -> Self {
        self.with("payload", |w| {
            for (kind, value) in [(1, into), (2, base as u32), (3, offset), (4, length)] {
                w.number(kind, value);
            }
        })
    }

    /// Loads what is known of the packet.
    pub fn meta(self, key: Meta, into: u32) -> Self {
        self.with("meta", |w| {
            w.number(1, into);
            w.number(2, key as u32);
        })
    }

    /// Sets the packet's mark.
    pub fn set_mark(self, from: u32) -> Self {
        self.with("meta", |w| {
            w.number(2, Meta::Mark as u32);
            w.number(3, from);
        })
    }

    /// Loads what is known of the flow.
    pub fn ct(self, key: Ct, into: u32) -> Self {
        self.with("ct", |w| {
            w.number(1, into);
            w.number(2, key as u32);
            if matches!(key, Ct::OriginalPort | Ct::OriginalIp | Ct::OriginalIp6) {
                w.attribute(3, &[0]);
            }
        })
    }

    /// Goes on only if the address is one of this host's own.
    pub fn is_local(self, side: Side) -> Self {
        const ADDRESS_TYPE: u32 = 3;
        const LOCAL: u32 = 2;
        let rule = self.with("fib", |w| {
            w.number(1, R0);
            w.number(2, ADDRESS_TYPE);
            w.number(3, side as u32);
        });
        rule.compare(R0, true, &LOCAL.to_ne_bytes())
    }

    /// Goes on only if the way back to the packet's source does not leave by the link that it came in by.
    pub fn came_astray(self) -> Self {
        const OUTPUT_LINK: u32 = 1;
        const SOURCE_AND_INPUT_LINK: u32 = 1 | 8;
        let rule = self.with("fib", |w| {
            w.number(1, R0);
            w.number(2, OUTPUT_LINK);
            w.number(3, SOURCE_AND_INPUT_LINK);
        });
        rule.compare(R0, true, &[0; 4])
    }

    /// Goes on only if the register is equal (or is not equal) to these bytes.
    pub fn compare(self, register: u32, is_equal: bool, bytes: &[u8]) -> Self {
        self.compare_as(register, u32::from(!is_equal), bytes)
    }

    /// Goes on only if the register, as a big-endian number, is these bytes or more.
    pub fn at_least(self, register: u32, bytes: &[u8]) -> Self {
        const AT_LEAST: u32 = 5;
        self.compare_as(register, AT_LEAST, bytes)
    }

    /// Goes on only if the register, as a big-endian number, is these bytes or less.
    pub fn at_most(self, register: u32, bytes: &[u8]) -> Self {
        const AT_MOST: u32 = 3;
        self.compare_as(register, AT_MOST, bytes)
    }

    fn compare_as(self, register: u32, operator: u32, bytes: &[u8]) -> Self {
        self.with("cmp", |w| {
            w.number(1, register);
            w.number(2, operator);
            w.nested(3, |w| w.attribute(1, bytes));
        })
    }

    /// Counts packets and bytes, for people who list the rules.
    pub fn counter(self) -> Self {
        self.with("counter", |_| {})
    }

    /// `register = register & mask ^ xor`.
    pub fn bits(self, register: u32, mask: &[u8], xor: &[u8]) -> Self {
        self.with("bitwise", |w| {
            w.number(1, register);
            w.number(2, register);
            w.number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            w.nested(4, |w| w.attribute(1, mask));
            w.nested(5, |w| w.attribute(1, xor));
        })
    }

    /// A random number below `modulus`.
    pub fn random(self, modulus: u32, into: u32) -> Self {
        self.with("numgen", |w| {
            w.number(1, into);
            w.number(2, modulus);
            w.number(3, 1);
            w.number(4, 0);
        })
    }

    /// Goes on only if the set has the key.
    pub fn is_in(self, set: &str, key: u32) -> Self {
        self.with("lookup", |w| {
            w.name(1, set);
            w.number(2, key);
        })
    }

    /// Loads what the map has for the key, or ends the rule.
    pub fn map(self, set: &str, key: u32, into: u32) -> Self {
        self.with("lookup", |w| {
            w.name(1, set);
            w.number(2, key);
            w.number(3, into);
        })
    }

    /// Does what the verdict map has for the key, or ends the rule.
    pub fn verdict_map(self, set: &str, key: u32) -> Self {
        self.map(set, key, VERDICT_REGISTER)
    }

    /// Renews the element's time, or adds it with this data.
    pub fn remember(self, set: &str, key: u32, data: u32, life: Duration) -> Self {
        const UPDATE: u32 = 1;
        self.with("dynset", |w| {
            w.name(1, set);
            w.number(3, UPDATE);
            w.number(4, key);
            w.number(5, data);
            w.attribute(6, &milliseconds(life).to_be_bytes());
        })
    }

    /// Leads the flow to the address and port in the registers.
    pub fn dnat(self, family: Family, address: u32, port: u32) -> Self {
        self.with("nat", |w| {
            for (kind, value) in [(1, 1), (2, u32::from(family.number())), (3, address), (5, port)] {
                w.number(kind, value);
            }
        })
    }

    /// Gives the flow an address of this host as its source, with a random port.
    pub fn masquerade(self) -> Self {
        const FULLY_RANDOM: u32 = 16;
        self.with("masq", |w| w.number(1, FULLY_RANDOM))
    }

    /// Answers with a TCP reset; only after TCP is made sure of.
    pub fn reject_tcp(self) -> Self {
        self.with("reject", |w| {
            w.number(1, 1);
            w.attribute(2, &[0]);
        })
    }

    /// Answers with ICMP port unreachable.
    pub fn reject(self, family: Family) -> Self {
        let port_unreachable = if family == Family::Ip { 3 } else { 4 };
        self.with("reject", |w| {
            w.number(1, 0);
            w.attribute(2, &[port_unreachable]);
        })
    }

    /// Ends with a verdict.
    pub fn verdict(self, verdict: &Verdict) -> Self {
        self.with("immediate", |w| {
            w.number(1, VERDICT_REGISTER);
            w.nested(2, |w| write_verdict(w, verdict));
        })
    }
}

/// Is there a table of that name? `family` is one of `NFPROTO_*`: 1 inet, 2 IPv4, 10 IPv6.
pub fn has_table(socket: &Socket, family: u8, name: &str) -> Result<bool> {
    const GET_TABLE: u16 = 1;
    let mut writer = Writer::default();
    let open = writer.message((SUBSYSTEM << 8) | GET_TABLE, REQUEST, 1, family, 0);
    writer.name(1, name);
    writer.end_message(open);
    match socket.ask(&writer.bytes, &format!("look for table {name}"), |_| {}) {
        Err(error) if error.is_missing() => Ok(false),
        other => other.map(|()| true),
    }
}

/// The elements of a set that holds data (not verdicts); an error when table or set are missing.
pub fn elements(socket: &Socket, table: &Table, set: &str) -> Result<Vec<Element>> {
    let mut writer = Writer::default();
    let kind = (SUBSYSTEM << 8) | Kind::GetElements as u16;
    let open = writer.message(kind, REQUEST | DUMP, 1, table.family.number(), 0);
    writer.name(1, &table.name);
    writer.name(2, set);
    writer.end_message(open);
    let mut all = Vec::new();
    socket.dump(&writer.bytes, &format!("list elements of {set}"), |body| {
        let list = body.get(FULL_HEADER - HEADER..).and_then(|body| find(body, 3)).unwrap_or_default();
        all.extend(attributes(list).filter_map(|(_, element)| read_element(element)));
    })?;
    Ok(all)
}

fn read_element(element: &[u8]) -> Option<Element> {
    let data = |kind| find(element, kind).and_then(|data| find(data, 1)).map(<[u8]>::to_vec);
    let time = |kind| -> Option<Duration> {
        Some(Duration::from_millis(u64::from_be_bytes(find(element, kind)?.try_into().ok()?)))
    };
    let life = time(4).zip(time(5));
    Some(Element { key: data(1)?, value: data(2).map_or(Value::None, Value::Data), life })
}
