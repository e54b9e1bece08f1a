//! What tests of planner and back ends have in common: objects in few words, and network namespaces of their own.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use corten_client::k8s_openapi::api::core::v1::Service;
use corten_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::plan::{Node, plan};
use crate::ruleset::{Endpoint, Family, FrontendKind, PortName, Protocol, Route, Ruleset, ServicePort};
use crate::{At, Frontend};

/// A service of namespace `ns` from its spec.
pub(crate) fn service(name: &str, spec: Value) -> Service {
    let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

/// A slice of the service with one port; each endpoint as the API has it.
pub(crate) fn slice(service: &str, name: &str, port: Value, endpoints: Value) -> EndpointSlice {
    let object = json!({
        "metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [port], "endpoints": endpoints,
    });
    serde_json::from_value(object).unwrap()
}

/// The node `here` in zone `z1`.
pub(crate) fn here() -> Node {
    Node { name: "here".into(), zone: "z1".into() }
}

/// The ruleset of these for [`here`].
pub(crate) fn planned(services: &[Service], slices: &[EndpointSlice]) -> Ruleset {
    plan(services, slices, &here())
}

pub(crate) fn port_name(service: &str) -> PortName {
    PortName {
        namespace: "ns".into(),
        service: service.into(),
        port: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// A service port with a cluster IP and these endpoints, the first of them local.
pub(crate) fn cluster_ip(at: &str, endpoints: &[&str]) -> ServicePort {
    let at: SocketAddr = at.parse().unwrap();
    let mut cluster: Vec<Endpoint> = endpoints
        .iter()
        .map(|e| e.parse::<SocketAddr>().unwrap())
        .enumerate()
        .map(|(n, e)| Endpoint { address: e.ip(), port: e.port(), is_local: n == 0 })
        .collect();
    cluster.sort();
    let route = if cluster.is_empty() { Route::Reject } else { Route::Cluster };
    ServicePort {
        protocol: Protocol::Tcp,
        frontends: vec![Frontend {
            at: At { address: Some(at.ip()), protocol: Protocol::Tcp, port: at.port() },
            kind: FrontendKind::ClusterIp,
            route,
        }],
        local: cluster.iter().filter(|e| e.is_local).copied().collect(),
        serving: cluster.iter().map(|e| e.address).collect(),
        cluster,
        affinity_s: None,
        source_ranges: vec![],
    }
}

/// A ruleset of service ports by service name.
pub(crate) fn rules(ports: &[(&str, ServicePort)]) -> Ruleset {
    let ports = ports.iter().map(|(name, port)| (port_name(name), Arc::new(port.clone())));
    Ruleset { ports: ports.collect(), ..Ruleset::default() }
}

/// Runs a program that must succeed, in the calling thread's network namespace.
pub(crate) fn run(words: &str) -> String {
    let mut split = words.split_whitespace();
    let output = Command::new(split.next().unwrap()).args(split).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `work` in a network namespace of its own with `lo` up, 10.9.0.1 to 10.9.0.4 as own addresses and a default route; says
/// so and returns where that is not possible.
pub(crate) fn in_namespace(name: &str, work: impl FnOnce() + Send) {
    use corten_sys::namespaces::{Kind, create_pinned, run_in_netns, unpin};
    let dir = std::env::temp_dir().join(format!("corten-proxy-{name}-{}", std::process::id()));
    if let Err(error) = create_pinned(&[Kind::Net], &dir, || Ok(())) {
        return eprintln!("passed over: {error}");
    }
    let pin = dir.join(Kind::Net.file_name());
    let outcome = run_in_netns(&pin, || {
        run("ip link set lo up");
        run("ip link add dummy0 type veth peer name dummy1");
        run("ip link set dummy1 up");
        run("ip link set dummy0 up");
        for last in 1..=4 {
            run(&format!("ip addr add 10.9.0.{last}/32 dev lo"));
        }
        run("ip route add default dev dummy0 src 10.9.0.1");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
    });
    unpin(&pin).unwrap();
    std::fs::remove_dir(&dir).unwrap();
    if let Err(panic) = outcome.unwrap() {
        std::panic::resume_unwind(panic);
    }
}
