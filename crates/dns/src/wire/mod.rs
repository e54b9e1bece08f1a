//! DNS messages as bytes (RFC 1035, 6891): names, queries in, replies out, and what upstream servers answer.
//!
//! Our own code over borrowed buffers, because a query is answered in less time than a general message type takes to build;
//! the tests read every answer back with an independent implementation.

pub mod message;
pub mod name;
pub mod query;
pub mod reply;

pub use name::Name;
pub use query::Query;
pub use reply::Reply;

/// Bytes of a message's header.
pub const HEADER: usize = 12;
/// What a client without EDNS takes over UDP.
pub const MIN_UDP: usize = 512;
/// What we send and take over UDP: fits every path without fragments (the "DNS flag day" size).
pub const MAX_UDP: usize = 1232;
/// Longest message over TCP.
pub const MAX_TCP: usize = 65_535;
/// The Internet class.
pub const CLASS_IN: u16 = 1;

/// Record types that we treat by name.
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server.
    pub const NS: u16 = 2;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Pointer.
    pub const PTR: u16 = 12;
    /// Host information: the answer to ANY (RFC 8482).
    pub const HINFO: u16 = 13;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Service location.
    pub const SRV: u16 = 33;
    /// EDNS pseudo record.
    pub const OPT: u16 = 41;
    /// Incremental transfer.
    pub const IXFR: u16 = 251;
    /// Transfer.
    pub const AXFR: u16 = 252;
    /// Every type.
    pub const ANY: u16 = 255;
}

/// Response codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rcode {
    /// All well; without answers: the name exists, the type does not.
    NoError = 0,
    /// The query makes no sense.
    FormErr = 1,
    /// We cannot answer now.
    ServFail = 2,
    /// No such name.
    NxDomain = 3,
    /// An operation we do not know.
    NotImp = 4,
    /// We do not want to.
    Refused = 5,
    /// EDNS version above ours; its upper bits go into the OPT record.
    BadVers = 16,
}

/// Flags of the header's second word.
pub mod flag {
    /// A response.
    pub const QR: u16 = 0x8000;
    /// The four bits of the operation.
    pub const OPCODE: u16 = 0x7800;
    /// Authoritative.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Checking disabled.
    pub const CD: u16 = 0x0010;
}

/// The bytes are no DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed DNS message")]
pub struct Malformed;

/// Reads two bytes.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let found = bytes.get(at..at + 2).ok_or(Malformed)?;
    Ok(u16::from_be_bytes([found[0], found[1]]))
}

/// Reads four bytes.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let found = bytes.get(at..at + 4).ok_or(Malformed)?;
    Ok(u32::from_be_bytes([found[0], found[1], found[2], found[3]]))
}
