//! The configuration file of upstream's proxy: `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`, in YAML or JSON.
//!
//! Every field that upstream knows is a row of a table. What this proxy has no use for is accepted and named in a list, so that files
//! made for upstream work; what is misspelt, or would silently mean something else here, is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use corten_api::{Object, Value, duration, yaml};
use ipnet::IpNet;

use crate::backend::Mode;
use crate::config::Config;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";
/// Upstream's ports for health and for metrics.
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;
/// The bit of [`MASQUERADE_MARK`](crate::MASQUERADE_MARK).
const MASQUERADE_BIT: i64 = 14;

/// Why a file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct FileError(String);

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It is read.
    Read,
    /// It is accepted and does nothing here.
    Passed,
    /// Other fields are in it.
    Section,
    /// As `Passed`, with anything in it.
    PassedSection,
}
use Use::{Passed, PassedSection, Read, Section};

/// All fields of upstream's 1.37.
const FIELDS: &[(&str, Use)] = &[
    ("apiVersion", Read),
    ("kind", Read),
    ("bindAddress", Read),
    ("bindAddressHardFail", Passed),
    ("clientConnection", Section),
    ("clientConnection.acceptContentTypes", Passed),
    ("clientConnection.burst", Passed),
    ("clientConnection.contentType", Passed),
    ("clientConnection.kubeconfig", Read),
    ("clientConnection.qps", Passed),
    ("clusterCIDR", Read),
    ("configSyncPeriod", Passed),
    ("conntrack", Section),
    ("conntrack.maxPerCore", Read),
    ("conntrack.min", Read),
    ("conntrack.tcpBeLiberal", Read),
    ("conntrack.tcpCloseWaitTimeout", Read),
    ("conntrack.tcpEstablishedTimeout", Read),
    ("conntrack.udpStreamTimeout", Read),
    ("conntrack.udpTimeout", Read),
    ("detectLocal", Section),
    ("detectLocal.bridgeInterface", Passed),
    ("detectLocal.interfaceNamePrefix", Passed),
    ("detectLocalMode", Read),
    ("enableProfiling", Passed),
    ("featureGates", PassedSection),
    ("healthzBindAddress", Read),
    ("hostnameOverride", Read),
    ("iptables", Section),
    ("iptables.localhostNodePorts", Passed),
    ("iptables.masqueradeAll", Read),
    ("iptables.masqueradeBit", Read),
    ("iptables.minSyncPeriod", Read),
    ("iptables.snatNodeInternalIP", Passed),
    ("iptables.syncPeriod", Read),
    ("ipvs", Section),
    ("ipvs.excludeCIDRs", Passed),
    ("ipvs.minSyncPeriod", Read),
    ("ipvs.scheduler", Passed),
    ("ipvs.strictARP", Passed),
    ("ipvs.syncPeriod", Read),
    ("ipvs.tcpFinTimeout", Passed),
    ("ipvs.tcpTimeout", Passed),
    ("ipvs.udpTimeout", Passed),
    ("logging", PassedSection),
    ("metricsBindAddress", Read),
    ("mode", Read),
    ("nftables", Section),
    ("nftables.masqueradeAll", Read),
    ("nftables.masqueradeBit", Read),
    ("nftables.minSyncPeriod", Read),
    ("nftables.syncPeriod", Read),
    ("nodePortAddresses", Read),
    ("oomScoreAdj", Passed),
    ("portRange", Passed),
    ("showHiddenMetricsForVersion", Passed),
    ("windowsRunAsService", Passed),
    ("winkernel", PassedSection),
];

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// How packets are led.
    pub mode: Mode,
    /// All pods' addresses.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of addresses that take node ports. Empty: all but loopback.
    pub node_port_addresses: Vec<IpNet>,
    /// Node ports are also (or only) taken on the node's own addresses.
    pub on_primary: bool,
    /// Where health is served.
    pub healthz: Option<SocketAddr>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The kubeconfig, as written.
    pub kubeconfig: Option<PathBuf>,
    /// This node's name; none: the host's.
    pub node_name: Option<String>,
    /// This node's primary address; none: to be found.
    pub node_ip: Option<IpAddr>,
    /// Masquerade all traffic through cluster IPs.
    pub masquerade_all: bool,
    /// Time between two regular full syncs.
    pub sync_period: Option<Duration>,
    /// Least time between two changes of the host.
    pub min_sync: Option<Duration>,
    /// What the connection tracker is told: sysctls and their values, in order.
    pub conntrack: Vec<(&'static str, String)>,
    /// Fields that are set and do nothing here.
    pub passed: Vec<String>,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// In upstream's words: `strict decoding error: unknown field "a.b"`, or which value is invalid and why.
    pub fn read(text: &[u8]) -> Result<Self, FileError> {
        let document = yaml::parse(text).map_err(|error| FileError(format!("failed to decode: {error}")))?;
        let root = document.value.as_object().ok_or_else(|| {
            FileError(format!("failed to decode: want a {KIND}, not {}", document.value.type_name()))
        })?;
        for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            let found = root.get(field).and_then(Value::as_str).unwrap_or_default();
            if found != wanted {
                let why = format!("failed to decode: {field} is {found:?}, want {wanted:?}");
                return Err(FileError(why));
            }
        }
        let (mut unknown, mut passed) = (Vec::new(), Vec::new());
        walk(root, "", &mut unknown, &mut passed);
        unknown.extend(document.strict_error());
        if !unknown.is_empty() {
            return Err(FileError(format!(
                "failed to decode: strict decoding error: {}",
                unknown.join(", ")
            )));
        }
        File { passed, ..File::default() }.fill(&Reader { root })
    }

    fn fill(mut self, from: &Reader<'_>) -> Result<Self, FileError> {
        self.mode = from.text("mode")?.parse().map_err(|why: String| invalid("mode", &why))?;
        self.node_ip = from.parsed("bindAddress")?.filter(|ip: &IpAddr| !ip.is_unspecified());
        self.node_name = Some(from.text("hostnameOverride")?.trim().to_lowercase()).filter(|n| !n.is_empty());
        let kubeconfig = from.text("clientConnection.kubeconfig")?;
        self.kubeconfig = (!kubeconfig.is_empty()).then(|| PathBuf::from(kubeconfig));
        self.cluster_cidrs = ranges("clusterCIDR", from.text("clusterCIDR")?.split(','))?;
        match from.text("detectLocalMode")? {
            "" | "ClusterCIDR" => {}
            other => {
                return Err(invalid("detectLocalMode", &format!("{other:?} is not supported: ClusterCIDR")));
            }
        }
        let is_v6 = from.parsed("bindAddress")?.is_some_and(|ip: IpAddr| ip.is_ipv6());
        let all: IpAddr = if is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let own: IpAddr = if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        self.healthz = Some(from.address("healthzBindAddress", SocketAddr::new(all, HEALTHZ_PORT))?);
        self.metrics = Some(from.address("metricsBindAddress", SocketAddr::new(own, METRICS_PORT))?);
        self.node_ports(from)?;
        self.of_mode(from)?;
        self.conntrack(from)?;
        Ok(self)
    }

    fn node_ports(&mut self, from: &Reader<'_>) -> Result<(), FileError> {
        const FIELD: &str = "nodePortAddresses";
        let mut words = Vec::new();
        for item in from.value(FIELD).and_then(Value::as_array).into_iter().flatten() {
            match item.as_str().ok_or_else(|| invalid(FIELD, "want a list of strings"))? {
                "primary" => self.on_primary = true,
                "all" => words.extend(["0.0.0.0/0", "::/0"]),
                "localhost" => words.extend(["127.0.0.0/8", "::1/128"]),
                range => words.push(range),
            }
        }
        self.node_port_addresses = ranges(FIELD, words.into_iter())?;
        Ok(())
    }

    /// The section of the mode; the userspace mode, which upstream does not have any more, reads that of iptables.
    fn of_mode(&mut self, from: &Reader<'_>) -> Result<(), FileError> {
        let section = match self.mode {
            Mode::Nftables => "nftables",
            Mode::Ipvs => "ipvs",
            Mode::Iptables | Mode::Userspace => "iptables",
        };
        self.sync_period = from.duration(&format!("{section}.syncPeriod"))?.filter(|time| !time.is_zero());
        self.min_sync = from.duration(&format!("{section}.minSyncPeriod"))?;
        if self.sync_period.zip(self.min_sync).is_some_and(|(all, least)| all < least) {
            let why = format!("must be greater than or equal to {section}.minSyncPeriod");
            return Err(invalid(&format!("{section}.syncPeriod"), &why));
        }
        // As upstream: masqueradeAll of iptables counts in mode ipvs, too.
        let marking = if section == "ipvs" { "iptables" } else { section };
        self.masquerade_all = from.flag(&format!("{marking}.masqueradeAll"))?;
        for section in ["iptables", "nftables"] {
            let field = format!("{section}.masqueradeBit");
            match from.number(&field)? {
                None | Some(MASQUERADE_BIT) => {}
                Some(other) => {
                    return Err(invalid(&field, &format!("{other} is not supported: {MASQUERADE_BIT}")));
                }
            }
        }
        Ok(())
    }

    /// Only what the file sets; upstream sets its defaults on every node, told or not.
    fn conntrack(&mut self, from: &Reader<'_>) -> Result<(), FileError> {
        let per_core = from.number("conntrack.maxPerCore")?.unwrap_or(0);
        let least = from.number("conntrack.min")?.unwrap_or(0);
        for (field, number) in [("conntrack.maxPerCore", per_core), ("conntrack.min", least)] {
            if number < 0 {
                return Err(invalid(field, "must be greater than or equal to 0"));
            }
        }
        if per_core > 0 {
            let cores =
                std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
            let all = per_core.saturating_mul(cores).max(least);
            self.conntrack.push(("net/netfilter/nf_conntrack_max", all.to_string()));
        }
        for (field, sysctl) in [
            ("tcpEstablishedTimeout", "net/netfilter/nf_conntrack_tcp_timeout_established"),
            ("tcpCloseWaitTimeout", "net/netfilter/nf_conntrack_tcp_timeout_close_wait"),
            ("udpTimeout", "net/netfilter/nf_conntrack_udp_timeout"),
            ("udpStreamTimeout", "net/netfilter/nf_conntrack_udp_timeout_stream"),
        ] {
            let time = from.duration(&format!("conntrack.{field}"))?;
            if let Some(time) = time.filter(|time| !time.is_zero()) {
                self.conntrack.push((sysctl, time.as_secs().to_string()));
            }
        }
        if from.flag("conntrack.tcpBeLiberal")? {
            self.conntrack.push(("net/netfilter/nf_conntrack_tcp_be_liberal", "1".to_owned()));
        }
        Ok(())
    }

    /// Makes a configuration say what the file says. The node's own addresses must be known by then.
    pub fn apply(&self, config: &mut Config) {
        config.mode = self.mode;
        config.cluster_cidrs.clone_from(&self.cluster_cidrs);
        config.node_port_addresses.clone_from(&self.node_port_addresses);
        if self.on_primary {
            config.node_port_addresses.extend(config.node_ips.iter().map(|ip| IpNet::from(*ip)));
        }
        config.masquerade_all = self.masquerade_all;
        (config.healthz, config.metrics) = (self.healthz, self.metrics);
        config.sync_period = self.sync_period.unwrap_or(config.sync_period);
        config.min_sync = self.min_sync.unwrap_or(config.min_sync);
    }

    /// Tells the kernel's connection tracker; what it refuses (in a container, say) is left as it is.
    pub fn set_conntrack(&self) {
        for (name, value) in &self.conntrack {
            if let Err(error) = corten_sys::namespaces::write_sysctl(name, value) {
                tracing::warn!(%error, "the connection tracker keeps its setting");
            }
        }
    }
}

/// Names what is not in the table, and what is and does nothing.
fn walk(object: &Object, prefix: &str, unknown: &mut Vec<String>, passed: &mut Vec<String>) {
    for (key, value) in object.iter() {
        let path =
            if prefix.is_empty() { key.as_str().to_owned() } else { format!("{prefix}.{}", key.as_str()) };
        let row = FIELDS.iter().find(|(field, _)| *field == path);
        match (row.map(|row| row.1), value.as_object()) {
            (None, _) => unknown.push(format!("unknown field {path:?}")),
            (Some(Section), Some(inner)) => walk(inner, &path, unknown, passed),
            (Some(Passed | PassedSection), _) if !is_empty(value) => passed.push(path),
            _ => {}
        }
    }
}

/// Says nothing: what upstream writes for a field that is not set.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_on) => !is_on,
        Value::Int(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::String(_) => matches!(value.as_str(), Some("" | "0s" | "0")),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

fn invalid(field: &str, why: &str) -> FileError {
    FileError(format!("KubeProxyConfiguration.{field}: Invalid value: {why}"))
}

fn ranges<'a>(field: &str, words: impl Iterator<Item = &'a str>) -> Result<Vec<IpNet>, FileError> {
    let words = words.map(str::trim).filter(|word| !word.is_empty());
    let range =
        |word: &str| word.parse().map_err(|_| invalid(field, &format!("{word:?} must be a valid CIDR")));
    words.map(range).collect()
}

/// Looks up values by their path.
struct Reader<'a> {
    root: &'a Object,
}

impl<'a> Reader<'a> {
    fn value(&self, path: &str) -> Option<&'a Value> {
        let mut words = path.split('.');
        let mut value = self.root.get(words.next()?)?;
        for word in words {
            value = value.get(word)?;
        }
        (!value.is_null()).then_some(value)
    }

    fn text(&self, path: &str) -> Result<&'a str, FileError> {
        let Some(value) = self.value(path) else { return Ok("") };
        value.as_str().ok_or_else(|| invalid(path, "want a string"))
    }

    fn flag(&self, path: &str) -> Result<bool, FileError> {
        let Some(value) = self.value(path) else { return Ok(false) };
        value.as_bool().ok_or_else(|| invalid(path, "want true or false"))
    }

    fn number(&self, path: &str) -> Result<Option<i64>, FileError> {
        let Some(value) = self.value(path) else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| invalid(path, "want a whole number"))
    }

    fn parsed<T: std::str::FromStr>(&self, path: &str) -> Result<Option<T>, FileError> {
        match self.text(path)? {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| invalid(path, &format!("{text:?} is not valid"))),
        }
    }

    /// An address with or without a port.
    fn address(&self, path: &str, default: SocketAddr) -> Result<SocketAddr, FileError> {
        let text = self.text(path)?;
        let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match (text, bare) {
            ("", _) => Ok(default),
            (_, Ok(ip)) => Ok(SocketAddr::new(ip, default.port())),
            _ => text.parse().map_err(|_| invalid(path, &format!("{text:?} must be IP:port"))),
        }
    }

    fn duration(&self, path: &str) -> Result<Option<Duration>, FileError> {
        match self.text(path)? {
            "" => Ok(None),
            text => duration::parse(text).map(Some).map_err(|why| invalid(path, &why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<File, FileError> {
        File::read(format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{text}").as_bytes())
    }

    #[test]
    fn upstreams_own_file_is_read() {
        // What kubeadm writes, by and large.
        let file = read(
            "bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection:\n  acceptContentTypes: \"\"\n  burst: 0\n  \
             contentType: \"\"\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  qps: 0\nclusterCIDR: 10.244.0.0/16,fd00::/48\n\
             configSyncPeriod: 0s\nconntrack:\n  maxPerCore: null\n  min: null\n  tcpCloseWaitTimeout: null\n  \
             tcpEstablishedTimeout: 24h0m0s\ndetectLocal:\n  bridgeInterface: \"\"\n  interfaceNamePrefix: \"\"\ndetectLocalMode: \"\"\n\
             enableProfiling: false\nhealthzBindAddress: \"\"\nhostnameOverride: Node-1\niptables:\n  localhostNodePorts: null\n  \
             masqueradeAll: true\n  masqueradeBit: 14\n  minSyncPeriod: 0s\n  syncPeriod: 1m30s\nipvs:\n  scheduler: wrr\n\
             logging:\n  flushFrequency: 0\n  options:\n    json:\n      infoBufferSize: \"0\"\nmetricsBindAddress: 127.0.0.1\nmode: iptables\n\
             nodePortAddresses: [primary, 192.0.2.0/24]\noomScoreAdj: null\nportRange: \"\"\nwinkernel:\n  enableDSR: false\n",
        )
        .unwrap();
        assert_eq!(file.mode, Mode::Iptables);
        assert_eq!(file.cluster_cidrs.len(), 2);
        assert_eq!(file.healthz, Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!(file.metrics, Some("127.0.0.1:10249".parse().unwrap()));
        assert_eq!(file.kubeconfig, Some("/var/lib/kube-proxy/kubeconfig.conf".into()));
        assert_eq!((file.node_name.as_deref(), file.node_ip), (Some("node-1"), None));
        assert!(file.masquerade_all && file.on_primary);
        assert_eq!((file.sync_period, file.min_sync), (Some(Duration::from_secs(90)), Some(Duration::ZERO)));
        let established = ("net/netfilter/nf_conntrack_tcp_timeout_established", "86400".to_owned());
        assert_eq!(file.conntrack, [established]);
        assert_eq!(file.passed, ["ipvs.scheduler", "logging", "winkernel"]);
        let mut config = Config::new("c", "n");
        config.node_ips = vec!["198.51.100.7".parse().unwrap()];
        file.apply(&mut config);
        let ranges: Vec<String> = config.node_port_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["192.0.2.0/24", "198.51.100.7/32"]);
        assert_eq!(config.sync_period, Duration::from_secs(90));
    }

    #[test]
    fn nothing_but_the_kind_means_the_defaults() {
        let file = read("").unwrap();
        assert_eq!((file.mode, file.sync_period, file.min_sync), (Mode::Nftables, None, None));
        let v6 = read("bindAddress: '::'").unwrap();
        assert_eq!(v6.healthz, Some("[::]:10256".parse().unwrap()));
        assert_eq!(v6.metrics, Some("[::1]:10249".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("modus: x", "failed to decode: strict decoding error: unknown field \"modus\""),
            ("iptables: {masqAll: true}", "unknown field \"iptables.masqAll\""),
            ("mode: kernelspace", "KubeProxyConfiguration.mode: Invalid value"),
            ("clusterCIDR: 10.0.0.0", "\"10.0.0.0\" must be a valid CIDR"),
            ("nodePortAddresses: [x]", "\"x\" must be a valid CIDR"),
            ("nftables: {syncPeriod: 5}", "nftables.syncPeriod: Invalid value: want a string"),
            ("nftables: {syncPeriod: 5 s}", "time: unknown unit \" s\" in duration \"5 s\""),
            (
                "nftables: {syncPeriod: 1s, minSyncPeriod: 2s}",
                "greater than or equal to nftables.minSyncPeriod",
            ),
            ("iptables: {masqueradeBit: 3}", "iptables.masqueradeBit: Invalid value: 3"),
            ("detectLocalMode: BridgeInterface", "detectLocalMode: Invalid value"),
            ("conntrack: {maxPerCore: -1}", "conntrack.maxPerCore"),
            ("healthzBindAddress: nowhere", "must be IP:port"),
            ("mode: iptables\nmode: ipvs", "already set in map"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let other = File::read(b"apiVersion: v1\nkind: Pod").unwrap_err().to_string();
        assert!(other.contains("apiVersion is \"v1\""), "{other}");
        assert!(File::read(b"- a").is_err() && File::read(b"a: [").is_err() && File::read(b"").is_err());
    }
}
