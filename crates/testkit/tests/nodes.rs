//! Several nodes: network namespaces stand for machines, joined by a switch or a router.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::time::Duration;

use corten_testkit::{Agent, Cluster, Lan, Middle, NODE, Namespace, Options, eventually, within};
use serde_json::{Value, json};

/// A node that says nothing is believed for most of a minute; then its pods are evicted. When it is back, it is heard within seconds.
const CUT_OFF: Duration = Duration::from_secs(240);

/// A cluster on the first machine and an agent on each other one.
fn start(lan: &Lan, flags: &[&str]) -> (Cluster, Vec<Agent>) {
    let cluster = Cluster::start(Options {
        beside_others: true,
        machine: Some(lan.machines[0].clone()),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        ..Options::default()
    });
    let others = lan.machines[1..].iter().zip(2..);
    let agents = others.map(|(m, n)| Agent::join(&cluster, m, &format!("node-{n}"), flags)).collect();
    (cluster, agents)
}

/// One pod on each node, named after it; returns names and addresses.
fn a_pod_on_each(namespace: &Namespace<'_>, agents: &[Agent]) -> Vec<(String, String)> {
    let nodes: Vec<&str> = [NODE].into_iter().chain(agents.iter().map(|agent| agent.node.as_str())).collect();
    for node in &nodes {
        let overrides = format!("--overrides={}", json!({ "spec": { "nodeName": node } }));
        namespace
            .kubectl(&["run", node, "--image=corten.local/testserver:1", "--labels=app=each", &overrides])
            .ok();
    }
    let address = |node: &&str| {
        namespace.wait(&format!("pod/{node}"), "condition=Ready");
        let pod = namespace.get(&format!("pod/{node}"));
        (node.to_string(), pod["status"]["podIP"].as_str().unwrap().to_owned())
    };
    nodes.iter().map(address).collect()
}

fn ask(namespace: &Namespace<'_>, from: &str, url: &str) -> Option<String> {
    let output = namespace.kubectl(&["exec", from, "--", "testserver", "get", "--timeout", "2", url]);
    output.success().then(|| output.stdout.trim().trim_start_matches("::ffff:").to_owned())
}

/// The pod's log, from its node's kubelet, has a question of [`all_reach_all`].
fn was_asked(namespace: &Namespace<'_>, pod: &str) {
    eventually(&format!("the log of {pod}"), || {
        namespace.kubectl(&["logs", pod]).ok().contains("GET /client").then_some(())
    });
}

/// Each pod reaches each other one, which sees its own address.
#[track_caller]
fn all_reach_all(namespace: &Namespace<'_>, pods: &[(String, String)]) {
    for (from, from_ip) in pods {
        for (to, to_ip) in pods.iter().filter(|(to, _)| to != from) {
            let url = format!("http://{to_ip}:8080/client");
            // The ways lead there as soon as the nodes have heard of each other.
            eventually(&format!("{from} reaches {to}"), || {
                (ask(namespace, from, &url).as_ref() == Some(from_ip)).then_some(())
            });
        }
    }
}

#[test]
fn three_neighbours_by_routes() {
    let lan = Lan::new(3, Middle::Switch);
    let (cluster, agents) = start(&lan, &[]);
    let namespace = cluster.namespace("three");
    let pods = a_pod_on_each(&namespace, &agents);
    all_reach_all(&namespace, &pods);
    for (machine, own) in lan.machines.iter().zip(&pods) {
        let routes = machine.run(&["ip", "route"]);
        for (_, other) in pods.iter().filter(|pod| *pod != own) {
            let range = other.rsplit_once('.').unwrap().0;
            assert!(routes.ok().contains(&format!("{range}.0/24 via 192.168.77.")), "{routes}");
        }
        assert!(!machine.run(&["ip", "link"]).ok().contains("-vx"), "no tunnel without need");
    }
    // A service is reached from every node, also from the pod behind it.
    namespace.kubectl(&["label", "pod", "node-2", "behind=second"]).ok();
    let ports = ["--port=80", "--target-port=8080"];
    namespace
        .kubectl(&[
            "expose",
            "pod",
            "node-2",
            "--name=second",
            "--selector=behind=second",
            ports[0],
            ports[1],
        ])
        .ok();
    let service = namespace.get("service/second")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    for (from, _) in &pods {
        eventually(&format!("the service from {from}"), || {
            (ask(&namespace, from, &format!("http://{service}/hostname"))? == "node-2").then_some(())
        });
    }
    let seen = eventually("an answer", || ask(&namespace, "node-3", &format!("http://{service}/client")));
    assert_eq!(seen, pods[2].1, "the service keeps the sender's address");

    // What kubectl asks of other nodes' kubelets.
    was_asked(&namespace, "node-3");
}

#[test]
fn a_token_that_ran_out_is_gone_and_lets_nobody_join() {
    let lan = Lan::new(2, Middle::Switch);
    let cluster = Cluster::start(Options {
        beside_others: true,
        machine: Some(lan.machines[0].clone()),
        ..Options::default()
    });
    let words = ["token", "create", "--description", "for a moment", "--ttl"];
    let short = cluster.corten(&[&words[..], &["1s"]].concat()).ok().trim().to_owned();
    let long = cluster.corten(&[&words[..], &["1h"]].concat()).ok().trim().to_owned();
    let id = |token: &str| token.split_once("::").unwrap().1.to_owned();
    let list = || cluster.corten(&["token", "list"]).ok().to_owned();
    eventually("it is cleaned away", || (!list().contains(&id(&short))).then_some(()));
    assert!(list().contains(&id(&long)) && list().contains("for a moment"), "{}", list());
    cluster.corten(&["token", "delete", &long]).says("deleted").ok();
    for token in [short, long] {
        let data = tempfile::tempdir().unwrap();
        let data = data.path().to_str().unwrap();
        let corten = corten_testkit::corten();
        let (server, program) = (cluster.server(), corten.to_str().unwrap());
        let join =
            ["agent", "--data-dir", data, "--node-name", "late", "--server", &server, "--token", &token];
        let output = lan.machines[1].run(&[&[program], &join[..]].concat());
        assert!(!output.success() && output.stderr.contains("Unauthorized"), "{output}");
    }
}

/// The serial number and all else that tells one certificate from another, of all parts of a node.
fn certificates(agent: &Agent) -> Vec<String> {
    let files = ["kubelet", "kubelet-client", "proxy-client", "dns-client", "network-client"];
    files.iter().map(|file| agent.certificate(file)).collect()
}

#[test]
fn certificates_are_renewed_while_the_node_runs() {
    let lan = Lan::new(2, Middle::Switch);
    let cluster = Cluster::start(Options {
        beside_others: true,
        machine: Some(lan.machines[0].clone()),
        // They are renewed when most of this has passed, and then there must be time enough on a busy machine.
        flags: vec!["--cluster-signing-duration=150s".to_owned()],
        ..Options::default()
    });
    let agent = Agent::join(&cluster, &lan.machines[1], "node-2", &[]);
    let namespace = cluster.namespace("renewed");
    let first = certificates(&agent);
    within(CUT_OFF * 2, "all have been renewed", || {
        certificates(&agent).iter().zip(&first).all(|(now, then)| now != then).then_some(())
    });
    // The first ones have run out once a renewed lease says so.
    let ended = 150 + first_second(&agent, &cluster);
    within(CUT_OFF, "the node still speaks", || (lease_second(&agent, &cluster) > ended).then_some(()));
    assert!(agent.is_ready(&cluster));
    let pods = a_pod_on_each(&namespace, std::slice::from_ref(&agent));
    all_reach_all(&namespace, &pods);
    was_asked(&namespace, "node-2");
}

/// When the node was made, in seconds since 1970: its first certificates are a little older.
fn first_second(agent: &Agent, cluster: &Cluster) -> i64 {
    second(cluster, &["get", "node", &agent.node, "-o", "jsonpath={.metadata.creationTimestamp}"])
}

/// When the node renewed its lease last.
fn lease_second(agent: &Agent, cluster: &Cluster) -> i64 {
    let path = "jsonpath={.spec.renewTime}";
    second(cluster, &["get", "lease", "-n", "kube-node-lease", &agent.node, "-o", path])
}

fn second(cluster: &Cluster, words: &[&str]) -> i64 {
    cluster.kubectl(words).ok().parse::<jiff::Timestamp>().unwrap().as_second()
}

#[test]
fn two_strangers_by_vxlan() {
    let lan = Lan::new(2, Middle::Router);
    let (cluster, agents) = start(&lan, &[]);
    let namespace = cluster.namespace("strangers");
    let pods = a_pod_on_each(&namespace, &agents);
    all_reach_all(&namespace, &pods);
    for (machine, name) in lan.machines.iter().zip([cluster.name(), agents[0].name()]) {
        machine.run(&["ip", "link", "show", &format!("{name}-vx")]).says("mtu 1450").ok();
    }

    // A policy is enforced on the node of the pod that it guards.
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "guard" },
        "spec": { "podSelector": { "matchLabels": { "app": "each" } }, "ingress": [
            { "from": [{ "podSelector": { "matchLabels": { "friend": "yes" } } }] }] },
    });
    namespace.kubectl_with(&["create", "-f", "-"], &policy.to_string()).ok();
    let url = format!("http://{}:8080/client", pods[1].1);
    eventually("the policy holds", || ask(&namespace, NODE, &url).is_none().then_some(()));
    namespace.kubectl(&["label", "pod", NODE, "friend=yes"]).ok();
    eventually("a friend on another node", || ask(&namespace, NODE, &url));
}

#[test]
fn a_node_cut_off_and_back() {
    let lan = Lan::new(2, Middle::Switch);
    let (cluster, agents) = start(&lan, &[]);
    let namespace = cluster.namespace("cut");
    let toleration = |key: &str| json!({ "key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1 });
    let spread = json!([{ "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": { "app": "web" } } }]);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": {
                "tolerations": [toleration("unreachable"), toleration("not-ready")],
                "topologySpreadConstraints": spread,
                "containers": [{ "name": "c", "image": "corten.local/testserver:1" }],
            },
        } },
    });
    namespace.kubectl_with(&["create", "-f", "-"], &deployment.to_string()).ok();
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]).ok();
    let on = |node: &str, good: &dyn Fn(&Value) -> bool| {
        let pods = namespace.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"]).json();
        let pods = pods["items"].as_array().unwrap();
        pods.iter().filter(|pod| pod["spec"]["nodeName"] == node && good(pod)).count()
    };
    let lives = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    assert_eq!((on(NODE, &lives), on("node-2", &lives)), (1, 1), "one on each");

    let stays = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "stays" },
        "spec": { "nodeName": "node-2", "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "c", "image": "corten.local/testserver:1" }] },
    });
    namespace.kubectl_with(&["create", "-f", "-"], &stays.to_string()).ok();
    namespace.wait("pod/stays", "condition=Ready");

    lan.cable(2, "down");
    within(CUT_OFF, "the node is NotReady", || (!agents[0].is_ready(&cluster)).then_some(()));
    within(CUT_OFF, "its pod is replaced", || {
        (on(NODE, &lives) == 2 && on("node-2", &lives) == 0).then_some(())
    });
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]).ok();
    assert_eq!(on("node-2", &|pod| !lives(pod)), 1, "nobody knows whether the old one has ended");
    namespace.wait("pod/stays", "condition=Ready=false");
    // The node must hear of this when it is back, though nobody told it.
    namespace.kubectl(&["expose", "deployment", "web", "--port=80", "--target-port=8080"]).ok();
    let missed = namespace.get("service/web")["spec"]["clusterIP"].as_str().unwrap().to_owned();

    lan.cable(2, "up");
    within(CUT_OFF, "the node is back", || agents[0].is_ready(&cluster).then_some(()));
    namespace.wait("pod/stays", "condition=Ready");
    within(CUT_OFF, "the old pod is gone", || (on("node-2", &|_| true) == 0).then_some(()));
    let (missed, named) = (format!("http://{missed}/hostname"), "http://web/hostname");
    within(CUT_OFF, "what it missed is known there", || ask(&namespace, "stays", &missed));
    within(CUT_OFF, "so is its name", || ask(&namespace, "stays", named));
    let pods = a_pod_on_each(&namespace, &agents);
    all_reach_all(&namespace, &pods);
}
