//! The cases: services with their endpoints, and who must answer whom. A new case is a row.
//!
//! Upstream's rules are the expectations: service proxying of the Kubernetes documentation ("Virtual IPs and service
//! proxies", "external traffic policy", "internal traffic policy", "proxying terminating endpoints").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use corten_client::k8s_openapi::api::core::v1::Service;
use corten_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::world::Place::{self, Caller, Client, Far, Node1, Node2, Stranger, WebA, WebB};
use crate::world::{Family, TARGET_PORT};

/// Port of every service.
const SERVICE_PORT: u16 = 80;
/// Node ports are numbered from here.
const FIRST_NODE_PORT: u16 = 30_000;

/// What an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Ready.
    Ready,
    /// On its way out, still answering.
    Terminating,
    /// On its way out, answering no more.
    Gone,
    /// Not ready.
    Unready,
}
use State::{Gone, Ready, Terminating, Unready};

/// By which of the service's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// `spec.clusterIP`.
    Cluster,
    /// The node port of this node.
    Port(Place),
    /// `status.loadBalancer`, routed to the first node.
    Balancer,
    /// `spec.externalIPs`, routed to the first node.
    External,
}
use Via::{Balancer, Cluster, External, Port};

/// Whose address the server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The client's own.
    Kept,
    /// A node's.
    Node,
    /// The client's own where the endpoint is on the node that the packet came to (nothing leaves the node that could be
    /// masqueraded), else a node's.
    Either,
}
use Source::{Either, Kept, Node};

/// What must happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Each of these answers now and then, nobody else ever does.
    By(&'static [Place], Source),
    /// One of these answers, and always the same one.
    Sticky(&'static [Place]),
    /// An error at once.
    Refused,
    /// Nothing at all.
    Dropped,
}
use Expect::{By, Dropped, Refused, Sticky};

/// A service with what is asked of it.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What its spec says beyond addresses and ports.
    pub spec: Value,
    /// Behind it.
    pub endpoints: &'static [(Place, State)],
    /// Who asks by which address, and what comes of it.
    pub asks: &'static [(Place, Via, Expect)],
}

fn load_balancer(more: Value) -> Value {
    let mut spec = json!({"type": "LoadBalancer"});
    for (name, value) in more.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    spec
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let both_local = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    let local = json!({"externalTrafficPolicy": "Local"});
    let internal = json!({"internalTrafficPolicy": "Local"});
    let ranges = json!(["192.168.9.100/32", "fd00:9::100/128"]);
    vec![
        Case {
            name: "cluster-ip",
            spec: json!({"type": "ClusterIP"}),
            endpoints: &[(WebA, Ready), (WebB, Ready), (Far, Ready)],
            asks: &[
                (Caller, Cluster, By(&[WebA, WebB, Far], Kept)),
                (Node1, Cluster, By(&[WebA, WebB, Far], Node)),
                (Node2, Cluster, By(&[WebA, WebB, Far], Node)),
                (Client, Cluster, By(&[WebA, WebB, Far], Node)),
            ],
        },
        Case {
            name: "hairpin",
            spec: load_balancer(json!({})),
            endpoints: &[(WebA, Ready)],
            asks: &[
                (WebA, Cluster, By(&[WebA], Node)),
                (WebA, Port(Node1), By(&[WebA], Node)),
                (WebA, Balancer, By(&[WebA], Node)),
                (WebA, External, By(&[WebA], Node)),
                (WebB, Cluster, By(&[WebA], Kept)),
                (Far, Cluster, By(&[WebA], Kept)),
            ],
        },
        Case {
            name: "hairpin-local",
            spec: load_balancer(both_local.clone()),
            endpoints: &[(WebA, Ready)],
            asks: &[
                (WebA, Cluster, By(&[WebA], Node)),
                (WebA, Port(Node1), By(&[WebA], Node)),
                (WebA, Balancer, By(&[WebA], Node)),
            ],
        },
        Case {
            name: "other-node",
            spec: load_balancer(json!({})),
            endpoints: &[(Far, Ready)],
            asks: &[
                (Caller, Cluster, By(&[Far], Kept)),
                (Far, Cluster, By(&[Far], Node)),
                (Node1, Cluster, By(&[Far], Node)),
                (Client, Port(Node1), By(&[Far], Node)),
                (Client, Port(Node2), By(&[Far], Node)),
                (Client, Balancer, By(&[Far], Node)),
            ],
        },
        Case {
            name: "host-network",
            spec: load_balancer(json!({})),
            endpoints: &[(Node1, Ready), (Node2, Ready)],
            asks: &[
                (Caller, Cluster, By(&[Node1, Node2], Kept)),
                (Far, Cluster, By(&[Node1, Node2], Kept)),
                (Node1, Cluster, By(&[Node1, Node2], Node)),
                (Client, Port(Node1), By(&[Node1, Node2], Either)),
                (Client, Balancer, By(&[Node1, Node2], Either)),
            ],
        },
        Case {
            name: "host-network-local",
            spec: load_balancer(local.clone()),
            endpoints: &[(Node1, Ready), (Node2, Ready)],
            asks: &[
                (Client, Port(Node1), By(&[Node1], Kept)),
                (Client, Port(Node2), By(&[Node2], Kept)),
                (Client, Balancer, By(&[Node1], Kept)),
            ],
        },
        Case {
            name: "every-way-in",
            spec: load_balancer(json!({})),
            endpoints: &[(WebA, Ready), (Far, Ready)],
            asks: &[
                (Client, Port(Node1), By(&[WebA, Far], Node)),
                (Client, Port(Node2), By(&[WebA, Far], Node)),
                (Client, Balancer, By(&[WebA, Far], Node)),
                (Client, External, By(&[WebA, Far], Node)),
                (Caller, Cluster, By(&[WebA, Far], Kept)),
                (Caller, Port(Node1), By(&[WebA, Far], Node)),
                (Caller, Port(Node2), By(&[WebA, Far], Node)),
                (Caller, Balancer, By(&[WebA, Far], Node)),
                (Caller, External, By(&[WebA, Far], Node)),
                (Node1, Port(Node1), By(&[WebA, Far], Node)),
                (Node1, Balancer, By(&[WebA, Far], Node)),
                (Node1, External, By(&[WebA, Far], Node)),
            ],
        },
        Case {
            name: "node-port",
            spec: json!({"type": "NodePort"}),
            endpoints: &[(WebA, Ready), (WebB, Ready)],
            asks: &[
                (Client, Port(Node1), By(&[WebA, WebB], Node)),
                (Client, Port(Node2), By(&[WebA, WebB], Node)),
                (Node2, Port(Node1), By(&[WebA, WebB], Node)),
            ],
        },
        Case {
            name: "external-local",
            spec: load_balancer(local.clone()),
            endpoints: &[(WebA, Ready), (Far, Ready)],
            asks: &[
                (Client, Port(Node1), By(&[WebA], Kept)),
                (Client, Port(Node2), By(&[Far], Kept)),
                (Client, Balancer, By(&[WebA], Kept)),
                (Client, External, By(&[WebA], Kept)),
                (Caller, Cluster, By(&[WebA, Far], Kept)),
                (Caller, Port(Node1), By(&[WebA, Far], Kept)),
                (Caller, Balancer, By(&[WebA, Far], Kept)),
                (Caller, External, By(&[WebA, Far], Kept)),
                (Node1, Port(Node1), By(&[WebA, Far], Node)),
                (Node1, Balancer, By(&[WebA, Far], Node)),
            ],
        },
        Case {
            name: "external-local-elsewhere",
            spec: load_balancer(local.clone()),
            endpoints: &[(Far, Ready)],
            asks: &[
                (Client, Port(Node1), Dropped),
                (Client, Balancer, Dropped),
                (Client, External, Dropped),
                (Client, Port(Node2), By(&[Far], Kept)),
                (Caller, Balancer, By(&[Far], Kept)),
                (Caller, Port(Node1), By(&[Far], Kept)),
                (Node1, Port(Node1), By(&[Far], Node)),
                (Node1, Balancer, By(&[Far], Node)),
            ],
        },
        Case {
            name: "internal-local",
            spec: load_balancer(internal.clone()),
            endpoints: &[(WebA, Ready), (Far, Ready)],
            asks: &[
                (Caller, Cluster, By(&[WebA], Kept)),
                (Node1, Cluster, By(&[WebA], Node)),
                (Node2, Cluster, By(&[Far], Node)),
                (Client, Balancer, By(&[WebA, Far], Node)),
            ],
        },
        Case {
            name: "internal-local-elsewhere",
            spec: json!({"type": "ClusterIP", "internalTrafficPolicy": "Local"}),
            endpoints: &[(Far, Ready)],
            asks: &[
                (Caller, Cluster, Dropped),
                (Node1, Cluster, Dropped),
                (Node2, Cluster, By(&[Far], Node)),
            ],
        },
        Case {
            name: "empty",
            spec: load_balancer(json!({})),
            endpoints: &[],
            asks: &[
                (Caller, Cluster, Refused),
                (Node1, Cluster, Refused),
                (Client, Cluster, Refused),
                (Client, Port(Node1), Refused),
                (Client, Balancer, Refused),
                (Client, External, Refused),
                (Caller, Balancer, Refused),
                (Caller, Port(Node1), Refused),
                (Node1, Port(Node1), Refused),
                (Node1, Balancer, Refused),
            ],
        },
        Case {
            name: "empty-local",
            spec: load_balancer(both_local),
            endpoints: &[],
            asks: &[
                (Caller, Cluster, Refused),
                (Client, Port(Node1), Refused),
                (Client, Balancer, Refused),
                (Caller, External, Refused),
            ],
        },
        Case {
            name: "unready",
            spec: load_balancer(json!({})),
            endpoints: &[(WebA, Unready), (WebB, Gone)],
            asks: &[(Caller, Cluster, Refused), (Client, Balancer, Refused)],
        },
        Case {
            name: "only-terminating",
            spec: load_balancer(json!({})),
            endpoints: &[(WebA, Terminating), (WebB, Gone)],
            asks: &[
                (Caller, Cluster, By(&[WebA], Kept)),
                (Client, Port(Node1), By(&[WebA], Node)),
                (Client, Balancer, By(&[WebA], Node)),
            ],
        },
        Case {
            name: "also-terminating",
            spec: load_balancer(json!({})),
            endpoints: &[(WebA, Ready), (WebB, Terminating)],
            asks: &[(Caller, Cluster, By(&[WebA], Kept)), (Client, Balancer, By(&[WebA], Node))],
        },
        Case {
            name: "local-terminating",
            spec: load_balancer(local.clone()),
            endpoints: &[(WebA, Terminating), (Far, Ready)],
            asks: &[
                (Client, Port(Node1), By(&[WebA], Kept)),
                (Client, Balancer, By(&[WebA], Kept)),
                (Client, Port(Node2), By(&[Far], Kept)),
                (Caller, Cluster, By(&[Far], Kept)),
            ],
        },
        Case {
            name: "affinity",
            spec: load_balancer(json!({"sessionAffinity": "ClientIP"})),
            endpoints: &[(WebA, Ready), (WebB, Ready), (Far, Ready)],
            asks: &[
                (Caller, Cluster, Sticky(&[WebA, WebB, Far])),
                (Node1, Cluster, Sticky(&[WebA, WebB, Far])),
                (Client, Port(Node1), Sticky(&[WebA, WebB, Far])),
                (Client, Balancer, Sticky(&[WebA, WebB, Far])),
            ],
        },
        Case {
            name: "affinity-local",
            spec: load_balancer(json!({"sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local"})),
            endpoints: &[(WebA, Ready), (WebB, Ready), (Far, Ready)],
            asks: &[(Client, Balancer, Sticky(&[WebA, WebB])), (Caller, Cluster, Sticky(&[WebA, WebB, Far]))],
        },
        Case {
            name: "source-ranges",
            spec: load_balancer(json!({"loadBalancerSourceRanges": ranges})),
            endpoints: &[(WebA, Ready), (Far, Ready)],
            asks: &[
                (Client, Balancer, By(&[WebA, Far], Node)),
                (Stranger, Balancer, Dropped),
                (Caller, Balancer, Dropped),
                // Ranges are for load balancer addresses only.
                (Stranger, Port(Node1), By(&[WebA, Far], Node)),
                (Stranger, External, By(&[WebA, Far], Node)),
                (Caller, Cluster, By(&[WebA, Far], Kept)),
            ],
        },
        Case {
            name: "source-ranges-local",
            spec: load_balancer(json!({
                "externalTrafficPolicy": "Local",
                "loadBalancerSourceRanges": ["192.168.9.100/32", "10.1.0.0/16", "fd00:9::100/128", "fd00:1::/32"],
            })),
            endpoints: &[(WebA, Ready), (Far, Ready)],
            asks: &[
                (Client, Balancer, By(&[WebA], Kept)),
                (Stranger, Balancer, Dropped),
                (Stranger, Port(Node1), By(&[WebA], Kept)),
                (Caller, Balancer, By(&[WebA, Far], Kept)),
            ],
        },
    ]
}

/// The address that the case with this number is asked by.
pub fn target(number: usize, via: Via, family: Family) -> SocketAddr {
    let last = u8::try_from(number + 10).expect("few cases");
    let ip = |v4: [u8; 3], v6: u16| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(v4[0], v4[1], v4[2], last)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, v6, 0, 0, 0, 0, 0, last.into())),
    };
    match via {
        Cluster => SocketAddr::new(ip([10, 96, 0], 0x96), SERVICE_PORT),
        Balancer => SocketAddr::new(ip([203, 0, 113], 0xcb), SERVICE_PORT),
        External => SocketAddr::new(ip([198, 51, 100], 0xc6), SERVICE_PORT),
        Port(node) => SocketAddr::new(node.address(family), FIRST_NODE_PORT + u16::from(last)),
    }
}

/// The API's objects of the case with this number.
pub fn objects(number: usize, case: &Case) -> (Service, Vec<EndpointSlice>) {
    let address = |via, family| target(number, via, family).ip().to_string();
    let cluster_ips = [address(Cluster, Family::V4), address(Cluster, Family::V6)];
    let kind = case.spec["type"].as_str().unwrap_or_default();
    let port = |name: &str, protocol: &str| {
        let mut port =
            json!({"name": name, "protocol": protocol, "port": SERVICE_PORT, "targetPort": TARGET_PORT});
        if kind != "ClusterIP" {
            port["nodePort"] = target(number, Port(Node1), Family::V4).port().into();
        }
        port
    };
    let mut spec = case.spec.clone();
    spec["clusterIP"] = cluster_ips[0].clone().into();
    spec["clusterIPs"] = json!(cluster_ips);
    spec["ports"] = json!([port("t", "TCP"), port("u", "UDP")]);
    let mut status = json!({});
    if kind == "LoadBalancer" {
        spec["externalIPs"] = json!([address(External, Family::V4), address(External, Family::V6)]);
        status["loadBalancer"]["ingress"] =
            json!([{"ip": address(Balancer, Family::V4)}, {"ip": address(Balancer, Family::V6)}]);
    }
    let service =
        json!({"metadata": {"namespace": "packets", "name": case.name}, "spec": spec, "status": status});
    let slices = [Family::V4, Family::V6].map(|family| slice(case, family));
    (serde_json::from_value(service).expect("a service"), slices.into())
}

fn slice(case: &Case, family: Family) -> EndpointSlice {
    let endpoint = |(place, state): &(Place, State)| {
        json!({
            "addresses": [place.address(family)],
            "nodeName": place.node().name(),
            "conditions": {
                "ready": *state == Ready,
                "serving": matches!(state, Ready | Terminating),
                "terminating": matches!(state, Terminating | Gone),
            },
        })
    };
    let slice = json!({
        "metadata": {
            "namespace": "packets",
            "name": format!("{}-{family:?}", case.name),
            "labels": {"kubernetes.io/service-name": case.name},
        },
        "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
        "endpoints": case.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [
            {"name": "t", "protocol": "TCP", "port": TARGET_PORT},
            {"name": "u", "protocol": "UDP", "port": TARGET_PORT},
        ],
    });
    serde_json::from_value(slice).expect("a slice")
}
