//! IPVS messages as bytes (`linux/ip_vs.h`, `linux/genetlink.h`): a netlink header, a generic netlink
//! header, and nested attributes, in the order in which ipvsadm writes them.
//!
//! Numbers are in the machine's order, ports and the IPv4 netmask in the network's. An address always
//! takes 16 bytes; an IPv4 address is the first four.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// `GENL_ID_CTRL`: the family that knows the others.
const CONTROL_FAMILY: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `IPVS_GENL_VERSION`; the control family's version is the same.
const VERSION: u8 = 1;

/// `NLM_F_REQUEST` with `NLM_F_ACK`, and with `NLM_F_DUMP` as well.
const REQUEST_ACK: u16 = 1 | 4;
const REQUEST_DUMP: u16 = 1 | 4 | 0x300;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Lengths of the netlink and the generic netlink header.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
/// `NLA_F_NESTED`, and the bits of a type that are the type.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// `IP_VS_SVC_F_PERSISTENT`.
const PERSISTENT: u32 = 1;
/// `IP_VS_CONN_F_MASQ`: forwarding by NAT, the only method that changes ports.
const FORWARD_NAT: u32 = 0;

/// Transport protocols that IPVS balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn number(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|p| p.number() == number)
    }
}

/// What tells virtual services apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Protocol.
    pub protocol: Protocol,
    /// Address and port that clients use.
    pub address: SocketAddr,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.protocol, self.address)
    }
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// Protocol, address and port.
    pub key: ServiceKey,
    /// Name of the scheduler module (`rr`, `wrr`, `lc`, `sh`, …).
    pub scheduler: String,
    /// Clients stay with their destination for so many seconds after their last connection.
    pub persistent_s: Option<u32>,
}

/// One destination; packets go there with the client's address kept (NAT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// Address and port of the server.
    pub address: SocketAddr,
    /// 0 takes no new connections.
    pub weight: u32,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// New virtual service.
    AddService(VirtualService),
    /// New scheduler or persistence of one.
    SetService(VirtualService),
    /// Gone, with its destinations.
    DeleteService(ServiceKey),
    /// New destination.
    AddDestination(ServiceKey, Destination),
    /// New weight of one.
    SetDestination(ServiceKey, Destination),
    /// Gone; packets of its connections are dropped from now on.
    DeleteDestination(ServiceKey, SocketAddr),
}

impl Command {
    /// `IPVS_CMD_*`.
    fn number(&self) -> u8 {
        match self {
            Self::AddService(_) => 1,
            Self::SetService(_) => 2,
            Self::DeleteService(_) => 3,
            Self::AddDestination(..) => 5,
            Self::SetDestination(..) => 6,
            Self::DeleteDestination(..) => 7,
        }
    }
}

/// `IPVS_CMD_GET_SERVICE` and `IPVS_CMD_GET_DEST`.
const GET_SERVICE: u8 = 4;
const GET_DESTINATION: u8 = 8;

/// `IPVS_CMD_ATTR_*`.
mod top {
    pub(super) const SERVICE: u16 = 1;
    pub(super) const DESTINATION: u16 = 2;
}

/// `IPVS_SVC_ATTR_*`.
mod service {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDRESS: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const SCHEDULER: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
}

/// `IPVS_DEST_ATTR_*`.
mod destination {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const FORWARDING: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const UPPER: u16 = 5;
    pub(super) const LOWER: u16 = 6;
    pub(super) const ACTIVE: u16 = 7;
    pub(super) const INACTIVE: u16 = 8;
    pub(super) const FAMILY: u16 = 11;
}

/// Asks the control family for the number of the family `IPVS`.
pub fn get_family(sequence: u32) -> Vec<u8> {
    let mut message = Message::new(CONTROL_FAMILY, REQUEST_ACK, sequence, GET_FAMILY);
    message.attribute(FAMILY_NAME, b"IPVS\0");
    message.finish()
}

/// The number out of the answer to [`get_family`].
pub fn family_number(payload: &[u8]) -> Option<u16> {
    attributes(payload).find(|(kind, _)| *kind == FAMILY_ID).and_then(|(_, value)| u16_of(value))
}

/// A command as one netlink message to `family` that asks for an acknowledgement.
pub fn command(family: u16, sequence: u32, command: &Command) -> Vec<u8> {
    let mut message = Message::new(family, REQUEST_ACK, sequence, command.number());
    match command {
        Command::AddService(all) | Command::SetService(all) => message.service(&all.key, Some(all)),
        Command::DeleteService(key) => message.service(key, None),
        Command::AddDestination(key, one) | Command::SetDestination(key, one) => {
            message.service(key, None);
            message.destination(one);
        }
        Command::DeleteDestination(key, address) => {
            message.service(key, None);
            message.destination(&Destination { address: *address, weight: 0 });
        }
    }
    message.finish()
}

/// Asks for all virtual services.
pub fn dump_services(family: u16, sequence: u32) -> Vec<u8> {
    Message::new(family, REQUEST_DUMP, sequence, GET_SERVICE).finish()
}

/// Asks for all destinations of one.
pub fn dump_destinations(family: u16, sequence: u32, key: &ServiceKey) -> Vec<u8> {
    let mut message = Message::new(family, REQUEST_DUMP, sequence, GET_DESTINATION);
    message.service(key, None);
    message.finish()
}

/// A message under construction.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(family: u16, flags: u16, sequence: u32, command: u8) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(family.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend([command, VERSION, 0, 0]);
        Self { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("our attributes are short");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("our attributes are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        let mut sixteen = [0; 16];
        match address {
            IpAddr::V4(v4) => sixteen[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => sixteen = v6.octets(),
        }
        self.attribute(kind, &sixteen);
    }

    fn service(&mut self, key: &ServiceKey, rest: Option<&VirtualService>) {
        self.nested(top::SERVICE, |m| {
            m.attribute(service::FAMILY, &family_of(key.address).to_ne_bytes());
            m.attribute(service::PROTOCOL, &key.protocol.number().to_ne_bytes());
            m.address(service::ADDRESS, key.address.ip());
            m.attribute(service::PORT, &key.address.port().to_be_bytes());
            if let Some(all) = rest {
                m.scheduling(all);
            }
        });
    }

    fn scheduling(&mut self, all: &VirtualService) {
        let name = [all.scheduler.as_bytes(), b"\0"].concat();
        self.attribute(service::SCHEDULER, &name);
        let flags = if all.persistent_s.is_some() { PERSISTENT } else { 0 };
        // The mask says which flags count: all of them.
        self.attribute(service::FLAGS, &[flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat());
        self.attribute(service::TIMEOUT, &all.persistent_s.unwrap_or(0).to_ne_bytes());
        // Persistence is for a single client: a full IPv4 mask, or the IPv6 prefix length.
        let mask = if all.key.address.is_ipv4() { u32::MAX } else { 128 };
        self.attribute(service::NETMASK, &mask.to_ne_bytes());
    }

    fn destination(&mut self, one: &Destination) {
        self.nested(top::DESTINATION, |m| {
            m.attribute(destination::FAMILY, &family_of(one.address).to_ne_bytes());
            m.address(destination::ADDRESS, one.address.ip());
            m.attribute(destination::PORT, &one.address.port().to_be_bytes());
            m.attribute(destination::FORWARDING, &FORWARD_NAT.to_ne_bytes());
            m.attribute(destination::WEIGHT, &one.weight.to_ne_bytes());
            // No limits on connections.
            m.attribute(destination::UPPER, &0u32.to_ne_bytes());
            m.attribute(destination::LOWER, &0u32.to_ne_bytes());
        });
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("our messages are short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

fn family_of(address: SocketAddr) -> u16 {
    let family = if address.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
    u16::try_from(family).expect("address families are small")
}

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The end of a dump.
    Done,
    /// What became of the command with this sequence number: 0, or an errno.
    Result {
        /// The command's number.
        sequence: u32,
        /// 0, or an errno.
        errno: i32,
    },
    /// Attributes of one object.
    Object(&'a [u8]),
}

/// The messages in one datagram from the kernel; a cut-off one ends them.
pub fn answers(mut datagram: &[u8]) -> Vec<Answer<'_>> {
    let mut found = Vec::new();
    while let Some(length) = u32_at(datagram, 0).map(|length| length as usize) {
        if length < HEADER || length > datagram.len() {
            break;
        }
        found.extend(answer(&datagram[..length]));
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    found
}

fn answer(message: &[u8]) -> Option<Answer<'_>> {
    match u16_of(&message[4..6])? {
        DONE => Some(Answer::Done),
        ERROR => {
            let errno = -i32::from_ne_bytes(message.get(HEADER..HEADER + 4)?.try_into().ok()?);
            Some(Answer::Result { sequence: u32_at(message, 8)?, errno })
        }
        _ => message.get(HEADER + GENERIC_HEADER..).map(Answer::Object),
    }
}

/// A virtual service out of a dump; `None` for one by firewall mark.
pub fn read_service(object: &[u8]) -> Option<VirtualService> {
    let inside = nested_in(object, top::SERVICE)?;
    let get = |kind| attributes(inside).find(|(k, _)| *k == kind).map(|(_, value)| value);
    let family = u16_of(get(service::FAMILY)?)?;
    let protocol = Protocol::from_number(u16_of(get(service::PROTOCOL)?)?)?;
    let address = read_address(family, get(service::ADDRESS)?, get(service::PORT)?)?;
    let name = get(service::SCHEDULER)?.split(|b| *b == 0).next()?;
    let flags = u32_at(get(service::FLAGS)?, 0)?;
    let timeout = u32_at(get(service::TIMEOUT)?, 0)?;
    Some(VirtualService {
        key: ServiceKey { protocol, address },
        scheduler: String::from_utf8_lossy(name).into_owned(),
        persistent_s: (flags & PERSISTENT != 0).then_some(timeout),
    })
}

/// A destination out of a dump of `of`, with its connections, active or closing.
pub fn read_destination(of: &ServiceKey, object: &[u8]) -> Option<(Destination, u32)> {
    let inside = nested_in(object, top::DESTINATION)?;
    let get = |kind| attributes(inside).find(|(k, _)| *k == kind).map(|(_, value)| value);
    // Kernels before 3.18 do not say the family: it is the service's.
    let family = get(destination::FAMILY).and_then(u16_of).unwrap_or(family_of(of.address));
    let address = read_address(family, get(destination::ADDRESS)?, get(destination::PORT)?)?;
    let number = |kind| get(kind).and_then(|value| u32_at(value, 0)).unwrap_or(0);
    let weight = number(destination::WEIGHT);
    let connections = number(destination::ACTIVE).saturating_add(number(destination::INACTIVE));
    Some((Destination { address, weight }, connections))
}

fn read_address(family: u16, address: &[u8], port: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(port.get(..2)?.try_into().ok()?);
    let ip: IpAddr = match i32::from(family) {
        nix::libc::AF_INET => <[u8; 4]>::try_from(address.get(..4)?).ok()?.into(),
        nix::libc::AF_INET6 => <[u8; 16]>::try_from(address.get(..16)?).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn nested_in(object: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(object).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// Type and value of each attribute; a cut-off one ends them.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_of(bytes)?);
        let kind = u16_of(bytes.get(2..)?)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ipvsadm 1.31 with libnl 3.7 sent to a Linux 6.1 in which IPVS had the number 0x20, without the
    /// netlink header's sequence and port. Where a comment says so, attributes are left out that the kernel
    /// does not need: scheduling of the service when only a destination changes, and tunnels.
    const FAMILY: u16 = 0x20;

    fn key(protocol: Protocol, address: &str) -> ServiceKey {
        ServiceKey { protocol, address: address.parse().unwrap() }
    }

    fn web() -> ServiceKey {
        key(Protocol::Tcp, "10.96.0.1:443")
    }

    fn dns() -> ServiceKey {
        key(Protocol::Udp, "[fd00:96::a]:53")
    }

    fn service(key: ServiceKey, persistent_s: Option<u32>) -> VirtualService {
        VirtualService { key, scheduler: "rr".into(), persistent_s }
    }

    fn behind(address: &str, weight: u32) -> Destination {
        Destination { address: address.parse().unwrap(), weight }
    }

    fn captured(lines: &[&str]) -> Vec<u8> {
        let digits: String = lines.concat().split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    const WEB: &str =
        "06000100 02000000 06000200 06000000 14000300 0a600001 00000000 00000000 00000000 06000400 01bb0000";
    const DNS: &str =
        "06000100 0a000000 06000200 11000000 14000300 fd000096 00000000 00000000 0000000a 06000400 00350000";

    #[test]
    #[cfg(target_endian = "little")]
    fn commands_are_the_bytes_that_ipvsadm_sends() {
        let cases: [(&str, Command, Vec<u8>); 8] = [
            (
                "-A -t 10.96.0.1:443 -s rr",
                Command::AddService(service(web(), None)),
                captured(&[
                    "01010000 54000180",
                    WEB,
                    "07000600 72720000 0c000700 00000000 ffffffff 08000800 00000000 08000900 ffffffff",
                ]),
            ),
            (
                "-A -u [fd00:96::a]:53 -s rr -p 10800",
                Command::AddService(service(dns(), Some(10800))),
                captured(&[
                    "01010000 54000180",
                    DNS,
                    "07000600 72720000 0c000700 01000000 ffffffff 08000800 302a0000 08000900 80000000",
                ]),
            ),
            (
                "-E -u [fd00:96::a]:53 -s rr",
                Command::SetService(service(dns(), None)),
                captured(&[
                    "02010000 54000180",
                    DNS,
                    "07000600 72720000 0c000700 00000000 ffffffff 08000800 00000000 08000900 80000000",
                ]),
            ),
            // Without scheduling: 0x54 - 0x24 bytes.
            ("-D -t 10.96.0.1:443", Command::DeleteService(web()), captured(&["03010000 30000180", WEB])),
            // From here on without tunnel attributes, too: 0x60 - 0x18 bytes.
            (
                "-a -t 10.96.0.1:443 -r 10.1.1.2:6443 -m -w 1",
                Command::AddDestination(web(), behind("10.1.1.2:6443", 1)),
                captured(&[
                    "05010000 30000180",
                    WEB,
                    "48000280 06000b00 02000000 14000100 0a010102 00000000 00000000 00000000",
                    "06000200 192b0000 08000300 00000000 08000400 01000000 08000500 00000000 08000600 00000000",
                ]),
            ),
            (
                "-a -u [fd00:96::a]:53 -r [fd00:1::2]:5353 -m -w 1",
                Command::AddDestination(dns(), behind("[fd00:1::2]:5353", 1)),
                captured(&[
                    "05010000 30000180",
                    DNS,
                    "48000280 06000b00 0a000000 14000100 fd000001 00000000 00000000 00000002",
                    "06000200 14e90000 08000300 00000000 08000400 01000000 08000500 00000000 08000600 00000000",
                ]),
            ),
            (
                "-e -t 10.96.0.1:443 -r 10.1.1.2:6443 -m -w 0",
                Command::SetDestination(web(), behind("10.1.1.2:6443", 0)),
                captured(&[
                    "06010000 30000180",
                    WEB,
                    "48000280 06000b00 02000000 14000100 0a010102 00000000 00000000 00000000",
                    "06000200 192b0000 08000300 00000000 08000400 00000000 08000500 00000000 08000600 00000000",
                ]),
            ),
            // ipvsadm names a forwarding method and a weight here, which mean nothing.
            (
                "-d -t 10.96.0.1:443 -r 10.1.1.2:6443",
                Command::DeleteDestination(web(), "10.1.1.2:6443".parse().unwrap()),
                captured(&[
                    "07010000 30000180",
                    WEB,
                    "48000280 06000b00 02000000 14000100 0a010102 00000000 00000000 00000000",
                    "06000200 192b0000 08000300 00000000 08000400 00000000 08000500 00000000 08000600 00000000",
                ]),
            ),
        ];
        for (words, given, wanted) in cases {
            let bytes = command(FAMILY, 7, &given);
            let length = u32::try_from(bytes.len()).unwrap();
            let header = [&length.to_ne_bytes()[..], &captured(&["2000 0500 07000000 00000000"])].concat();
            assert_eq!(&bytes[..16], header, "header of {words}");
            assert_eq!(&bytes[16..], wanted, "{words}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn questions_are_the_bytes_that_ipvsadm_sends() {
        let family = captured(&["20000000 1000 0500 01000000 00000000 03010000 09000200 49505653 00000000"]);
        assert_eq!(get_family(1), family);
        let services = captured(&["14000000 2000 0503 02000000 00000000 04010000"]);
        assert_eq!(dump_services(FAMILY, 2), services);
        let destinations = captured(&["44000000 2000 0503 03000000 00000000 08010000 30000180", DNS]);
        assert_eq!(dump_destinations(FAMILY, 3, &dns()), destinations);
    }

    #[test]
    fn what_is_written_reads_back() {
        for (key, one) in [(web(), behind("10.1.1.2:6443", 3)), (dns(), behind("[fd00:1::2]:5353", 0))] {
            for persistent_s in [None, Some(10800)] {
                let wanted = service(key, persistent_s);
                let bytes = command(FAMILY, 1, &Command::AddService(wanted.clone()));
                let [Answer::Object(object)] = answers(&bytes)[..] else { panic!("one object") };
                assert_eq!(read_service(object), Some(wanted));
            }
            let bytes = command(FAMILY, 1, &Command::AddDestination(key, one));
            let [Answer::Object(object)] = answers(&bytes)[..] else { panic!("one object") };
            assert_eq!(read_destination(&key, object), Some((one, 0)));
        }
    }

    #[test]
    fn cut_off_answers_end_the_reading_and_nothing_else() {
        let whole = command(FAMILY, 1, &Command::AddService(service(web(), Some(5))));
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            assert!(answers(&cut).is_empty());
            // A header that lies about its length, or attributes cut in the middle.
            if length >= HEADER + GENERIC_HEADER {
                cut[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
                for answer in answers(&cut) {
                    if let Answer::Object(object) = answer {
                        let _ = read_service(object);
                        let _ = read_destination(&web(), object);
                    }
                }
            }
        }
        let error =
            [20u32.to_ne_bytes(), [2, 0, 0, 0], 9u32.to_ne_bytes(), [0; 4], (-17i32).to_ne_bytes()].concat();
        assert_eq!(answers(&error), [Answer::Result { sequence: 9, errno: 17 }]);
        assert!(answers(&error[..19]).is_empty());
    }
}
