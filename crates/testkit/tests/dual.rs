//! A cluster of two families: pods, services, names and policies over IPv4 and IPv6 alike.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use corten_dns::wire::message::Answer;
use corten_dns::wire::{Name, query, rtype};
use corten_testkit::{Cluster, Families, NODE, Namespace, Options, http_get, is_ready, within};
use serde_json::{Value, json};

/// Only failures ever use it up.
const PATIENCE: Duration = Duration::from_secs(150);
/// A question to the DNS is lost after so long.
const LOST: Duration = Duration::from_millis(500);

/// `None` where the kernel has one family: nothing to test.
fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    CLUSTER.get_or_init(|| start(Families::FourSix)).as_ref()
}

fn start(families: Families) -> Option<Cluster> {
    if !has_ipv6() {
        println!("passed over: this kernel has no IPv6");
        return None;
    }
    Some(Cluster::start(Options { families, beside_others: true, ..Options::default() }))
}

fn has_ipv6() -> bool {
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    Path::new("/proc/net/if_inet6").exists() && disabled.is_ok_and(|text| text.trim() == "0")
}

fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

fn pod(name: &str, labels: Value) -> String {
    let env = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c", "image": "corten.local/testserver:1",
            "env": [env("POD_IPS", "status.podIPs"), env("HOST_IPS", "status.hostIPs")],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
        }]},
    })
    .to_string()
}

fn service(name: &str, spec: Value) -> String {
    let mut whole = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": whole}).to_string()
}

/// Ready pods, as the API tells them.
fn run(ns: &Namespace<'_>, name: &str, labels: Value) -> Value {
    ns.create_from(&pod(name, labels));
    eventually(&format!("{name} is ready"), || {
        let pod = ns.get(&format!("pod/{name}"));
        is_ready(&pod).then_some(pod)
    })
}

fn addresses(list: &Value, field: &str) -> Vec<IpAddr> {
    let all = list.as_array().into_iter().flatten();
    let text = |entry: &Value| if field.is_empty() { entry.clone() } else { entry[field].clone() };
    all.map(|entry| text(entry).as_str().unwrap().parse().unwrap()).collect()
}

/// `46`, `64`, `4` or `6`.
fn families(all: &[IpAddr]) -> String {
    all.iter().map(|ip| if ip.is_ipv4() { '4' } else { '6' }).collect()
}

fn cluster_ips(ns: &Namespace<'_>, name: &str) -> Vec<IpAddr> {
    addresses(&ns.get(&format!("svc/{name}"))["spec"]["clusterIPs"], "")
}

fn at(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

fn from_pod(ns: &Namespace<'_>, client: &str, address: &str, path: &str) -> Option<String> {
    let url = format!("http://{address}{path}");
    let output = ns.kubectl(&["exec", client, "--", "testserver", "get", "--timeout", "2", &url]);
    output.success().then(|| output.stdout.trim().to_owned())
}

/// Answers the service at all of its addresses, asked from the node and from a pod?
fn answers(ns: &Namespace<'_>, name: &str, client: &str) {
    for ip in cluster_ips(ns, name) {
        let address = at(ip, 80);
        eventually(&format!("{name} answers the node at {address}"), || {
            http_get(&address, "/hostname").filter(|host| host.trim() == "web")
        });
        eventually(&format!("{name} answers a pod at {address}"), || {
            from_pod(ns, client, &address, "/hostname").filter(|host| host == "web")
        });
    }
}

/// Addresses that a DNS server tells of a name; none as long as it does not answer.
fn lookup(server: IpAddr, name: &str, kind: u16) -> BTreeSet<IpAddr> {
    records(server, name, kind).unwrap_or_default().iter().filter_map(|data| address(data)).collect()
}

fn address(data: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(data).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(data).map(IpAddr::from)).ok()
}

fn records(server: IpAddr, name: &str, kind: u16) -> Option<Vec<Vec<u8>>> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(LOST)).unwrap();
    socket.connect((server, 53)).ok()?;
    let name = Name::from_text(name).unwrap();
    socket.send(&query::build(7, &name, kind, false, false)).ok()?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).ok()?;
    let answer = Answer::read(buffer[..length].to_vec(), 7, &name, kind).ok()?;
    let of_kind = answer.answers().iter().filter(|record| record.kind == kind);
    Some(of_kind.map(|record| answer.bytes[record.data..record.end].to_vec()).collect())
}

fn dns_servers(cluster: &Cluster) -> Vec<IpAddr> {
    eventually("the Service kube-dns", || {
        let output = cluster.kubectl(&["get", "svc", "kube-dns", "-n", "kube-system", "-o", "json"]);
        output.success().then(|| addresses(&output.json()["spec"]["clusterIPs"], ""))
    })
}

#[test]
fn pods_and_nodes_have_addresses_of_both_families() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("two-addresses");
    let node = cluster.kubectl(&["get", "node", NODE, "-o", "json"]).json();
    let ranges = node["spec"]["podCIDRs"].as_array().unwrap();
    assert_eq!((ranges.len(), &ranges[0]), (2, &node["spec"]["podCIDR"]));
    assert!(ranges[1].as_str().unwrap().ends_with("::/64"), "{ranges:?}");

    let web = run(&ns, "web", json!({"app": "web"}));
    let ips = addresses(&web["status"]["podIPs"], "ip");
    assert_eq!(families(&ips), "46");
    assert_eq!(web["status"]["podIP"].as_str().unwrap(), ips[0].to_string());
    let hosts = addresses(&web["status"]["hostIPs"], "ip");
    assert_eq!(web["status"]["hostIP"].as_str().unwrap(), hosts[0].to_string());
    let client = addresses(&run(&ns, "client", json!({}))["status"]["podIPs"], "ip");
    let list = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    for ip in &ips {
        let address = at(*ip, 8080);
        let told = |name: &str| http_get(&address, &format!("/env?name={name}")).unwrap().trim().to_owned();
        eventually("the node reaches the pod", || http_get(&address, "/hostname"));
        assert_eq!(told("POD_IPS"), list(&ips));
        assert_eq!(told("HOST_IPS"), list(&hosts));
        let seen = eventually("a pod reaches the pod", || from_pod(&ns, "client", &address, "/client"));
        let seen = seen.parse::<IpAddr>().unwrap().to_canonical();
        assert!(client.contains(&seen) && seen.is_ipv4() == ip.is_ipv4(), "{seen} at {ip}");
    }
    let hosts_file =
        ns.kubectl(&["exec", "web", "--", "testserver", "get", "http://localhost:8080/read?path=/etc/hosts"]);
    for ip in &ips {
        assert!(hosts_file.stdout.contains(&format!("{ip}\tweb")), "{hosts_file}");
    }
}

#[test]
fn services_of_every_policy_and_order_answer_and_have_names() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("policies");
    run(&ns, "web", json!({"app": "web"}));
    run(&ns, "client", json!({}));
    let table = [
        ("plain", json!({}), "4"),
        ("four", json!({"ipFamilies": ["IPv4"]}), "4"),
        ("six", json!({"ipFamilies": ["IPv6"]}), "6"),
        ("prefer", json!({"ipFamilyPolicy": "PreferDualStack"}), "46"),
        ("prefer-six", json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}), "64"),
        ("require", json!({"ipFamilyPolicy": "RequireDualStack"}), "46"),
        ("require-64", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}), "64"),
    ];
    for (name, spec, wanted) in &table {
        ns.create_from(&service(name, spec.clone()));
        assert_eq!(families(&cluster_ips(&ns, name)), *wanted, "{name}");
    }
    let servers = dns_servers(cluster);
    assert_eq!(families(&servers), "46");
    let namespace = ns.get("svc/plain")["metadata"]["namespace"].as_str().unwrap().to_owned();
    for (name, _, _) in &table {
        answers(&ns, name, "client");
        let ips = cluster_ips(&ns, name);
        let host = format!("{name}.{namespace}.svc.cluster.local");
        for server in &servers {
            let of =
                |six: bool| ips.iter().copied().filter(|ip| ip.is_ipv6() == six).collect::<BTreeSet<_>>();
            eventually(&format!("{server} tells the addresses of {host}"), || {
                let told = [rtype::A, rtype::AAAA].map(|kind| lookup(*server, &host, kind));
                (told == [of(false), of(true)]).then_some(())
            });
            for ip in &ips {
                eventually(&format!("{server} tells the name of {ip}"), || {
                    let found = records(*server, &reverse(*ip), rtype::PTR)?;
                    let label = format!("{}{name}", char::from(u8::try_from(name.len()).unwrap()));
                    found.iter().any(|data| data.starts_with(label.as_bytes())).then_some(())
                });
            }
        }
        let selector = format!("kubernetes.io/service-name={name}");
        eventually("a slice of each family", || {
            let slices = ns.kubectl(&["get", "endpointslices", "-l", &selector, "-o", "json"]).json();
            let kinds: BTreeSet<String> = slices["items"]
                .as_array()?
                .iter()
                .map(|s| s["addressType"].as_str().unwrap().to_owned())
                .collect();
            let wanted = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned()).collect();
            (kinds == wanted).then_some(())
        });
        eventually("the older form has the first family", || {
            let endpoints = ns.kubectl(&["get", "endpoints", name, "-o", "json"]);
            let endpoints = endpoints.success().then(|| endpoints.json())?;
            let ip: IpAddr = endpoints["subsets"][0]["addresses"][0]["ip"].as_str()?.parse().ok()?;
            (ip.is_ipv4() == ips[0].is_ipv4()).then_some(())
        });
    }
    ns.create_from(&service("none", json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack"})));
    let ips: BTreeSet<IpAddr> = addresses(&ns.get("pod/web")["status"]["podIPs"], "ip").into_iter().collect();
    let host = format!("none.{namespace}.svc.cluster.local");
    eventually("a headless service has the pods' addresses", || {
        let told: BTreeSet<IpAddr> =
            [rtype::A, rtype::AAAA].into_iter().flat_map(|kind| lookup(servers[0], &host, kind)).collect();
        (told == ips).then_some(())
    });
}

fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().rev().map(|b| format!("{:x}.{:x}.", b & 15, b >> 4));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    }
}

#[test]
fn a_service_takes_and_gives_back_its_second_family() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("transitions");
    run(&ns, "web", json!({"app": "web"}));
    run(&ns, "client", json!({}));
    ns.create_from(&service("web", json!({"type": "NodePort"})));
    let first = cluster_ips(&ns, "web");
    assert_eq!(families(&first), "4");
    answers(&ns, "web", "client");
    let patch = |spec: Value| {
        ns.kubectl(&["patch", "svc", "web", "--type=merge", "-p", &json!({"spec": spec}).to_string()])
    };
    patch(json!({"ipFamilyPolicy": "PreferDualStack"})).ok();
    let both = cluster_ips(&ns, "web");
    assert_eq!((families(&both).as_str(), both[0]), ("46", first[0]));
    answers(&ns, "web", "client");
    let port = ns.get("svc/web")["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let node = cluster.kubectl(&["get", "node", NODE, "-o", "json"]).json();
    let internal =
        node["status"]["addresses"].as_array().unwrap().iter().filter(|a| a["type"] == "InternalIP");
    for address in internal {
        let node = at(address["address"].as_str().unwrap().parse().unwrap(), u16::try_from(port).unwrap());
        eventually(&format!("the node port answers at {node}"), || http_get(&node, "/hostname"));
    }
    let refused = patch(
        json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIPs": [both[1], both[0]], "clusterIP": both[1]}),
    );
    assert!(refused.err().contains("may not change once set"), "{refused}");
    let refused = patch(json!({"ipFamilies": ["IPv4"], "clusterIPs": [both[0]]}));
    assert!(refused.err().contains("must be 'SingleStack' to release the secondary"), "{refused}");

    patch(json!({"ipFamilyPolicy": "SingleStack"})).ok();
    assert_eq!(cluster_ips(&ns, "web"), first);
    answers(&ns, "web", "client");
    eventually("the slice of the family that went goes, too", || {
        let slices = ns.kubectl(&["get", "endpointslices", "-o", "json"]).json();
        let kinds: Vec<Value> =
            slices["items"].as_array()?.iter().map(|s| s["addressType"].clone()).collect();
        (kinds == ["IPv4"]).then_some(())
    });
    // What was given back is free for others.
    ns.create_from(&service("heir", json!({"clusterIP": both[1]})));
    assert_eq!(cluster_ips(&ns, "heir"), [both[1]]);
    patch(json!({"ipFamilyPolicy": "RequireDualStack"})).ok();
    assert_eq!(families(&cluster_ips(&ns, "web")), "46");
}

#[test]
fn policies_know_both_families() {
    let Some(cluster) = cluster() else { return };
    let ns = cluster.namespace("walls");
    let web = addresses(&run(&ns, "web", json!({"app": "web"}))["status"]["podIPs"], "ip");
    let friend = addresses(&run(&ns, "friend", json!({"is": "friend"}))["status"]["podIPs"], "ip");
    run(&ns, "stranger", json!({}));
    let reaches = |from: &str| {
        let reached = web.iter().filter(|ip| from_pod(&ns, from, &at(**ip, 8080), "/hostname").is_some());
        families(&reached.copied().collect::<Vec<_>>())
    };
    let wait = |from: &str, wanted: &str| {
        eventually(&format!("{from} reaches {wanted:?}"), || (reaches(from) == wanted).then_some(()));
    };
    wait("stranger", "46");
    let policy = |from: Value| {
        let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": from}]});
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec});
        ns.kubectl_with(&["apply", "-f", "-"], &object.to_string()).ok();
    };
    policy(json!([{"podSelector": {"matchLabels": {"is": "friend"}}}]));
    wait("stranger", "");
    wait("friend", "46");
    policy(json!([{"ipBlock": {"cidr": format!("{}/128", friend[1])}}]));
    wait("friend", "6");
    wait("stranger", "");
    policy(json!([{"ipBlock": {"cidr": "::/0", "except": [format!("{}/128", friend[1])]}}]));
    wait("friend", "");
    wait("stranger", "6");
}

#[test]
fn with_ipv6_first_everything_has_it_first() {
    let Some(own) = start(Families::SixFour) else { return };
    let ns = own.namespace("six-first");
    let web = run(&ns, "web", json!({"app": "web"}));
    assert_eq!(families(&addresses(&web["status"]["podIPs"], "ip")), "64");
    run(&ns, "client", json!({}));
    for (name, spec, wanted) in [
        ("plain", json!({}), "6"),
        ("both", json!({"ipFamilyPolicy": "PreferDualStack"}), "64"),
        ("four", json!({"ipFamilies": ["IPv4"]}), "4"),
    ] {
        ns.create_from(&service(name, spec));
        assert_eq!(families(&cluster_ips(&ns, name)), wanted, "{name}");
        answers(&ns, name, "client");
    }
    eventually("a name leads there", || {
        from_pod(&ns, "client", "plain", "/hostname").filter(|host| host == "web")
    });
    let resolver = ns.kubectl(&[
        "exec",
        "web",
        "--",
        "testserver",
        "get",
        "http://localhost:8080/read?path=/etc/resolv.conf",
    ]);
    assert!(resolver.stdout.contains(&format!("nameserver {}", dns_servers(&own)[0])), "{resolver}");
    let api = own.kubectl(&["get", "svc", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]).ok().to_owned();
    let api: IpAddr = api.parse().unwrap();
    assert!(api.is_ipv6());
    eventually("the API server is found at the address of its service", || {
        TcpStream::connect_timeout(&SocketAddr::new(api, 443), LOST).ok()
    });
}
