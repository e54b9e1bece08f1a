//! A pod talks to the API with nothing but what it finds in itself, and the Service that leads it there stays true.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use corten_testkit::{cluster, eventually};
use serde_json::json;

/// The real kubectl, a static program, as a client library in a pod.
fn with_kubectl() -> String {
    let command = cluster().kubectl_command();
    let program = std::path::Path::new(command.get_program()).canonicalize().unwrap();
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "client"}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox:1.35", "command": ["sleep", "100000"],
            "env": [{"name": "HOME", "value": "/tmp"}],
            "volumeMounts": [{"name": "kubectl", "mountPath": "/kubectl", "readOnly": true}]}],
        "volumes": [{"name": "kubectl", "hostPath": {"path": program, "type": "File"}}]}})
    .to_string()
}

#[test]
fn a_client_in_a_pod_needs_no_settings() {
    // Its way to the API is the Service that the other test takes away.
    let _turn = cluster().alone();
    let ns = cluster().namespace("in-cluster");
    ns.create_from(&with_kubectl());
    ns.wait("pod/client", "condition=Ready");
    let who =
        ["exec", "client", "--", "/kubectl", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    // The proxy may need a moment for its first rules.
    eventually("the API by the Service's address", || {
        let said = ns.kubectl(&who);
        let account = said.stdout.starts_with("system:serviceaccount:") && said.stdout.ends_with(":default");
        (said.success() && account).then_some(())
    });
    // Its certificate is good for the Service's names and address; its account may nothing.
    ns.kubectl(&["exec", "client", "--", "/kubectl", "get", "nodes"]).says("cannot list resource \"nodes\"");
}

#[test]
fn the_kubernetes_service_stays_true() {
    let cluster = cluster();
    let _turn = cluster.alone();
    let address = || {
        let endpoints = cluster.kubectl(&["get", "endpoints", "kubernetes", "-o", "json"]);
        let subset = endpoints.success().then(|| endpoints.json()["subsets"][0].clone())?;
        Some(format!("{}:{}", subset["addresses"][0]["ip"].as_str()?, subset["ports"][0]["port"]))
    };
    let before = eventually("its address", address);
    assert!(!before.starts_with("127."), "pods cannot reach {before}");
    for kind in ["endpointslice", "endpoints", "service"] {
        cluster.kubectl(&["delete", kind, "kubernetes", "--wait=false"]).ok();
        eventually("it comes back", || cluster.kubectl(&["get", kind, "kubernetes"]).success().then_some(()));
    }
    assert_eq!(eventually("its address", address), before);
    let selector = "kubernetes.io/service-name=kubernetes";
    eventually("one slice, not a mirrored one", || {
        let slices = cluster.kubectl(&["get", "endpointslices", "-l", selector, "-o", "name"]);
        (slices.ok().trim() == "endpointslice.discovery.k8s.io/kubernetes").then_some(())
    });
}
