//! What one service asks for, by itself: its ports as [`ServicePort`]s and its health check.

use std::net::IpAddr;
use std::sync::Arc;

use corten_client::k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort, ServiceSpec};
use corten_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use corten_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ipnet::IpNet;

use super::Node;
use super::endpoints::{Candidate, HEADLESS, Offers, offers};
use super::topology::{Chosen, Uses, choose};
use crate::ruleset::{
    At, Family, Frontend, FrontendKind, HealthCheck, PortName, Protocol, Route, ServicePort,
};

/// Another proxy takes care of services with this label.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Three hours, the API's default.
const DEFAULT_AFFINITY_S: u32 = 10_800;

/// The plan of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServicePlan {
    /// For the order between services that want the same address and port.
    pub created: Option<Time>,
    /// By name.
    pub ports: Vec<(Arc<PortName>, Arc<ServicePort>)>,
    /// Port and answer.
    pub health_check: Option<(u16, HealthCheck)>,
}

/// Plans one service; empty when it is none of ours.
pub(super) fn plan_service(service: &Service, slices: &[&EndpointSlice], node: &Node) -> ServicePlan {
    let Some(spec) = service.spec.as_ref().filter(|spec| is_ours(service, spec)) else {
        return ServicePlan::default();
    };
    let offers = offers(slices, node);
    let mut ports = Vec::new();
    for family in Family::BOTH {
        let Some(cluster_ip) = cluster_ip(spec, family) else { continue };
        let wish = Wish::of(service, spec, family, cluster_ip);
        ports.extend(spec.ports.iter().flatten().filter_map(|port| wish.port(service, port, &offers)));
    }
    ports.sort_by(|a, b| a.0.cmp(&b.0));
    ports.dedup_by(|a, b| a.0 == b.0);
    let health_check = health_check(service, spec, &offers);
    ServicePlan { created: service.metadata.creation_timestamp.clone(), ports, health_check }
}

fn is_ours(service: &Service, spec: &ServiceSpec) -> bool {
    let labels = service.metadata.labels.as_ref();
    let is_left_out = labels.is_some_and(|l| l.contains_key(PROXY_NAME) || l.contains_key(HEADLESS));
    let has_address = spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty() && ip != "None");
    !is_left_out && has_address && spec.type_.as_deref() != Some("ExternalName")
}

fn cluster_ip(spec: &ServiceSpec, family: Family) -> Option<IpAddr> {
    let first = spec.cluster_ip.iter();
    let mut all = spec.cluster_ips.iter().flatten().chain(first).filter_map(|ip| ip.parse().ok());
    all.find(|ip| Family::of(*ip) == family)
}

/// What all ports of a service in one family have in common.
struct Wish {
    family: Family,
    cluster_ip: IpAddr,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    source_ranges: Vec<IpNet>,
    affinity_s: Option<u32>,
    is_internal_local: bool,
    is_external_local: bool,
}

impl Wish {
    fn of(service: &Service, spec: &ServiceSpec, family: Family, cluster_ip: IpAddr) -> Self {
        let of_family = |ip: &IpAddr| Family::of(*ip) == family;
        let external_ips =
            spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).filter(of_family);
        let ranges = spec.load_balancer_source_ranges.iter().flatten();
        // Validation lets white space through.
        let ranges = ranges.filter_map(|r| r.trim().parse::<IpNet>().ok());
        Wish {
            family,
            cluster_ip,
            external_ips: external_ips.collect(),
            load_balancer_ips: load_balancer_ips(service).filter(of_family).collect(),
            source_ranges: ranges.filter(|r| Family::of_range(r) == family).map(|r| r.trunc()).collect(),
            affinity_s: affinity(spec),
            is_internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            is_external_local: is_external_local(spec),
        }
    }

    fn port(
        &self,
        service: &Service,
        port: &ApiPort,
        offers: &Offers,
    ) -> Option<(Arc<PortName>, Arc<ServicePort>)> {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let number = u16::try_from(port.port).ok().filter(|p| *p != 0)?;
        let node_port = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
        let name = PortName {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            service: service.metadata.name.clone().unwrap_or_default(),
            port: port.name.clone().unwrap_or_default(),
            protocol,
            family: self.family,
        };
        let offered = (name.port.clone(), protocol, self.family);
        let candidates = offers.get(&offered).map(Vec::as_slice).unwrap_or_default();
        let chosen = choose(candidates, self.uses(node_port.is_some()));
        let planned = ServicePort {
            protocol,
            frontends: self.frontends(protocol, number, node_port, &chosen),
            cluster: chosen.cluster,
            local: chosen.local,
            serving: serving(candidates),
            affinity_s: self.affinity_s,
            source_ranges: self.source_ranges.clone(),
        };
        Some((Arc::new(name), Arc::new(planned)))
    }

    fn uses(&self, has_node_port: bool) -> Uses {
        let is_external =
            has_node_port || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty();
        Uses {
            cluster: !self.is_internal_local || is_external,
            local: self.is_internal_local || (self.is_external_local && is_external),
        }
    }

    /// Cluster IP first, then load balancer IPs (an external IP that equals one must not slip past its source ranges).
    fn frontends(
        &self,
        protocol: Protocol,
        port: u16,
        node_port: Option<u16>,
        chosen: &Chosen,
    ) -> Vec<Frontend> {
        let external = external_route(self.is_external_local, chosen);
        let at = |address: Option<IpAddr>, port| At { address, protocol, port };
        let mut all = vec![Frontend {
            at: at(Some(self.cluster_ip), port),
            kind: FrontendKind::ClusterIp,
            route: internal_route(self.is_internal_local, chosen),
        }];
        let mut add = |kind, at: At| {
            if all.iter().all(|there| there.at != at) {
                all.push(Frontend { at, kind, route: external });
            }
        };
        self.load_balancer_ips.iter().for_each(|ip| add(FrontendKind::LoadBalancerIp, at(Some(*ip), port)));
        self.external_ips.iter().for_each(|ip| add(FrontendKind::ExternalIp, at(Some(*ip), port)));
        node_port.into_iter().for_each(|number| add(FrontendKind::NodePort, at(None, number)));
        all
    }
}

fn internal_route(is_local: bool, chosen: &Chosen) -> Route {
    match (chosen.is_any, is_local) {
        (false, _) => Route::Reject,
        (true, false) => Route::Cluster,
        (true, true) if chosen.local.is_empty() => Route::Drop,
        (true, true) => Route::Local,
    }
}

fn external_route(is_local: bool, chosen: &Chosen) -> Route {
    match (chosen.is_any, is_local) {
        (false, _) => Route::Reject,
        (true, false) => Route::Cluster,
        (true, true) => Route::Split,
    }
}

/// Flows to an endpoint that serves live on whatever policies, hints and termination say.
fn serving(candidates: &[Candidate]) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> =
        candidates.iter().filter(|c| c.is_serving).map(|c| c.endpoint.address).collect();
    all.dedup();
    all
}

/// Load balancers that send packets on with their own address as destination; those of mode Proxy do not.
fn load_balancer_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|lb| lb.ingress.as_ref()).into_iter().flatten();
    ingress
        .filter(|i| i.ip_mode.as_deref().is_none_or(|m| m == "VIP"))
        .filter_map(|i| i.ip.as_ref()?.parse().ok())
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds =
        config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0);
    Some(seconds.unwrap_or(DEFAULT_AFFINITY_S))
}

/// The policy counts only where the service can be reached from outside at all.
fn is_external_local(spec: &ServiceSpec) -> bool {
    let is_external = matches!(spec.type_.as_deref(), Some("LoadBalancer" | "NodePort"))
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    is_external && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Only load balancers ask, and only about policy Local.
fn health_check(service: &Service, spec: &ServiceSpec, offers: &Offers) -> Option<(u16, HealthCheck)> {
    if spec.type_.as_deref() != Some("LoadBalancer") || !is_external_local(spec) {
        return None;
    }
    let port = u16::try_from(spec.health_check_node_port?).ok().filter(|p| *p != 0)?;
    let ready = offers.values().flatten().filter(|c| c.is_ready && c.endpoint.is_local);
    let addresses: std::collections::HashSet<IpAddr> = ready.map(|c| c.endpoint.address).collect();
    // A pod of two families is one endpoint: upstream counts each family by itself.
    let four = addresses.iter().filter(|address| address.is_ipv4()).count();
    let check = HealthCheck {
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        service: service.metadata.name.clone().unwrap_or_default(),
        local_endpoints: four.max(addresses.len() - four),
    };
    Some((port, check))
}
