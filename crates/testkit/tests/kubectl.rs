//! kubectl's commands, each as people type it.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use corten_testkit::{Namespace, PATIENCE, cluster, eventually, free_port, http_get, is_ready};
use serde_json::json;

/// A pod that serves and stays.
fn server(ns: &Namespace<'_>, name: &str) {
    let probe = json!({"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1});
    let container = json!({"name": name, "image": "corten.local/testserver:1", "readinessProbe": probe});
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [container]},
        "metadata": {"name": name, "labels": {"app": name, "tier": "web"}}});
    ns.create_from(&pod.to_string());
    ns.wait(&format!("pod/{name}"), "condition=Ready");
}

#[test]
fn get_prints_what_people_know() {
    let ns = cluster().namespace("get");
    server(&ns, "a");
    server(&ns, "b");
    let wide = ns.kubectl(&["get", "pods", "-o", "wide"]);
    assert!(wide.ok().starts_with("NAME   READY   STATUS    RESTARTS   AGE"), "{wide}");
    assert_eq!(wide.rows()[0][5..8], ["IP", "NODE", "NOMINATED"]);
    assert_eq!(wide.rows()[1][6], corten_testkit::NODE);
    ns.kubectl(&["get", "pod", "a", "-o", "yaml"]).says("kind: Pod").says("  name: a").ok();
    assert_eq!(ns.get("pod/a")["kind"], "Pod");
    assert_eq!(ns.kubectl(&["get", "pods", "-o", "name"]).ok(), "pod/a\npod/b\n");
    let path = ns.kubectl(&[
        "get",
        "pods",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name}={.status.phase};{end}",
    ]);
    assert_eq!(path.ok(), "a=Running;b=Running;");
    let columns =
        ns.kubectl(&["get", "pods", "-o", "custom-columns=N:.metadata.name,I:.spec.containers[0].image"]);
    assert_eq!(columns.rows()[1], ["a", "corten.local/testserver:1"]);
    ns.kubectl(&["get", "pods", "-o", "go-template={{range .items}}{{.metadata.name}}{{end}}"])
        .says("ab")
        .ok();
    let all = cluster().kubectl(&["get", "pods", "-A"]);
    assert_eq!(all.rows()[0][..2], ["NAMESPACE", "NAME"]);
    assert!(all.rows().iter().any(|row| row[..2] == ["get", "a"]), "{all}");
    let names = |words: &[&str]| {
        let mut all = vec!["get", "pods", "-o", "name"];
        all.extend(words);
        ns.kubectl(&all).ok().replace("pod/", "").replace('\n', " ").trim().to_owned()
    };
    for (words, expected) in [
        (&["-l", "app=a"][..], "a"),
        (&["-l", "app!=a"], "b"),
        (&["-l", "app in (a, b),tier"], "a b"),
        (&["-l", "app notin (a)"], "b"),
        (&["-l", "!tier"], ""),
        (&["--field-selector", "metadata.name=b"], "b"),
        (&["--field-selector", "status.phase!=Running"], ""),
        (&["--field-selector", "spec.nodeName=node-1,status.phase=Running"], "a b"),
        (&["--sort-by=.metadata.name"], "a b"),
        (&["--chunk-size=1"], "a b"),
    ] {
        assert_eq!(names(words), expected, "{words:?}");
    }
    ns.kubectl(&["get", "pods", "--show-labels"]).says("app=a,tier=web").ok();
    ns.kubectl(&["get", "pods", "-L", "app"]).says("APP").ok();
    ns.kubectl(&["get", "all"]).says("pod/a").ok();
    ns.kubectl(&["get", "po/a", "sa/default"]).says("pod/a").says("serviceaccount/default").ok();
    ns.kubectl(&["get", "pods", "--field-selector", "spec.nonsense=1"])
        .says("field label not supported")
        .err();
    ns.kubectl(&["get", "nonsense"]).says("the server doesn't have a resource type \"nonsense\"").err();
}

#[test]
fn get_watches() {
    let ns = cluster().namespace("watching");
    let mut watch = ns.spawn(&["get", "pods", "-w", "--output-watch-events", "--no-headers"]);
    let lines = watch.lines();
    // As soon as it tells of this one, it sees the other from its beginning.
    let nowhere = r#"{"spec":{"nodeSelector":{"a":"b"}}}"#;
    ns.kubectl(&["run", "first", "--image=busybox:1.35", "--overrides", nowhere]).ok();
    let told = lines.recv_timeout(PATIENCE).expect("the watch begins");
    assert!(told.starts_with("ADDED") && told.contains("Pending"), "{told}");
    let of_seen = || loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.contains("seen") => return line,
            Ok(_) => {}
            Err(_) => panic!("no more events"),
        }
    };
    ns.kubectl(&["run", "seen", "--image=busybox:1.35", "--restart=Never", "--", "true"]).ok();
    let mut told = Vec::new();
    while !told.iter().any(|line: &String| line.contains("Completed")) {
        told.push(of_seen());
    }
    ns.kubectl(&["delete", "pod", "seen"]).ok();
    while !told.iter().any(|line| line.starts_with("DELETED")) {
        told.push(of_seen());
    }
    assert!(told[0].starts_with("ADDED") && told[0].contains("Pending"), "{told:?}");
}

#[test]
fn describe_tells_the_story() {
    let ns = cluster().namespace("describe");
    server(&ns, "p");
    let text = eventually("the events of a start", || {
        let text = ns.kubectl(&["describe", "pod", "p"]);
        // Who tells them does not wait for the others.
        let words = ["Scheduled", "Pulled", "Created", "Started"];
        words.iter().all(|word| text.stdout.contains(word)).then_some(text)
    });
    for word in
        ["Name:             p", "Status:           Running", "QoS Class:                   BestEffort"]
    {
        text.says(word);
    }
    text.says("Successfully assigned describe/p to node-1");
    ns.kubectl(&["events"]).says("Started").ok();
    ns.kubectl(&["events", "--for", "pod/p"]).says("Successfully assigned").ok();
    ns.kubectl(&["get", "events", "--field-selector", "reason=Scheduled,involvedObject.name=p"])
        .says("pod/p")
        .ok();
    cluster()
        .kubectl(&["describe", "node", "node-1"])
        .says("Ready")
        .says("Non-terminated Pods")
        .says("Allocatable")
        .ok();
    cluster().kubectl(&["describe", "namespace", "describe"]).says("Active").ok();
    ns.kubectl(&["delete", "pod", "p", "--wait=false"]).ok();
    eventually("the event of its end", || {
        ns.kubectl(&["get", "events"]).stdout.contains("Killing").then_some(())
    });
    ns.kubectl(&[
        "run",
        "nowhere",
        "--image=busybox:1.35",
        "--overrides",
        r#"{"spec":{"nodeSelector":{"a":"b"}}}"#,
    ])
    .ok();
    eventually("the event of a pod that fits nowhere", || {
        let text = ns.kubectl(&["describe", "pod", "nowhere"]).stdout;
        text.contains("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector")
            .then_some(())
    });
    eventually("the condition says so, too", || {
        let pod = ns.get("pod/nowhere");
        (pod["status"]["conditions"][0]["reason"] == "Unschedulable").then_some(())
    });
}

const CONFIG: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1', b: '2'}}";

#[test]
fn apply_diff_replace_edit_and_delete() {
    let ns = cluster().namespace("apply");
    let run = |words: &[&str], input: &str| ns.kubectl_with(words, input);
    run(&["apply", "-f", "-"], CONFIG).says("configmap/c created").ok();
    run(&["apply", "-f", "-"], CONFIG).says("configmap/c unchanged").ok();
    let changed = CONFIG.replace("b: '2'", "z: '3'");
    let diff = run(&["diff", "-f", "-"], &changed);
    assert_eq!(diff.code, Some(1), "differences end with 1: {diff}");
    diff.says("-  b: \"2\"").says("+  z: \"3\"");
    run(&["apply", "-f", "-", "--dry-run=server"], &changed)
        .says("configmap/c configured (server dry run)")
        .ok();
    assert_eq!(ns.get("cm/c")["data"], json!({"a": "1", "b": "2"}), "a dry run changes nothing");
    run(&["apply", "-f", "-"], &changed).says("configmap/c configured").ok();
    assert_eq!(
        ns.get("cm/c")["data"],
        json!({"a": "1", "z": "3"}),
        "what left the manifest leaves the object"
    );
    assert_eq!(run(&["diff", "-f", "-"], &changed).code, Some(0));
    run(&["replace", "-f", "-"], CONFIG).says("configmap/c replaced").ok();
    assert_eq!(ns.get("cm/c")["data"], json!({"a": "1", "b": "2"}));
    let mut edit = cluster().kubectl_command();
    edit.args(["-n", "apply", "edit", "cm/c"]).env("KUBE_EDITOR", "sed -i 's/b: \"2\"/b: edited/'");
    let edited = edit.stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&edited.stdout).contains("configmap/c edited"), "{edited:?}");
    assert_eq!(ns.get("cm/c")["data"]["b"], "edited");
    let (one, two) = (CONFIG, CONFIG.replace("name: c", "name: d, labels: {x: other}"));
    run(&["apply", "-f", "-"], &format!("{one}\n---\n{two}")).says("configmap/d created").ok();
    ns.kubectl(&["delete", "cm", "-l", "x=other"]).says("configmap \"d\" deleted").ok();
    run(&["delete", "-f", "-"], CONFIG).says("configmap \"c\" deleted").ok();
    run(&["delete", "-f", "-"], CONFIG).says("not found").err();
    run(&["delete", "-f", "-", "--ignore-not-found"], CONFIG).ok();
    run(&["create", "-f", "-"], CONFIG).ok();
    run(&["create", "-f", "-"], CONFIG).says("AlreadyExists").says("configmaps \"c\" already exists").err();
}

#[test]
fn server_side_apply_knows_who_owns_what() {
    let ns = cluster().namespace("ssa");
    let apply = |manager: &str, manifest: &str, more: &[&str]| {
        let mut words = vec!["apply", "--server-side", "--field-manager", manager, "-f", "-"];
        words.extend(more);
        ns.kubectl_with(&words, manifest)
    };
    apply("one", CONFIG, &[]).says("configmap/c serverside-applied").ok();
    let theirs = CONFIG.replace("a: '1'", "a: changed");
    apply("two", &theirs, &[]).says("conflict with \"one\"").says(".data.a").err();
    apply("two", &theirs, &["--force-conflicts"]).ok();
    assert_eq!(ns.get("cm/c")["data"]["a"], "changed");
    let shown = ns.kubectl(&["get", "cm", "c", "-o", "json", "--show-managed-fields"]).json();
    let managers: Vec<_> =
        shown["metadata"]["managedFields"].as_array().unwrap().iter().map(|f| &f["manager"]).collect();
    assert_eq!(managers, ["one", "two"]);
    apply("two", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}", &[]).ok();
    assert_eq!(ns.get("cm/c")["data"], json!({"b": "2"}), "one still owns b, nobody a");
}

#[test]
fn patches_labels_annotations_and_scale() {
    let ns = cluster().namespace("patch");
    ns.create_from(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 0, selector: {matchLabels: {app: d}}, \
         template: {metadata: {labels: {app: d}}, spec: {containers: [{name: one, image: 'busybox:1.35'}]}}}}",
    );
    let patch =
        |kind: &str, text: &str| ns.kubectl(&["patch", "deployment", "d", "--type", kind, "-p", text]);
    patch(
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"two","image":"nginx:1.22"}]}}}}"#,
    )
    .ok();
    let names = "jsonpath={.spec.template.spec.containers[*].name}";
    assert_eq!(ns.kubectl(&["get", "deployment", "d", "-o", names]).ok(), "two one");
    patch("json", r#"[{"op":"remove","path":"/spec/template/spec/containers/0"}]"#).ok();
    assert_eq!(ns.kubectl(&["get", "deployment", "d", "-o", names]).ok(), "one");
    patch("merge", r#"{"metadata":{"annotations":{"x":"y"}},"spec":{"minReadySeconds":2}}"#)
        .says("deployment.apps/d patched")
        .ok();
    assert_eq!(ns.get("deployment/d")["spec"]["minReadySeconds"], 2);
    patch("json", r#"[{"op":"test","path":"/spec/replicas","value":7}]"#).err();
    // kubectl compares what it read with the answer: the controller may have written in between.
    eventually("nothing changes", || {
        let patched = patch("merge", r#"{"metadata":{"annotations":{"x":"y"}}}"#);
        patched.ok().contains("deployment.apps/d patched (no change)").then_some(())
    });

    ns.kubectl(&["label", "deployment", "d", "a=b"]).says("deployment.apps/d labeled").ok();
    ns.kubectl(&["label", "deployment", "d", "a=c"]).says("already has a value (b)").err();
    ns.kubectl(&["label", "deployment", "d", "a=c", "--overwrite"]).ok();
    ns.kubectl(&["label", "deployment", "d", "a-"]).says("deployment.apps/d unlabeled").ok();
    ns.kubectl(&["annotate", "deployment", "d", "note=hello world"]).says("deployment.apps/d annotated").ok();
    assert_eq!(ns.get("deployment/d")["metadata"]["annotations"]["note"], "hello world");

    ns.kubectl(&["scale", "deployment", "d", "--replicas=2", "--current-replicas=1"])
        .says("Expected replicas to be 1, was 0")
        .err();
    ns.kubectl(&["scale", "deployment", "d", "--replicas=2"]).says("deployment.apps/d scaled").ok();
    assert_eq!(ns.get("deployment/d")["spec"]["replicas"], 2);
    ns.kubectl(&["set", "env", "deployment/d", "COLOUR=red"]).says("deployment.apps/d env updated").ok();
    ns.kubectl(&["set", "resources", "deployment/d", "--limits=cpu=200m,memory=64Mi"]).ok();
}

#[test]
fn explain_and_api_resources() {
    let run = |words: &[&str]| cluster().kubectl(words);
    run(&["explain", "pod.spec.containers.image"]).says("KIND:       Pod").says("FIELD: image <string>").ok();
    run(&["explain", "deployment.spec.strategy.rollingUpdate"])
        .says("GROUP:      apps")
        .says("maxSurge")
        .ok();
    run(&["explain", "rc", "--recursive"]).says("KIND:       ReplicationController").says("template").ok();
    let resources = run(&["api-resources"]);
    for (name, group) in [
        ("pods", "v1"),
        ("replicationcontrollers", "v1"),
        ("deployments", "apps/v1"),
        ("leases", "coordination.k8s.io/v1"),
    ] {
        assert!(
            resources.rows().iter().any(|row| row[0] == name && row.contains(&group)),
            "{name} in {resources}"
        );
    }
    run(&["api-resources", "--namespaced=false", "-o", "name"]).says("nodes\n").ok();
    run(&["api-resources", "--api-group=apps", "--verbs=watch"]).says("daemonsets").ok();
    run(&["api-versions"]).says("apps/v1\n").says("\nv1\n").ok();
    run(&["version"]).says("Server Version: v1.37").ok();
    run(&["cluster-info"]).says("is running at").ok();
    run(&["auth", "whoami"]).says("kubernetes-admin").says("system:masters").ok();
    run(&["get", "--raw", "/readyz"]).says("ok").ok();
    run(&["get", "--raw", "/livez?verbose"]).ok();
}

#[test]
fn wait_and_the_ways_to_delete() {
    let ns = cluster().namespace("waiting");
    let stubborn = |name: &str| {
        ns.kubectl(&["run", name, "--image=corten.local/testserver:1", "--", "--ignore-sigterm"]).ok();
        ns.kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            &format!("pod/{name}"),
            "--timeout=180s",
        ])
        .ok();
        ns.wait(&format!("pod/{name}"), "condition=Ready");
    };
    stubborn("forced");
    ns.kubectl(&["delete", "pod", "forced", "--grace-period=0", "--force"]).says("force deleted").ok();
    ns.kubectl(&["get", "pod", "forced"]).says("NotFound").err();
    stubborn("graceful");
    let begun = std::time::Instant::now();
    ns.kubectl(&["delete", "pod", "graceful", "--grace-period=2"]).ok();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    ns.kubectl(&["wait", "--for=delete", "pod/graceful", "--timeout=60s"]).ok();
    ns.kubectl(&["wait", "--for=condition=Ready", "pod/nobody", "--timeout=60s"]).says("not found").err();

    let rs = "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: rs}, spec: {replicas: 2, selector: {matchLabels: {app: rs}}, \
              template: {metadata: {labels: {app: rs}}, spec: {containers: [{name: c, image: 'corten.local/testserver:1'}]}}}}";
    let settled = || {
        ns.watch(&["pods", "-l", "app=rs"], "two pods", |pods| {
            let own = pods.values().filter(|pod| pod["metadata"]["ownerReferences"].is_array());
            own.filter(|pod| is_ready(pod)).count() == 2
        });
        ns.watch(&["rs", "rs"], "the set counts them", |sets| {
            sets.values().any(|set| set["status"]["readyReplicas"] == 2)
        });
    };
    ns.create_from(rs);
    settled();
    ns.kubectl(&["delete", "rs", "rs", "--cascade=orphan"]).ok();
    ns.create_from(rs);
    settled();
    ns.kubectl(&["delete", "rs", "rs", "--cascade=foreground"]).ok();
    assert_eq!(
        ns.kubectl(&["get", "pods", "-l", "app=rs", "-o", "name"]).ok(),
        "",
        "foreground: the pods went first"
    );
    ns.create_from(rs);
    settled();
    ns.kubectl(&["delete", "rs", "rs", "--cascade=background"]).ok();
    ns.watch(&["pods", "-l", "app=rs"], "the pods go too", |pods| pods.is_empty());
}

#[test]
fn logs_in_all_their_forms() {
    let ns = cluster().namespace("logs");
    ns.create_from(
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 1, containers: [\
         {name: main, image: 'busybox:1.35', command: [sh, -c, 'for i in 1 2 3; do echo line $i; done; sleep 2; echo later; sleep 3600']}, \
         {name: side, image: 'busybox:1.35', command: [sh, -c, 'echo on stderr >&2; sleep 3600']}]}}",
    );
    ns.wait("pod/p", "condition=Ready");
    let mut follow = ns.spawn(&["logs", "p", "-c", "main", "-f"]);
    let lines = follow.lines();
    for expected in ["line 1", "line 2", "line 3", "later"] {
        assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), expected);
    }
    assert_eq!(
        ns.kubectl(&["logs", "p"]).says("Defaulted container \"main\"").ok(),
        "line 1\nline 2\nline 3\nlater\n"
    );
    eventually("the other container's log", || {
        (ns.kubectl(&["logs", "p", "-c", "side"]).ok() == "on stderr\n").then_some(())
    });
    assert_eq!(ns.kubectl(&["logs", "p", "-c", "main", "--tail=1"]).ok(), "later\n");
    assert_eq!(ns.kubectl(&["logs", "p", "-c", "main", "--limit-bytes=4"]).ok(), "line");
    assert_eq!(ns.kubectl(&["logs", "p", "-c", "main", "--since=1h"]).rows().len(), 4);
    let stamped = ns.kubectl(&["logs", "p", "-c", "main", "--timestamps"]);
    let stamp = stamped.rows()[3][0].to_owned();
    assert!(stamp.starts_with("20") && stamp.ends_with('Z') && stamp.contains('T'), "{stamped}");
    assert_eq!(ns.kubectl(&["logs", "p", "-c", "main", "--since-time", &stamp]).ok(), "later\n");
    ns.kubectl(&["logs", "p", "--all-containers", "--prefix"]).says("[pod/p/side] on stderr").ok();
    ns.kubectl(&["logs", "p", "-c", "none"]).says("container none is not valid for pod p").err();
    ns.kubectl(&["logs", "p", "-c", "main", "--previous"])
        .says("previous terminated container \"main\" in pod \"p\" not found")
        .err();
    ns.kubectl(&[
        "run",
        "twice",
        "--image=busybox:1.35",
        "--",
        "sh",
        "-c",
        "[ -e /proc/1/root/again ]; echo run; sleep 1; exit 1",
    ])
    .ok();
    ns.watch(&["pod", "twice"], "a restart", |pods| {
        pods.values().any(|pod| corten_testkit::restarts(pod) > 0)
    });
    ns.kubectl(&["logs", "twice", "--previous"]).says("run").ok();
}

#[test]
fn exec_with_and_without_a_terminal() {
    let ns = cluster().namespace("exec");
    server(&ns, "p");
    assert_eq!(ns.kubectl(&["exec", "p", "--", "echo", "a  b"]).ok(), "a  b\n");
    let both = ns.kubectl(&["exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((both.code, both.stdout.as_str()), (Some(7), "out\n"), "{both}");
    both.says("err").says("command terminated with exit code 7");
    assert_eq!(
        ns.kubectl_with(&["exec", "-i", "p", "--", "wc", "-c"], &"x".repeat(200_000)).ok().trim(),
        "200000"
    );
    ns.kubectl(&["exec", "p", "--", "no-such-command"]).says("executable file not found").err();
    ns.kubectl(&["exec", "p", "-c", "none", "--", "true"])
        .says("container none is not valid for pod p")
        .err();
    ns.kubectl(&["exec", "nobody", "--", "true"]).says("pods \"nobody\" not found").err();
    let line =
        format!("{} -n exec exec -it p -- sh -c 'tty; stty size; read x; echo got $x; exit 3'", program());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("KUBECONFIG", cluster().kubeconfig());
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut terminal = script.spawn().unwrap();
    let mut out = terminal.stdout.take().unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 1024];
    while !seen.contains("/dev/pts/") {
        let count = out.read(&mut buffer).unwrap();
        assert!(count > 0, "no terminal: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let mut stdin = terminal.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    out.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("got hello"), "{seen}");
    assert_eq!(terminal.wait().unwrap().code(), Some(3), "{seen}");
    // The older protocol is still what many clients speak.
    let mut spdy = cluster().kubectl_command();
    spdy.args(["-n", "exec", "exec", "p", "--", "echo", "spdy"])
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
    let spdy = spdy.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&spdy.stdout), "spdy\n", "{spdy:?}");
}

/// kubectl by its path, for `script`.
fn program() -> String {
    cluster().kubectl_command().get_program().to_string_lossy().into_owned()
}

#[test]
fn attach_and_run_interactively() {
    let ns = cluster().namespace("attach");
    let echo = ns.kubectl_with(
        &["run", "once", "-i", "--rm", "--quiet", "--image=busybox:1.35", "--restart=Never", "--", "cat"],
        "through and back\n",
    );
    assert_eq!(echo.ok(), "through and back\n");
    ns.kubectl(&["get", "pod", "once"]).says("NotFound").err();
    ns.kubectl(&[
        "run",
        "talker",
        "--image=busybox:1.35",
        "--",
        "sh",
        "-c",
        "while sleep 0.2; do echo tick; done",
    ])
    .ok();
    ns.wait("pod/talker", "condition=Ready");
    let mut attached = ns.spawn(&["attach", "talker"]);
    assert_eq!(attached.lines().recv_timeout(PATIENCE).unwrap(), "tick");
}

#[test]
fn port_forward_reaches_the_pod() {
    let ns = cluster().namespace("forward");
    server(&ns, "p");
    let port = free_port();
    let mut forward = ns.spawn(&["port-forward", "pod/p", &format!("{port}:8080")]);
    let lines = forward.lines();
    let told = lines.recv_timeout(PATIENCE).unwrap();
    assert!(told.contains(&format!("Forwarding from 127.0.0.1:{port} -> 8080")), "{told}");
    let address = format!("127.0.0.1:{port}");
    for _ in 0..3 {
        assert_eq!(http_get(&address, "/hostname").unwrap(), "p\n");
    }
    let body = http_get(&address, &format!("/echo?x={}", "y".repeat(8000))).unwrap();
    assert_eq!(body.len(), 8003);
    // Several at once, one of them idle.
    let _idle = TcpStream::connect(&address).unwrap();
    let many: Vec<_> = (0..8)
        .map(|_| {
            let address = address.clone();
            std::thread::spawn(move || http_get(&address, "/hostname"))
        })
        .collect();
    assert!(many.into_iter().all(|thread| thread.join().unwrap().is_some_and(|body| body == "p\n")));
}

#[test]
fn cp_both_ways() {
    let ns = cluster().namespace("cp");
    server(&ns, "p");
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("data"), &bytes).unwrap();
    std::fs::write(there.join("name with blank"), "x").unwrap();
    ns.kubectl(&["cp", there.to_str().unwrap(), "p:/tmp/copied"]).ok();
    ns.kubectl(&["exec", "p", "--", "ls", "/tmp/copied"]).says("name with blank").ok();
    ns.kubectl(&["cp", "p:/tmp/copied", back.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(back.join("data")).unwrap(), bytes);
}

#[test]
fn proxies_and_raw_requests() {
    let ns = cluster().namespace("proxy");
    server(&ns, "p");
    let raw = cluster().kubectl(&["get", "--raw", "/api/v1/namespaces/proxy/pods/p:8080/proxy/echo?a=b"]);
    assert_eq!(raw.ok(), "a=b\n");
    let port = free_port();
    let mut proxy = ns.spawn(&["proxy", &format!("--port={port}")]);
    let told = proxy.lines().recv_timeout(PATIENCE).unwrap();
    assert!(told.contains("Starting to serve"), "{told}");
    let answer = eventually("kubectl proxy", || http_get(&format!("127.0.0.1:{port}"), "/version"));
    assert!(answer.contains("\"major\""), "{answer}");
}

#[test]
fn create_makes_every_common_kind() {
    let ns = cluster().namespace("creation");
    for (words, kind) in [
        (&["configmap", "x", "--from-literal=a=b"][..], "configmap/x"),
        (&["secret", "generic", "x", "--from-literal=a=b"], "secret/x"),
        (&["serviceaccount", "x"], "serviceaccount/x"),
        (&["deployment", "x", "--image=nginx:1.22", "--replicas=0"], "deployment.apps/x"),
        (&["quota", "x", "--hard=pods=100"], "resourcequota/x"),
        (&["role", "x", "--verb=get", "--resource=pods"], "role.rbac.authorization.k8s.io/x"),
        (&["job", "x", "--image=busybox:1.35", "--", "true"], "job.batch/x"),
        (&["cronjob", "x", "--image=busybox:1.35", "--schedule=0 0 1 1 *", "--", "true"], "cronjob.batch/x"),
    ] {
        let mut all = vec!["create"];
        all.extend(words);
        ns.kubectl(&all).says(&format!("{kind} created")).ok();
        let got = ns.kubectl(&["get", kind]);
        assert!(got.rows()[1].contains(&"x"), "{got}");
    }
    let secret = ns.get("secret/x");
    assert_eq!(secret["data"]["a"], "Yg==", "{secret}");
    ns.kubectl(&["create", "token", "x", "--duration=10m"]).ok();
}
