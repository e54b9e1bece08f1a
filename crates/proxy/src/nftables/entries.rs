//! One service port as elements of the maps: pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use corten_sys::netfilter::nft::{Element, Value, Verdict};

use super::base::REJECT;
use super::names::{self, *};
use super::ways::{Pick, Way};
use crate::ruleset::{Endpoint, Frontend, FrontendKind, PortName, Route, ServicePort};

/// What one element stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    For(Way),
    Endpoint(Vec<u8>),
    Reject,
    Drop,
    Firewall(String),
}

/// Map and key → what it stands for.
pub(super) type Entries = BTreeMap<(&'static str, Vec<u8>), Stands>;

/// In which order endpoints are numbered: one that stays keeps its number if it can, so that one change is one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    pub cluster: Vec<Endpoint>,
    pub local: Vec<Endpoint>,
}

impl Slots {
    /// The slots after a change.
    pub(super) fn follow(&self, port: &ServicePort) -> Slots {
        Slots { cluster: follow(&self.cluster, &port.cluster), local: follow(&self.local, &port.local) }
    }
}

/// Those that go leave gaps, those that come fill them, and what is left of the gaps is filled from the end.
fn follow(old: &[Endpoint], wanted: &[Endpoint]) -> Vec<Endpoint> {
    let mut slots: Vec<Option<Endpoint>> =
        old.iter().map(|e| wanted.binary_search(e).is_ok().then_some(*e)).collect();
    let mut known: Vec<Endpoint> = slots.iter().flatten().copied().collect();
    known.sort_unstable();
    let mut fresh = wanted.iter().filter(|e| known.binary_search(e).is_err()).copied();
    for slot in &mut slots {
        if slot.is_none() {
            *slot = fresh.next();
        }
    }
    slots.extend(fresh.map(Some));
    while let Some(gap) = slots.iter().position(Option::is_none) {
        slots.swap_remove(gap);
    }
    slots.into_iter().flatten().collect()
}

/// The chain that looks at sources of one service port.
pub(super) fn firewall_chain(name: &PortName) -> String {
    format!("firewall/{name}")
}

/// All elements of one service port, but those that several may share ([`shared`]).
pub(super) fn entries(name: &PortName, port: &ServicePort, slots: &Slots) -> Entries {
    let mut all = Entries::new();
    for frontend in &port.frontends {
        one_frontend(&mut all, port, frontend, slots);
        if frontend.kind == FrontendKind::LoadBalancerIp && !port.source_ranges.is_empty() {
            all.insert((FIREWALL, names::key(frontend.at)), Stands::Firewall(firewall_chain(name)));
        }
    }
    all
}

fn one_frontend(all: &mut Entries, port: &ServicePort, frontend: &Frontend, slots: &Slots) {
    let is_node_port = frontend.at.address.is_none();
    let pick = |is_local, endpoints: &[Endpoint]| {
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let is_sticky = port.affinity_s.is_some();
        (count > 0).then_some(Pick { is_node_port, is_local, count, is_sticky })
    };
    let (refusals, ways) =
        if is_node_port { (NO_ENDPOINT_NODE_PORTS, NODE_PORTS) } else { (NO_ENDPOINTS, SERVICES) };
    let key = names::key(frontend.at);
    let any = if frontend.route == Route::Local { &slots.local } else { &slots.cluster };
    let (maps, locals) = if is_node_port {
        (NODE_PORT_ENDPOINTS, LOCAL_NODE_PORT_ENDPOINTS)
    } else {
        (ENDPOINTS, LOCAL_ENDPOINTS)
    };
    let refusal = match (frontend.route, pick(false, any)) {
        (Route::Drop, _) => Some(Stands::Drop),
        (Route::Reject, _) | (_, None) => Some(Stands::Reject),
        (Route::Split, Some(to_any)) => {
            let to_local = pick(true, &slots.local);
            all.insert((ways, key.clone()), Stands::For(Way::Split(to_any, to_local)));
            numbered(all, maps, frontend, any);
            numbered(all, locals, frontend, &slots.local);
            to_local.is_none().then_some(Stands::Drop)
        }
        (Route::Cluster | Route::Local, Some(to)) => {
            let way = Way::To(to, frontend.masquerade().into());
            all.insert((ways, key.clone()), Stands::For(way));
            numbered(all, maps, frontend, any);
            None
        }
    };
    if let Some(seconds) = port.affinity_s {
        let map = if is_node_port { STICKY_NODE_PORTS } else { STICKY };
        all.insert((map, key.clone()), Stands::For(Way::Remember { is_node_port, seconds }));
    }
    if let Some(refusal) = refusal {
        all.insert((refusals, key), refusal);
    }
}

fn numbered(all: &mut Entries, map: &'static str, frontend: &Frontend, endpoints: &[Endpoint]) {
    for (number, endpoint) in (0u32..).zip(endpoints) {
        let key = names::numbered_key(frontend.at, number);
        all.insert((map, key), Stands::Endpoint(names::target(endpoint)));
    }
}

/// Elements that several service ports may ask for: they are counted.
pub(super) fn shared(port: &ServicePort) -> Vec<(&'static str, Vec<u8>)> {
    let is_cluster_ip = |f: &&Frontend| f.kind == FrontendKind::ClusterIp;
    let cluster_ips = port.frontends.iter().filter(is_cluster_ip).filter_map(|f| f.at.address);
    let mut all: Vec<_> = cluster_ips.map(|ip| (CLUSTER_IPS, names::address(ip))).collect();
    let mut addresses: Vec<IpAddr> = port.reachable().iter().map(|e| e.address).collect();
    addresses.dedup();
    all.extend(addresses.into_iter().map(|ip| (HAIRPINS, names::address(ip).repeat(2))));
    all
}

/// As the kernel takes it.
pub(super) fn element(key: &[u8], stands: &Stands) -> Element {
    let value = match stands {
        Stands::For(way) => Value::Verdict(Verdict::Goto(way.name())),
        Stands::Endpoint(target) => Value::Data(target.clone()),
        Stands::Reject => Value::Verdict(Verdict::Goto(REJECT.to_owned())),
        Stands::Drop => Value::Verdict(Verdict::Drop),
        Stands::Firewall(chain) => Value::Verdict(Verdict::Goto(chain.clone())),
    };
    Element { key: key.to_vec(), value, life: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(last: &[u8]) -> Vec<Endpoint> {
        last.iter().map(|n| Endpoint { address: [10, 0, 0, *n].into(), port: 80, is_local: false }).collect()
    }

    #[test]
    fn endpoints_that_stay_keep_their_number() {
        for (old, wanted, slots) in [
            (&[][..], &[1, 2, 3][..], &[1, 2, 3][..]),
            (&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]),
            (&[2, 3], &[1, 2, 3], &[2, 3, 1]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[1, 2, 3], &[2, 3, 4], &[4, 2, 3]),
            (&[1, 2, 3], &[], &[]),
            (&[1, 2, 3, 4], &[3], &[3]),
        ] {
            assert_eq!(follow(&endpoints(old), &endpoints(wanted)), endpoints(slots), "{old:?} {wanted:?}");
        }
    }
}
