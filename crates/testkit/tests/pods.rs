//! The life of pods: phases, restarts, probes, environment, volumes, resources, networks.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::time::{Duration, Instant};

use corten_testkit::{
    NODE, Namespace, PATIENCE, cluster, eventually, free_port, http_get, is_ready, phase, restarts, state,
    waiting_reason,
};
use serde_json::{Value, json};

/// A pod of these containers; `more` is merged into its spec.
fn pod(name: &str, containers: Value, more: Value) -> String {
    let mut spec = json!({"containers": containers, "terminationGracePeriodSeconds": 1});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}).to_string()
}

fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox:1.35", "command": ["sh", "-c", script]})
}

fn server(words: &[&str]) -> Value {
    json!({"name": "server", "image": "corten.local/testserver:1", "args": words})
}

fn with(mut container: Value, key: &str, value: Value) -> Value {
    container[key] = value;
    container
}

/// Waits until the one pod is as it should be.
fn until(ns: &Namespace<'_>, name: &str, what: &str, mut done: impl FnMut(&Value) -> bool) -> Value {
    ns.watch(&["pod", name], what, |pods| pods.get(name).is_some_and(&mut done))[name].clone()
}

#[test]
fn restart_policies() {
    let ns = cluster().namespace("restart");
    for (name, policy, script) in [
        ("always", "Always", "exit 0"),
        ("onfail-good", "OnFailure", "exit 0"),
        ("onfail-bad", "OnFailure", "exit 1"),
        ("never-good", "Never", "exit 0"),
        ("never-bad", "Never", "exit 5"),
    ] {
        ns.create_from(&pod(name, json!([shell("c", script)]), json!({"restartPolicy": policy})));
    }
    until(&ns, "onfail-good", "done", |p| phase(p) == "Succeeded" && restarts(p) == 0);
    until(&ns, "never-good", "done", |p| phase(p) == "Succeeded" && restarts(p) == 0);
    until(&ns, "never-bad", "failed", |p| {
        phase(p) == "Failed" && state(p, "")["terminated"]["exitCode"] == 5
    });
    for name in ["always", "onfail-bad"] {
        let looping =
            until(&ns, name, "crash loop", |p| restarts(p) >= 1 && waiting_reason(p) == "CrashLoopBackOff");
        assert_eq!(phase(&looping), "Running");
        let status = &looping["status"]["containerStatuses"][0];
        assert!(status["lastState"]["terminated"]["exitCode"].is_number(), "{status}");
        let message = status["state"]["waiting"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("back-off ")
                && message.contains(&format!("restarting failed container=c pod={name}_restart(")),
            "{message}"
        );
    }
    ns.kubectl(&["get", "pod", "always"]).says("CrashLoopBackOff").ok();
    eventually("an event of the back-off", || {
        let events = ns.kubectl(&["get", "events", "--field-selector", "reason=BackOff"]).stdout;
        events.contains("Back-off restarting failed container c in pod").then_some(())
    });
}

#[test]
fn back_off_grows() {
    let ns = cluster().namespace("backoff");
    ns.create_from(&pod("p", json!([shell("c", "exit 1")]), json!({})));
    let looping = until(&ns, "p", "the second back-off", |p| {
        restarts(p) >= 2
            && state(p, "")["waiting"]["message"].as_str().is_some_and(|m| m.starts_with("back-off 20s"))
    });
    assert_eq!(waiting_reason(&looping), "CrashLoopBackOff");
}

#[test]
fn init_containers_run_in_order_and_hold_up_the_rest() {
    let ns = cluster().namespace("init");
    let work = json!([{"name": "work", "mountPath": "/work"}]);
    let step = |name: &str, script: &str| with(shell(name, script), "volumeMounts", work.clone());
    let init = json!([step("one", "echo one > /work/log"), step("two", "sleep 1; echo two >> /work/log")]);
    let main = json!([step("main", "cat /work/log; sleep 3600")]);
    let volumes = json!([{"name": "work", "emptyDir": {}}]);
    ns.create_from(&pod("good", main.clone(), json!({"initContainers": init, "volumes": volumes})));
    ns.wait("pod/good", "condition=Ready");
    logged(&ns, &["good"], "one\ntwo\n");
    let statuses = &ns.get("pod/good")["status"]["initContainerStatuses"];
    assert_eq!(statuses[1]["state"]["terminated"]["reason"], "Completed");
    let failing = json!([step("one", "exit 1")]);
    ns.create_from(&pod(
        "bad",
        main,
        json!({"initContainers": failing, "volumes": volumes, "restartPolicy": "Never"}),
    ));
    until(&ns, "bad", "failed", |p| phase(p) == "Failed");
    ns.kubectl(&["get", "pod", "bad"]).says("Init:Error").ok();
    let sidecar =
        with(with(server(&["--port", "9000"]), "name", json!("sidecar")), "restartPolicy", json!("Always"));
    ns.create_from(&pod(
        "side",
        json!([shell("main", "until wget -qO- http://localhost:9000/hostname; do sleep 0.2; done")]),
        json!({"initContainers": [sidecar], "restartPolicy": "Never"}),
    ));
    until(&ns, "side", "a sidecar does not keep a pod from being done", |p| phase(p) == "Succeeded");
    // Before the other one listens, it may be told so.
    let log = eventually("its log", || {
        Some(ns.kubectl(&["logs", "side", "-c", "main"])).filter(|log| log.ok().ends_with("side\n"))
    });
    assert_eq!(log.stdout.lines().filter(|line| *line == "side").count(), 1, "{log}");
}

/// Waits for this log: what a container said is in it a moment later.
#[track_caller]
fn logged(ns: &Namespace<'_>, words: &[&str], wanted: &str) {
    eventually(wanted, || {
        let mut all = vec!["logs"];
        all.extend(words);
        (ns.kubectl(&all).ok() == wanted).then_some(())
    });
}

#[test]
fn containers_of_a_pod_share_network_ipc_and_volumes() {
    let ns = cluster().namespace("together");
    let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
    let containers = json!([
        with(
            shell(
                "a",
                "echo from a > /shared/a; hostname > /shared/host; readlink /proc/self/ns/ipc > /shared/ipc; nc -ll -p 7000 -e cat"
            ),
            "volumeMounts",
            mount.clone()
        ),
        with(shell("b", "sleep 3600"), "volumeMounts", mount.clone()),
    ]);
    ns.create_from(&pod("p", containers, json!({"volumes": [{"name": "shared", "emptyDir": {}}]})));
    ns.wait("pod/p", "condition=Ready");
    let b = |script: &str| ns.kubectl(&["exec", "p", "-c", "b", "--", "sh", "-c", script]).ok().to_owned();
    eventually("the first container's file", || {
        ns.kubectl(&["exec", "p", "-c", "b", "--", "cat", "/shared/ipc"]).success().then_some(())
    });
    assert_eq!(b("cat /shared/a"), "from a\n");
    eventually("the first container listens", || {
        let asked =
            ns.kubectl(&["exec", "p", "-c", "b", "--", "sh", "-c", "echo hello | nc -w 1 localhost 7000"]);
        (asked.stdout == "hello\n").then_some(())
    });
    assert_eq!(b("readlink /proc/self/ns/ipc"), b("cat /shared/ipc"));
    assert_eq!(b("hostname"), "p\n");
    assert_eq!(b("cat /etc/hosts | grep -c p$").trim(), "1", "its own name is in /etc/hosts");
    assert_ne!(b("ps | grep -c 'sleep 3600'").trim(), "0");
    assert_eq!(b("ps | grep '[n]c -ll -p' | wc -l").trim(), "0", "processes are not shared unless asked for");
}

#[test]
fn ending_is_graceful_and_then_not() {
    /// Far longer than anybody here waits: who is gone before that has ended by itself.
    const LONG: u32 = 900;
    let ns = cluster().namespace("ending");
    let trap = with(
        shell("c", "trap 'echo got TERM; sleep 1; exit 0' TERM; echo up; while true; do sleep 0.1; done"),
        "name",
        json!("c"),
    );
    ns.create_from(&pod("polite", json!([trap]), json!({"terminationGracePeriodSeconds": LONG})));
    ns.create_from(&pod(
        "stubborn",
        json!([server(&["--ignore-sigterm"])]),
        json!({"terminationGracePeriodSeconds": 3}),
    ));
    let hook = json!({"preStop": {"exec": {"command": ["sh", "-c", "echo bye > /proc/1/fd/1; sleep 1"]}}});
    ns.create_from(&pod(
        "hooked",
        json!([with(shell("c", "trap exit TERM; echo up; while sleep 0.1; do :; done"), "lifecycle", hook)]),
        json!({"terminationGracePeriodSeconds": LONG}),
    ));
    for name in ["polite", "stubborn", "hooked"] {
        ns.wait(&format!("pod/{name}"), "condition=Ready");
    }
    for (name, says) in [("polite", "got TERM"), ("hooked", "bye")] {
        let mut follow = ns.spawn(&["logs", "-f", name]);
        let lines = follow.lines();
        // From here on the log is followed, and the trap is set.
        assert_eq!(lines.recv_timeout(PATIENCE).as_deref(), Ok("up"), "{name}");
        ns.kubectl(&["delete", "pod", name, "--wait=false"]).ok();
        assert_eq!(lines.recv_timeout(PATIENCE).as_deref(), Ok(says), "{name}");
        let row = ns.kubectl(&["get", "pod", name]);
        assert!(
            !row.success() || row.stdout.contains("Terminating") || row.stdout.contains("Completed"),
            "{row}"
        );
        ns.kubectl(&["wait", "--for=delete", &format!("pod/{name}"), "--timeout=180s"]).ok();
    }
    let begun = Instant::now();
    ns.kubectl(&["delete", "pod", "stubborn"]).ok();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "SIGKILL after the grace period: {took:?}");
}

#[test]
fn environment_from_everywhere() {
    let ns = cluster().namespace("environment");
    ns.kubectl(&["create", "configmap", "cm", "--from-literal=colour=blue", "--from-literal=size=big"]).ok();
    ns.kubectl(&["create", "secret", "generic", "s", "--from-literal=password=123456"]).ok();
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let container = json!({
        "name": "c", "image": "busybox:1.35", "command": ["sh", "-c"],
        "args": ["env; echo args=$(GREETING) $$(GREETING) $(UNKNOWN); sleep 3600"],
        "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
        "envFrom": [{"configMapRef": {"name": "cm"}, "prefix": "CM_"}, {"secretRef": {"name": "s"}}, {"configMapRef": {"name": "none", "optional": true}}],
        "env": [
            {"name": "NAME", "value": "world"},
            {"name": "GREETING", "value": "hello $(NAME)"},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "colour"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
            {"name": "MISSING", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x", "optional": true}}},
            {"name": "POD", "valueFrom": field("metadata.name")},
            {"name": "NS", "valueFrom": field("metadata.namespace")},
            {"name": "UID_", "valueFrom": field("metadata.uid")},
            {"name": "LABEL", "valueFrom": field("metadata.labels['app']")},
            {"name": "IP", "valueFrom": field("status.podIP")},
            {"name": "HOSTIP", "valueFrom": field("status.hostIP")},
            {"name": "NODE", "valueFrom": field("spec.nodeName")},
            {"name": "SA", "valueFrom": field("spec.serviceAccountName")},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        ],
    });
    ns.create_from(&pod("p", json!([container]), json!({})));
    ns.wait("pod/p", "condition=Ready");
    eventually("the last line", || ns.kubectl(&["logs", "p"]).stdout.contains("args=").then_some(()));
    let log = ns.kubectl(&["logs", "p"]);
    let lines: Vec<&str> = log.stdout.lines().collect();
    let seen = ns.get("pod/p");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for expected in [
        "GREETING=hello world".to_owned(),
        "COLOUR=blue".to_owned(),
        "PASSWORD=123456".to_owned(),
        "password=123456".to_owned(),
        "CM_size=big".to_owned(),
        "POD=p".to_owned(),
        "NS=environment".to_owned(),
        format!("UID_={}", text(&seen["metadata"]["uid"])),
        "LABEL=p".to_owned(),
        format!("IP={}", text(&seen["status"]["podIP"])),
        format!("HOSTIP={}", text(&seen["status"]["hostIP"])),
        format!("NODE={NODE}"),
        "SA=default".to_owned(),
        "CPU=500".to_owned(),
        "MEMORY=67108864".to_owned(),
        "HOSTNAME=p".to_owned(),
        "args=hello world $(GREETING) $(UNKNOWN)".to_owned(),
    ] {
        // The shell sees `$(GREETING)` as a command of its own: what counts is what the kubelet handed over.
        let found = lines.contains(&expected.as_str()) || expected.starts_with("args=");
        assert!(found, "no {expected} in {log}");
    }
    assert_eq!(seen["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi");
    assert!(!log.stdout.contains("MISSING="));
    ns.create_from(&pod(
        "q",
        json!([with(
            shell("c", "sleep 3600"),
            "env",
            json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "x"}}}])
        )]),
        json!({}),
    ));
    until(&ns, "q", "a missing ConfigMap is told", |p| waiting_reason(p) == "CreateContainerConfigError");
    ns.kubectl(&["create", "configmap", "late", "--from-literal=x=y"]).ok();
    ns.wait("pod/q", "condition=Ready");
}

#[test]
fn volumes_of_every_kind() {
    let ns = cluster().namespace("volumes");
    ns.kubectl(&["create", "configmap", "cm", "--from-literal=a=1", "--from-literal=b=2"]).ok();
    ns.kubectl(&["create", "secret", "generic", "s", "--from-literal=key=value"]).ok();
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("from-host"), "hi").unwrap();
    let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
    let mounts = ["mem", "disk", "host", "cm", "secret", "down", "all"].map(mount);
    let mut mounts = mounts.to_vec();
    mounts.push(json!({"name": "cm", "mountPath": "/file", "subPath": "a"}));
    mounts.push(json!({"name": "host", "mountPath": "/readonly", "readOnly": true}));
    let volumes = json!([
        {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": "disk", "emptyDir": {}},
        {"name": "host", "hostPath": {"path": host.path(), "type": "Directory"}},
        {"name": "cm", "configMap": {"name": "cm"}},
        {"name": "secret", "secret": {"secretName": "s", "defaultMode": 256, "items": [{"key": "key", "path": "deep/er"}]}},
        {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "cm-a"}]}},
            {"secret": {"name": "s"}},
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "me"}},
        ]}},
    ]);
    ns.create_from(&pod(
        "p",
        json!([with(shell("c", "sleep 3600"), "volumeMounts", mounts.into())]),
        json!({"volumes": volumes}),
    ));
    ns.wait("pod/p", "condition=Ready");
    let run = |script: &str| ns.kubectl(&["exec", "p", "--", "sh", "-c", script]);
    for (script, expected) in [
        ("cat /cm/a /cm/b", "12"),
        ("cat /file", "1"),
        ("cat /secret/deep/er", "value"),
        ("stat -L -c %a /secret/deep/er", "400\n"),
        ("cat /down/labels", "app=\"p\""),
        ("cat /all/cm-a /all/key", "1value"),
        ("cat /host/from-host", "hi"),
        ("mount | grep -c 'on /mem type tmpfs'", "1\n"),
        ("echo x > /disk/x && cat /disk/x", "x\n"),
        ("cat /all/token | tr -cd . | wc -c", "2\n"),
        ("ls /var/run/secrets/kubernetes.io/serviceaccount", "ca.crt\nnamespace\ntoken\n"),
        ("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", "volumes"),
    ] {
        assert_eq!(run(script).ok(), expected, "{script}");
    }
    run("echo x > /readonly/x").says("Read-only file system").err();
    run("echo written > /host/back").ok();
    assert_eq!(std::fs::read_to_string(host.path().join("back")).unwrap(), "written\n");
    let token = run("cat /var/run/secrets/kubernetes.io/serviceaccount/token").ok().to_owned();
    let who =
        cluster().kubectl(&["--token", &token, "--client-certificate=", "--client-key=", "auth", "whoami"]);
    // The kubeconfig's certificate may win over the flag; then the token is asked about by a review.
    if !who.stdout.contains("system:serviceaccount:volumes:default") {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = cluster().kubectl_with(&["create", "-o", "json", "-f", "-"], &review.to_string()).json();
        assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:volumes:default", "{answer}");
    }
    ns.kubectl(&["patch", "cm", "cm", "-p", r#"{"data":{"a":"changed"}}"#]).ok();
    eventually("a changed ConfigMap reaches the volume", || {
        (run("cat /cm/a").stdout == "changed").then_some(())
    });
    ns.kubectl(&["delete", "pod", "p"]).ok();
    assert_eq!(
        std::fs::read_to_string(host.path().join("from-host")).unwrap(),
        "hi",
        "what is the host's stays"
    );
}

#[test]
fn readiness_decides_what_is_counted_in() {
    let ns = cluster().namespace("readiness");
    let http = json!({"httpGet": {"path": "/readyz", "port": "web"}, "periodSeconds": 1});
    let named = with(
        with(server(&["--ready-after", "3"]), "ports", json!([{"name": "web", "containerPort": 8080}])),
        "readinessProbe",
        http,
    );
    ns.create_from(&pod("http", json!([named]), json!({})));
    ns.create_from(&pod(
        "tcp",
        json!([with(
            server(&["--listen-after", "3"]),
            "readinessProbe",
            json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1})
        )]),
        json!({}),
    ));
    ns.create_from(&pod(
        "exec",
        json!([with(
            shell("c", "sleep 3; touch /tmp/ok; sleep 3600"),
            "readinessProbe",
            json!({"exec": {"command": ["cat", "/tmp/ok"]}, "periodSeconds": 1})
        )]),
        json!({}),
    ));
    for name in ["http", "tcp", "exec"] {
        let pod = until(&ns, name, "running and not ready", |p| {
            phase(p) == "Running" && state(p, "")["running"].is_object()
        });
        if !is_ready(&pod) {
            let started = pod["status"]["containerStatuses"][0]["started"].clone();
            assert_eq!(started, true, "no startup probe: started at once");
        }
        ns.wait(&format!("pod/{name}"), "condition=Ready");
        let pod = ns.get(&format!("pod/{name}"));
        let ready =
            pod["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
        let since = |value: &Value| value.as_str().unwrap().to_owned();
        assert!(
            since(&ready["lastTransitionTime"]) > since(&state(&pod, "")["running"]["startedAt"]),
            "not before its time: {pod}"
        );
    }
    ns.kubectl(&["exec", "http", "--", "testserver", "get", "http://localhost:8080/fail"]).ok();
    until(&ns, "http", "not ready any more", |p| !is_ready(p));
    eventually("an event tells why", || {
        let events = ns
            .kubectl(&["get", "events", "--field-selector", "reason=Unhealthy,involvedObject.name=http"])
            .stdout;
        events.contains("Readiness probe failed: HTTP probe failed with statuscode: 503").then_some(())
    });
    assert_eq!(restarts(&ns.get("pod/http")), 0, "readiness restarts nothing");
    ns.kubectl(&["exec", "http", "--", "testserver", "get", "http://localhost:8080/recover"]).ok();
    ns.wait("pod/http", "condition=Ready");
}

#[test]
fn liveness_restarts_and_startup_holds_it_back() {
    let ns = cluster().namespace("liveness");
    let http =
        json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2});
    let exec = json!({"exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1});
    let tcp = json!({"tcpSocket": {"port": 81}, "periodSeconds": 1, "failureThreshold": 1});
    ns.create_from(&pod("http", json!([with(server(&[]), "livenessProbe", http)]), json!({})));
    ns.create_from(&pod(
        "exec",
        json!([with(
            shell("c", "touch /tmp/alive; sleep 4; rm /tmp/alive; sleep 3600"),
            "livenessProbe",
            exec
        )]),
        json!({}),
    ));
    ns.create_from(&pod("tcp", json!([with(server(&[]), "livenessProbe", tcp)]), json!({})));
    // Patient with a busy machine: what must not restart has no other reason to.
    let patient = |failures: u32| {
        json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 30,
            "failureThreshold": failures})
    };
    let slow = with(server(&["--ready-after", "6"]), "livenessProbe", patient(2));
    ns.create_from(&pod("slow", json!([with(slow, "startupProbe", patient(120))]), json!({})));
    ns.wait("pod/http", "condition=Ready");
    // Without a readiness probe, ready means that it was started: it listens a moment later.
    eventually("it is told to fail", || {
        let fail = ["exec", "http", "--", "testserver", "get", "http://localhost:8080/fail"];
        ns.kubectl(&fail).success().then_some(())
    });
    for name in ["http", "exec", "tcp"] {
        until(&ns, name, "restarted", |p| restarts(p) >= 1);
    }
    eventually("the event of the restart", || {
        let events = ns.kubectl(&["get", "events", "--field-selector", "reason=Killing"]).stdout;
        events.contains("failed liveness probe, will be restarted").then_some(())
    });
    ns.wait("pod/slow", "condition=Ready");
    assert_eq!(restarts(&ns.get("pod/slow")), 0, "liveness waited for the startup probe");
}

#[test]
fn limits_bite() {
    let ns = cluster().namespace("limits");
    let limits = |cpu: &str, memory: &str| json!({"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"cpu": cpu, "memory": memory}});
    let eater = with(server(&["eat", "200"]), "resources", limits("500m", "64Mi"));
    ns.create_from(&pod("greedy", json!([eater]), json!({"restartPolicy": "Never"})));
    let dead = until(&ns, "greedy", "killed", |p| phase(p) == "Failed");
    let ended = &state(&dead, "")["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("OOMKilled"), &json!(137)));
    ns.kubectl(&["get", "pod", "greedy"]).says("OOMKilled").ok();
    ns.create_from(&pod(
        "p",
        json!([with(shell("c", "sleep 3600"), "resources", limits("250m", "48Mi"))]),
        json!({}),
    ));
    ns.wait("pod/p", "condition=Ready");
    let seen = ns.get("pod/p");
    assert_eq!(seen["status"]["qosClass"], "Burstable");
    // The limits stand in the cgroup of the container, wherever this host's hierarchy has it.
    let id = seen["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();
    let uid = seen["metadata"]["uid"].as_str().unwrap();
    let below = format!("{}/kubepods/burstable/pod{uid}/{id}", cluster().name());
    let read = |names: &[&str]| {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu"];
        let paths = roots.iter().flat_map(|root| names.iter().map(move |name| (root, name)));
        let mut texts =
            paths.filter_map(|(root, name)| std::fs::read_to_string(format!("{root}/{below}/{name}")).ok());
        texts.next().unwrap_or_else(|| panic!("no {names:?} in {below}"))
    };
    assert_eq!(read(&["memory.max", "memory.limit_in_bytes"]).trim(), (48 << 20).to_string());
    assert!(matches!(read(&["cpu.max", "cpu.cfs_quota_us"]).trim(), "25000" | "25000 100000"));
    ns.create_from(&pod(
        "impossible",
        json!([with(shell("c", "true"), "resources", json!({"requests": {"cpu": "1000"}}))]),
        json!({}),
    ));
    eventually("the scheduler says why", || {
        let events = ns.kubectl(&["get", "events", "--field-selector", "reason=FailedScheduling"]).stdout;
        events.contains("0/1 nodes are available: 1 Insufficient cpu").then_some(())
    });
}

#[test]
fn who_writes_more_than_he_may_is_evicted() {
    let ns = cluster().namespace("disk-limits");
    let limits = json!({"limits": {"ephemeral-storage": "1Mi"}});
    let fill = |file: &str| shell("c", &format!("head -c 3000000 /dev/zero >{file}; sleep 3600"));
    let scratch = |size: &str| {
        let volumes = json!([{"name": "scratch", "emptyDir": {"sizeLimit": size}}]);
        let mounts = json!([{"name": "scratch", "mountPath": "/scratch"}]);
        (with(fill("/scratch/f"), "volumeMounts", mounts), json!({"volumes": volumes}))
    };
    let (small, small_volume) = scratch("1Mi");
    let (large, large_volume) = scratch("100Mi");
    for (name, container, more) in [
        ("volume", small, small_volume),
        ("layer", with(fill("/f"), "resources", limits), json!({})),
        ("modest", large, large_volume),
    ] {
        ns.create_from(&pod(name, json!([container]), more));
    }
    for (name, why) in [
        ("volume", "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". "),
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
    ] {
        let evicted = until(&ns, name, "evicted", |p| phase(p) == "Failed");
        assert_eq!(evicted["status"]["reason"], "Evicted");
        assert_eq!(evicted["status"]["message"], why);
    }
    until(&ns, "modest", "still running", |p| phase(p) == "Running");
}

#[test]
fn pods_nodes_and_the_host_network() {
    let ns = cluster().namespace("network");
    let port = free_port();
    let exposed = with(server(&[]), "ports", json!([{"containerPort": 8080, "hostPort": port}]));
    ns.create_from(&pod("exposed", json!([exposed]), json!({})));
    let own = free_port();
    let on_host = server(&["--port", &own.to_string()]);
    ns.create_from(&pod("onhost", json!([on_host]), json!({"hostNetwork": true})));
    ns.create_from(&pod("client", json!([shell("c", "sleep 3600")]), json!({})));
    for name in ["exposed", "onhost", "client"] {
        ns.wait(&format!("pod/{name}"), "condition=Ready");
    }
    let ip = |name: &str| ns.get(&format!("pod/{name}"))["status"]["podIP"].as_str().unwrap().to_owned();
    let host = ns.get("pod/client")["status"]["hostIP"].as_str().unwrap().to_owned();
    assert_eq!(ip("onhost"), host);
    // Ready without a probe means started: they listen a moment later.
    let ask = |url: String| {
        eventually(&url, || {
            let asked = ns.kubectl(&["exec", "client", "--", "wget", "-qO-", &url]);
            asked.success().then_some(asked.stdout)
        })
    };
    let get = |address: &str| eventually(address, || http_get(address, "/hostname"));
    assert_eq!(ask(format!("http://{}:8080/hostname", ip("exposed"))), "exposed\n", "pod to pod");
    assert_eq!(
        ask(format!("http://{}:8080/client", ip("exposed"))).trim(),
        format!("::ffff:{}", ip("client")),
        "under its own address"
    );
    let node_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(ask(format!("http://{host}:{own}/hostname")), node_name, "pod to node");
    assert_eq!(get(&format!("{}:8080", ip("exposed"))), "exposed\n", "node to pod");
    assert_eq!(get(&format!("{host}:{port}")), "exposed\n", "hostPort");
    assert_eq!(ask(format!("http://{host}:{port}/hostname")), "exposed\n", "hostPort from a pod");
    ns.create_from(&pod(
        "rival",
        json!([with(server(&[]), "ports", json!([{"containerPort": 8080, "hostPort": port}]))]),
        json!({}),
    ));
    eventually("a port is taken once", || {
        let events = ns.kubectl(&["get", "events", "--field-selector", "reason=FailedScheduling"]).stdout;
        events.contains("didn't have free ports for the requested pod ports").then_some(())
    });
    ns.kubectl(&["delete", "pod", "exposed"]).ok();
    ns.wait("pod/rival", "condition=Ready");
    assert_eq!(get(&format!("{host}:{port}")), "rival\n");
}

#[test]
fn users_capabilities_and_read_only_roots() {
    let ns = cluster().namespace("security");
    let context = json!({"runAsUser": 1000, "runAsGroup": 3000, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false});
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let container = with(with(shell("c", "sleep 3600"), "securityContext", context), "volumeMounts", mount);
    ns.create_from(&pod("p", json!([container]), json!({"volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {"fsGroup": 2000, "supplementalGroups": [4000]}})));
    ns.wait("pod/p", "condition=Ready");
    let run = |script: &str| ns.kubectl(&["exec", "p", "--", "sh", "-c", script]);
    assert_eq!(run("id -u; id -g").ok(), "1000\n3000\n");
    assert!(run("id -G").ok().contains("2000") && run("id -G").ok().contains("4000"));
    run("touch /tmp/x").says("Read-only file system").err();
    assert_eq!(run("touch /v/x && stat -c %g /v/x").ok(), "2000\n");
    assert_eq!(run("grep CapEff /proc/self/status").ok().split_whitespace().nth(1), Some("0000000000000000"));
    let root = with(shell("c", "true"), "securityContext", json!({"runAsNonRoot": true}));
    ns.create_from(&pod("root", json!([root]), json!({})));
    until(&ns, "root", "refused", |p| waiting_reason(p) == "CreateContainerConfigError");
}

#[test]
fn scheduling_honours_affinity_taints_and_names() {
    let ns = cluster().namespace("scheduling");
    let affinity = |operator: &str| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": operator, "values": [NODE]}]}]}}}})
    };
    ns.create_from(&pod("in", json!([server(&[])]), affinity("In")));
    ns.create_from(&pod("notin", json!([server(&[])]), affinity("NotIn")));
    ns.create_from(&pod("named", json!([server(&[])]), json!({"nodeName": NODE})));
    ns.create_from(&pod(
        "gated",
        json!([server(&[])]),
        json!({"schedulingGates": [{"name": "example.com/wait"}]}),
    ));
    ns.wait("pod/in", "condition=Ready");
    ns.wait("pod/named", "condition=Ready");
    ns.kubectl(&["get", "pod", "gated"]).says("SchedulingGated").ok();
    ns.kubectl(&[
        "patch",
        "pod",
        "gated",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#,
    ])
    .ok();
    ns.wait("pod/gated", "condition=Ready");
    let pending = ns.get("pod/notin");
    assert_eq!(phase(&pending), "Pending");
    assert!(pending["spec"]["nodeName"].is_null());
}

#[test]
fn resources_change_in_place() {
    let ns = cluster().namespace("resize");
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sleep", "100000"], "resources":
        {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}});
    ns.create_from(
        &json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
        .to_string(),
    );
    ns.wait("pod/p", "condition=Ready");
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    let before = id(&ns.get("pod/p"));
    let resize = |cpu: &str| {
        let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": "400m"}});
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}).to_string();
        ns.kubectl(&["patch", "pod", "p", "--subresource", "resize", "-p", &patch])
    };
    resize("300m").ok();
    ns.watch(&["pod", "p"], "the status tells the new amounts", |pods| {
        pods.values().any(|pod| {
            let has = &pod["status"]["containerStatuses"][0];
            has["resources"]["requests"]["cpu"] == "300m" && has["allocatedResources"]["cpu"] == "300m"
        })
    });
    let weight = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
    ns.kubectl(&["exec", "p", "--", "sh", "-c", weight]).says("40000").ok();
    assert_eq!(id(&ns.get("pod/p")), before, "the container goes on");
    // More than the node has: it stays as it is and says why.
    ns.kubectl(&["patch", "pod", "p", "--subresource", "resize", "-p",
        r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"5000"},"limits":{"cpu":"6000"}}}]}}"#])
        .ok();
    let reason = |pod: &Value| {
        let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().find(|c| c["type"] == "PodResizePending").map(|c| c["reason"].clone())
    };
    ns.watch(&["pod", "p"], "it is infeasible", |pods| {
        pods.values().any(|pod| reason(pod) == Some(json!("Infeasible")))
    });
    ns.kubectl(&["exec", "p", "--", "sh", "-c", weight]).says("40000").ok();
    resize("300m").ok();
    ns.watch(&["pod", "p"], "the condition goes", |pods| pods.values().any(|pod| reason(pod).is_none()));
}
