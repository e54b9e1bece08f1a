//! The flows that the kernel tracks: listed, and taken out so that the next packet is led anew.

use std::net::IpAddr;

use super::wire::{ACK, DUMP, FULL_HEADER, HEADER, REQUEST, Writer, attributes, find};
use super::{Family, Socket};
use crate::error::Result;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where packets of this direction come from.
    pub source: IpAddr,
    /// Where they go to.
    pub destination: IpAddr,
    /// IANA number of the transport protocol.
    pub protocol: u8,
    /// Source port; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port; 0 where the protocol has none.
    pub destination_port: u16,
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// As the first packet was sent.
    pub original: Tuple,
    /// As answers come back: its source is where the packets really went.
    pub reply: Tuple,
    /// Bits of `IPS_*`.
    pub status: u32,
    /// What names the flow to the kernel again.
    key: Key,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Key {
    original: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

/// Hands every flow of a family to `each`.
pub fn list(socket: &Socket, family: Family, mut each: impl FnMut(Flow)) -> Result<()> {
    let mut writer = Writer::default();
    let open = writer.message(GET, REQUEST | DUMP, 1, family.number(), 0);
    writer.end_message(open);
    socket.dump(&writer.bytes, "list flows", |body| {
        if let Some(flow) = body.get(FULL_HEADER - HEADER..).and_then(read_flow) {
            each(flow);
        }
    })
}

/// Takes a flow out; fine when it is gone already.
pub fn delete(socket: &Socket, family: Family, flow: &Flow) -> Result<()> {
    let mut writer = Writer::default();
    let open = writer.message(DELETE, REQUEST | ACK, 1, family.number(), 0);
    writer.nested(TUPLE_ORIGINAL, |w| w.bytes.extend(&flow.key.original));
    for (kind, value) in [(ID, &flow.key.id), (ZONE, &flow.key.zone)] {
        if let Some(value) = value {
            writer.attribute(kind, value);
        }
    }
    writer.end_message(open);
    match socket.transact(&writer.bytes, |_| format!("delete flow {:?}", flow.original)) {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

fn read_flow(body: &[u8]) -> Option<Flow> {
    let original = find(body, TUPLE_ORIGINAL)?;
    let status = find(body, STATUS).and_then(|s| s.try_into().ok()).map_or(0, u32::from_be_bytes);
    let key = Key {
        original: original.to_vec(),
        id: find(body, ID).map(<[u8]>::to_vec),
        zone: find(body, ZONE).map(<[u8]>::to_vec),
    };
    Some(Flow { original: read_tuple(original)?, reply: read_tuple(find(body, TUPLE_REPLY)?)?, status, key })
}

fn read_tuple(body: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    for (kind, value) in attributes(find(body, 1)?) {
        match kind {
            1 | 3 => source = read_address(value),
            2 | 4 => destination = read_address(value),
            _ => {}
        }
    }
    let protocol = find(body, 2)?;
    let port = |kind| find(protocol, kind).and_then(|p| p.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        source: source?,
        destination: destination?,
        protocol: *find(protocol, 1)?.first()?,
        source_port: port(2),
        destination_port: port(3),
    })
}

fn read_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(value) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}
