//! Pods with addresses of both families on one node, by real packets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::net::{IpAddr, Ipv6Addr, TcpListener, UdpSocket};
use std::path::Path;

use common::{Pod, TIMEOUT, ask, attachment, dual_config, has_ipv6, on_fresh_node, run, tcp};
use corten_network::{NetworkConfig, PodIps, PodNetwork};

fn open(config: NetworkConfig) -> PodNetwork {
    let network = PodNetwork::new(config).unwrap();
    network.set_pod_cidr_v6(Some("fd00:99:0:1::/64".parse().unwrap())).unwrap();
    network
}

/// On a fresh node, where the kernel has both families.
fn on_dual_node<F: AsyncFnOnce(&Path) + Send + 'static>(test: F) {
    match has_ipv6() {
        true => on_fresh_node(test),
        false => println!("passed over: this kernel has no IPv6"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn both_families_reach_everybody_and_detach_leaves_nothing() {
    on_dual_node(async |dir| {
        let network = open(dual_config(dir));
        let (a, b) = (Pod::new(), Pod::new());
        network.attach(attachment("a", &a, vec![])).await.unwrap();
        let PodIps { primary, additional } = network.attach(attachment("b", &b, vec![])).await.unwrap();
        assert_eq!((primary, &additional[..]), (ip("10.99.1.3"), &[ip("fd00:99:0:1::3")][..]));
        for (family, own, gateway) in [
            (primary, ip("10.99.1.2"), ip("10.99.1.1")),
            (additional[0], ip("fd00:99:0:1::2"), ip("fd00:99:0:1::1")),
        ] {
            let server = b.serve_peer_address(80);
            assert_eq!(a.inside(move || ask((family, 80))).join().unwrap(), own.to_string(), "pod to pod");
            server.join().unwrap();
            let server = b.serve_peer_address(80);
            assert_eq!(ask((family, 80)), gateway.to_string(), "node to pod");
            server.join().unwrap();
            let node = TcpListener::bind((gateway, 0)).unwrap();
            let port = node.local_addr().unwrap().port();
            let client = a.inside(move || std::net::TcpStream::connect((gateway, port)).unwrap());
            assert_eq!(node.accept().unwrap().1.ip(), own, "pod to node");
            client.join().unwrap();
        }

        // The same addresses after a restart, in the order that is asked for.
        let again = open(NetworkConfig { prefers_v6: true, pod_cidr: None, ..dual_config(dir) });
        let ips = again.pod_ips("b").unwrap();
        assert_eq!((ips.primary, ips.additional), (additional[0], vec![primary]));
        again.ensure_bridge().await.unwrap();
        let server = b.serve_peer_address(80);
        assert_eq!(ask((ips.primary, 80)), "fd00:99:0:1::1");
        server.join().unwrap();

        again.detach("a").await.unwrap();
        again.teardown().await.unwrap();
        let routes = run(&["ip", "-6", "route", "show", "table", "all"]);
        assert!(!routes.contains("fd00:99"), "{routes}");
        assert_eq!(run(&["nft", "list", "tables"]), "");
    });
}

#[test]
fn host_ports_lead_to_pods_in_both_families() {
    on_dual_node(async |dir| {
        run(&["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"]);
        run(&["ip", "addr", "add", "fd02::1/128", "dev", "lo", "nodad"]);
        let network = open(dual_config(dir));
        let (a, b) = (Pod::new(), Pod::new());
        let one = ip("fd02::1");
        let mut ports = vec![tcp(8080, 80, None), tcp(8081, 81, None)];
        ports[1].host_ip = Some(one);
        network.attach(attachment("a", &a, ports)).await.unwrap();
        network.attach(attachment("b", &b, vec![])).await.unwrap();
        for node in [ip("192.0.2.1"), one] {
            let own = if node.is_ipv4() { "10.99.1.3" } else { "fd00:99:0:1::3" };
            let server = a.serve_peer_address(80);
            assert_eq!(b.inside(move || ask((node, 8080))).join().unwrap(), own, "from another pod");
            server.join().unwrap();
            let server = a.serve_peer_address(80);
            ask((node, 8080));
            server.join().unwrap();
            let server = a.serve_peer_address(80);
            a.inside(move || ask((node, 8080))).join().unwrap();
            server.join().unwrap();
        }
        let server = a.serve_peer_address(81);
        assert_eq!(b.inside(move || ask((one, 8081))).join().unwrap(), "fd00:99:0:1::3");
        server.join().unwrap();
        network.detach("a").await.unwrap();
        let maps = run(&["nft", "list", "table", "ip6", "nt"]);
        assert!(!maps.contains("8080"), "{maps}");
    });
}

#[test]
fn a_pod_that_lies_about_its_address_is_not_heard() {
    on_dual_node(async |dir| {
        let network = open(dual_config(dir));
        let (a, b) = (Pod::new(), Pod::new());
        network.attach(attachment("a", &a, vec![])).await.unwrap();
        let to = network.attach(attachment("b", &b, vec![])).await.unwrap().additional[0];
        let ear = b.inside(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 9)).unwrap()).join().unwrap();
        ear.set_read_timeout(Some(TIMEOUT)).unwrap();
        let said = a.inside(move || {
            run(&["ip", "addr", "add", "fd00:99:0:1::77/128", "dev", "eth0", "nodad"]);
            for own in ["fd00:99:0:1::77", "fd00:99:0:1::2"] {
                UdpSocket::bind((ip(own), 0)).unwrap().send_to(own.as_bytes(), (to, 9)).unwrap();
            }
        });
        said.join().unwrap();
        // One way, one order: what was said first would have come first.
        let mut heard = [0; 64];
        let (length, from) = ear.recv_from(&mut heard).unwrap();
        assert_eq!((&heard[..length], from.ip()), (b"fd00:99:0:1::2".as_slice(), ip("fd00:99:0:1::2")));
    });
}
