use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::ruleset::{Endpoint, Frontend, Protocol, Route};
use crate::testing::{cluster_ip, in_namespace, port_name, rules, run};

const PATIENCE: Duration = Duration::from_secs(5);

/// Answers every connection with `name`; ends with the test's namespace and process.
fn answer(at: &str, name: &'static str) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

fn ask(at: &str) -> Result<String, ErrorKind> {
    let at: SocketAddr = at.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.kind())?;
    Ok(text)
}

fn who_answers(at: &str, times: usize) -> HashMap<String, usize> {
    let mut all = HashMap::new();
    for _ in 0..times {
        *all.entry(ask(at).unwrap()).or_default() += 1;
    }
    all
}

fn config() -> Config {
    let mut config = Config::new("t", "here");
    config.cluster_cidrs = vec!["10.9.0.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()];
    config.service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
    config
}

/// A back end and what it has been told, so that changes can be given as rulesets.
struct Host {
    backend: Nftables,
    rules: Ruleset,
}

impl Host {
    fn new(rules: Ruleset) -> Self {
        let mut backend = Nftables::new(config()).unwrap();
        backend.sync_now(&rules).unwrap();
        Host { backend, rules }
    }

    fn become_(&mut self, rules: Ruleset) {
        self.backend.apply_now(&Change::between(&self.rules, &rules)).unwrap();
        self.rules = rules;
    }

    /// The table must not depend on how it came about; chains that nothing leads to may stay.
    fn check(&self) -> String {
        let listed = run("nft list table ip t-proxy");
        let mut fresh = Nftables::new(config()).unwrap();
        fresh.sync_now(&self.rules).unwrap();
        assert_eq!(elements(&listed), elements(&run("nft list table ip t-proxy")));
        listed
    }
}

/// Elements of each map in a listing, sorted, without the numbers of endpoints (any order will do) and without clients.
fn elements(listing: &str) -> Vec<Vec<String>> {
    let maps = listing.split("elements = {").skip(1).map(|rest| rest.split('}').next().unwrap());
    let each = maps.filter(|map| !map.contains("expires")).map(|map| {
        let mut all: Vec<String> = map
            .split(',')
            .map(|one| {
                one.split_whitespace().filter(|word| !word.starts_with("0x")).collect::<Vec<_>>().join(" ")
            })
            .collect();
        all.sort();
        all
    });
    each.collect()
}

#[test]
fn a_cluster_ip_is_balanced_changed_and_refused() {
    in_namespace("nft-balance", || {
        for (at, name) in [("10.9.0.1:80", "1"), ("10.9.0.2:80", "2"), ("10.9.0.3:80", "3")] {
            answer(at, name);
        }
        let web = |endpoints: &[&str]| rules(&[("web", cluster_ip("10.96.0.7:80", endpoints))]);
        let mut host = Host::new(web(&["10.9.0.1:80", "10.9.0.2:80"]));
        let answers = who_answers("10.96.0.7:80", 60);
        assert!(answers.len() == 2 && !answers.contains_key("3"), "{answers:?}");
        host.become_(web(&["10.9.0.1:80", "10.9.0.2:80", "10.9.0.3:80"]));
        assert_eq!(who_answers("10.96.0.7:80", 90).len(), 3);
        host.become_(web(&["10.9.0.3:80"]));
        assert_eq!(who_answers("10.96.0.7:80", 5), HashMap::from([("3".to_owned(), 5)]));
        host.become_(web(&[]));
        assert_eq!(ask("10.96.0.7:80"), Err(ErrorKind::ConnectionRefused));
        assert_eq!(ask("10.96.0.7:81"), Err(ErrorKind::ConnectionRefused), "another port of the address");
        host.become_(web(&["10.9.0.2:80"]));
        assert_eq!(ask("10.96.0.7:80").as_deref(), Ok("2"));
        let listed = host.check();
        assert!(listed.contains("dnat"), "{listed}");
        host.become_(Ruleset::default());
        assert!(!host.check().contains("10.96.0.7"));
        host.backend.cleanup_now().unwrap();
        host.backend.cleanup_now().unwrap();
        assert_eq!(run("nft list tables"), "");
    });
}

#[test]
fn node_ports_and_policies_lead_where_they_should() {
    in_namespace("nft-nodeport", || {
        answer("10.9.0.1:80", "1");
        answer("10.9.0.2:80", "2");
        let with = |route, affinity_s| {
            let mut port = cluster_ip("10.96.0.7:80", &["10.9.0.1:80", "10.9.0.2:80"]);
            let at = At { address: None, protocol: Protocol::Tcp, port: 30080 };
            port.frontends.push(Frontend { at, kind: FrontendKind::NodePort, route });
            port.affinity_s = affinity_s;
            rules(&[("web", port)])
        };
        let mut host = Host::new(with(Route::Cluster, None));
        assert_eq!(who_answers("10.9.0.4:30080", 60).len(), 2);
        // From this host itself: policy Local does not hold, the short cut does.
        host.become_(with(Route::Split, None));
        assert_eq!(who_answers("10.9.0.4:30080", 60).len(), 2);
        host.become_(with(Route::Cluster, Some(60)));
        assert_eq!(who_answers("10.9.0.4:30080", 20).len(), 1, "one client stays");
        host.check();
    });
}

#[test]
fn a_client_stays_until_its_endpoint_goes_also_over_a_restart() {
    in_namespace("nft-affinity", || {
        for (at, name) in [("10.9.0.1:80", "1"), ("10.9.0.2:80", "2"), ("10.9.0.3:80", "3")] {
            answer(at, name);
        }
        let sticky = |endpoints: &[&str]| {
            rules(&[("web", ServicePort { affinity_s: Some(100), ..cluster_ip("10.96.0.7:80", endpoints) })])
        };
        let all = ["10.9.0.1:80", "10.9.0.2:80", "10.9.0.3:80"];
        let mut host = Host::new(sticky(&all));
        let first = ask("10.96.0.7:80").unwrap();
        assert_eq!(who_answers("10.96.0.7:80", 20), HashMap::from([(first.clone(), 20)]));
        host = Host::new(host.rules);
        assert_eq!(who_answers("10.96.0.7:80", 20), HashMap::from([(first.clone(), 20)]), "after a restart");
        let others: Vec<&str> = all.into_iter().filter(|at| !at.contains(&format!(".{first}:"))).collect();
        host.become_(sticky(&others));
        let second = ask("10.96.0.7:80").unwrap();
        assert_ne!(first, second);
        host.become_(sticky(&all));
        assert_eq!(who_answers("10.96.0.7:80", 20), HashMap::from([(second, 20)]));
    });
}

/// Such a chain belongs to the pod network or to another cluster on this host.
#[test]
fn clients_are_remembered_whoever_masquerades_first() {
    in_namespace("nft-first", || {
        for (at, name) in [("10.9.0.1:80", "1"), ("10.9.0.2:80", "2"), ("10.9.0.3:80", "3")] {
            answer(at, name);
        }
        let all = ["10.9.0.1:80", "10.9.0.2:80", "10.9.0.3:80"];
        let sticky = ServicePort { affinity_s: Some(100), ..cluster_ip("10.96.0.7:80", &all) };
        let _host = Host::new(rules(&[("web", sticky)]));
        run("nft add table ip other");
        run("nft add chain ip other first { type nat hook postrouting priority srcnat; }");
        run("nft add rule ip other first masquerade");
        let first = ask("10.96.0.7:80").unwrap();
        assert_eq!(who_answers("10.96.0.7:80", 20), HashMap::from([(first, 20)]));
    });
}

#[test]
fn source_ranges_hold_for_load_balancer_addresses_only() {
    in_namespace("nft-ranges", || {
        answer("10.9.0.1:80", "1");
        let with = |ranges: &[&str]| {
            let mut port = cluster_ip("10.96.0.7:80", &["10.9.0.1:80"]);
            let at = At { address: Some([192, 0, 2, 1].into()), protocol: Protocol::Tcp, port: 80 };
            port.frontends.push(Frontend { at, kind: FrontendKind::LoadBalancerIp, route: Route::Cluster });
            port.source_ranges = ranges.iter().map(|r| r.parse().unwrap()).collect();
            rules(&[("web", port)])
        };
        let asks_quickly = |at: &str| {
            TcpStream::connect_timeout(&at.parse().unwrap(), Duration::from_millis(200))
                .map(drop)
                .map_err(|e| e.kind())
        };
        let mut host = Host::new(with(&["10.8.0.0/16"]));
        // A packet dropped on its way out is an error to the sender.
        assert!(asks_quickly("192.0.2.1:80").is_err());
        assert_eq!(asks_quickly("10.96.0.7:80"), Ok(()));
        host.become_(with(&["10.8.0.0/16", "10.9.0.1/32"]));
        assert_eq!(asks_quickly("192.0.2.1:80"), Ok(()));
        host.become_(with(&[]));
        assert_eq!(asks_quickly("192.0.2.1:80"), Ok(()));
        host.check();
    });
}

#[test]
fn thousands_of_services_change_by_single_elements() {
    in_namespace("nft-many", || {
        let port = |n: u32, endpoints: u32| {
            let at = format!("10.96.{}.{}:80", n / 250, n % 250 + 1);
            let all: Vec<String> =
                (0..endpoints).map(|e| format!("10.{}.{}.{}:80", 20 + e, n / 250, n % 250 + 1)).collect();
            cluster_ip(&at, &all.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let names: Vec<String> = (0..2000).map(|n| format!("s{n}")).collect();
        let many: Vec<(&str, ServicePort)> =
            names.iter().zip(0..).map(|(name, n)| (name.as_str(), port(n, 3))).collect();
        let mut host = Host::new(rules(&many));
        let mut more = host.rules.clone();
        more.ports.insert(port_name("s7"), port(7, 4).into());
        let change = Change::between(&host.rules, &more);
        let mut batch = Batch::new();
        host.backend.tables[0].write(&config(), &change.ports, &mut batch);
        // Two chains for four endpoints with their three rules (made and emptied first), and four changed sets.
        assert!(batch.len() <= 12, "{} messages", batch.len());
        host = Host::new(host.rules);
        host.become_(more);
        host.check();
        // Ever different numbers of endpoints leave no more chains than allowed.
        for count in 1..150 {
            let mut next = host.rules.clone();
            next.ports.insert(port_name("s7"), port(7, count).into());
            host.become_(next);
        }
        let chains = host.check().matches("chain pick").count();
        assert!(chains <= MOST_IDLE_CHAINS + 3, "{chains} chains");
    });
}

#[test]
fn ipv6_works_alike() {
    in_namespace("nft-v6", || {
        run("ip addr add fd00:9::1/128 dev lo nodad");
        run("ip -6 route add default dev dummy0 src fd00:9::1");
        answer("[fd00:9::1]:80", "six");
        let port = |affinity_s| {
            let mut port = cluster_ip("[fd00:96::7]:80", &["[fd00:9::1]:80"]);
            port.affinity_s = affinity_s;
            let name = PortName { family: Family::V6, ..port_name("web") };
            Ruleset { ports: [(name, port.into())].into(), ..Ruleset::default() }
        };
        let mut host = Host::new(port(None));
        assert_eq!(ask("[fd00:96::7]:80").as_deref(), Ok("six"));
        host.become_(port(Some(9)));
        assert_eq!(ask("[fd00:96::7]:80").as_deref(), Ok("six"));
        assert_eq!(ask("[fd00:96::7]:80").as_deref(), Ok("six"));
        run("nft list table ip6 t-proxy");
        assert_eq!(ask("[fd00:96::7]:81"), Err(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn the_endpoint_type_is_small() {
    // Ten thousand services with hundreds of endpoints are kept in memory.
    assert!(size_of::<Endpoint>() <= 24);
}
