//! Controllers: replication controllers, replica sets, deployments and their rollouts, daemon sets, stateful sets, jobs, quotas,
//! disruption budgets, namespaces, owners.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use corten_testkit::{Cluster, NODE, Namespace, Objects, Options, cluster, eventually, is_ready, phase};
use serde_json::{Value, json};

fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "c", "image": image,
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 20},
            }],
        },
    })
}

fn deployment(name: &str, replicas: u32, strategy: Value) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "strategy": strategy,
            "template": template(name, "corten.local/testserver:1"),
        },
    })
    .to_string()
}

fn rolled_out(ns: &Namespace<'_>, name: &str) {
    let status = ns.kubectl(&["rollout", "status", name, "--timeout=180s"]);
    assert!(status.success(), "{status}\n{}", ns.describe(name));
}

/// Waits until the description has these words: events come when they come.
#[track_caller]
fn described(ns: &Namespace<'_>, what: &[&str], words: &[&str]) {
    eventually(&format!("{words:?} of {what:?}"), || {
        let mut all = vec!["describe"];
        all.extend(what);
        let text = ns.kubectl(&all).ok().to_owned();
        words.iter().all(|word| text.contains(word)).then_some(())
    });
}

fn ready(pods: &Objects) -> usize {
    pods.values().filter(|pod| is_ready(pod)).count()
}

fn image(ns: &Namespace<'_>, name: &str) -> String {
    ns.kubectl(&["get", name, "-o", "jsonpath={.spec.template.spec.containers[0].image}"]).ok().to_owned()
}

#[test]
fn replication_controllers_scale_and_repair() {
    let ns = cluster().namespace("rc");
    ns.create_from(
        &json!({
            "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"},
            "spec": {"replicas": 2, "template": template("rc", "corten.local/testserver:1")},
        })
        .to_string(),
    );
    ns.watch(&["pods"], "two pods", |pods| pods.len() == 2 && ready(pods) == 2);
    ns.kubectl(&["scale", "rc", "rc", "--replicas=4"]).ok();
    let four = ns.watch(&["pods"], "four pods", |pods| pods.len() == 4 && ready(pods) == 4);
    ns.kubectl(&["scale", "rc", "rc", "--replicas=1"]).ok();
    ns.watch(&["pods"], "one pod", |pods| pods.len() == 1 && ready(pods) == 1);
    ns.watch(&["rc", "rc"], "the status tells it", |rcs| {
        rcs.values().any(|rc| rc["status"]["replicas"] == 1 && rc["status"]["readyReplicas"] == 1)
    });
    assert!(four.keys().all(|name| name.starts_with("rc-")));
    described(&ns, &["rc", "rc"], &["SuccessfulCreate", "SuccessfulDelete"]);
    let pod = ns.kubectl(&["get", "pods", "-o", "name"]).ok().trim().to_owned();
    ns.kubectl(&["label", &pod, "app=other", "--overwrite"]).ok();
    ns.watch(&["pods"], "a released pod and its successor", |pods| pods.len() == 2 && ready(pods) == 2);
    let freed = ns.get(&pod);
    assert!(freed["metadata"]["ownerReferences"].is_null(), "released: {freed}");
}

#[test]
fn a_rolling_update_keeps_its_bounds_at_every_moment() {
    let ns = cluster().namespace("bounds");
    let bounds = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
    ns.create_from(&deployment("web", 4, bounds));
    rolled_out(&ns, "deployment/web");
    ns.kubectl(&["set", "image", "deployment/web", "c=corten.local/testserver:2"]).says("image updated").ok();
    let (mut most, mut fewest) = (0, usize::MAX);
    ns.watch(&["pods"], "all pods are new", |pods| {
        let alive = pods.values().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        most = most.max(alive.clone().count());
        fewest = fewest.min(ready(pods));
        let new = alive.filter(|pod| pod["spec"]["containers"][0]["image"] == "corten.local/testserver:2");
        new.filter(|pod| is_ready(pod)).count() == 4
    });
    assert!(most <= 5, "{most} pods at once, 4 + maxSurge 1 allowed");
    assert!(fewest >= 3, "only {fewest} ready, 4 - maxUnavailable 1 needed");
    rolled_out(&ns, "deployment/web");
    let sets = ns.kubectl(&["get", "rs", "-o", "jsonpath={.items[*].spec.replicas}"]);
    let mut counts: Vec<_> = sets.ok().split(' ').collect();
    counts.sort();
    assert_eq!(counts, ["0", "4"], "the old set stays for undo");
}

#[test]
fn rollouts_have_a_history_and_can_be_undone() {
    let ns = cluster().namespace("history");
    ns.create_from(&deployment("web", 2, json!({"type": "RollingUpdate"})));
    rolled_out(&ns, "deployment/web");
    ns.kubectl(&["set", "image", "deployment/web", "c=corten.local/testserver:2"]).ok();
    rolled_out(&ns, "deployment/web");
    let history = ns.kubectl(&["rollout", "history", "deployment/web"]);
    let revisions: Vec<_> =
        history.rows().into_iter().filter_map(|row| row.first()?.parse::<u32>().ok()).collect();
    assert_eq!(revisions, [1, 2], "{history}");
    ns.kubectl(&["rollout", "history", "deployment/web", "--revision=1"])
        .says("corten.local/testserver:1")
        .ok();
    ns.kubectl(&["rollout", "undo", "deployment/web"]).says("deployment.apps/web rolled back").ok();
    rolled_out(&ns, "deployment/web");
    assert_eq!(image(&ns, "deployment/web"), "corten.local/testserver:1");
    ns.kubectl(&["rollout", "history", "deployment/web"]).says("3").ok();
    ns.kubectl(&["rollout", "undo", "deployment/web", "--to-revision=2"]).ok();
    rolled_out(&ns, "deployment/web");
    assert_eq!(image(&ns, "deployment/web"), "corten.local/testserver:2");

    ns.kubectl(&["rollout", "pause", "deployment/web"]).says("deployment.apps/web paused").ok();
    ns.kubectl(&["set", "image", "deployment/web", "c=corten.local/testserver:1"]).ok();
    ns.kubectl(&["scale", "deployment/web", "--replicas=3"]).ok();
    // Those of the revision before may still be ending.
    ns.watch(&["pods"], "paused, yet scaled", |pods| pods.len() == 3 && ready(pods) == 3);
    let images = ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}"]);
    assert!(!images.ok().contains("testserver:1"), "paused: no new image yet: {images}");
    ns.kubectl(&["rollout", "resume", "deployment/web"]).says("deployment.apps/web resumed").ok();
    rolled_out(&ns, "deployment/web");
    let before = ns.kubectl(&["get", "pods", "-o", "name"]).ok().to_owned();
    ns.kubectl(&["rollout", "restart", "deployment/web"]).says("deployment.apps/web restarted").ok();
    rolled_out(&ns, "deployment/web");
    let after = ns.watch(&["pods"], "only new pods", |pods| {
        pods.len() == 3 && pods.keys().all(|name| !before.contains(name.as_str()))
    });
    assert_eq!(ready(&after), 3);
    described(&ns, &["deployment", "web"], &["ScalingReplicaSet", "NewReplicaSetAvailable"]);
    ns.kubectl(&["delete", "deployment", "web"]).ok();
    ns.watch(&["rs,pods"], "sets and pods go with it", |all| all.is_empty());
}

#[test]
fn recreate_ends_the_old_before_it_begins_the_new() {
    let ns = cluster().namespace("recreate");
    ns.create_from(&deployment("web", 2, json!({"type": "Recreate"})));
    rolled_out(&ns, "deployment/web");
    ns.kubectl(&["set", "image", "deployment/web", "c=corten.local/testserver:2"]).ok();
    ns.watch(&["pods"], "all new", |pods| {
        let of = |image: &str| {
            let all = pods.values().filter(|pod| pod["spec"]["containers"][0]["image"] == image);
            all.cloned().collect::<Vec<_>>()
        };
        let (old, new) = (of("corten.local/testserver:1"), of("corten.local/testserver:2"));
        let runs = |pod: &Value| !matches!(phase(pod), "Succeeded" | "Failed");
        assert!(!old.iter().any(runs) || new.is_empty(), "old and new at the same time");
        new.iter().filter(|pod| is_ready(pod)).count() == 2
    });
}

#[test]
fn a_stuck_rollout_says_so_and_keeps_serving() {
    let ns = cluster().namespace("stuck");
    ns.create_from(&deployment(
        "web",
        2,
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}),
    ));
    rolled_out(&ns, "deployment/web");
    ns.kubectl(&["patch", "deployment", "web", "-p", r#"{"spec":{"progressDeadlineSeconds":3}}"#]).ok();
    ns.kubectl(&["set", "image", "deployment/web", "c=corten.local/no-such-image:1"]).ok();
    let status = ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]);
    status.says("exceeded its progress deadline").err();
    assert_eq!(ns.get("deployment/web")["status"]["readyReplicas"], 2);
    // The way back may take longer than this on a busy machine.
    ns.kubectl(&["patch", "deployment", "web", "-p", r#"{"spec":{"progressDeadlineSeconds":600}}"#]).ok();
    ns.kubectl(&["rollout", "undo", "deployment/web"]).ok();
    rolled_out(&ns, "deployment/web");
}

#[test]
fn daemon_sets_follow_node_labels() {
    let ns = cluster().namespace("daemons");
    let daemon = |name: &str, selector: Value| {
        let mut template = template(name, "corten.local/testserver:1");
        template["spec"]["nodeSelector"] = selector;
        ns.create_from(
            &json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
                "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
            })
            .to_string(),
        );
    };
    daemon("everywhere", json!({}));
    daemon("chosen", json!({"role": "edge"}));
    rolled_out(&ns, "daemonset/everywhere");
    let table = ns.kubectl(&["get", "ds"]);
    assert_eq!(
        table.rows()[0][..7],
        ["NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE", "NODE"]
    );
    assert_eq!(ns.get("ds/chosen")["status"]["desiredNumberScheduled"], 0);
    cluster().kubectl(&["label", "node", "node-1", "role=edge"]).ok();
    ns.watch(&["pods", "-l", "app=chosen"], "the label brings a pod", |pods| ready(pods) == 1);
    cluster().kubectl(&["label", "node", "node-1", "role-"]).ok();
    ns.watch(&["pods", "-l", "app=chosen"], "and takes it away", |pods| pods.is_empty());
    ns.kubectl(&["set", "image", "ds/everywhere", "c=corten.local/testserver:2"]).ok();
    rolled_out(&ns, "daemonset/everywhere");
    ns.watch(&["pods", "-l", "app=everywhere"], "updated in place", |pods| {
        pods.len() == 1
            && pods
                .values()
                .all(|p| p["spec"]["containers"][0]["image"] == "corten.local/testserver:2" && is_ready(p))
    });
    ns.kubectl(&["rollout", "history", "ds/everywhere"]).says("2").ok();
    ns.kubectl(&["delete", "pod", "-l", "app=everywhere"]).ok();
    ns.watch(&["pods", "-l", "app=everywhere"], "brought back", |pods| ready(pods) == 1);
}

#[test]
fn a_namespace_takes_everything_with_it() {
    let ns = cluster().namespace("doomed");
    ns.create_from(&deployment("web", 2, json!({})));
    for words in [
        &["configmap", "c"][..],
        &["secret", "generic", "s"],
        &["serviceaccount", "a"],
        &["role", "r", "--verb=get", "--resource=pods"],
    ] {
        let mut all = vec!["create"];
        all.extend(words);
        ns.kubectl(&all).ok();
    }
    rolled_out(&ns, "deployment/web");
    // It holds the namespace for as long as the next question takes.
    ns.create_from(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: held, finalizers: [example.com/mine]}}",
    );
    cluster().kubectl(&["delete", "namespace", "doomed", "--wait=false"]).ok();
    ns.kubectl(&["create", "configmap", "late"]).says("because it is being terminated").err();
    ns.kubectl(&["patch", "cm", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]).ok();
    cluster().kubectl(&["wait", "--for=delete", "namespace/doomed", "--timeout=180s"]).ok();
    cluster().kubectl(&["create", "namespace", "doomed"]).ok();
    eventually("the default account of the new namespace", || {
        ns.kubectl(&["get", "sa", "default"]).success().then_some(())
    });
    let left = ns.kubectl(&["get", "deployments,rs,pods,secrets,roles", "-o", "name"]);
    assert_eq!(left.ok(), "");
    ns.kubectl(&["get", "cm", "c"]).says("NotFound").err();
    eventually("its CA", || ns.kubectl(&["get", "cm", "kube-root-ca.crt"]).success().then_some(()));
}

#[test]
fn owners_and_what_they_own() {
    let ns = cluster().namespace("owners");
    ns.kubectl(&["create", "configmap", "owner"]).ok();
    let uid = ns.get("cm/owner")["metadata"]["uid"].as_str().unwrap().to_owned();
    let owned = |name: &str, uid: &str| {
        ns.create_from(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": true},
            ]},
        }).to_string());
    };
    owned("child", &uid);
    owned("lost", "00000000-0000-0000-0000-000000000000");
    ns.watch(&["cm"], "who names an owner that is not there goes", |all| !all.contains_key("lost"));
    ns.kubectl(&["get", "cm", "child"]).ok();
    ns.kubectl(&["delete", "cm", "owner"]).ok();
    ns.watch(&["cm"], "the child follows", |all| !all.contains_key("child"));
}

/// A finalizer holds an object until somebody has done what it stands for.
#[test]
fn finalizers_hold_objects() {
    let ns = cluster().namespace("finalizers");
    ns.create_from(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: held, finalizers: [example.com/mine]}}",
    );
    ns.kubectl(&["delete", "cm", "held", "--wait=false"]).ok();
    assert!(ns.get("cm/held")["metadata"]["deletionTimestamp"].is_string());
    ns.kubectl(&["patch", "cm", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]).ok();
    ns.watch(&["cm"], "nobody holds it", |all| !all.contains_key("held"));
}

/// On a cluster of its own: draining a node sends everybody away.
#[test]
fn cordon_uncordon_and_drain() {
    let own = Cluster::start(Options { beside_others: true, ..Options::default() });
    let ns = own.namespace("drain");
    let kubectl = |words: &[&str]| own.kubectl(words);
    ns.create_from(&deployment("web", 2, json!({})));
    rolled_out(&ns, "deployment/web");
    kubectl(&["cordon", NODE]).says("node/node-1 cordoned").ok();
    kubectl(&["get", "node", NODE]).says("Ready,SchedulingDisabled").ok();
    ns.kubectl(&["run", "late", "--image=busybox:1.35", "--", "sleep", "3600"]).ok();
    eventually("nothing is scheduled to a cordoned node", || {
        let events = ns.kubectl(&["get", "events", "--field-selector", "reason=FailedScheduling"]).stdout;
        events.contains("0/1 nodes are available: 1 node(s) were unschedulable").then_some(())
    });
    kubectl(&["uncordon", NODE]).says("node/node-1 uncordoned").ok();
    ns.wait("pod/late", "condition=Ready");
    kubectl(&["drain", NODE, "--timeout=60s"]).says("cannot delete Pods that declare no controller").err();
    let drained = kubectl(&[
        "drain",
        NODE,
        "--force",
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=180s",
    ]);
    drained.says("node/node-1 drained").ok();
    ns.kubectl(&["get", "pod", "late"]).says("NotFound").err();
    let pods = ns.kubectl(&["get", "pods", "--no-headers"]);
    assert!(pods.ok().lines().all(|line| line.contains("Pending")), "{pods}");
    kubectl(&["uncordon", NODE]).ok();
    rolled_out(&ns, "deployment/web");
    kubectl(&["taint", "node", NODE, "a=b:NoSchedule"]).says("node/node-1 tainted").ok();
    ns.kubectl(&["run", "plain", "--image=busybox:1.35", "--", "sleep", "3600"]).ok();
    eventually("a taint keeps pods away", || {
        let events = ns.kubectl(&["get", "events", "--field-selector", "involvedObject.name=plain"]).stdout;
        events.contains("1 node(s) had untolerated taint").then_some(())
    });
    kubectl(&["taint", "node", NODE, "a-"]).ok();
    ns.wait("pod/plain", "condition=Ready");
}

fn job(name: &str, more: &Value, command: &str) -> String {
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", command]});
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [container]}});
    let mut spec = json!({"template": template});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}).to_string()
}

#[test]
fn jobs_end_well_or_not_and_are_counted_once() {
    let ns = cluster().namespace("jobs");
    ns.create_from(&job("many", &json!({"completions": 4, "parallelism": 2}), "true"));
    ns.create_from(&job("bad", &json!({"backoffLimit": 0}), "exit 3"));
    let indexed = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"});
    ns.create_from(&job("indexed", &indexed, "echo index $JOB_COMPLETION_INDEX on $(hostname)"));
    ns.wait("job/many", "condition=Complete");
    ns.wait("job/indexed", "condition=Complete");
    ns.wait("job/bad", "condition=Failed");
    let status = |name: &str| ns.get(&format!("job/{name}"))["status"].clone();
    assert_eq!((&status("many")["succeeded"], &status("bad")["failed"]), (&json!(4), &json!(1)));
    assert_eq!(status("indexed")["completedIndexes"], "0-2");
    eventually("what each said", || {
        let logs = ns.kubectl(&["logs", "-l", "job-name=indexed"]);
        let mut lines: Vec<&str> = logs.ok().lines().collect();
        lines.sort();
        (lines == ["index 0 on indexed-0", "index 1 on indexed-1", "index 2 on indexed-2"]).then_some(())
    });
    described(&ns, &["job", "bad"], &["BackoffLimitExceeded"]);
    eventually("nobody holds ended pods", || {
        let held = ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.finalizers}"]);
        held.ok().is_empty().then_some(())
    });
    ns.create_from(&job("short", &json!({"ttlSecondsAfterFinished": 1}), "true"));
    ns.kubectl(&["wait", "--for=delete", "job/short", "--timeout=180s"]).ok();
    eventually("its pods follow", || {
        ns.kubectl(&["get", "pods", "-l", "job-name=short", "-o", "name"]).ok().is_empty().then_some(())
    });
}

#[test]
fn stateful_sets_go_one_after_the_other_and_budgets_hold_them() {
    let ns = cluster().namespace("stateful");
    let mut set: Value = serde_json::from_str(&deployment("db", 3, json!({}))).unwrap();
    set["kind"] = json!("StatefulSet");
    set["spec"]["serviceName"] = json!("db");
    set["spec"].as_object_mut().unwrap().remove("strategy");
    ns.create_from(&set.to_string());
    ns.kubectl(&["create", "pdb", "db", "--selector=app=db", "--max-unavailable=1"]).ok();
    let mut seen = Vec::new();
    ns.watch(&["pods"], "three pods in order", |pods| {
        seen.push(pods.len());
        if let Some(last) = pods.get(&format!("db-{}", pods.len().saturating_sub(1)))
            && pods.len() > 1
        {
            let before = pods.iter().filter(|(name, _)| *name != last["metadata"]["name"].as_str().unwrap());
            assert!(before.into_iter().all(|(_, pod)| is_ready(pod)), "the next one only when all are ready");
        }
        pods.len() == 3 && ready(pods) == 3
    });
    rolled_out(&ns, "statefulset/db");
    eventually("one may be evicted", || {
        let allowed = ns.kubectl(&["get", "pdb", "db", "-o", "jsonpath={.status.disruptionsAllowed}"]);
        (allowed.ok() == "1").then_some(())
    });
    ns.kubectl(&["set", "image", "statefulset/db", "c=corten.local/testserver:2"]).ok();
    let mut fewest = 3;
    ns.watch(&["pods"], "all pods are new", |pods| {
        fewest = fewest.min(ready(pods));
        let new =
            pods.values().filter(|p| p["spec"]["containers"][0]["image"] == "corten.local/testserver:2");
        new.filter(|pod| is_ready(pod)).count() == 3
    });
    assert!(fewest >= 2, "only {fewest} were ready");
    ns.kubectl(&["scale", "statefulset/db", "--replicas=1"]).ok();
    let left = ns.watch(&["pods"], "the first is left", |pods| pods.len() == 1);
    assert!(left.contains_key("db-0"), "{:?}", left.keys());
}

#[test]
fn quotas_tell_what_is_used() {
    let ns = cluster().namespace("quotas");
    ns.kubectl(&["create", "quota", "q", "--hard=count/configmaps=9,services=5,count/deployments.apps=2"])
        .ok();
    let used = |resource: &str, number: &str| {
        eventually(&format!("{number} {resource}"), || {
            let quota = ns.get("quota/q");
            (quota["status"]["used"][resource] == number).then_some(())
        });
    };
    used("count/configmaps", "1");
    ns.kubectl(&["create", "configmap", "mine"]).ok();
    ns.kubectl(&["create", "service", "clusterip", "s", "--tcp=80"]).ok();
    used("count/configmaps", "2");
    used("services", "1");
    ns.kubectl(&["delete", "configmap", "mine"]).ok();
    used("count/configmaps", "1");
    used("count/deployments.apps", "0");
}
