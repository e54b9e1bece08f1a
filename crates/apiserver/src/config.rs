//! What a server is started with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use corten_store::Store;
use ipnet::{IpNet, Ipv4Net};

use crate::audit::AuditConfig;
use crate::authn::token::ServiceAccountKeys;
use crate::authz::{DEFAULT_MODES, Mode};
use crate::traffic::Patience;
use crate::user::User;

/// The version that `/version` tells.
pub const VERSION: &str = "v1.37.0+corten";

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Sets the log's level by upstream's numbers: 0 says little, 10 everything. Errors: text for the operator.
pub type Verbosity = Arc<dyn Fn(u32) -> Result<(), String> + Send + Sync>;

/// How the server shows itself to kubelets.
#[derive(Clone, Debug)]
pub struct KubeletClient {
    /// PEM client certificate.
    pub cert_pem: Vec<u8>,
    /// PEM key.
    pub key_pem: Vec<u8>,
    /// PEM CA that kubelets' serving certificates must come from; `None` accepts any, as upstream does by default.
    pub ca_pem: Option<Vec<u8>>,
}

/// Bounds of one server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests that read, at once; more get 429.
    pub reads_in_flight: usize,
    /// Requests that write, at once; more get 429.
    pub writes_in_flight: usize,
    /// Open connections; more wait to be accepted.
    pub connections: usize,
    /// Longest time for one request that is not a watch or a stream.
    pub request_timeout: Duration,
    /// Shortest life of a watch that names none; the real one is random up to twice that.
    pub watch_timeout: Duration,
    /// How long clients may take for what they do.
    pub patience: Patience,
}

/// How a server ends.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// It serves on for so long, only without being ready, so that balancers can look elsewhere.
    pub delay: Duration,
    /// Then what runs has so long to end.
    pub drain: Duration,
    /// The part of HTTP/2 requests, of one, after which a client is asked to connect anew and perhaps find another server.
    pub goaway_chance: f64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { delay: Duration::ZERO, drain: Duration::from_secs(5), goaway_chance: 0.0 }
    }
}

impl Default for Limits {
    /// Upstream's defaults.
    fn default() -> Self {
        Limits {
            reads_in_flight: 400,
            writes_in_flight: 200,
            connections: 10_000,
            request_timeout: Duration::from_secs(60),
            watch_timeout: Duration::from_secs(1800),
            patience: Patience::default(),
        }
    }
}

/// Everything a server needs.
#[derive(Clone)]
pub struct Config {
    /// Where objects rest.
    pub store: Arc<dyn Store>,
    /// PEM certificates of the CA of client certificates; `None` accepts none.
    pub client_ca_pem: Option<Vec<u8>>,
    /// Service account tokens.
    pub service_account: ServiceAccountKeys,
    /// Who decides what is allowed, in this order.
    pub authorization: Vec<Mode>,
    /// Is a request without any credential one of `system:anonymous`? Otherwise it is refused, except for health and version.
    pub anonymous: bool,
    /// Admission plugins to do without, by upstream's names.
    pub disabled_admission: Vec<String>,
    /// What is written down about requests.
    pub audit: Option<AuditConfig>,
    /// Fixed bearer tokens (upstream's token file).
    pub static_tokens: Vec<(String, User)>,
    /// How to reach kubelets; `None` makes log, exec and the like answer 503.
    pub kubelet_client: Option<KubeletClient>,
    /// Addresses of Services: one range, or one of each family. The first one's family is the cluster's default.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports of Services.
    pub node_ports: RangeInclusive<u16>,
    /// The address behind the `kubernetes` Service, which should be reachable from pods. `None`: not known yet; its
    /// endpoints stay as they are until [`ApiServer::advertise`](crate::ApiServer::advertise) tells.
    pub advertise_address: Option<IpAddr>,
    /// The port behind the `kubernetes` Service.
    pub advertise_port: u16,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// How long events are kept.
    pub event_ttl: Duration,
    /// Are `/debug/pprof` and `/debug/flags` served?
    pub profiling: bool,
    /// Makes the log say more or less (upstream's `--v`); `None` where nobody can.
    pub verbosity: Option<Verbosity>,
    /// Bounds.
    pub limits: Limits,
    /// The end.
    pub shutdown: Shutdown,
    /// The time.
    pub clock: Clock,
}

impl Config {
    /// Defaults of one cluster on this machine over a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let services = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);
        Config {
            store,
            client_ca_pem: None,
            service_account: ServiceAccountKeys::default(),
            authorization: DEFAULT_MODES.to_vec(),
            anonymous: true,
            disabled_admission: Vec::new(),
            audit: None,
            static_tokens: Vec::new(),
            kubelet_client: None,
            service_cidrs: vec![services.into()],
            node_ports: 30000..=32767,
            advertise_address: None,
            advertise_port: 6443,
            cluster_domain: "cluster.local".into(),
            event_ttl: Duration::from_secs(3600),
            profiling: true,
            verbosity: None,
            limits: Limits::default(),
            shutdown: Shutdown::default(),
            clock: Arc::new(system_time_ms),
        }
    }
}

impl Config {
    /// The first address behind the network's own, in the first range: that of the `kubernetes` Service.
    pub(crate) fn first_service_address(&self) -> Option<IpAddr> {
        let first = self.service_cidrs.first()?.network();
        Some(match first {
            IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).saturating_add(1)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).saturating_add(1)).into(),
        })
    }
}

fn system_time_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
