//! The document that Corten was written for, line by line: its manifests, its commands, its transcripts.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use corten_testkit::{cluster, eventually, http_get, is_ready, phase, root};

/// The path of an example.
fn example(name: &str) -> String {
    root().join("examples").join(name).to_string_lossy().into_owned()
}

#[test]
fn the_transcript() {
    let ns = cluster().namespace("transcript");
    ns.kubectl(&["create", "-f", &example("nginx-pod.yaml")]).says("pod/nginx-pod created").ok();
    ns.wait("pod/nginx-pod", "condition=Ready");
    let pods = ns.kubectl(&["get", "pod"]);
    assert_eq!(pods.rows()[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(pods.rows()[1][..4], ["nginx-pod", "1/1", "Running", "0"]);

    ns.kubectl(&["create", "-f", &example("mysql-rc.yaml")]).says("replicationcontroller/mysql created").ok();
    ns.watch(&["rc", "mysql"], "the RC has its pod", |rcs| {
        rcs.values().any(|rc| rc["status"]["readyReplicas"] == 1)
    });
    let rc = ns.get("rc/mysql");
    assert_eq!(rc["spec"]["selector"], serde_json::json!({"app": "mysql"}), "defaulted from the template");
    let rcs = ns.kubectl(&["get", "rc"]);
    assert_eq!(rcs.rows()[0], ["NAME", "DESIRED", "CURRENT", "READY", "AGE"]);
    assert_eq!(rcs.rows()[1][..4], ["mysql", "1", "1", "1"]);
    let first = mysql_pod(&ns);
    assert_eq!(first.len(), "mysql-1l717".len(), "{first}: five random characters");
    let pods = ns.kubectl(&["get", "pod"]);
    assert_eq!(pods.rows().iter().map(|row| row[0]).collect::<Vec<_>>(), ["NAME", &first, "nginx-pod"]);

    ns.kubectl(&["delete", "pod", "nginx-pod"]).says("pod \"nginx-pod\" deleted").ok();
    ns.kubectl(&["get", "pod", "nginx-pod"])
        .says("Error from server (NotFound): pods \"nginx-pod\" not found")
        .err();
    ns.kubectl(&["delete", "pod", &first]).says(&format!("pod \"{first}\" deleted")).ok();
    ns.watch(&["pods"], "another pod under another name", |pods| {
        !pods.contains_key(&first) && pods.values().any(is_ready)
    });
    let second = mysql_pod(&ns);
    assert_ne!(first, second);
    ns.kubectl(&["get", "pod", "nginx-pod"]).err();

    ns.kubectl(&["delete", "rc", "mysql"]).says("replicationcontroller \"mysql\" deleted").ok();
    ns.watch(&["pods"], "its pods go with it", |pods| pods.is_empty());
    ns.kubectl(&["get", "pod"]).says("No resources found in transcript namespace.").ok();
}

fn mysql_pod(ns: &corten_testkit::Namespace<'_>) -> String {
    let name = ns.kubectl(&["get", "pod", "-l", "app=mysql", "-o", "jsonpath={.items[0].metadata.name}"]);
    name.ok().to_owned()
}

/// "We should not create pods that match an RC's selector: it takes them for its own and removes some."
#[test]
fn a_pod_that_matches_is_taken_for_its_own() {
    let ns = cluster().namespace("adoption");
    ns.kubectl(&["create", "-f", &example("mysql-rc.yaml")]).ok();
    ns.watch(&["pods"], "the RC's pod", |pods| pods.values().any(is_ready));
    let own = mysql_pod(&ns);
    ns.kubectl(&["run", "intruder", "--image=nginx:1.22", "--labels=app=mysql"]).ok();
    ns.watch(&["pods"], "the surplus pod goes", |pods| pods.len() == 1 && pods.contains_key(&own));

    ns.kubectl(&["delete", "rc", "mysql", "--cascade=orphan"]).ok();
    let orphan = ns.get(&format!("pod/{own}"));
    assert!(orphan["metadata"]["ownerReferences"].is_null(), "{orphan}");
    ns.kubectl(&["create", "-f", &example("mysql-rc.yaml")]).ok();
    ns.watch(&["pods"], "the orphan is adopted", |pods| {
        pods.len() == 1 && pods[&own]["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController"
    });
}

#[test]
fn containers_of_a_pod_share_everything_and_pods_have_addresses() {
    let ns = cluster().namespace("shared");
    ns.kubectl(&["create", "-f", &example("nginx-pod.yaml"), "-f", &example("two-containers.yaml")]).ok();
    ns.wait("pod/nginx-pod", "condition=Ready");
    ns.wait("pod/two-containers", "condition=Ready");
    let [nginx, two] = ["nginx-pod", "two-containers"]
        .map(|pod| ns.get(&format!("pod/{pod}"))["status"]["podIP"].as_str().unwrap().to_owned());
    assert_ne!(nginx, two);
    // Without a probe, ready means that it was started: it listens a moment later.
    let page = eventually("from the node", || http_get(&format!("{nginx}:80"), "/"));
    assert!(page.contains("Welcome to nginx!"), "{page}");
    let url = format!("http://{nginx}/");
    ns.kubectl(&["exec", "two-containers", "-c", "client", "--", "wget", "-qO-", &url])
        .says("Welcome to nginx!")
        .ok();
    eventually("the client reaches the server on localhost", || {
        ns.kubectl(&["logs", "two-containers", "-c", "client"])
            .stdout
            .contains("two-containers")
            .then_some(())
    });
    eventually("the log of the server", || {
        ns.kubectl(&["logs", "nginx-pod"]).stdout.contains("GET / HTTP/1.1").then_some(())
    });
}

#[test]
fn replica_sets_choose_by_sets() {
    let ns = cluster().namespace("sets");
    ns.kubectl(&["create", "-f", &example("replicaset.yaml")]).ok();
    ns.watch(&["rs", "frontend"], "three replicas", |sets| {
        sets.values().any(|rs| rs["status"]["readyReplicas"] == 3)
    });
    let row = ns.kubectl(&["get", "rs", "frontend", "-o", "wide"]);
    row.says("tier in (edge,frontend),track notin (canary)").ok();
    assert_eq!(
        ns.kubectl(&["get", "pod", "-l", "tier in (frontend),track notin (canary)", "-o", "name"])
            .rows()
            .len(),
        3
    );
    let pod = ns.kubectl(&["get", "pod", "-o", "name"]).rows()[0][0].to_owned();
    ns.kubectl(&["label", &pod, "track=canary", "--overwrite"]).ok();
    ns.watch(&["pods"], "the one that left is replaced and let go", |pods| {
        let own = pods.values().filter(|pod| pod["metadata"]["ownerReferences"].is_array());
        pods.len() == 4 && own.count() == 3
    });
}

#[test]
fn deployments_update_step_by_step() {
    let ns = cluster().namespace("deploy");
    ns.kubectl(&["apply", "-f", &example("deployment.yaml")]).says("deployment.apps/web created").ok();
    ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"])
        .says("successfully rolled out")
        .ok();
    let row = ns.kubectl(&["get", "deployment"]);
    assert_eq!(row.rows()[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    assert_eq!(row.rows()[1][..4], ["web", "3/3", "3", "3"]);
    ns.kubectl(&["set", "image", "deployment/web", "web=corten.local/testserver:2"]).ok();
    ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"])
        .says("successfully rolled out")
        .ok();
    let images = ns.kubectl(&[
        "get",
        "pods",
        "--field-selector=status.phase=Running",
        "-o",
        "jsonpath={.items[*].spec.containers[0].image}",
    ]);
    assert!(images.ok().contains("testserver:2"), "{images}");
}

#[test]
fn namespaces_are_there_and_can_be_made() {
    eventually("those of every cluster", || {
        let names = cluster().kubectl(&["get", "namespaces", "-o", "name"]).ok().to_owned();
        let all = ["default", "kube-system", "kube-public", "kube-node-lease"];
        all.iter().all(|name| names.contains(&format!("namespace/{name}\n"))).then_some(())
    });
    let ns = cluster().namespace("own");
    ns.kubectl(&["create", "configmap", "x", "--from-literal=a=b"]).ok();
    ns.kubectl(&["run", "p", "--image=nginx:1.22"]).ok();
    ns.wait("pod/p", "condition=Ready");
    cluster().kubectl(&["delete", "namespace", "own", "--timeout=180s"]).ok();
    ns.kubectl(&["get", "pod", "p"]).says("NotFound").err();
    cluster().kubectl(&["get", "namespace", "own"]).says("NotFound").err();
    cluster().kubectl(&["delete", "namespace", "default"]).says("Forbidden").err();
}

/// The document's phases of a pod and states of a container.
#[test]
fn phases_of_a_pod() {
    let ns = cluster().namespace("phases");
    ns.kubectl(&["run", "good", "--image=busybox:1.35", "--restart=Never", "--", "true"]).ok();
    ns.kubectl(&["run", "bad", "--image=busybox:1.35", "--restart=Never", "--", "sh", "-c", "exit 3"]).ok();
    ns.kubectl(&[
        "run",
        "huge",
        "--image=busybox:1.35",
        "--overrides",
        r#"{"spec":{"nodeSelector":{"no":"where"}}}"#,
    ])
    .ok();
    let pods = ns.watch(&["pods"], "both ended", |pods| {
        pods.get("good").is_some_and(|p| phase(p) == "Succeeded")
            && pods.get("bad").is_some_and(|p| phase(p) == "Failed")
    });
    let ended = corten_testkit::state(&pods["bad"], "")["terminated"].clone();
    assert_eq!(ended["exitCode"], 3, "{ended}");
    assert_eq!(ended["reason"], "Error");
    assert_eq!(corten_testkit::state(&pods["good"], "")["terminated"]["reason"], "Completed");
    assert_eq!(phase(&pods["huge"]), "Pending");
    let table = ns.kubectl(&["get", "pods", "--no-headers"]);
    let status: Vec<_> = table.rows().iter().map(|row| row[2].to_owned()).collect();
    assert_eq!(status, ["Error", "Completed", "Pending"]);
}

/// Daemon sets, probes, volumes and the rest of `examples/`: each does what its first lines say.
#[test]
fn the_other_examples_work() {
    let ns = cluster().namespace("examples");
    cluster().kubectl(&["label", "node", "--all", "disk=ssd"]).ok();
    let files = ["daemonset.yaml", "probes.yaml", "lifecycle.yaml", "volumes.yaml", "resources.yaml"];
    for file in files {
        ns.kubectl(&["apply", "-f", &example(file)]).ok();
    }
    ns.watch(&["pods"], "each does what it should", |pods| {
        let is = |name: &str, wanted: &str| pods.get(name).is_some_and(|pod| phase(pod) == wanted);
        let killed = pods.get("resources").map(|pod| &corten_testkit::state(pod, "")["terminated"]["reason"]);
        is("lifecycle", "Succeeded")
            && is("volumes", "Running")
            && pods.get("probes").is_some_and(is_ready)
            && killed.is_some_and(|reason| reason == "OOMKilled")
    });
    ns.kubectl(&["rollout", "status", "daemonset/watcher", "--timeout=180s"]).ok();
    // The last word that it says.
    eventually("the volumes are told", || {
        ns.kubectl(&["logs", "volumes"]).stdout.contains("Hello from a ConfigMap").then_some(())
    });
    let log = ns.kubectl(&["logs", "volumes"]);
    for word in ["a blue hello from 10.", "\ncolour\n", "\npassword\n", "\nlabels\n", "\ntoken\n"] {
        log.says(word);
    }
    ns.kubectl(&["logs", "lifecycle"]).says("prepared\ndone").ok();
    cluster().kubectl(&["label", "node", "--all", "disk-"]).ok();
}

/// The document's Service object is accepted and gets an address (traffic to it is not served yet).
#[test]
fn a_service_gets_an_address() {
    let ns = cluster().namespace("service");
    ns.create_from(
        "{kind: Service, apiVersion: v1, metadata: {name: my-service}, \
         spec: {selector: {app: MyApp}, ports: [{protocol: TCP, port: 80, targetPort: 9376}]}}",
    );
    let service = ns.get("service/my-service");
    assert!(service["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.")), "{service}");
}
