//! What the data plane must do, free of how: the plan of all services as one value that every mode carries out.
//!
//! One [`ServicePort`] stands for one port of one service in one IP family. Traffic enters by its [`Frontend`]s (cluster IP,
//! external IP, load balancer IP, node port) and leaves to one of its endpoints. A service `web` with cluster IP 10.96.0.7,
//! port 80, node port 30080 and two endpoints is one `ServicePort` with two frontends and two endpoints.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As the Kubernetes API writes it; absent means TCP.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// In lower case, as firewalls write it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// IANA number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// IP family. A dual-stack service is planned once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The family of a range.
    pub fn of_range(range: &IpNet) -> Self {
        Self::of(range.addr())
    }
}

/// Names one [`ServicePort`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
    /// Name of the port, empty for an only port without a name.
    pub port: String,
    /// Protocol: the same name may stand for one TCP and one UDP port in slices.
    pub protocol: Protocol,
    /// Family.
    pub family: Family,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortName { namespace, service, port, protocol, .. } = self;
        write!(f, "{namespace}/{service}/{}", protocol.name())?;
        if port.is_empty() { Ok(()) } else { write!(f, "/{port}") }
    }
}

/// Where a packet must be sent to in order to reach the service: what a packet's destination is matched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At {
    /// The address; none means every address of the node that takes node ports (see `Config::node_port_addresses`).
    pub address: Option<IpAddr>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// What kind of address a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`: internalTrafficPolicy holds.
    ClusterIp,
    /// `spec.externalIPs`: externalTrafficPolicy holds, as for the two below.
    ExternalIp,
    /// `status.loadBalancer.ingress` with ipMode VIP. The only kind to which source ranges apply.
    LoadBalancerIp,
    /// `spec.ports[].nodePort`.
    NodePort,
}

/// Where traffic to a frontend goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// To one of [`ServicePort::cluster`].
    Cluster,
    /// To one of [`ServicePort::local`] (a cluster IP with internalTrafficPolicy Local).
    Local,
    /// externalTrafficPolicy Local: from pods (source inside the cluster CIDR) and from this host itself to one of
    /// [`ServicePort::cluster`], from everywhere else to one of [`ServicePort::local`], and dropped when that is empty.
    Split,
    /// The service has no endpoint anywhere: TCP reset or ICMP port unreachable.
    Reject,
    /// There are endpoints, but none on this node, and policy Local allows no other: dropped without an answer.
    Drop,
}

/// Whose packets get a source address of this node. Whatever this says, an endpoint that reaches itself through its
/// own service (hairpin) is always masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Masquerade {
    /// Sources outside of the cluster CIDR: nobody's when no cluster CIDR is configured, everybody's with masquerade-all.
    OffCluster,
    /// Everybody's.
    Always,
    /// Packets from one of this host's own addresses only.
    FromHost,
}

/// One way into a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// Matched with a packet's destination.
    pub at: At,
    /// What kind of address this is.
    pub kind: FrontendKind,
    /// Where the traffic goes.
    pub route: Route,
}

impl Frontend {
    /// Whose packets get a source address of this node.
    pub fn masquerade(&self) -> Masquerade {
        match (self.kind, self.route) {
            (FrontendKind::ClusterIp, _) => Masquerade::OffCluster,
            (_, Route::Split) => Masquerade::FromHost,
            _ => Masquerade::Always,
        }
    }
}

/// A place that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// On this node?
    pub is_local: bool,
}

/// One port of one service in one family: everything that a mode needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Protocol of all frontends and endpoints.
    pub protocol: Protocol,
    /// Ways in, each `at` once in the whole ruleset, cluster IP first.
    pub frontends: Vec<Frontend>,
    /// Endpoints of [`Route::Cluster`], sorted, hints of topology already heeded.
    pub cluster: Vec<Endpoint>,
    /// Endpoints of [`Route::Local`], sorted.
    pub local: Vec<Endpoint>,
    /// Addresses of all endpoints that still serve, also those that get no new connections (terminating, other zone): flows to
    /// them live on. Sorted.
    pub serving: Vec<IpAddr>,
    /// sessionAffinity ClientIP: one client stays at one endpoint for so many seconds after its last connection.
    pub affinity_s: Option<u32>,
    /// Sources that may use load balancer IPs; empty: everybody. A source that is not in a range is dropped.
    pub source_ranges: Vec<IpNet>,
}

impl ServicePort {
    /// Endpoints that at least one frontend sends to, sorted and unique.
    pub fn reachable(&self) -> Vec<Endpoint> {
        let mut all: Vec<Endpoint> = self.cluster.iter().chain(&self.local).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The endpoints to which `route` sends packets that come from outside of the cluster.
    pub fn endpoints_of(&self, route: Route) -> &[Endpoint] {
        match route {
            Route::Cluster => &self.cluster,
            Route::Local | Route::Split => &self.local,
            Route::Reject | Route::Drop => &[],
        }
    }
}

/// What `GET` on a service's healthCheckNodePort answers: 200 with at least one ready endpoint on this node, else 503.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
    /// Ready endpoints on this node, each address once.
    pub local_endpoints: usize,
}

/// The whole plan. Values are shared: a copy of the ruleset copies pointers only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// All service ports.
    pub ports: BTreeMap<PortName, Arc<ServicePort>>,
    /// Health checks of services with externalTrafficPolicy Local, by port.
    pub health_checks: BTreeMap<u16, HealthCheck>,
}

/// What became of one service port. At least one of the two is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// Which.
    pub name: PortName,
    /// As it was; none: it is new.
    pub old: Option<Arc<ServicePort>>,
    /// As it shall be; none: it is gone.
    pub new: Option<Arc<ServicePort>>,
}

/// The difference of two rulesets. A frontend may move from one service port to another within one change: back ends take away
/// everything old before they add what is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Changed service ports, by name.
    pub ports: Vec<PortChange>,
}

impl Change {
    /// What turns `old` into `new`. Compares pointers first: what was not planned again costs nothing.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Self {
        let gone = old
            .ports
            .iter()
            .filter(|(name, _)| !new.ports.contains_key(*name))
            .map(|(name, port)| PortChange { name: name.clone(), old: Some(port.clone()), new: None });
        let rest = new.ports.iter().filter_map(|(name, port)| {
            let before = old.ports.get(name);
            let same = before.is_some_and(|b| Arc::ptr_eq(b, port) || b == port);
            (!same).then(|| PortChange { name: name.clone(), old: before.cloned(), new: Some(port.clone()) })
        });
        let mut ports: Vec<PortChange> = gone.chain(rest).collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        Change { ports }
    }

    /// Nothing to do?
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service: &str) -> PortName {
        PortName {
            namespace: "ns".into(),
            service: service.into(),
            port: String::new(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    fn port(affinity_s: Option<u32>) -> Arc<ServicePort> {
        Arc::new(ServicePort {
            protocol: Protocol::Tcp,
            frontends: vec![],
            cluster: vec![],
            local: vec![],
            serving: vec![],
            affinity_s,
            source_ranges: vec![],
        })
    }

    #[test]
    fn the_difference_names_only_what_differs() {
        let rules = |ports: &[(&str, Arc<ServicePort>)]| Ruleset {
            ports: ports.iter().map(|(n, p)| (name(n), p.clone())).collect(),
            ..Ruleset::default()
        };
        let same = port(None);
        let old = rules(&[
            ("equal", port(None)),
            ("gone", port(None)),
            ("other", port(None)),
            ("same", same.clone()),
        ]);
        let new =
            rules(&[("equal", port(None)), ("new", port(None)), ("other", port(Some(1))), ("same", same)]);
        let change = Change::between(&old, &new);
        let got: Vec<_> = change
            .ports
            .iter()
            .map(|p| (p.name.service.as_str(), p.old.is_some(), p.new.is_some()))
            .collect();
        assert_eq!(got, [("gone", true, false), ("new", false, true), ("other", true, true)]);
        assert!(Change::between(&new, &new).is_empty());
    }

    #[test]
    fn masquerade_follows_kind_and_route() {
        let at = At { address: None, protocol: Protocol::Tcp, port: 1 };
        for (kind, route, want) in [
            (FrontendKind::ClusterIp, Route::Cluster, Masquerade::OffCluster),
            (FrontendKind::ClusterIp, Route::Local, Masquerade::OffCluster),
            (FrontendKind::NodePort, Route::Cluster, Masquerade::Always),
            (FrontendKind::LoadBalancerIp, Route::Split, Masquerade::FromHost),
        ] {
            assert_eq!(Frontend { at, kind, route }.masquerade(), want, "{kind:?} {route:?}");
        }
    }
}
