//! What IPVS must have for a service port, and the commands that get it there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use corten_sys::ipvs::{Command, Destination, Protocol as Transport, ServiceKey, VirtualService};

use crate::config::Config;
use crate::ruleset::{Family, Frontend, PortName, Protocol, Route, ServicePort};

/// Everybody's turn in a circle, as upstream's default.
const SCHEDULER: &str = "rr";
/// The weight of a destination that takes connections.
const TAKES: u32 = 1;
/// The weight of one that only ends those it has.
const DRAINS: u32 = 0;

/// Virtual services with their destinations.
pub(super) type Wanted = BTreeMap<ServiceKey, (VirtualService, BTreeSet<SocketAddr>)>;
/// Destinations that are no longer wanted but have connections.
pub(super) type Draining = BTreeSet<(ServiceKey, SocketAddr)>;

/// IPVS's name of a protocol.
pub(super) fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

/// The virtual services of one service port. Policy Local from inside the cluster is led to the cluster IP by rules.
pub(super) fn wanted(config: &Config, name: &PortName, port: &ServicePort) -> Wanted {
    let mut all = Wanted::new();
    for frontend in port.frontends.iter().filter(|f| !matches!(f.route, Route::Reject | Route::Drop)) {
        let behind: BTreeSet<SocketAddr> =
            port.endpoints_of(frontend.route).iter().map(|e| SocketAddr::new(e.address, e.port)).collect();
        for address in addresses(config, name.family, frontend) {
            let key = ServiceKey {
                protocol: transport(port.protocol),
                address: SocketAddr::new(address, frontend.at.port),
            };
            let service = VirtualService { key, scheduler: SCHEDULER.into(), persistent_s: port.affinity_s };
            all.insert(key, (service, behind.clone()));
        }
    }
    all
}

/// Where a frontend is reached: its address, or those of the node that take node ports.
fn addresses(config: &Config, family: Family, frontend: &Frontend) -> Vec<IpAddr> {
    if let Some(address) = frontend.at.address {
        return vec![address];
    }
    let ranges = config.node_port_ranges_of(family);
    let takes = |ip: &IpAddr| ranges.as_ref().is_none_or(|ranges| ranges.iter().any(|r| r.contains(ip)));
    config.node_ips.iter().copied().filter(|ip| Family::of(*ip) == family && takes(ip)).collect()
}

/// Commands that turn `old` into `new`. Destinations that go while their service stays drain, so that TCP connections live on;
/// `draining` is what drains already, and is brought up to date.
pub(super) fn commands(old: &Wanted, new: &Wanted, draining: &mut Draining) -> Vec<Command> {
    let mut all = Vec::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        all.push(Command::DeleteService(*key));
        draining.retain(|(service, _)| service != key);
    }
    let nothing = BTreeSet::new();
    for (key, (service, behind)) in new {
        let before = old.get(key);
        match before {
            None => all.push(Command::AddService(service.clone())),
            Some((there, _)) if there != service => all.push(Command::SetService(service.clone())),
            Some(_) => {}
        }
        let there = before.map_or(&nothing, |(_, behind)| behind);
        for address in behind.difference(there) {
            let one = Destination { address: *address, weight: TAKES };
            all.push(match draining.remove(&(*key, *address)) {
                true => Command::SetDestination(*key, one),
                false => Command::AddDestination(*key, one),
            });
        }
        for address in there.difference(behind) {
            if key.protocol == Transport::Udp {
                all.push(Command::DeleteDestination(*key, *address));
            } else {
                all.push(Command::SetDestination(*key, Destination { address: *address, weight: DRAINS }));
                draining.insert((*key, *address));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(protocol: Transport) -> ServiceKey {
        ServiceKey { protocol, address: "10.96.0.1:80".parse().unwrap() }
    }

    fn with(protocol: Transport, persistent_s: Option<u32>, behind: &[u8]) -> Wanted {
        let service = VirtualService { key: key(protocol), scheduler: "rr".into(), persistent_s };
        Wanted::from([(key(protocol), (service, behind.iter().map(|last| address(*last)).collect()))])
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, last], 8080))
    }

    fn texts(old: &Wanted, new: &Wanted, draining: &mut Draining) -> Vec<String> {
        let short = |command: &Command| match command {
            Command::AddService(_) => "service".to_owned(),
            Command::SetService(all) => format!("service {:?}", all.persistent_s),
            Command::DeleteService(_) => "no service".to_owned(),
            Command::AddDestination(_, one) => format!("+{}", one.address.ip()),
            Command::SetDestination(_, one) => format!("{}={}", one.address.ip(), one.weight),
            Command::DeleteDestination(_, one) => format!("-{}", one.ip()),
        };
        commands(old, new, draining).iter().map(short).collect()
    }

    #[test]
    fn only_what_differs_is_said() {
        let (tcp, udp, none) = (Transport::Tcp, Transport::Udp, Wanted::new());
        let mut draining = Draining::new();
        let two = with(tcp, None, &[1, 2]);
        assert_eq!(texts(&none, &two, &mut draining), ["service", "+10.1.0.1", "+10.1.0.2"]);
        assert_eq!(texts(&two, &two, &mut draining), [""; 0]);
        assert_eq!(texts(&two, &with(tcp, Some(9), &[1, 2]), &mut draining), ["service Some(9)"]);
        assert_eq!(texts(&two, &with(tcp, None, &[2]), &mut draining), ["10.1.0.1=0"], "connections live on");
        assert_eq!(draining.len(), 1);
        assert_eq!(texts(&with(tcp, None, &[2]), &two, &mut draining), ["10.1.0.1=1"], "and it comes back");
        assert!(draining.is_empty());
        texts(&two, &with(tcp, None, &[2]), &mut draining);
        assert_eq!(texts(&two, &none, &mut draining), ["no service"]);
        assert!(draining.is_empty());
        assert_eq!(texts(&with(udp, None, &[1]), &with(udp, None, &[]), &mut draining), ["-10.1.0.1"]);
    }
}
