//! The machines: two nodes with their pods, two clients outside, one switch between them. A pod hangs on its node by a
//! link of its own and is reached by a route, as `corten-network` makes it.
//!
//! ```text
//!  caller web-a web-b        far
//!      └────┼────┘            │
//!        node1 ──── switch ── node2
//!                   │    │
//!              client    stranger
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::echo::{self, Outcome, Transport};
use crate::netns::Netns;

/// Where every server listens.
pub const TARGET_PORT: u16 = 9376;
/// How long the fresh links may take until they carry packets.
const LINKS_UP: Duration = Duration::from_secs(120);

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A machine or pod; each has a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A pod on the first node that no service selects.
    Caller,
    /// A pod on the first node with a server.
    WebA,
    /// Another one.
    WebB,
    /// The first node; serves, too (host network).
    Node1,
    /// A pod on the second node with a server.
    Far,
    /// The second node; serves, too.
    Node2,
    /// A machine outside the cluster that routes service addresses to the first node.
    Client,
    /// Another one, with an address that no source range contains.
    Stranger,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Caller,
        Self::WebA,
        Self::WebB,
        Self::Node1,
        Self::Far,
        Self::Node2,
        Self::Client,
        Self::Stranger,
    ];

    /// As its server says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::WebA => "web-a",
            Self::WebB => "web-b",
            Self::Node1 => "node1",
            Self::Far => "far",
            Self::Node2 => "node2",
            Self::Client => "client",
            Self::Stranger => "stranger",
        }
    }

    /// Its address.
    pub fn address(self, family: Family) -> IpAddr {
        let (v4, v6) = match self {
            Self::WebA => ([10, 1, 1, 2], [0xfd00, 1, 1, 0, 0, 0, 0, 2]),
            Self::WebB => ([10, 1, 1, 3], [0xfd00, 1, 1, 0, 0, 0, 0, 3]),
            Self::Caller => ([10, 1, 1, 4], [0xfd00, 1, 1, 0, 0, 0, 0, 4]),
            Self::Far => ([10, 1, 2, 2], [0xfd00, 1, 2, 0, 0, 0, 0, 2]),
            Self::Node1 => ([192, 168, 9, 11], [0xfd00, 9, 0, 0, 0, 0, 0, 0x11]),
            Self::Node2 => ([192, 168, 9, 12], [0xfd00, 9, 0, 0, 0, 0, 0, 0x12]),
            Self::Client => ([192, 168, 9, 100], [0xfd00, 9, 0, 0, 0, 0, 0, 0x100]),
            Self::Stranger => ([192, 168, 9, 101], [0xfd00, 9, 0, 0, 0, 0, 0, 0x101]),
        };
        match family {
            Family::V4 => Ipv4Addr::from(v4).into(),
            Family::V6 => Ipv6Addr::from(v6).into(),
        }
    }

    /// The node whose rules its packets meet first: its own, or the one that the outside routes to.
    pub fn node(self) -> Self {
        match self {
            Self::Far | Self::Node2 => Self::Node2,
            _ => Self::Node1,
        }
    }

    /// Number of the pod network behind a node.
    fn subnet(self) -> u8 {
        if self == Self::Node2 { 2 } else { 1 }
    }

    fn pods(self) -> &'static [Self] {
        match self {
            Self::Node1 => &[Self::Caller, Self::WebA, Self::WebB],
            Self::Node2 => &[Self::Far],
            _ => &[],
        }
    }
}

/// All pods of the cluster, as `--cluster-cidr`.
pub const CLUSTER_CIDRS: [&str; 2] = ["10.1.0.0/16", "fd00:1::/32"];
/// What the outside sends to the first node: cluster addresses, load balancers and external addresses.
const ROUTED_TO_NODE1: [&str; 6] =
    ["10.96.0.0/16", "203.0.113.0/24", "198.51.100.0/24", "fd00:96::/64", "fd00:cb::/64", "fd00:c6::/64"];

/// All machines, wired and with servers.
pub struct World {
    places: BTreeMap<Place, Netns>,
    /// Holds the cables.
    _switch: Netns,
}

impl World {
    /// Makes everything and waits until packets pass.
    pub fn new() -> Self {
        let places: BTreeMap<_, _> = Place::ALL.into_iter().map(|place| (place, Netns::new())).collect();
        let switch = Netns::new();
        switch.ip("link add lan type bridge mcast_snooping 0\nlink set lan up\naddr add 192.168.9.1/24 dev lan\naddr add fd00:9::1/64 dev lan nodad");
        let world = Self { places, _switch: switch };
        for place in [Place::Node1, Place::Node2, Place::Client, Place::Stranger] {
            world.plug_in(place);
        }
        for node in [Place::Node1, Place::Node2] {
            world.make_node(node);
        }
        for outside in [Place::Client, Place::Stranger] {
            world.route(outside, Place::Node1, &ROUTED_TO_NODE1);
        }
        world.serve();
        world.wait_for_links();
        world
    }

    /// The namespace of a place.
    pub fn at(&self, place: Place) -> &Netns {
        &self.places[&place]
    }

    /// A cable from `place` to the switch, an address in the LAN and a default route.
    fn plug_in(&self, place: Place) {
        let (there, name) = (self.at(place), place.name());
        there.sysctl("net/ipv6/conf/default/accept_dad", "0");
        there.sysctl("net/ipv6/conf/default/accept_ra", "0");
        self._switch.ip(&format!(
            "link add {name} type veth peer name eth0 netns {}\nlink set {name} master lan\nlink set {name} up",
            there.path().display()
        ));
        there.ip(&format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via 192.168.9.1\nroute add default via fd00:9::1 dev eth0",
            place.address(Family::V4),
            place.address(Family::V6)
        ));
    }

    fn make_node(&self, node: Place) {
        let host = self.at(node);
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            // Many clients are refused at once here; each must hear of it.
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ] {
            host.sysctl(name, value);
        }
        let other = if node == Place::Node1 { Place::Node2 } else { Place::Node1 };
        let behind = other.subnet();
        self.route(node, other, &[&format!("10.1.{behind}.0/24"), &format!("fd00:1:{behind}::/64")]);
        for pod in node.pods() {
            self.make_pod(node, *pod);
        }
    }

    /// A point-to-point link: every packet of a pod is routed by its node.
    fn make_pod(&self, node: Place, pod: Place) {
        let (inside, name, subnet) = (self.at(pod), pod.name(), node.subnet());
        inside.sysctl("net/ipv6/conf/default/accept_dad", "0");
        let (v4, v6) = (pod.address(Family::V4), pod.address(Family::V6));
        self.at(node).ip(&format!(
            "link add {name} type veth peer name eth0 netns {}\naddr add 10.1.{subnet}.1/32 dev {name}\n\
             addr add fd00:1:{subnet}::1/128 dev {name} nodad\nlink set {name} up\n\
             route add {v4}/32 dev {name}\nroute add {v6}/128 dev {name}",
            inside.path().display()
        ));
        inside.ip(&format!(
            "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\nlink set eth0 up\n\
             route add 10.1.{subnet}.1 dev eth0\nroute add fd00:1:{subnet}::1 dev eth0\n\
             route add default via 10.1.{subnet}.1\nroute add default via fd00:1:{subnet}::1 dev eth0"
        ));
    }

    fn route(&self, from: Place, via: Place, ranges: &[&str]) {
        let line = |range: &&str| {
            let family = if range.contains(':') { Family::V6 } else { Family::V4 };
            format!("route add {range} via {} dev eth0\n", via.address(family))
        };
        self.at(from).ip(&ranges.iter().map(line).collect::<String>());
    }

    fn serve(&self) {
        for place in [Place::WebA, Place::WebB, Place::Far, Place::Node1, Place::Node2] {
            self.at(place).inside(|| {
                for family in [Family::V4, Family::V6] {
                    // A UDP answer must come from the address that was asked.
                    echo::serve(place.name(), SocketAddr::new(place.address(family), TARGET_PORT));
                }
            });
        }
    }

    /// A bridge port carries packets a moment after it is set up; the first answer tells.
    fn wait_for_links(&self) {
        let silence = Duration::from_millis(500);
        for (from, to) in [
            (Place::Client, Place::Node1),
            (Place::Stranger, Place::Node2),
            (Place::Caller, Place::WebA),
            (Place::Node1, Place::WebB),
            (Place::Node1, Place::Far),
            (Place::Far, Place::WebA),
        ] {
            for family in [Family::V4, Family::V6] {
                let address = SocketAddr::new(to.address(family), TARGET_PORT);
                let started = Instant::now();
                while !matches!(self.ask(from, Transport::Tcp, address, silence), Outcome::Answer { .. }) {
                    assert!(started.elapsed() < LINKS_UP, "no packets from {from:?} to {to:?} {family:?}");
                }
            }
        }
    }

    /// One question from a place.
    pub fn ask(&self, from: Place, transport: Transport, to: SocketAddr, silence: Duration) -> Outcome {
        self.at(from).inside(|| echo::ask(transport, to, silence))
    }
}

/// All addresses of both nodes.
pub fn node_addresses(family: Family) -> Vec<IpAddr> {
    let bridges: [&str; 2] = match family {
        Family::V4 => ["10.1.1.1", "10.1.2.1"],
        Family::V6 => ["fd00:1:1::1", "fd00:1:2::1"],
    };
    let lan = [Place::Node1, Place::Node2].map(|node| node.address(family));
    lan.into_iter().chain(bridges.iter().filter_map(|text| text.parse().ok())).collect()
}
