//! Names in pods: services, endpoints, ports and the rest of the world, asked of the cluster's DNS as pods do.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use corten_dns::wire::message::Answer;
use corten_dns::wire::{Name, query, rtype};
use corten_testkit::{Cluster, Namespace, Options, corten, eventually, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// What the resolver of these tests says about every name below `example`.
const OUTSIDE: [u8; 4] = [192, 0, 2, 77];
/// A question is lost after so long.
const LOST: Duration = Duration::from_secs(1);

/// The cluster of these tests; it asks their own resolver about other names.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(start)
}

fn start() -> Cluster {
    let flags = vec!["--dns-upstream".to_owned(), resolver().to_string()];
    Cluster::start(Options { flags, beside_others: true, ..Options::default() })
}

/// A resolver that knows `…example.` and nothing else.
fn resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let Ok((name, end)) = Name::read(&buffer[..length], 12) else { continue };
            let known = name.labels_before(&Name::from_text("example").unwrap()).is_some();
            let is_address = buffer[end..end + 2] == rtype::A.to_be_bytes();
            let mut reply = buffer[..end + 4].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(known && is_address), 0, 0, 0, 0]);
            reply[3] |= if known { 0 } else { 3 };
            if known && is_address {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                reply.extend(OUTSIDE);
            }
            socket.send_to(&reply, client).unwrap();
        }
    });
    address
}

/// The address at which the cluster's DNS is found.
fn dns_address(cluster: &Cluster) -> IpAddr {
    let path = "jsonpath={.spec.clusterIP}";
    let address = eventually("the Service kube-dns", || {
        let output = cluster.kubectl(&["get", "service", "kube-dns", "-n", "kube-system", "-o", path]);
        output.success().then(|| output.ok().to_owned())
    });
    address.parse().unwrap()
}

/// Response code and addresses; `None` when there is no answer in time.
fn ask(server: SocketAddr, name: &str) -> Option<(u16, Vec<Ipv4Addr>)> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(LOST)).unwrap();
    socket.connect(server).ok()?;
    let name = Name::from_text(name).unwrap();
    socket.send(&query::build(7, &name, rtype::A, false, false)).ok()?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).ok()?;
    let answer = Answer::read(buffer[..length].to_vec(), 7, &name, rtype::A).unwrap();
    let of_type = answer.answers().iter().filter(|record| record.kind == rtype::A);
    let addresses = of_type.map(|record| {
        let octets: [u8; 4] = answer.bytes[record.data..record.end].try_into().unwrap();
        octets.into()
    });
    Some((answer.rcode(), addresses.collect()))
}

/// A pod that can ask.
fn client(ns: &Namespace<'_>) {
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sleep", "100000"]});
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
    ns.create_from(
        &json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "client"}, "spec": spec}).to_string(),
    );
    ns.wait("pod/client", "condition=Ready");
}

fn nslookup(ns: &Namespace<'_>, words: &[&str]) -> String {
    let mut all = vec!["exec", "client", "--", "nslookup"];
    all.extend(words);
    let output = ns.kubectl(&all);
    format!("{}{}", output.stdout, output.stderr)
}

/// Asks in the pod until the answer has all of these words.
#[track_caller]
fn finds(ns: &Namespace<'_>, words: &[&str], wanted: &[&str]) {
    let mut last = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the answer", || {
            last = nslookup(ns, words);
            wanted.iter().all(|word| last.contains(word)).then_some(())
        });
    }));
    assert!(found.is_ok(), "nslookup {words:?} has not {wanted:?}:\n{last}");
}

fn apply(ns: &Namespace<'_>, object: Value) {
    ns.kubectl_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

/// A slice made by hand, so that these tests need no controller.
fn slice(service: &str, endpoints: &[(&str, Option<&str>, bool)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, hostname, ready)| {
            json!({"addresses": [address], "hostname": hostname, "conditions": {"ready": ready}})
        })
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-by-hand"), "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 9376, "protocol": "TCP"}]})
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[test]
fn pods_find_services_by_name() {
    let ns = cluster().namespace("names");
    client(&ns);
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    apply(&ns, service("my-service", json!({"ports": ports})));
    let address = ns.get("service/my-service")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let server = dns_address(cluster()).to_string();
    let full = "my-service.names.svc.cluster.local";
    finds(&ns, &[full], &[&server, full, &address]);
    // The search path of the pod's resolv.conf makes short names longer; a resolver of its own does so, too.
    let conf = ns.kubectl(&["exec", "client", "--", "cat", "/etc/resolv.conf"]);
    conf.says(&format!("nameserver {server}"))
        .says("search names.svc.cluster.local svc.cluster.local cluster.local");
    conf.says("ndots:5").ok();
    for short in ["my-service", "my-service.names", "my-service.names.svc"] {
        let pinged = ns.kubectl(&["exec", "client", "--", "ping", "-c1", "-W1", short]);
        let told = format!("{}{}", pinged.stdout, pinged.stderr);
        assert!(
            told.contains(&format!("({address})")) || nslookup(&ns, &[short]).contains(&address),
            "{short}: {told}"
        );
    }
    finds(&ns, &["-type=srv", &format!("_http._tcp.{full}")], &[&format!("80 {full}")]);
    let reverse: Vec<&str> = address.rsplit('.').collect();
    finds(&ns, &["-type=ptr", &format!("{}.in-addr.arpa", reverse.join("."))], &[full]);
    finds(&ns, &["kubernetes.default.svc.cluster.local"], &["kubernetes.default.svc.cluster.local"]);
    finds(&ns, &["nothing.names.svc.cluster.local"], &["NXDOMAIN"]);
    finds(&ns, &["-type=txt", "dns-version.cluster.local"], &["1.1.0"]);
    finds(&ns, &["10-1-2-3.names.pod.cluster.local"], &["10.1.2.3"]);
}

#[test]
fn headless_services_follow_their_endpoints() {
    let ns = cluster().namespace("headless");
    client(&ns);
    apply(&ns, service("pets", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})));
    apply(
        &ns,
        slice(
            "pets",
            &[("10.1.0.1", Some("cat"), true), ("10.1.0.2", None, true), ("10.1.0.3", None, false)],
        ),
    );
    let full = "pets.headless.svc.cluster.local";
    finds(&ns, &[full], &["10.1.0.1", "10.1.0.2"]);
    assert!(!nslookup(&ns, &[full]).contains("10.1.0.3"), "not ready");
    finds(&ns, &[&format!("cat.{full}")], &["10.1.0.1"]);
    let targets = ["cat", "10-1-0-2"].map(|target| format!("9376 {target}.{full}"));
    finds(&ns, &["-type=srv", &format!("_http._tcp.{full}")], &[&targets[0], &targets[1]]);
    // From the write that kubectl has seen acknowledged to the answer; the aim is 100 ms.
    let dns = SocketAddr::new(dns_address(cluster()), 53);
    for turn in 1..=5u8 {
        let address = format!("10.1.1.{turn}");
        apply(&ns, slice("pets", &[(&address, None, true)]));
        let acknowledged = Instant::now();
        let wanted = Some((0, vec![address.parse().unwrap()]));
        eventually("the new endpoint", || (ask(dns, full) == wanted).then_some(()));
        println!("answered {:?} after the write", acknowledged.elapsed());
    }
    ns.kubectl(&["delete", "endpointslice", "pets-by-hand"]).ok();
    eventually("no endpoints, no name", || (ask(dns, full) == Some((3, vec![]))).then_some(()));
}

#[test]
fn other_names_are_asked_elsewhere() {
    let ns = cluster().namespace("outside");
    client(&ns);
    finds(&ns, &["www.example"], &["192.0.2.77"]);
    finds(&ns, &["www.nowhere"], &["NXDOMAIN"]);
    apply(&ns, service("alias", json!({"type": "ExternalName", "externalName": "www.example"})));
    finds(&ns, &["alias.outside.svc.cluster.local"], &["www.example", "192.0.2.77"]);
}

#[test]
fn the_service_of_dns_is_no_business_of_proxies() {
    let dns = dns_address(cluster());
    let object = cluster().kubectl(&["get", "service", "kube-dns", "-n", "kube-system", "-o", "json"]).json();
    let labels = &object["metadata"]["labels"];
    assert_eq!(labels["k8s-app"], "kube-dns");
    assert_eq!(labels["service.kubernetes.io/service-proxy-name"], "corten-dns");
    let ports: Vec<String> = object["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| {
            format!(
                "{} {}/{}",
                port["name"].as_str().unwrap(),
                port["port"],
                port["protocol"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(ports, ["dns 53/UDP", "dns-tcp 53/TCP"]);
    let IpAddr::V4(address) = dns else { panic!("{dns}") };
    assert_eq!(address.octets()[3], 10, "the tenth");
    eventually("its own name", || {
        let found = ask(SocketAddr::new(dns, 53), "kube-dns.kube-system.svc.cluster.local");
        (found == Some((0, vec![address]))).then_some(())
    });
}

#[test]
fn it_runs_alone_against_any_api_server() {
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut dns = Alone::start(listen);
    eventually("its answer", || {
        let (rcode, addresses) = ask(listen, "kubernetes.default.svc.cluster.local")?;
        (rcode == 0 && addresses.len() == 1).then_some(())
    });
    kill(Pid::from_raw(dns.0.id() as i32), Signal::SIGTERM).unwrap();
    assert!(dns.0.wait().unwrap().success());
}

/// `corten dns`, killed with the value.
struct Alone(std::process::Child);

impl Alone {
    fn start(listen: SocketAddr) -> Self {
        let mut command = Command::new(corten());
        command.args([
            "dns",
            "--listen",
            &listen.to_string(),
            "--dns-upstream",
            "127.0.0.1:1",
            "--kubeconfig",
        ]);
        Self(command.arg(cluster().kubeconfig()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn killed_alone_it_comes_back_without_a_wrong_answer() {
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let name = "kubernetes.default.svc.cluster.local";
    let mut dns = Some(Alone::start(listen));
    let right = eventually("its answer", || ask(listen, name).filter(|(rcode, _)| *rcode == 0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                match ask(listen, name) {
                    // Nobody listens, or it cannot say yet.
                    None => std::thread::sleep(Duration::from_millis(5)),
                    Some((2, _)) => {}
                    Some(answer) => {
                        assert_eq!(answer, right);
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                }
            }
            longest
        });
        let end = End(&done);
        for _ in 0..3 {
            // The port must be free before the next one wants it.
            drop(dns.take());
            dns = Some(Alone::start(listen));
            eventually("an answer after the start", || {
                (ask(listen, name).as_ref() == Some(&right)).then_some(())
            });
        }
        drop(end);
        println!("longest time without an answer: {:?}", asking.join().unwrap());
    });
}

/// Sets the flag when it goes.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_crash_brings_no_wrong_answer() {
    let cluster = start();
    let dns = SocketAddr::new(dns_address(&cluster), 53);
    let name = "kubernetes.default.svc.cluster.local";
    let right = Some(eventually("an answer", || ask(dns, name).filter(|(rcode, _)| *rcode == 0)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                match ask(dns, name) {
                    // Not known yet, after the start: "cannot say" is right, "there is none" would be wrong.
                    None => std::thread::sleep(Duration::from_millis(5)),
                    Some((2, _)) => {}
                    answer => {
                        assert_eq!(answer, right);
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                }
            }
            longest
        });
        // Whatever fails below: the asking ends, or nobody would see what failed.
        let end = End(&done);
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            cluster.end(signal);
            cluster.up();
            eventually("an answer after the start", || (ask(dns, name) == right).then_some(()));
        }
        drop(end);
        println!("longest time without an answer: {:?}", asking.join().unwrap());
    });
    cluster.down(&["--purge"]).ok();
    assert!(!std::path::Path::new(&format!("/sys/class/net/{}-dns", cluster.name())).exists());
}
