//! The service proxy as a process of its own: killed under traffic, replaced by one in another mode, and robbed of its rules.
//!
//! The cluster runs without a proxy; services lead to servers in this program, at the node's address. All that stands on the host
//! carries the cluster's name, and goes with the cluster.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use corten_testkit::{Cluster, Namespace, Options, corten, eventually, http_get};
use serde_json::json;

/// An answer that must come may take so long on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions: thousands a second would use up the ports of a client address.
const PAUSE: Duration = Duration::from_millis(5);
/// Answers that must come in a row before something counts as working.
const ROW: usize = 20;

/// The cluster of these tests. Their proxies take turns ([`Cluster::alone`]): all lead the same packets.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let flags = vec!["--proxy-mode".to_owned(), "none".to_owned()];
        Cluster::start(Options { flags, ..Options::default() })
    })
}

/// A server on all addresses that says its name for every line it gets.
fn server(name: &'static str) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for _ in lines.map_while(Result::ok) {
                    if (&stream).write_all(format!("{name}\n").as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// An open connection to a server.
struct Talk(BufReader<TcpStream>);

impl Talk {
    fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn ask(&mut self) -> std::io::Result<String> {
        self.0.get_mut().write_all(b"who?\n")?;
        let mut name = String::new();
        match self.0.read_line(&mut name)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(name.trim().to_owned()),
        }
    }
}

/// Who answers a new connection.
fn who(to: SocketAddr) -> std::io::Result<String> {
    Talk::open(to)?.ask()
}

/// Waits until all answers in a row are by `name`.
fn settles(to: SocketAddr, name: &str) {
    eventually(&format!("{name} answers at {to}"), || {
        (0..ROW).all(|_| who(to).is_ok_and(|by| by == name)).then_some(())
    });
}

/// Proxies of this cluster, one at a time; killed with the value.
struct Proxy {
    process: Child,
    healthz: String,
    metrics: String,
}

impl Proxy {
    /// Starts one and waits for nothing.
    fn start(mode: &str) -> Self {
        // An address that nobody else uses, with upstream's ports.
        let pid = std::process::id();
        let own = format!("127.{}.{}.1", 100 + pid % 100, pid / 100 % 250);
        let [healthz, metrics] = [10256, 10249].map(|port| format!("{own}:{port}"));
        let cluster = cluster();
        let file = cluster.data_dir().join(format!("proxy-{mode}.yaml"));
        let mut text =
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n".to_owned();
        let kubeconfig = cluster.kubeconfig();
        let _ = writeln!(text, "mode: {mode}\nclientConnection:\n  kubeconfig: {}", kubeconfig.display());
        let _ = writeln!(text, "healthzBindAddress: {own}\nmetricsBindAddress: {metrics}");
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(cluster.data_dir().join(format!("run/proxy-{mode}.log"))).unwrap();
        let mut command = Command::new(corten());
        command.args(["proxy", "--name", cluster.name(), "--node-name", corten_testkit::NODE, "--config"]);
        let process = command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Self { process: process.unwrap(), healthz, metrics }
    }

    /// As `SIGKILL` leaves things.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Of one that was killed already there is nothing left to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A service without selector that leads to a port of this node.
struct Service<'a> {
    ns: &'a Namespace<'a>,
    name: &'static str,
    node: String,
}

impl<'a> Service<'a> {
    fn create(ns: &'a Namespace<'a>, name: &'static str) -> Self {
        let path = "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
        let node = cluster().kubectl(&["get", "node", corten_testkit::NODE, "-o", path]).ok().to_owned();
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"ports": [{"port": 80, "protocol": "TCP"}]}});
        ns.create_from(&object.to_string());
        Self { ns, name, node }
    }

    fn lead_to(&self, port: u16) {
        let object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{}-by-hand", self.name), "labels": {"kubernetes.io/service-name": self.name}},
            "endpoints": [{"addresses": [self.node], "conditions": {"ready": true}}],
            "ports": [{"name": "", "port": port, "protocol": "TCP"}]});
        self.ns.kubectl_with(&["apply", "-f", "-"], &object.to_string()).ok();
    }

    fn address(&self) -> SocketAddr {
        let object = self.ns.get(&format!("service/{}", self.name));
        format!("{}:80", object["spec"]["clusterIP"].as_str().unwrap()).parse().unwrap()
    }
}

/// Tables and chains of this cluster on the host by their mode.
fn modes_on_host() -> BTreeSet<&'static str> {
    let name = cluster().name();
    let of = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let tables = of("nft", &["list", "tables"]);
    let has_table = |suffix: &str| tables.lines().any(|line| line.ends_with(&format!(" {name}-{suffix}")));
    let mut modes = BTreeSet::new();
    if has_table("proxy") {
        modes.insert("nftables");
    }
    if has_table("userspace") {
        modes.insert("userspace");
    }
    let chain = format!(":{name}-SERVICES ");
    if ["iptables-save", "ip6tables-save"].iter().any(|program| of(program, &["-t", "nat"]).contains(&chain))
    {
        modes.insert("iptables");
    }
    modes
}

/// Does any rule of this mode still name the address?
fn rules_name(mode: &str, address: SocketAddr) -> bool {
    let name = cluster().name();
    let (program, words) = match mode {
        "nftables" => ("nft", vec!["list".to_owned(), "table".into(), "ip".into(), format!("{name}-proxy")]),
        "userspace" => {
            ("nft", vec!["list".to_owned(), "table".into(), "inet".into(), format!("{name}-userspace")])
        }
        _ => ("iptables-save", vec![]),
    };
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(&address.ip().to_string())
}

/// Somebody takes away what leads packets in this mode. Only what is this cluster's: the machine may have others.
fn rob(mode: &str) {
    let name = cluster().name();
    let (program, words) = match mode {
        "nftables" => {
            ("nft", vec!["delete".to_owned(), "table".into(), "ip".into(), format!("{name}-proxy")])
        }
        "userspace" => {
            ("nft", vec!["delete".to_owned(), "table".into(), "inet".into(), format!("{name}-userspace")])
        }
        _ => (
            "iptables",
            ["-w", "-t", "nat", "-F"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("{name}-SERVICES")])
                .collect(),
        ),
    };
    eventually("the robbery", || {
        let output = Command::new(program).args(&words).stdin(Stdio::null()).output().unwrap();
        output.status.success().then_some(())
    });
}

/// Asks again and again while `work` goes on: how many questions were answered, how many failed, and the longest time without.
fn under_traffic(to: SocketAddr, name: &str, work: impl FnOnce()) -> (usize, usize, Duration) {
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut failed, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
            while !done.load(Ordering::Acquire) {
                match who(to) {
                    Ok(by) => {
                        assert_eq!(by, name);
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                        answered.fetch_add(1, Ordering::Release);
                    }
                    Err(_) => failed += 1,
                }
                std::thread::sleep(PAUSE);
            }
            (answered.load(Ordering::Acquire), failed, longest)
        });
        let end = End(&done);
        eventually("traffic", || (answered.load(Ordering::Acquire) > 0).then_some(()));
        work();
        // What is asked after the work counts, too.
        let before = answered.load(Ordering::Acquire);
        eventually("traffic afterwards", || (answered.load(Ordering::Acquire) > before + ROW).then_some(()));
        drop(end);
        asking.join().unwrap()
    })
}

/// Sets the flag when it goes: whatever fails, the asking ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The whole story of one mode, after a proxy of another mode was killed.
fn chaos(mode: &'static str, before: &'static str) {
    let _turn = cluster().alone();
    let ns = cluster().namespace(&format!("proxy-{mode}"));
    let (a, b) = (server("a"), server("b"));
    let web = Service::create(&ns, "web");
    let gone = Service::create(&ns, "gone");
    web.lead_to(a);
    gone.lead_to(a);
    let (to, to_gone) = (web.address(), gone.address());

    // Another mode, killed: its rules go when this mode's are there, and not earlier.
    let other = Proxy::start(before);
    settles(to, "a");
    other.kill();
    let proxy = Proxy::start(mode);
    eventually("the other mode's rules are gone", || {
        (modes_on_host() == BTreeSet::from([mode])).then_some(())
    });
    settles(to, "a");
    settles(to_gone, "a");
    shows_health_and_figures(&proxy, mode);

    // Killed and started under traffic. In the kernel's modes nothing notices; through a process that dies, connections cannot live.
    let is_in_kernel = mode != "userspace";
    let mut talk = Talk::open(to).unwrap();
    assert_eq!(talk.ask().unwrap(), "a");
    let mut proxy = Some(proxy);
    let (answered, failed, longest) = under_traffic(to, "a", || {
        proxy.take().unwrap().kill();
        let next = Proxy::start(mode);
        eventually("the next proxy is up to date", || is_synced(&next).then_some(()));
        settles(to, "a");
        proxy = Some(next);
    });
    println!("{mode}: {answered} answered, {failed} failed, at most {longest:?} without an answer");
    if is_in_kernel {
        assert_eq!(failed, 0, "new connections do not need the process");
        assert_eq!(talk.ask().unwrap(), "a", "an established connection lives on");
    } else {
        assert!(talk.ask().is_err(), "it was copied by the process that died");
    }

    // What happens in the cluster while the proxy is dead is made up for.
    let mut talk = Talk::open(to).unwrap();
    assert_eq!(talk.ask().unwrap(), "a");
    proxy.take().unwrap().kill();
    ns.kubectl(&["delete", "service", "gone"]).ok();
    web.lead_to(b);
    eventually("what a crash leaves", || rules_name(mode, to_gone).then_some(()));
    let proxy = Proxy::start(mode);
    settles(to, "b");
    eventually("rules of a service that is gone", || (!rules_name(mode, to_gone)).then_some(()));
    if is_in_kernel {
        assert_eq!(talk.ask().unwrap(), "a", "an established connection stays where it is");
    }

    // Somebody takes the rules away; nothing in the cluster changes.
    rob(mode);
    settles(to, "b");
    eventually("a repair in the figures", || {
        let figures = http_get(&proxy.metrics, "/metrics")?;
        (!figures.contains("kubeproxy_sync_proxy_rules_repairs_total 0")).then_some(())
    });
    web.lead_to(a);
    settles(to, "a");
    eventually("rules of this mode alone", || (modes_on_host() == BTreeSet::from([mode])).then_some(()));
    proxy.kill();
    clean_up();
}

/// The next test's mode must not find this one's rules by chance.
fn clean_up() {
    let output =
        Command::new(corten()).args(["proxy", "--cleanup", "--name", cluster().name()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("no rules", || modes_on_host().is_empty().then_some(()));
}

fn is_synced(proxy: &Proxy) -> bool {
    let figures = http_get(&proxy.metrics, "/metrics").unwrap_or_default();
    let count = figures
        .lines()
        .find_map(|l| l.strip_prefix("kubeproxy_sync_full_proxy_rules_duration_seconds_count "));
    count.is_some_and(|count| count != "0")
}

fn shows_health_and_figures(proxy: &Proxy, mode: &str) {
    let health = eventually("health", || http_get(&proxy.healthz, "/healthz"));
    assert!(health.contains("\"nodeEligible\":true") && health.contains("\"lastUpdated\":"), "{health}");
    assert_eq!(eventually("the mode", || http_get(&proxy.metrics, "/proxyMode")), mode);
    eventually("a full sync in the figures", || is_synced(proxy).then_some(()));
    let figures = eventually("figures", || http_get(&proxy.metrics, "/metrics"));
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
        "kubeproxy_network_programming_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_proxy_healthz_total{code=\"200\"}",
    ] {
        assert!(figures.contains(name), "{name}:\n{figures}");
    }
}

#[test]
fn nftables_outlives_its_process() {
    chaos("nftables", "iptables");
}

#[test]
fn iptables_outlives_its_process() {
    chaos("iptables", "userspace");
}

#[test]
fn userspace_comes_back() {
    chaos("userspace", "nftables");
}

#[test]
fn a_file_that_is_not_understood_is_refused() {
    let file = cluster().data_dir().join("proxy-bad.yaml");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmodus: ipvs\n";
    std::fs::write(&file, text).unwrap();
    let output =
        Command::new(corten()).args(["proxy", "--name", cluster().name(), "--config"]).arg(&file).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("unknown field \"modus\""), "{said}");
}
