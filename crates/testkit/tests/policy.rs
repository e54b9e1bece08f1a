//! Network policies, by what real pods reach.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use corten_testkit::{Namespace, cluster, eventually};
use serde_json::json;

/// One question of a pod waits so long for its answer; without one the packet was dropped.
const SILENCE: &str = "1";

fn server(namespace: &Namespace<'_>, name: &str, labels: &str) -> String {
    let image = "--image=corten.local/testserver:1";
    let labels = format!("--labels={labels}");
    namespace
        .kubectl(&[
            "run",
            name,
            image,
            &labels,
            "--port=8080",
            "--",
            "serve",
            "--port",
            "8080",
            "--port",
            "8081",
        ])
        .ok();
    namespace.wait(&format!("pod/{name}"), "condition=Ready");
    namespace.get(&format!("pod/{name}"))["status"]["podIP"].as_str().unwrap().to_owned()
}

fn reaches(namespace: &Namespace<'_>, from: &str, to: &str) -> bool {
    let url = format!("http://{to}/hostname");
    namespace.kubectl(&["exec", from, "--", "testserver", "get", "--timeout", SILENCE, &url]).success()
}

/// Waits until each of these pods reaches the address, or does not.
fn settles(what: &str, expected: &[(&Namespace<'_>, &str, &str, bool)]) {
    eventually(what, || {
        let holds = |(namespace, from, to, passes): &(&Namespace<'_>, &str, &str, bool)| {
            reaches(namespace, from, to) == *passes
        };
        expected.iter().all(holds).then_some(())
    });
}

fn policy(namespace: &Namespace<'_>, name: &str, spec: serde_json::Value) {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name }, "spec": spec,
    });
    namespace.kubectl_with(&["apply", "-f", "-"], &policy.to_string()).ok();
}

#[test]
fn ingress_is_for_those_whom_a_policy_names() {
    let (x, y) = (cluster().namespace("policy-in"), cluster().namespace("policy-in-2"));
    let db = server(&x, "db", "app=db");
    server(&x, "web", "app=web");
    server(&x, "other", "app=other");
    server(&y, "web", "app=web");
    let (http, second) = (format!("{db}:8080"), format!("{db}:8081"));
    settles("before", &[(&x, "web", &http, true), (&x, "other", &http, true), (&y, "web", &second, true)]);

    policy(&x, "deny", json!({ "podSelector": {} }));
    settles(
        "default deny",
        &[(&x, "web", &http, false), (&x, "other", &http, false), (&y, "web", &http, false)],
    );
    // Probes come from the node and pass.
    assert!(cluster().kubectl(&["get", "pod", "db", "-n", &x.name]).ok().contains("1/1"));

    let web = json!({ "matchLabels": { "app": "web" } });
    policy(
        &x,
        "web",
        json!({ "podSelector": { "matchLabels": { "app": "db" } },
        "ingress": [{ "from": [{ "podSelector": web }], "ports": [{ "port": 8080 }] }] }),
    );
    settles(
        "web of the same namespace, one port",
        &[
            (&x, "web", &http, true),
            (&x, "web", &second, false),
            (&x, "other", &http, false),
            (&y, "web", &http, false),
        ],
    );

    // A label makes a pod one of those; a policy more allows more.
    x.kubectl(&["label", "pod", "other", "app=web", "--overwrite"]).ok();
    policy(
        &x,
        "y",
        json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [{
        "from": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": y.name } } }],
        "ports": [{ "port": 8081, "endPort": 8090 }] }] }),
    );
    settles(
        "labels and ranges",
        &[(&x, "other", &http, true), (&y, "web", &second, true), (&y, "web", &http, false)],
    );

    x.kubectl(&["delete", "networkpolicy", "--all"]).ok();
    settles("after", &[(&y, "web", &http, true), (&x, "other", &second, true)]);
}

#[test]
fn egress_is_to_those_whom_a_policy_names() {
    let x = cluster().namespace("policy-out");
    let (db, other) = (server(&x, "db", "app=db"), server(&x, "other", "app=other"));
    server(&x, "web", "app=web");
    let (db, other) = (format!("{db}:8080"), format!("{other}:8080"));
    policy(
        &x,
        "out",
        json!({ "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"],
        "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "db" } } }] }] }),
    );
    settles("egress", &[(&x, "web", &db, true), (&x, "web", &other, false), (&x, "other", &db, true)]);
    let block = json!({ "ipBlock": { "cidr": "10.0.0.0/8", "except": [format!("{}/32", db.split(':').next().unwrap())] } });
    policy(
        &x,
        "out",
        json!({ "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"],
        "egress": [{ "to": [block] }] }),
    );
    settles("a block with an exception", &[(&x, "web", &db, false), (&x, "web", &other, true)]);
    eventually("answers to web", || reaches(&x, "db", &other).then_some(()));
}

#[test]
fn the_cluster_dns_is_allowed_as_everywhere() {
    let x = cluster().namespace("policy-dns");
    server(&x, "db", "app=db");
    server(&x, "web", "app=web");
    x.kubectl(&["expose", "pod", "db", "--port=80", "--target-port=8080"]).ok();
    settles("before", &[(&x, "web", "db", true)]);
    let web = json!({ "matchLabels": { "app": "web" } });
    policy(
        &x,
        "out",
        json!({ "podSelector": web, "policyTypes": ["Egress"],
        "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "db" } } }] }] }),
    );
    settles("no names", &[(&x, "web", "db", false)]);
    policy(
        &x,
        "dns",
        json!({ "podSelector": web, "policyTypes": ["Egress"], "egress": [{
        "to": [{
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } },
            "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } },
        }],
        "ports": [{ "port": 53, "protocol": "UDP" }],
    }] }),
    );
    settles("names again", &[(&x, "web", "db", true)]);
}

#[test]
fn a_pod_is_guarded_from_its_first_packet() {
    const FRESH: usize = 6;
    let (x, y) = (cluster().namespace("policy-first"), cluster().namespace("policy-first-2"));
    let db = server(&x, "db", "app=db");
    let http = format!("{db}:8080");
    server(&y, "web", "app=web");
    settles("before", &[(&y, "web", &http, true)]);
    policy(&y, "none", json!({ "podSelector": {}, "policyTypes": ["Egress"] }));
    settles("no way out", &[(&y, "web", &http, false)]);
    // These ask with their first breath, and end; where nobody forbids it, with success.
    asks(&x, "allowed", &http, "60");
    let names: Vec<String> = (0..FRESH).map(|n| format!("fresh-{n}")).collect();
    names.iter().for_each(|name| asks(&y, name, &http, "2"));
    assert_eq!(ends(&x, "allowed"), "Succeeded");
    for name in &names {
        assert_eq!(ends(&y, name), "Failed", "{name} got an answer: {}", y.kubectl(&["logs", name]).stdout);
    }
}

/// A pod that asks once, waits so long for the answer, and ends.
fn asks(ns: &Namespace<'_>, name: &str, to: &str, seconds: &str) {
    let url = format!("http://{to}/hostname");
    let command = ["testserver", "get", "--timeout", seconds, &url];
    let container = json!({ "name": "c", "image": "corten.local/testserver:1", "command": command });
    let spec =
        json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container] });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
    ns.create_from(&pod.to_string());
}

/// The phase in which the pod ends.
fn ends(ns: &Namespace<'_>, name: &str) -> String {
    eventually("the end of the question", || {
        let phase = ns.get(&format!("pod/{name}"))["status"]["phase"].as_str().unwrap_or_default().to_owned();
        ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
    })
}
