//! The pod network on real links. Each test runs on a thread that has entered a fresh network namespace,
//! which plays the node: tests run side by side, need root, and the kernel cleans up behind them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{Pod, TIMEOUT, ask, attachment, config, on_fresh_node, run, tcp};
use corten_network::{Attachment, NetworkConfig, NetworkError, PodNetwork, PortMapping, Protocol};

#[test]
fn pods_and_node_reach_each_other_and_detach_leaves_nothing() {
    on_fresh_node(async |dir| {
        let links_before = run(&["ip", "-br", "link"]);
        let network = PodNetwork::new(config(dir)).unwrap();
        let (a, b) = (Pod::new(), Pod::new());
        let a_ip = network.attach(attachment("a", &a, vec![])).await.unwrap().primary;
        let b_ip = network.attach(attachment("b", &b, vec![])).await.unwrap().primary;
        assert_eq!([a_ip, b_ip].map(|ip| ip.to_string()), ["10.99.1.2", "10.99.1.3"]);
        assert_eq!(network.attach(attachment("a", &a, vec![])).await.unwrap().primary, a_ip);

        let gateway: IpAddr = "10.99.1.1".parse().unwrap();
        let server = b.serve_peer_address(80);
        assert_eq!(a.inside(move || ask((b_ip, 80))).join().unwrap(), a_ip.to_string(), "pod to pod");
        server.join().unwrap();
        let server = b.serve_peer_address(80);
        assert_eq!(ask((b_ip, 80)), gateway.to_string(), "node to pod");
        server.join().unwrap();
        let node = TcpListener::bind((gateway, 0)).unwrap();
        let port = node.local_addr().unwrap().port();
        let client = a.inside(move || TcpStream::connect_timeout(&(gateway, port).into(), TIMEOUT).unwrap());
        assert_eq!(node.accept().unwrap().1.ip(), a_ip, "pod to node");
        client.join().unwrap();
        let server = a.serve_peer_address(81);
        assert_eq!(
            a.inside(|| ask((Ipv4Addr::LOCALHOST, 81))).join().unwrap(),
            "127.0.0.1",
            "loopback in the pod"
        );
        server.join().unwrap();

        let links = run(&["ip", "-d", "link"]);
        assert!(links.contains("alias nt/a"), "{links}");
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        network.detach("never-was").await.unwrap();
        assert!(!run(&["ip", "-d", "link"]).contains("alias nt/a"));
        network.teardown().await.unwrap();
        network.teardown().await.unwrap();
        assert_eq!(run(&["ip", "-br", "link"]), links_before);
        assert_eq!(run(&["ip", "route"]), "");
        assert_eq!(run(&["nft", "list", "tables"]), "");
        assert_eq!(std::fs::read_dir(dir.join("network/sandboxes")).unwrap().count(), 0);
    });
}

#[test]
fn host_ports_lead_to_the_pod() {
    on_fresh_node(async |dir| {
        run(&["ip", "link", "add", "up0", "type", "bridge"]);
        run(&["ip", "addr", "add", "192.0.2.1/24", "dev", "up0"]);
        run(&["ip", "addr", "add", "192.0.2.2/24", "dev", "up0"]);
        run(&["ip", "link", "set", "up0", "up"]);
        let network = PodNetwork::new(config(dir)).unwrap();
        let (a, b) = (Pod::new(), Pod::new());
        let second = Ipv4Addr::new(192, 0, 2, 2);
        let ports = vec![
            tcp(8080, 80, None),
            tcp(8081, 81, Some(second)),
            tcp(0, 82, None),
            PortMapping { protocol: Protocol::Udp, host_port: 5353, container_port: 53, host_ip: None },
        ];
        network.attach(attachment("a", &a, ports.clone())).await.unwrap();
        let b_ip = network.attach(attachment("b", &b, vec![])).await.unwrap().primary;

        for (port, from) in
            [(8080, "192.0.2.1"), (8080, "192.0.2.2"), (8080, "127.0.0.1"), (8081, "192.0.2.2")]
        {
            let server = a.serve_peer_address(port - 8000);
            let answer = ask((from.parse::<Ipv4Addr>().unwrap(), port));
            assert!(!answer.is_empty(), "{from}:{port}");
            server.join().unwrap();
        }
        assert!(
            TcpStream::connect_timeout(&([192, 0, 2, 1], 8081).into(), TIMEOUT).is_err(),
            "other host IP"
        );
        let server = a.serve_peer_address(80);
        let seen = b.inside(move || ask(([192, 0, 2, 1], 8080))).join().unwrap();
        assert_eq!(seen, "10.99.1.3", "another pod keeps its address");
        server.join().unwrap();
        let server = a.serve_peer_address(80);
        a.inside(move || ask(([192, 0, 2, 1], 8080))).join().unwrap();
        server.join().unwrap();

        let udp = a.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            move || {
                let mut buffer = [0; 16];
                let (length, _) = socket.recv_from(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            }
        });
        let receive = udp.join().unwrap();
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", "192.0.2.1:5353").unwrap();
        assert_eq!(receive(), "hello");

        let taken = network.attach(attachment("b2", &b, vec![tcp(8080, 1, None)])).await;
        assert!(matches!(taken, Err(NetworkError::HostPortTaken { .. })), "{taken:?}");
        network.detach("a").await.unwrap();
        assert!(
            TcpStream::connect_timeout(&([192, 0, 2, 1], 8080).into(), TIMEOUT).is_err(),
            "port is closed"
        );
        assert_eq!(b_ip.to_string(), "10.99.1.3");
    });
}

/// A socket on the pod's port 53 that has heard nothing yet.
fn ear(pod: &Pod) -> UdpSocket {
    let socket = pod.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap()).join().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Sends until the pod hears it; false when it never does.
fn is_heard(client: &UdpSocket, ear: &UdpSocket) -> bool {
    let until = std::time::Instant::now() + TIMEOUT;
    while std::time::Instant::now() < until {
        // The pod before may have been gone: its refusal is told with the next call.
        let _ = client.send(b"hello");
        if ear.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn a_client_that_keeps_its_udp_port_finds_the_next_pod_of_a_host_port() {
    on_fresh_node(async |dir| {
        run(&["ip", "link", "add", "up0", "type", "bridge"]);
        run(&["ip", "addr", "add", "192.0.2.1/24", "dev", "up0"]);
        run(&["ip", "link", "set", "up0", "up"]);
        let network = PodNetwork::new(config(dir)).unwrap();
        network.ensure_bridge().await.unwrap();
        let ports =
            vec![PortMapping { protocol: Protocol::Udp, host_port: 5353, container_port: 53, host_ip: None }];
        let client = UdpSocket::bind("192.0.2.1:0").unwrap();
        client.connect("192.0.2.1:5353").unwrap();
        // Before there is any pod: the flow leads nowhere.
        let _ = client.send(b"hello");
        for id in ["a", "b"] {
            let pod = Pod::new();
            network.attach(attachment(id, &pod, ports.clone())).await.unwrap();
            assert!(is_heard(&client, &ear(&pod)), "{id}");
            network.detach(id).await.unwrap();
        }
    });
}

#[test]
fn pods_are_masqueraded_outside_the_cluster_and_cannot_reach_the_nodes_loopback() {
    on_fresh_node(async |dir| {
        let outside = Pod::new();
        run(&["ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1"]);
        let fd = outside.netns.as_raw_fd();
        run(&["ip", "link", "set", "out1", "netns", &format!("/proc/{}/fd/{fd}", std::process::id())]);
        run(&["ip", "addr", "add", "198.51.100.1/24", "dev", "out0"]);
        run(&["ip", "link", "set", "out0", "up"]);
        let configured = outside.inside(|| {
            run(&["ip", "addr", "add", "198.51.100.2/24", "dev", "out1"]);
            run(&["ip", "link", "set", "out1", "up"]);
        });
        configured.join().unwrap();
        let network = PodNetwork::new(config(dir)).unwrap();
        let pod = Pod::new();
        // With a host port, which opens the way from the node's loopback.
        network.attach(attachment("a", &pod, vec![tcp(8080, 80, None)])).await.unwrap();
        let server = outside.serve_peer_address(80);
        let seen = pod.inside(|| ask(([198, 51, 100, 2], 80))).join().unwrap();
        server.join().unwrap();
        assert_eq!(seen, "198.51.100.1", "the node's address, not the pod's");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let refused = pod.inside(move || {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            run(&["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"]);
            run(&[
                "ip",
                "route",
                "add",
                "127.0.0.0/8",
                "via",
                "10.99.1.1",
                "dev",
                "eth0",
                "onlink",
                "src",
                "10.99.1.2",
            ]);
            TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_err()
        });
        assert!(refused.join().unwrap());
        assert!(listener.accept().is_err());
    });
}

#[test]
fn a_restart_keeps_live_pods_and_forgets_dead_ones() {
    on_fresh_node(async |dir| {
        let first = PodNetwork::new(config(dir)).unwrap();
        let (a, b) = (Pod::new(), Pod::new());
        let a_ip = first.attach(attachment("a", &a, vec![tcp(8080, 80, None)])).await.unwrap().primary;
        first.attach(attachment("b", &b, vec![tcp(8090, 80, None)])).await.unwrap();
        drop(first);
        run(&["nft", "flush", "ruleset"]);
        run(&["ip", "link", "add", "stray", "type", "veth", "peer", "name", "stray1"]);
        run(&["ip", "link", "set", "stray", "master", "nt0"]);

        let second = PodNetwork::new(NetworkConfig { pod_cidr: None, ..config(dir) }).unwrap();
        second.reconcile(&BTreeSet::from(["a".to_owned()])).await.unwrap();
        let links = run(&["ip", "-d", "link"]);
        assert!(
            links.contains("alias nt/a") && !links.contains("alias nt/b") && !links.contains("stray"),
            "{links}"
        );
        let server = a.serve_peer_address(80);
        assert!(!ask(([127, 0, 0, 1], 8080)).is_empty());
        server.join().unwrap();
        assert_eq!(second.pod_ips("a").unwrap().primary, a_ip);
        let c = Pod::new();
        let c_ip = second.attach(attachment("c", &c, vec![])).await.unwrap().primary;
        assert_eq!(c_ip.to_string(), "10.99.1.4");
    });
}

#[test]
fn failures_leave_nothing_behind() {
    on_fresh_node(async |dir| {
        let without = PodNetwork::new(NetworkConfig { pod_cidr: None, ..config(dir) }).unwrap();
        let pod = Pod::new();
        let refused = without.attach(attachment("a", &pod, vec![])).await;
        assert!(matches!(refused, Err(NetworkError::NoPodCidr)), "{refused:?}");

        let network = PodNetwork::new(config(dir)).unwrap();
        let bad =
            Attachment { netns: "/nonexistent".into(), ..attachment("a", &pod, vec![tcp(80, 80, None)]) };
        assert!(matches!(network.attach(bad).await, Err(NetworkError::Io { .. })));
        assert_eq!(network.pod_ips("a"), None);
        let again = network.attach(attachment("b", &pod, vec![tcp(80, 80, None)])).await.unwrap();
        assert_eq!(again.primary.to_string(), "10.99.1.3", "the failed pod's address waits its turn");

        run(&["ip", "link", "del", "nt0"]);
        let other = Pod::new();
        network.attach(attachment("c", &other, vec![])).await.unwrap_err();
        network.attach(attachment("c", &other, vec![])).await.unwrap();
    });
}

/// A connection through a virtual address, as the service proxy makes one: DNAT in prerouting, masquerade where a pod
/// reaches itself.
fn virtual_address(backend: IpAddr) {
    let rules = format!(
        "add table ip vip
add chain ip vip pre {{ type nat hook prerouting priority -100; }}
add rule ip vip pre ip daddr 10.98.0.1 tcp dport 80 dnat to {backend}:80
add chain ip vip post {{ type nat hook postrouting priority 100; }}
add rule ip vip post ip saddr {backend} ip daddr {backend} masquerade
"
    );
    let path = std::env::temp_dir().join(format!(
        "corten-vip-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&path, rules).unwrap();
    run(&["nft", "-f", path.to_str().unwrap()]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn service_traffic_between_pods_needs_no_bridge_netfilter() {
    for bridge_netfilter in ["0", "1"] {
        on_fresh_node(async move |dir| {
            // Absent where the kernel has no such thing; then there is nothing to choose.
            let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", bridge_netfilter);
            let network = PodNetwork::new(config(dir)).unwrap();
            let (a, b) = (Pod::new(), Pod::new());
            let a_ip = network.attach(attachment("a", &a, vec![])).await.unwrap().primary;
            let b_ip = network.attach(attachment("b", &b, vec![])).await.unwrap().primary;
            virtual_address(b_ip);
            let vip = ([10, 98, 0, 1], 80);
            let server = b.serve_peer_address(80);
            assert_eq!(a.inside(move || ask(vip)).join().unwrap(), a_ip.to_string(), "source is kept");
            server.join().unwrap();
            let server = b.serve_peer_address(80);
            assert_ne!(b.inside(move || ask(vip)).join().unwrap(), b_ip.to_string(), "a pod to itself");
            server.join().unwrap();
        });
    }
}

#[test]
fn pods_are_routed_and_cannot_borrow_an_address() {
    on_fresh_node(async |dir| {
        let network = PodNetwork::new(config(dir)).unwrap();
        let (a, b) = (Pod::new(), Pod::new());
        network.attach(attachment("a", &a, vec![])).await.unwrap();
        let b_ip = network.attach(attachment("b", &b, vec![])).await.unwrap().primary;
        let routes = a.inside(|| run(&["ip", "route"])).join().unwrap();
        assert_eq!(
            routes.trim(),
            "default via 10.99.1.1 dev eth0 proto static onlink",
            "no other pod is a neighbour"
        );
        assert!(run(&["ip", "route"]).contains("unreachable 10.99.1.0/24"));

        let gone = TcpStream::connect_timeout(&([10, 99, 1, 77], 80).into(), TIMEOUT).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(nix::errno::Errno::EHOSTUNREACH as i32), "{gone}");
        let spoofed = a.inside(move || {
            run(&["ip", "addr", "add", "10.99.1.200/32", "dev", "eth0"]);
            run(&[
                "ip",
                "route",
                "replace",
                "default",
                "via",
                "10.99.1.1",
                "dev",
                "eth0",
                "onlink",
                "src",
                "10.99.1.200",
            ]);
            UdpSocket::bind("10.99.1.200:0").unwrap().send_to(b"x", (b_ip, 53))
        });
        let sink = b.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap()).join().unwrap();
        sink.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = spoofed.join().unwrap();
        assert!(sink.recv_from(&mut [0; 8]).is_err(), "a foreign source address");
    });
}

#[test]
fn pods_of_earlier_versions_stay_connected() {
    on_fresh_node(async |dir| {
        // What they left: a bridge with the whole range, a port of it, a record without the word `routed`.
        run(&["ip", "link", "add", "nt0", "type", "bridge"]);
        run(&["ip", "addr", "add", "10.99.1.1/24", "dev", "nt0"]);
        run(&["ip", "link", "set", "nt0", "up"]);
        let old = Pod::new();
        run(&["ip", "link", "add", "ntold", "type", "veth", "peer", "name", "ntold1"]);
        let fd = old.netns.as_raw_fd();
        run(&["ip", "link", "set", "ntold1", "netns", &format!("/proc/{}/fd/{fd}", std::process::id())]);
        run(&["ip", "link", "set", "ntold", "master", "nt0", "up"]);
        let configured = old.inside(|| {
            run(&["ip", "link", "set", "ntold1", "name", "eth0", "up"]);
            run(&["ip", "addr", "add", "10.99.1.2/24", "dev", "eth0"]);
            run(&["ip", "route", "add", "default", "via", "10.99.1.1"]);
        });
        configured.join().unwrap();
        std::fs::create_dir_all(dir.join("network/sandboxes")).unwrap();
        let record = r#"{"sandbox_id":"old","address":"10.99.1.2","link":"ntold","ports":[]}"#;
        std::fs::write(dir.join("network/sandboxes/old"), record).unwrap();

        let network = PodNetwork::new(config(dir)).unwrap();
        network.reconcile(&BTreeSet::from(["old".to_owned()])).await.unwrap();
        let new = Pod::new();
        let new_ip = network.attach(attachment("new", &new, vec![])).await.unwrap().primary;
        let old_ip: IpAddr = "10.99.1.2".parse().unwrap();
        for (from, to, to_ip) in [(&old, &new, new_ip), (&new, &old, old_ip)] {
            let server = to.serve_peer_address(80);
            assert_ne!(from.inside(move || ask((to_ip, 80))).join().unwrap(), to_ip.to_string());
            server.join().unwrap();
        }
        let server = old.serve_peer_address(80);
        assert_eq!(ask((old_ip, 80)), "10.99.1.1", "node to old pod");
        server.join().unwrap();
        network.detach("old").await.unwrap();
        assert!(!run(&["ip", "route"]).contains("10.99.1.2"));
    });
}
