//! Stale flows: a UDP client keeps its port, so the kernel goes on leading its packets where the first one went, be that an endpoint
//! that is gone or nowhere at all. Such flows are taken out, and the next packet is led anew.
//!
//! As upstream: only UDP, and only for services that have an endpoint which serves. TCP ends by itself.

use std::collections::HashMap;
use std::net::IpAddr;

use corten_sys::netfilter::{self, Socket, conntrack};

use crate::backend::Error;
use crate::ruleset::{At, Change, Family, PortChange, PortName, Protocol, Ruleset, ServicePort};

/// `IPS_DST_NAT`.
const LED: u32 = 32;

/// Where flows may go that were sent to these places.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stale {
    serving: HashMap<(Family, At), Vec<IpAddr>>,
}

impl Stale {
    /// What to look at after a full sync: flows of an earlier life may lead anywhere.
    pub(crate) fn of_all(rules: &Ruleset) -> Self {
        let mut stale = Stale::default();
        rules.ports.iter().for_each(|(name, port)| stale.look_at(name, port));
        stale
    }

    /// What to look at after a change: ports that lost an endpoint, got their first, or got a new frontend.
    pub(crate) fn of_change(change: &Change) -> Self {
        let mut stale = Stale::default();
        for port in change.ports.iter().filter(|port| may_have_stale_flows(port)) {
            if let Some(new) = &port.new {
                stale.look_at(&port.name, new);
            }
        }
        stale
    }

    fn look_at(&mut self, name: &PortName, port: &ServicePort) {
        if port.protocol != Protocol::Udp || port.serving.is_empty() {
            return;
        }
        for frontend in &port.frontends {
            self.serving.insert((name.family, frontend.at), port.serving.clone());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.serving.is_empty()
    }

    /// Takes the stale flows out; returns how many there were.
    pub(crate) fn remove(&self, socket: &Socket) -> Result<usize, Error> {
        let mut count = 0;
        for family in Family::BOTH {
            if !self.serving.keys().any(|(f, _)| *f == family) {
                continue;
            }
            let in_kernel = match family {
                Family::V4 => netfilter::Family::Ip,
                Family::V6 => netfilter::Family::Ip6,
            };
            let mut found = Vec::new();
            conntrack::list(socket, in_kernel, |flow| {
                if self.is_stale(family, &flow.original, &flow.reply, flow.status) {
                    found.push(flow);
                }
            })?;
            count += found.len();
            found.iter().try_for_each(|flow| conntrack::delete(socket, in_kernel, flow))?;
        }
        Ok(count)
    }

    fn is_stale(
        &self,
        family: Family,
        original: &conntrack::Tuple,
        reply: &conntrack::Tuple,
        status: u32,
    ) -> bool {
        if original.protocol != Protocol::Udp.number() {
            return false;
        }
        let at = |address| At { address, protocol: Protocol::Udp, port: original.destination_port };
        let by_address = self.serving.get(&(family, at(Some(original.destination))));
        // The number of a node port may be any port of a strange host: only what was led somewhere, or stayed here, is ours.
        let is_node_port = status & LED != 0 || reply.source == original.destination;
        let by_port = self.serving.get(&(family, at(None))).filter(|_| is_node_port);
        by_address.or(by_port).is_some_and(|serving| serving.binary_search(&reply.source).is_err())
    }
}

fn may_have_stale_flows(change: &PortChange) -> bool {
    let Some(new) = &change.new else { return false };
    let Some(old) = &change.old else { return true };
    let lost = old.serving.iter().any(|ip| new.serving.binary_search(ip).is_err());
    let fresh = new.frontends.iter().any(|f| !old.frontends.iter().any(|o| o.at == f.at));
    lost || fresh || old.serving.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster_ip, in_namespace, port_name, rules};
    use std::net::UdpSocket;
    use std::time::Duration;

    fn udp(endpoints: &[&str]) -> Ruleset {
        let mut port = cluster_ip("10.96.0.7:53", endpoints);
        port.protocol = Protocol::Udp;
        port.frontends[0].at.protocol = Protocol::Udp;
        let name = PortName { protocol: Protocol::Udp, ..port_name("dns") };
        Ruleset { ports: [(name, port.into())].into(), ..Ruleset::default() }
    }

    #[test]
    fn only_changes_that_matter_cause_a_scan() {
        for (old, new, looks) in [
            (&["10.9.0.1:53"][..], &["10.9.0.1:53", "10.9.0.2:53"][..], false),
            (&["10.9.0.1:53", "10.9.0.2:53"], &["10.9.0.2:53"], true),
            (&[], &["10.9.0.2:53"], true),
            (&["10.9.0.1:53"], &[], false),
        ] {
            let change = Change::between(&udp(old), &udp(new));
            assert_eq!(!Stale::of_change(&change).is_empty(), looks, "{old:?} {new:?}");
        }
        let tcp = Change::between(
            &Ruleset::default(),
            &rules(&[("web", cluster_ip("10.96.0.8:80", &["10.9.0.1:80"]))]),
        );
        assert!(Stale::of_change(&tcp).is_empty());
        let gone = Change::between(&udp(&["10.9.0.1:53"]), &Ruleset::default());
        assert!(Stale::of_change(&gone).is_empty());
    }

    /// Receives one datagram and says which server it was.
    fn receives(servers: &[UdpSocket]) -> Option<usize> {
        servers.iter().position(|server| server.recv(&mut [0; 8]).is_ok())
    }

    #[test]
    fn a_client_with_one_port_is_led_anew() {
        in_namespace("flows", || {
            use crate::Backend;
            let servers = ["10.9.0.1:53", "10.9.0.2:53"].map(|at| {
                let server = UdpSocket::bind(at).unwrap();
                server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                server
            });
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut backend = crate::nftables::Nftables::new(crate::Config::new("t", "here")).unwrap();
            let socket = Socket::open().unwrap();
            let client = UdpSocket::bind("10.9.0.1:0").unwrap();
            client.connect("10.96.0.7:53").unwrap();
            let (first, second) = (udp(&["10.9.0.1:53"]), udp(&["10.9.0.2:53"]));
            // Nobody is there yet: the flow leads nowhere.
            runtime.block_on(backend.sync_all(&Ruleset::default())).unwrap();
            client.send(b"a").unwrap();
            let change = Change::between(&Ruleset::default(), &first);
            runtime.block_on(backend.apply(&change, &first)).unwrap();
            Stale::of_change(&change).remove(&socket).unwrap();
            client.send(b"b").unwrap();
            assert_eq!(receives(&servers), Some(0));
            let change = Change::between(&first, &second);
            runtime.block_on(backend.apply(&change, &second)).unwrap();
            client.send(b"c").unwrap();
            assert_eq!(receives(&servers), Some(0), "the flow lives on");
            assert_eq!(Stale::of_change(&change).remove(&socket).unwrap(), 1);
            client.send(b"d").unwrap();
            assert_eq!(receives(&servers), Some(1));
            assert_eq!(Stale::of_all(&second).remove(&socket).unwrap(), 0);
        });
    }
}
