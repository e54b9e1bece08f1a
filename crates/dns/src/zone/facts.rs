//! What DNS needs to know of Services and EndpointSlices, in the form in which it is looked up and sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use crate::wire::Name;
use crate::wire::name::MAX_LABEL;

/// The label that says which Service a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// `\x03svc\x02ns`: service and namespace in wire form, lower case, without a closing zero.
pub type ServiceKey = Box<[u8]>;

/// A port as SRV records tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Lower case; empty when it has none.
    pub name: Box<[u8]>,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: Box<[u8]>,
    /// `None`: something without ports; it has addresses and no SRV records (CoreDNS' rule).
    pub number: Option<u16>,
}

impl Port {
    fn absent() -> Port {
        Port { name: Box::default(), protocol: Box::default(), number: None }
    }
}

/// What a Service is to DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Has addresses of its own.
    ClusterIp {
        /// IPv4 addresses.
        v4: Vec<Ipv4Addr>,
        /// IPv6 addresses.
        v6: Vec<Ipv6Addr>,
        /// In the order of the Service.
        all: Vec<IpAddr>,
        /// Its ports.
        ports: Vec<Port>,
    },
    /// Its addresses are those of its endpoints.
    Headless,
    /// An alias: the target in wire form. `None` when the target is no name (an address, say): nothing is answered.
    External(Option<Box<Name>>),
}

impl Kind {
    /// Of a Service.
    pub fn of(service: &core::Service) -> Kind {
        let Some(spec) = &service.spec else { return Kind::External(None) };
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref().unwrap_or_default();
            let is_name = !target.is_empty() && target.parse::<IpAddr>().is_err();
            return Kind::External(is_name.then(|| Name::from_text(target)).flatten().map(Box::new));
        }
        let one = || spec.cluster_ip.iter().cloned().collect();
        let texts: Vec<String> = spec.cluster_ips.clone().filter(|ips| !ips.is_empty()).unwrap_or_else(one);
        if texts.first().is_some_and(|text| text == "None") {
            return Kind::Headless;
        }
        let all: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        let ports = spec.ports.iter().flatten().map(|port| Port {
            name: lower(port.name.as_deref().unwrap_or_default()),
            protocol: lower(port.protocol.as_deref().unwrap_or("TCP")),
            number: u16::try_from(port.port).ok(),
        });
        let (v4, v6) = split(all.iter().copied());
        Kind::ClusterIp { v4, v6, all, ports: or_absent(ports.collect()) }
    }

    /// Addresses of the Service's own.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Kind::ClusterIp { all, .. } => all,
            _ => &[],
        }
    }
}

/// One address of a ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Lower case: the endpoint's hostname, or its address with dashes.
    pub host: Box<[u8]>,
    /// The address.
    pub address: IpAddr,
}

/// The ready endpoints of one EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// Name of the object.
    pub name: String,
    /// The Service that it belongs to.
    pub service: ServiceKey,
    /// By host, then address.
    pub endpoints: Vec<Endpoint>,
    /// Ports of each of them.
    pub ports: Vec<Port>,
}

impl Slice {
    /// Of an object; `None` when it belongs to no Service.
    pub fn of(slice: &discovery::EndpointSlice) -> Option<Arc<Slice>> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
        let service = service_key(slice.metadata.namespace.as_deref()?, service)?;
        let mut endpoints: Vec<Endpoint> =
            slice.endpoints.iter().flatten().filter(|e| is_ready(e)).flat_map(addresses).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let ports = slice.ports.iter().flatten().map(|port| Port {
            name: lower(port.name.as_deref().unwrap_or_default()),
            protocol: lower(port.protocol.as_deref().unwrap_or_default()),
            number: port.port.and_then(|number| u16::try_from(number).ok()),
        });
        let ports = or_absent(ports.collect());
        let name = slice.metadata.name.clone().unwrap_or_default();
        Some(Arc::new(Slice { name, service, endpoints, ports }))
    }

    /// The endpoints of that host name.
    pub fn named(&self, host: &[u8]) -> &[Endpoint] {
        let start = self.endpoints.partition_point(|endpoint| *endpoint.host < *host);
        let rest = &self.endpoints[start..];
        &rest[..rest.partition_point(|endpoint| *endpoint.host == *host)]
    }
}

/// An unknown state counts as ready (the API's own advice).
fn is_ready(endpoint: &discovery::Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn addresses(endpoint: &discovery::Endpoint) -> impl Iterator<Item = Endpoint> + '_ {
    let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty() && name.len() <= MAX_LABEL);
    endpoint.addresses.iter().filter_map(move |text| {
        let address: IpAddr = text.parse().ok()?;
        let host = hostname.map_or_else(|| dashed(address), lower);
        Some(Endpoint { host, address })
    })
}

/// `10-0-0-1`, `2001-db8--1`; a label must not end in a dash.
fn dashed(address: IpAddr) -> Box<[u8]> {
    let mut text = address.to_string().replace(['.', ':'], "-");
    if text.ends_with('-') {
        text.push('0');
    }
    text.into_bytes().into()
}

fn or_absent(ports: Vec<Port>) -> Vec<Port> {
    if ports.is_empty() { vec![Port::absent()] } else { ports }
}

fn lower(text: &str) -> Box<[u8]> {
    text.to_ascii_lowercase().into_bytes().into()
}

/// Both families apart, each address once.
pub fn split(addresses: impl Iterator<Item = IpAddr>) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.push(address),
            IpAddr::V6(address) => v6.push(address),
        }
    }
    v4.sort_unstable();
    v4.dedup();
    v6.sort_unstable();
    v6.dedup();
    (v4, v6)
}

/// The key of a Service; `None` when one of the two is no label.
pub fn service_key(namespace: &str, name: &str) -> Option<ServiceKey> {
    let mut key = Vec::with_capacity(2 + namespace.len() + name.len());
    for label in [name, namespace] {
        if label.is_empty() || label.len() > MAX_LABEL {
            return None;
        }
        key.push(label.len() as u8);
        key.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    Some(key.into())
}
