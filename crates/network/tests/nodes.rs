//! Pods on several nodes. Network namespaces stand for machines; the thread's own one is the switch or the router between them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use common::{Pod, ask, attachment, block_inside, cable, config, dual_config, has_ipv6, on_fresh_node, run};
use corten_network::{DEFAULT_VNI, NetworkConfig, Peer, PodNetwork, Transport, Uplink};
use ipnet::Ipv4Net;

/// A machine with one pod.
struct Machine {
    netns: Pod,
    pod: Pod,
    peer: Peer,
    dir: PathBuf,
}

impl Machine {
    /// `10.99.N.0/24` at `address`, its cable's far end here is `pN`.
    fn new(number: u8, address: &str, gateway: Option<&'static str>, dir: &Path) -> Self {
        let machine = Self {
            netns: Pod::new(),
            pod: Pod::new(),
            peer: Peer {
                node_ip: address.split('/').next().unwrap().parse().unwrap(),
                pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 99, number, 0), 24),
                node_ip_v6: None,
                pod_cidr_v6: None,
            },
            dir: dir.join(number.to_string()),
        };
        cable(&format!("p{number}"), &machine.netns, "eth0");
        let address = address.to_owned();
        let configured = machine.netns.inside(move || {
            run(&["ip", "link", "set", "lo", "up"]);
            run(&["ip", "addr", "add", &address, "dev", "eth0"]);
            run(&["ip", "link", "set", "eth0", "up"]);
            if let Some(gateway) = gateway {
                run(&["ip", "route", "add", "default", "via", gateway]);
            }
        });
        configured.join().unwrap();
        machine
    }

    /// A pod network over what an earlier one left, as after a restart, and its pod.
    fn network(&self, transport: Transport, peers: &[Peer]) -> IpAddr {
        let (peer, peers) = (self.peer, BTreeSet::from_iter(peers.iter().copied()));
        let family = if peer.pod_cidr_v6.is_some() { dual_config } else { config };
        let config = NetworkConfig { pod_cidr: Some(peer.pod_cidr), ..family(&self.dir) };
        std::fs::create_dir_all(&self.dir).unwrap();
        let attachment = attachment("a", &self.pod, vec![]);
        block_inside(&self.netns, async move || {
            let network = PodNetwork::new(config).unwrap();
            network.set_pod_cidr_v6(peer.pod_cidr_v6).unwrap();
            network.join(Uplink { node_ip: peer.node_ip, transport, vni: DEFAULT_VNI });
            let address = match network.pod_ips("a") {
                Some(ips) => ips.primary,
                None => network.attach(attachment).await.unwrap().primary,
            };
            network.set_peers(peers.clone()).await.unwrap();
            network.set_peers(peers).await.unwrap();
            address
        })
    }

    fn sees(&self, command: &'static [&'static str]) -> String {
        self.netns.inside(move || run(command)).join().unwrap()
    }
}

/// Each pod reaches each other pod, which sees its address; each machine reaches all pods.
fn all_reach_all(machines: &[(&Machine, IpAddr)]) {
    for (from, from_ip) in machines {
        for (to, to_ip) in machines {
            let to_ip = *to_ip;
            if *from_ip != to_ip {
                let server = to.pod.serve_peer_address(80);
                let seen = from.pod.inside(move || ask((to_ip, 80))).join().unwrap();
                assert_eq!(seen, from_ip.to_string(), "from {from_ip} to {to_ip}");
                server.join().unwrap();
            }
            let server = to.pod.serve_peer_address(80);
            from.netns.inside(move || ask((to_ip, 80))).join().unwrap();
            server.join().unwrap();
        }
    }
}

#[test]
fn neighbours_reach_each_others_pods_by_routes() {
    on_fresh_node(async |dir| {
        run(&["ip", "link", "add", "switch", "type", "bridge"]);
        run(&["ip", "link", "set", "switch", "up"]);
        let machines: Vec<Machine> =
            (1..4).map(|n| Machine::new(n, &format!("192.0.2.{n}/24"), None, dir)).collect();
        for n in 1..4 {
            run(&["ip", "link", "set", &format!("p{n}"), "master", "switch"]);
        }
        let peers: Vec<Peer> = machines.iter().map(|machine| machine.peer).collect();
        let pods: Vec<_> = machines.iter().map(|m| (m, m.network(Transport::Auto, &peers))).collect();
        all_reach_all(&pods);
        assert!(!machines[0].sees(&["ip", "link"]).contains("nt-vx"), "no tunnel without need");

        machines[0].network(Transport::Auto, &peers[..2]);
        let routes = machines[0].sees(&["ip", "route"]);
        assert!(
            routes.contains("10.99.2.0/24 via 192.0.2.2") && !routes.contains("10.99.3.0/24"),
            "{routes}"
        );

        // The kernel forgets routes over a link that was down.
        machines[0].sees(&["ip", "link", "set", "eth0", "down"]);
        machines[0].sees(&["ip", "link", "set", "eth0", "up"]);
        machines[0].network(Transport::Auto, &peers);
        all_reach_all(&pods);
    });
}

#[test]
fn others_reach_each_others_pods_through_a_tunnel() {
    on_fresh_node(async |dir| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let machines = [
            Machine::new(1, "192.0.2.1/24", Some("192.0.2.254"), dir),
            Machine::new(2, "198.51.100.2/24", Some("198.51.100.254"), dir),
        ];
        run(&["ip", "addr", "add", "192.0.2.254/24", "dev", "p1"]);
        run(&["ip", "addr", "add", "198.51.100.254/24", "dev", "p2"]);
        let peers = machines.each_ref().map(|machine| machine.peer);
        let pods = machines.each_ref().map(|m| (m, m.network(Transport::Auto, &peers)));
        all_reach_all(&pods);
        let mtu = machines[0].pod.inside(|| run(&["ip", "link", "show", "eth0"])).join().unwrap();
        assert!(mtu.contains("mtu 1450"), "{mtu}");

        // Over a restart the tunnel stays as it is; a peer that has moved is followed, one that has gone is forgotten.
        let before = machines[0].sees(&["ip", "-o", "link", "show", "nt-vx"]);
        let moved = Peer { node_ip: Ipv4Addr::new(198, 51, 100, 3), ..peers[1] };
        machines[0].network(Transport::Vxlan, &[peers[0], moved]);
        let fdb = machines[0].sees(&["bridge", "fdb", "show", "dev", "nt-vx"]);
        assert!(fdb.contains("dst 198.51.100.3") && !fdb.contains("dst 198.51.100.2"), "{fdb}");
        assert_eq!(machines[0].sees(&["ip", "-o", "link", "show", "nt-vx"]), before);
        machines[0].network(Transport::Auto, &peers[..1]);
        assert!(!machines[0].sees(&["ip", "link"]).contains("nt-vx"));
        assert!(!machines[0].sees(&["ip", "route"]).contains("10.99.2.0"));

        machines[0].network(Transport::Vxlan, &peers);
        all_reach_all(&pods);
        let config = config(&machines[0].dir);
        block_inside(&machines[0].netns, async || {
            PodNetwork::new(config).unwrap().teardown().await.unwrap();
        });
        let rest = machines[0].sees(&["ip", "route"]) + &machines[0].sees(&["ip", "link"]);
        assert!(!rest.contains("10.99.") && !rest.contains("nt-vx") && !rest.contains("nt0"), "{rest}");
    });
}

/// Pods' addresses of the second family, by machine.
fn second_addresses(machines: &[Machine]) -> Vec<(&Machine, IpAddr)> {
    let second = |machine: &Machine| {
        let network = PodNetwork::new(NetworkConfig { pod_cidr: None, ..dual_config(&machine.dir) }).unwrap();
        network.pod_ips("a").unwrap().additional[0]
    };
    machines.iter().map(|machine| (machine, second(machine))).collect()
}

#[test]
fn both_families_reach_pods_of_other_nodes() {
    if !has_ipv6() {
        return println!("passed over: this kernel has no IPv6");
    }
    on_fresh_node(async |dir| {
        run(&["ip", "link", "add", "switch", "type", "bridge"]);
        run(&["ip", "link", "set", "switch", "up"]);
        let mut machines: Vec<Machine> =
            (1..3).map(|n| Machine::new(n, &format!("192.0.2.{n}/24"), None, dir)).collect();
        for (n, machine) in (1..3).zip(&mut machines) {
            run(&["ip", "link", "set", &format!("p{n}"), "master", "switch"]);
            let address = format!("fd01::{n}/64");
            let added =
                machine.netns.inside(move || run(&["ip", "addr", "add", &address, "dev", "eth0", "nodad"]));
            added.join().unwrap();
            machine.peer.node_ip_v6 = Some(format!("fd01::{n}").parse().unwrap());
            machine.peer.pod_cidr_v6 = Some(format!("fd00:99:0:{n}::/64").parse().unwrap());
        }
        let peers: Vec<Peer> = machines.iter().map(|machine| machine.peer).collect();
        let pods: Vec<_> = machines.iter().map(|m| (m, m.network(Transport::Auto, &peers))).collect();
        all_reach_all(&pods);
        let second = second_addresses(&machines);
        assert_eq!(second[1].1.to_string(), "fd00:99:0:2::2");
        all_reach_all(&second);
        assert!(!machines[0].sees(&["ip", "link"]).contains("nt-vx"), "no tunnel without need");
        let routes = machines[0].sees(&["ip", "-6", "route"]);
        assert!(routes.contains("fd00:99:0:2::/64 via fd01::2"), "{routes}");

        // The same through the tunnel: by wish, and where a node has no address of that family.
        for machine in &machines {
            machine.network(Transport::Vxlan, &peers);
        }
        all_reach_all(&pods);
        all_reach_all(&second);
        let without: Vec<Peer> = peers.iter().map(|peer| Peer { node_ip_v6: None, ..*peer }).collect();
        for machine in &machines {
            machine.network(Transport::Auto, &without);
        }
        let routes = machines[0].sees(&["ip", "route"]) + &machines[0].sees(&["ip", "-6", "route"]);
        assert!(routes.contains("10.99.2.0/24 via 192.0.2.2"), "{routes}");
        assert!(routes.contains("fd00:99:0:2::/64 via fd00:99:0:2:: dev nt-vx"), "{routes}");
        all_reach_all(&pods);
        all_reach_all(&second);

        let config = dual_config(&machines[0].dir);
        block_inside(&machines[0].netns, async || {
            PodNetwork::new(config).unwrap().teardown().await.unwrap();
        });
        let rest = machines[0].sees(&["ip", "-6", "route"]) + &machines[0].sees(&["ip", "link"]);
        assert!(!rest.contains("fd00:99:") && !rest.contains("nt-vx") && !rest.contains("nt0"), "{rest}");
    });
}
