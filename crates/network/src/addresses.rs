//! Which pod has which address: a pure allocator, and one small file per attached sandbox.
//!
//! The records on disk are the truth; the allocator is rebuilt from them. A record is published by rename
//! before any link exists, so a crash at any point leaves an address reserved, never handed out twice, and
//! `reconcile` gives it back.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::types::{NetworkError, PodIps, PortMapping};

/// Larger pod CIDRs are cut to this many addresses, which bounds the free list's memory (256 KiB).
const MAX_ADDRESSES: usize = 65_536;
/// Extension of files that are being written.
const DRAFT: &str = "tmp";
/// File with the IPv6 range.
const CIDR_V6: &str = "pod-cidr-v6";

/// What is remembered of one attached sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The CRI sandbox id.
    pub sandbox_id: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, in a dual-stack cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_v6: Option<Ipv6Addr>,
    /// Name of the veth end on the host.
    pub link: String,
    /// Host ports that lead to the pod.
    pub ports: Vec<PortMapping>,
    /// The link has a route of its own; pods of earlier versions are ports of the bridge.
    #[serde(default)]
    pub routed: bool,
}

impl Record {
    /// All addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(IpAddr::V4(self.address)), self.address_v6.map(IpAddr::V6)].into_iter().flatten()
    }

    /// What is told of them.
    pub fn ips(&self, prefers_v6: bool) -> PodIps {
        match self.address_v6.map(IpAddr::V6) {
            Some(six) if prefers_v6 => PodIps { primary: six, additional: vec![self.address.into()] },
            other => PodIps { primary: self.address.into(), additional: other.into_iter().collect() },
        }
    }
}

/// Hands out the addresses of one CIDR, the one free for the longest time first, so that late packets for
/// a deleted pod seldom meet a new one.
#[derive(Debug)]
pub(crate) struct Allocator {
    cidr: Ipv4Net,
    free: VecDeque<Ipv4Addr>,
}

impl Allocator {
    /// All addresses but network, gateway (the first) and broadcast. `taken` are in use; allocation starts
    /// behind `last`, the address given out last before a restart.
    pub fn new(cidr: Ipv4Net, taken: &[Ipv4Addr], last: Option<Ipv4Addr>) -> Result<Self, NetworkError> {
        if cidr.prefix_len() > 29 {
            return Err(NetworkError::BadCidr {
                cidr: cidr.into(),
                reason: "at least a /29 is needed".into(),
            });
        }
        let mut free: VecDeque<_> =
            cidr.hosts().skip(1).take(MAX_ADDRESSES).filter(|address| !taken.contains(address)).collect();
        if let Some(last) = last {
            let passed = free.iter().take_while(|address| **address <= last).count();
            free.rotate_left(passed);
        }
        Ok(Self { cidr, free })
    }

    /// The CIDR this allocator serves.
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// Takes the least recently used address.
    pub fn take(&mut self) -> Result<Ipv4Addr, NetworkError> {
        self.free.pop_front().ok_or(NetworkError::NoFreeAddress(self.cidr))
    }

    /// Gives an address back; one that is free already or foreign is ignored.
    pub fn give_back(&mut self, address: Ipv4Addr) {
        if self.cidr.contains(&address) && !self.free.contains(&address) {
            self.free.push_back(address);
        }
    }
}

/// The node's own address on the bridge: the first of the pod CIDR.
pub(crate) fn gateway(cidr: Ipv4Net) -> Ipv4Addr {
    cidr.hosts().next().unwrap_or_else(|| cidr.network())
}

/// The same of IPv6: the one behind the network's own.
pub(crate) fn gateway_v6(cidr: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(cidr.network()) | 1)
}

/// The address of `six` at the place that `address` has in `four`.
fn counterpart(address: Ipv4Addr, four: Ipv4Net, six: Ipv6Net) -> Ipv6Addr {
    let place = u32::from(address) - u32::from(four.network()).min(u32::from(address));
    Ipv6Addr::from(u128::from(six.network()) | u128::from(place))
}

/// Records and allocator of one node.
#[derive(Debug)]
pub(crate) struct Addresses {
    dir: PathBuf,
    allocator: Option<Allocator>,
    cidr_v6: Option<Ipv6Net>,
    records: BTreeMap<String, Record>,
}

impl Addresses {
    /// Reads the records in `dir` (made when missing). A record that cannot be read is dropped with a
    /// warning: it can only be the trace of a power loss, after which no pod lives.
    pub fn load(dir: &Path, cidr: Option<Ipv4Net>) -> Result<Self, NetworkError> {
        let records_dir = dir.join("sandboxes");
        std::fs::create_dir_all(&records_dir)
            .map_err(NetworkError::io(format!("make {}", records_dir.display())))?;
        let records = read_records(&records_dir)?;
        let mut addresses = Self { dir: dir.to_owned(), allocator: None, cidr_v6: None, records };
        if let Some(cidr) = cidr.or_else(|| read_text(&dir.join("pod-cidr")).and_then(|t| t.parse().ok())) {
            addresses.set_cidr(cidr)?;
        }
        addresses.cidr_v6 = read_text(&dir.join(CIDR_V6)).and_then(|text| text.parse().ok());
        Ok(addresses)
    }

    /// Sets the pod CIDR; another one is refused while pods hold addresses outside it.
    pub fn set_cidr(&mut self, cidr: Ipv4Net) -> Result<(), NetworkError> {
        let cidr = cidr.trunc();
        if self.cidr() == Some(cidr) {
            return Ok(());
        }
        if let Some(record) = self.records.values().find(|record| !cidr.contains(&record.address)) {
            let reason = format!("sandbox {} holds {}", record.sandbox_id, record.address);
            return Err(NetworkError::BadCidr { cidr: cidr.into(), reason });
        }
        let taken: Vec<_> = self.records.values().map(|record| record.address).collect();
        let last = read_text(&self.dir.join("last-address")).and_then(|text| text.parse().ok());
        self.allocator = Some(Allocator::new(cidr, &taken, last)?);
        write_atomically(&self.dir.join("pod-cidr"), cidr.to_string().as_bytes())
    }

    /// Sets the IPv6 range, or that there is none; another one is refused while pods hold addresses outside it. Set the IPv4 range
    /// first: this one must have a place for each of its addresses.
    pub fn set_cidr_v6(&mut self, cidr: Option<Ipv6Net>) -> Result<(), NetworkError> {
        let cidr = cidr.map(|cidr| cidr.trunc());
        if self.cidr_v6 == cidr {
            return Ok(());
        }
        let path = self.dir.join(CIDR_V6);
        let Some(cidr) = cidr else {
            self.cidr_v6 = None;
            return remove_file(&path);
        };
        let bad = |reason: String| Err(NetworkError::BadCidr { cidr: cidr.into(), reason });
        let outside = |record: &&Record| record.address_v6.is_some_and(|six| !cidr.contains(&six));
        if let Some(record) = self.records.values().find(outside) {
            return bad(format!("sandbox {} holds an address outside", record.sandbox_id));
        }
        if self.cidr().is_some_and(|four| 32 - four.prefix_len() > 128 - cidr.prefix_len()) {
            return bad("it is smaller than the IPv4 range".into());
        }
        write_atomically(&path, cidr.to_string().as_bytes())?;
        self.cidr_v6 = Some(cidr);
        Ok(())
    }

    /// The IPv6 range, once known.
    pub fn cidr_v6(&self) -> Option<Ipv6Net> {
        self.cidr_v6
    }

    /// The pod CIDR, once known.
    pub fn cidr(&self) -> Option<Ipv4Net> {
        self.allocator.as_ref().map(Allocator::cidr)
    }

    /// The record of `sandbox_id`, made with a fresh address when there is none.
    pub fn reserve(
        &mut self,
        sandbox_id: &str,
        link: String,
        ports: Vec<PortMapping>,
    ) -> Result<Record, NetworkError> {
        if let Some(record) = self.records.get_mut(sandbox_id) {
            if !record.routed {
                record.routed = true;
                let record = record.clone();
                self.publish(&record)?;
            }
            return Ok(self.records[sandbox_id].clone());
        }
        self.refuse_taken_ports(&ports)?;
        let allocator = self.allocator.as_mut().ok_or(NetworkError::NoPodCidr)?;
        let address = allocator.take()?;
        let four = allocator.cidr();
        let address_v6 = self.cidr_v6.map(|six| counterpart(address, four, six));
        let sandbox_id = sandbox_id.to_owned();
        let record = Record { sandbox_id, address, address_v6, link, ports, routed: true };
        if let Err(error) = self.publish(&record) {
            // It may stand all the same, and would hold an address after a restart that somebody else has by then.
            let _ = remove_file(&self.record_path(&record.sandbox_id));
            if let Some(allocator) = self.allocator.as_mut() {
                allocator.give_back(address);
            }
            return Err(error);
        }
        self.records.insert(record.sandbox_id.clone(), record.clone());
        Ok(record)
    }

    /// Forgets `sandbox_id` and frees its address.
    pub fn release(&mut self, sandbox_id: &str) -> Result<(), NetworkError> {
        let Some(record) = self.records.get(sandbox_id) else { return Ok(()) };
        let path = self.record_path(sandbox_id);
        remove_file(&path)?;
        let address = record.address;
        self.records.remove(sandbox_id);
        if let Some(allocator) = self.allocator.as_mut() {
            allocator.give_back(address);
        }
        Ok(())
    }

    /// The record of one sandbox.
    pub fn get(&self, sandbox_id: &str) -> Option<&Record> {
        self.records.get(sandbox_id)
    }

    /// All records, ordered by sandbox id.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    fn refuse_taken_ports(&self, wanted: &[PortMapping]) -> Result<(), NetworkError> {
        for port in wanted {
            let holder = self.records.values().find(|record| record.ports.iter().any(|p| collides(p, port)));
            if let Some(holder) = holder {
                let port = format!("{}/{}", port.protocol.name(), port.host_port);
                return Err(NetworkError::HostPortTaken { port, holder: holder.sandbox_id.clone() });
            }
        }
        Ok(())
    }

    fn publish(&self, record: &Record) -> Result<(), NetworkError> {
        let text = serde_json::to_vec(record).map_err(|error| NetworkError::Io {
            action: "encode sandbox record".into(),
            source: error.into(),
        })?;
        write_atomically(&self.record_path(&record.sandbox_id), &text)?;
        write_atomically(&self.dir.join("last-address"), record.address.to_string().as_bytes())
    }

    fn record_path(&self, sandbox_id: &str) -> PathBuf {
        self.dir.join("sandboxes").join(sandbox_id)
    }
}

fn collides(a: &PortMapping, b: &PortMapping) -> bool {
    let same_address = a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip;
    a.protocol == b.protocol && a.host_port == b.host_port && same_address
}

fn read_records(dir: &Path) -> Result<BTreeMap<String, Record>, NetworkError> {
    let mut records = BTreeMap::new();
    let entries = std::fs::read_dir(dir).map_err(NetworkError::io(format!("read {}", dir.display())))?;
    for entry in entries {
        let path = entry.map_err(NetworkError::io(format!("read {}", dir.display())))?.path();
        if path.extension().is_some_and(|extension| extension == DRAFT) {
            // A write that was cut off; what it was to replace still stands.
            let _ = std::fs::remove_file(&path);
            continue;
        }
        match std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok()) {
            Some(record) => {
                records.insert(record.sandbox_id.clone(), record);
            }
            None => {
                tracing::warn!(path = %path.display(), "dropping unreadable sandbox network record");
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    Ok(records)
}

fn remove_file(path: &Path) -> Result<(), NetworkError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(NetworkError::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn read_text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Readers see the old or the new content, never a part. Not synced: records matter only as long as the
/// kernel that holds the links lives.
/// Writes nothing that is there already: a node must come back on a disk that has become full.
fn write_atomically(path: &Path, content: &[u8]) -> Result<(), NetworkError> {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(".");
    draft.push(DRAFT);
    let written = std::fs::write(&draft, content).and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        // Half of it would only take room where there is none.
        let _ = std::fs::remove_file(&draft);
    }
    written.map_err(NetworkError::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Protocol;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod-cidr");
        write_atomically(&path, b"10.0.0.0/24").unwrap();
        // Stands in for a full disk: the draft cannot be made.
        std::fs::create_dir(dir.path().join("pod-cidr.tmp")).unwrap();
        write_atomically(&path, b"10.0.0.0/24").unwrap();
        assert!(write_atomically(&path, b"10.0.1.0/24").is_err());
    }

    #[test]
    fn an_address_that_could_not_be_recorded_is_nobodys_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::load(dir.path(), Some(net("10.1.0.0/28"))).unwrap();
        // Stands in for a disk that becomes full behind the record.
        let blocked = dir.path().join("last-address.tmp");
        std::fs::create_dir(&blocked).unwrap();
        assert!(addresses.reserve("a", "va".into(), vec![]).is_err());
        std::fs::remove_dir(&blocked).unwrap();
        assert!(Addresses::load(dir.path(), None).unwrap().get("a").is_none());
    }

    #[test]
    fn what_a_crash_cut_off_goes_silently() {
        let dir = tempfile::tempdir().unwrap();
        let torn = dir.path().join("sandboxes/abc.tmp");
        std::fs::create_dir(dir.path().join("sandboxes")).unwrap();
        std::fs::write(&torn, "{\"sandbox").unwrap();
        assert!(read_records(&dir.path().join("sandboxes")).unwrap().is_empty());
        assert!(!torn.exists());
    }

    fn port(host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol: Protocol::Tcp, host_port, container_port: 80, host_ip }
    }

    #[test]
    fn allocates_least_recently_used_and_never_twice() {
        let mut allocator = Allocator::new(net("10.0.0.0/29"), &[], None).unwrap();
        let mut all: Vec<_> = (0..5).map(|_| allocator.take().unwrap().octets()[3]).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        assert!(matches!(allocator.take(), Err(NetworkError::NoFreeAddress(_))));
        for last in [4, 2] {
            allocator.give_back(Ipv4Addr::new(10, 0, 0, last));
            allocator.give_back(Ipv4Addr::new(10, 0, 0, last));
        }
        allocator.give_back(Ipv4Addr::new(10, 9, 0, 1));
        all = (0..2).map(|_| allocator.take().unwrap().octets()[3]).collect();
        assert_eq!(all, [4, 2]);
        assert!(allocator.take().is_err());
        assert!(Allocator::new(net("10.0.0.0/30"), &[], None).is_err());
    }

    #[test]
    fn records_survive_a_restart_and_order_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Addresses::load(dir.path(), Some(net("10.1.0.0/28"))).unwrap();
        let a = first.reserve("a", "va".into(), vec![port(80, None)]).unwrap();
        assert_eq!(first.reserve("a", "va".into(), vec![]).unwrap(), a);
        let b = first.reserve("b", "vb".into(), vec![]).unwrap();
        first.release("b").unwrap();
        first.release("b").unwrap();
        std::fs::write(dir.path().join("sandboxes/torn"), "{").unwrap();

        let mut second = Addresses::load(dir.path(), None).unwrap();
        assert_eq!(second.cidr(), Some(net("10.1.0.0/28")));
        assert_eq!(second.records().collect::<Vec<_>>(), [&a]);
        let c = second.reserve("c", "vc".into(), vec![]).unwrap();
        assert!(c.address > b.address, "{c:?} comes after {b:?}, free again only since a moment");
        assert!(second.set_cidr(net("10.2.0.0/28")).is_err());
        second.release("a").unwrap();
        second.release("c").unwrap();
        second.set_cidr(net("10.2.0.0/28")).unwrap();
    }

    #[test]
    fn a_second_family_follows_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let six = |text: &str| Some(text.parse::<Ipv6Net>().unwrap());
        let mut addresses = Addresses::load(dir.path(), Some(net("10.1.2.0/24"))).unwrap();
        let single = addresses.reserve("single", "v".into(), vec![]).unwrap();
        assert_eq!((single.address_v6, single.ips(true).additional.len()), (None, 0));
        assert!(addresses.set_cidr_v6(six("fd00::/121")).is_err(), "smaller than the other");
        addresses.set_cidr_v6(six("fd00:1::/64")).unwrap();
        let dual = addresses.reserve("dual", "v".into(), vec![]).unwrap();
        assert_eq!(dual.addresses().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["10.1.2.3", "fd00:1::3"]);
        assert_eq!(dual.ips(true).primary.to_string(), "fd00:1::3");
        assert_eq!(dual.ips(false).primary.to_string(), "10.1.2.3");
        assert_eq!(gateway_v6("fd00:1::/64".parse().unwrap()).to_string(), "fd00:1::1");

        let mut again = Addresses::load(dir.path(), None).unwrap();
        assert_eq!(again.cidr_v6(), six("fd00:1::/64"));
        assert_eq!(again.get("dual"), Some(&dual));
        assert_eq!(again.get("single"), Some(&single));
        assert!(again.set_cidr_v6(six("fd00:2::/64")).is_err());
        again.set_cidr_v6(None).unwrap();
        assert_eq!(Addresses::load(dir.path(), None).unwrap().cidr_v6(), None);
    }

    #[test]
    fn host_ports_collide_by_protocol_port_and_address() {
        let dir = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::load(dir.path(), Some(net("10.1.0.0/28"))).unwrap();
        addresses.reserve("a", "va".into(), vec![port(80, Some("10.0.0.1"))]).unwrap();
        let mut try_port = |id: &str, p: PortMapping| addresses.reserve(id, "v".into(), vec![p]).is_ok();
        assert!(try_port("b", port(80, Some("10.0.0.2"))));
        assert!(!try_port("c", port(80, None)));
        assert!(!try_port("d", port(80, Some("10.0.0.1"))));
        assert!(try_port("e", PortMapping { protocol: Protocol::Udp, ..port(80, None) }));
    }
}
