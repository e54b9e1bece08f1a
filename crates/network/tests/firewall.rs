//! Network policies, by packets between pods.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{Pod, TIMEOUT, attachment, config, on_fresh_node, run};
use corten_network::{Allow, Direction, Firewall, PodNetwork, Ports, Protocol, Remote};

/// A dropped packet is no answer; so long without one counts as dropped.
const SILENCE: Duration = Duration::from_millis(300);

/// Listens for ever on some ports.
fn listen(pod: &Pod, ports: &'static [u16]) -> Vec<TcpListener> {
    pod.inside(move || ports.iter().map(|port| TcpListener::bind(("0.0.0.0", *port)).unwrap()).collect())
        .join()
        .unwrap()
}

/// Whether the port answers, as long as that may take on a busy machine.
fn reaches(from: &Pod, to: IpAddr, port: u16) -> bool {
    connects(from, to, port, TIMEOUT)
}

fn cut_off(from: &Pod, to: IpAddr, port: u16) -> bool {
    !connects(from, to, port, SILENCE)
}

fn connects(from: &Pod, to: IpAddr, port: u16, patience: Duration) -> bool {
    from.inside(move || TcpStream::connect_timeout(&(to, port).into(), patience).is_ok()).join().unwrap()
}

fn tcp(remote: Remote, port: u16) -> Allow {
    Allow { remote, ports: Ports::Range(Protocol::Tcp, port, port) }
}

fn isolate(firewall: &mut Firewall, direction: Direction, pod: IpAddr, policy: &str, allowed: Vec<Allow>) {
    firewall.policies.insert((direction, policy.to_owned()), allowed.into_iter().collect());
    firewall.pods.entry((direction, pod)).or_default().insert(policy.to_owned());
}

#[test]
fn what_no_policy_allows_does_not_pass() {
    on_fresh_node(async |dir| {
        let network = PodNetwork::new(config(dir)).unwrap();
        let (a, b, c) = (Pod::new(), Pod::new(), Pod::new());
        let mut ips = Vec::new();
        for (id, pod) in [("a", &a), ("b", &b), ("c", &c)] {
            ips.push(network.attach(attachment(id, pod, vec![])).await.unwrap().primary);
        }
        let [a_ip, b_ip, c_ip] = ips[..] else { panic!("three pods") };
        let _listening = (listen(&b, &[80, 81]), listen(&c, &[80]));
        network.set_firewall(Firewall::default()).await.unwrap();
        assert!(reaches(&a, b_ip, 80), "without policies");
        let old = a
            .inside(move || TcpStream::connect_timeout(&(b_ip, 81).into(), TIMEOUT).unwrap())
            .join()
            .unwrap();

        // To b: from a on port 80.
        let mut firewall = Firewall::default();
        firewall.addresses.insert("s_a".into(), BTreeSet::from([a_ip]));
        isolate(&mut firewall, Direction::Ingress, b_ip, "ns/in", vec![tcp(Remote::Set("s_a".into()), 80)]);
        network.set_firewall(firewall.clone()).await.unwrap();
        assert!(reaches(&a, b_ip, 80) && cut_off(&a, b_ip, 81), "the port counts");
        assert!(cut_off(&c, b_ip, 80), "the sender counts");
        assert!(reaches(&b, c_ip, 80) && reaches(&a, c_ip, 80), "others are not concerned, answers neither");
        assert!(
            TcpStream::connect_timeout(&(b_ip, 81).into(), TIMEOUT).is_ok(),
            "the node reaches its own pods"
        );
        use std::io::Write;
        (&old).write_all(b"still").unwrap();

        // A second policy for the same pod allows more.
        isolate(&mut firewall, Direction::Ingress, b_ip, "ns/more", vec![tcp(Remote::Any, 81)]);
        network.set_firewall(firewall.clone()).await.unwrap();
        assert!(reaches(&c, b_ip, 81) && reaches(&a, b_ip, 80) && cut_off(&c, b_ip, 80));

        // From a: to the block of b without b's port 81; both sides must agree.
        let block = Remote::Block {
            cidr: "10.99.1.0/24".parse().unwrap(),
            except: vec![format!("{c_ip}/32").parse().unwrap()],
        };
        isolate(&mut firewall, Direction::Egress, a_ip, "ns/out", vec![tcp(block, 80)]);
        network.set_firewall(firewall.clone()).await.unwrap();
        assert!(reaches(&a, b_ip, 80) && cut_off(&a, b_ip, 81) && cut_off(&a, c_ip, 80));
        let node = TcpListener::bind("10.99.1.1:0").unwrap();
        let port = node.local_addr().unwrap().port();
        let gateway: IpAddr = "10.99.1.1".parse().unwrap();
        assert!(cut_off(&a, gateway, port) && reaches(&b, gateway, port), "the node is a destination, too");

        // A pod more in the set; a restart that knows nothing of the last state.
        firewall.addresses.insert("s_a".into(), BTreeSet::from([a_ip, c_ip]));
        network.set_firewall(firewall.clone()).await.unwrap();
        assert!(reaches(&c, b_ip, 80));
        drop(network);
        let network = PodNetwork::new(config(dir)).unwrap();
        firewall.addresses.insert("s_a".into(), BTreeSet::from([a_ip]));
        network.set_firewall(firewall).await.unwrap();
        assert!(reaches(&a, b_ip, 80) && cut_off(&c, b_ip, 80));

        network.set_firewall(Firewall::default()).await.unwrap();
        assert!(reaches(&c, b_ip, 80));
        assert!(!run(&["nft", "list", "tables"]).contains("nt-policy"));
    });
}

#[test]
fn ports_by_name_ranges_and_protocols_are_understood_by_the_kernel() {
    on_fresh_node(async |dir| {
        let network = PodNetwork::new(config(dir)).unwrap();
        let (a, b) = (Pod::new(), Pod::new());
        network.attach(attachment("a", &a, vec![])).await.unwrap();
        let b_ip = network.attach(attachment("b", &b, vec![])).await.unwrap().primary;
        let _listening = listen(&b, &[80, 81, 90]);
        let everything = |name: u16| {
            let mut firewall = Firewall::default();
            firewall.endpoints.insert("n_http".into(), BTreeSet::from([(b_ip, Protocol::Tcp, name)]));
            let v6 =
                Remote::Block { cidr: "::/0".parse().unwrap(), except: vec!["fd00::/8".parse().unwrap()] };
            let allowed = vec![
                Allow { remote: Remote::Any, ports: Ports::Set("n_http".into()) },
                Allow { remote: Remote::Any, ports: Ports::Range(Protocol::Tcp, 85, 95) },
                Allow { remote: Remote::Any, ports: Ports::Protocol(Protocol::Sctp) },
                Allow { remote: v6, ports: Ports::Any },
            ];
            isolate(&mut firewall, Direction::Ingress, b_ip, "ns/named", allowed);
            firewall
        };
        network.set_firewall(everything(80)).await.unwrap();
        assert!(reaches(&a, b_ip, 80) && cut_off(&a, b_ip, 81) && reaches(&a, b_ip, 90));
        network.set_firewall(everything(81)).await.unwrap();
        assert!(cut_off(&a, b_ip, 80) && reaches(&a, b_ip, 81));
        let none = BTreeMap::new();
        network.set_firewall(Firewall { endpoints: none, ..Firewall::default() }).await.unwrap();
        network.teardown().await.unwrap();
        assert_eq!(run(&["nft", "list", "tables"]), "");
    });
}

#[test]
fn tables_that_somebody_removes_are_put_back() {
    on_fresh_node(async |dir| {
        let network = PodNetwork::new(config(dir)).unwrap();
        let (a, b) = (Pod::new(), Pod::new());
        network.attach(attachment("a", &a, vec![])).await.unwrap();
        let b_ip = network.attach(attachment("b", &b, vec![])).await.unwrap().primary;
        let _listening = listen(&b, &[80]);
        let mut changes = network.table_changes().unwrap();
        let mut firewall = Firewall::default();
        isolate(&mut firewall, Direction::Ingress, b_ip, "ns/deny", vec![]);
        network.set_firewall(firewall.clone()).await.unwrap();
        assert!(cut_off(&a, b_ip, 80));
        assert!(!network.repair_tables().await.unwrap(), "nothing is missing");
        for command in [&["nft", "flush", "ruleset"][..], &["nft", "delete", "table", "ip", "nt-policy"]] {
            run(command);
            tokio::time::timeout(TIMEOUT, changes.next()).await.expect("the kernel tells").unwrap();
            assert!(network.repair_tables().await.unwrap(), "{command:?}");
            network.set_firewall(firewall.clone()).await.unwrap();
            assert!(cut_off(&a, b_ip, 80), "{command:?}");
            let tables = run(&["nft", "list", "tables"]);
            assert!(tables.contains("table ip nt\n") && tables.contains("table ip nt-policy\n"), "{tables}");
        }
        network.teardown().await.unwrap();
    });
}
