//! Bad input of every kind gets upstream's kind of error, and the server goes on.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use corten_testkit::{Api, Namespace, cluster, corten, eventually, phase, state, waiting_reason};
use serde_json::{Value, json};

const JSON: &str = "Content-Type: application/json";
const YAML: &str = "Content-Type: application/yaml";
/// How deep the deep bodies are.
const DEPTH: usize = 5_000;

/// Where config maps of this namespace are.
fn config_maps(ns: &Namespace<'_>) -> String {
    format!("/api/v1/namespaces/{}/configmaps", ns.name)
}

fn pods(ns: &Namespace<'_>) -> String {
    format!("/api/v1/namespaces/{}/pods", ns.name)
}

/// The server still takes, gives and removes objects.
#[track_caller]
fn still_serves(ns: &Namespace<'_>) {
    ns.kubectl(&["create", "configmap", "still-serves", "--from-literal=a=b"]).ok();
    assert_eq!(ns.get("configmap/still-serves")["data"]["a"], "b");
    ns.kubectl(&["delete", "configmap", "still-serves"]).ok();
}

#[test]
fn malformed_documents() {
    let ns = cluster().namespace("malformed");
    let (api, path) = (Api::of(&ns), config_maps(&ns));
    let cases: &[(&str, &str, &str)] = &[
        (
            JSON,
            r#"{"kind":"ConfigMap","#,
            "couldn't get version/kind; json parse error: unexpected end of JSON input",
        ),
        (JSON, "", "couldn't get version/kind; json parse error: unexpected end of JSON input"),
        (JSON, "\u{0}\u{1}", "couldn't get version/kind; json parse error: invalid character"),
        (JSON, "[]", "couldn't get version/kind; json parse error: json: cannot unmarshal array"),
        (YAML, "kind: ConfigMap\n a: [b", "(must be of type ConfigMap): yaml: line 2"),
        (YAML, "a: &x [*x, *y]", "(must be of type ConfigMap): yaml: "),
    ];
    for (kind, body, message) in cases {
        api.ask("POST", &path, &[kind], body).fails(400, "BadRequest", message);
    }
    api.ask("POST", &path, &[JSON], b"{\"kind\":\"\xff\xfe\"}").is(400);
    let other = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}"#;
    api.ask("POST", &path, &[JSON], other).fails(400, "BadRequest", "cannot be handled as a ConfigMap");
    ns.kubectl_with(&["create", "-f", "-"], "kind: ConfigMap\n a: [b")
        .says("error converting YAML to JSON")
        .err();
    ns.kubectl_with(&["create", "-f", "-"], r#"{"kind": "#).says("unexpected EOF").err();
    ns.kubectl_with(&["create", "--raw", &path, "-f", "-"], r#"{"kind": "#)
        .says(
            "Error from server (BadRequest): the object provided is unrecognized (must be of type ConfigMap)",
        )
        .says("couldn't get version/kind; json parse error")
        .err();
    still_serves(&ns);
}

/// What an unknown kind is, the server tells; what a list holds, kubectl checks itself against the server's schemas, and nothing is made.
#[test]
fn kinds_that_nobody_knows() {
    let ns = cluster().namespace("kinds");
    let unknown =
        ns.kubectl_with(&["create", "-f", "-"], "{kind: Nono, apiVersion: v1, metadata: {name: x}}");
    unknown.says("no matches for kind \"Nono\" in version \"v1\"").err();
    let group =
        ns.kubectl_with(&["create", "-f", "-"], "{kind: Pod, apiVersion: nono/v1, metadata: {name: x}}");
    group.says("no matches for kind \"Pod\" in version \"nono/v1\"").err();
    ns.kubectl_with(&["create", "-f", "-"], "{metadata: {name: x}}").says("apiVersion not set").err();
    ns.kubectl(&["get", "nonos"]).says("the server doesn't have a resource type \"nonos\"").err();
    let item = |name: &str| json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}});
    let mut bad = item("three");
    bad["nono"] = json!(1);
    let list =
        json!({"kind": "List", "apiVersion": "v1", "items": [item("one"), item("two"), bad]}).to_string();
    let said = ns.kubectl_with(&["create", "-f", "-"], &list);
    said.says("ValidationError(ConfigMap): unknown field \"nono\" in io.k8s.api.core.v1.ConfigMap").err();
    ns.kubectl(&["get", "configmap", "one"]).says("NotFound").err();
    let unchecked = ns.kubectl_with(&["create", "--validate=false", "-f", "-"], &list);
    unchecked.says("configmap/one created").says("configmap/three created").ok();
    still_serves(&ns);
}

#[test]
fn unknown_and_duplicate_fields() {
    let ns = cluster().namespace("fields");
    let (api, path) = (Api::of(&ns), config_maps(&ns));
    let body = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","nono":1},"nana":1,"data":{"a":"1","a":"2"}}"#;
    let faults = ["duplicate field \"data.a\"", "unknown field \"metadata.nono\"", "unknown field \"nana\""];
    let ask = |how: &str| api.ask("POST", &format!("{path}?dryRun=All&fieldValidation={how}"), &[JSON], body);
    let strict = ask("Strict");
    strict.fails(
        400,
        "BadRequest",
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: ",
    );
    for fault in faults {
        let escaped = fault.replace('"', "\\\"");
        assert!(strict.body.contains(&escaped), "no {fault} in {strict:?}");
    }
    let warn = ask("Warn");
    let warnings =
        warn.is(201).head.lines().filter(|line| line.to_ascii_lowercase().starts_with("warning: 299 "));
    let warnings: Vec<_> = warnings.map(|line| line.replace('\\', "")).collect();
    assert!(faults.iter().all(|fault| warnings.iter().any(|line| line.contains(fault))), "{warn:?}");
    let ignore = ask("Ignore");
    assert!(!ignore.is(201).head.to_ascii_lowercase().contains("\nwarning:"), "{ignore:?}");
    assert!(!ignore.body.contains("nana") && !ignore.body.contains("nono"), "{ignore:?}");
    ask("Perhaps").fails(422, "Invalid", "fieldValidation: Unsupported value: \"Perhaps\"");

    let manifest = "{kind: ConfigMap, apiVersion: v1, metadata: {name: x}, nana: 1}";
    ns.kubectl_with(&["create", "-f", "-"], manifest)
        .says("strict decoding error: unknown field \"nana\"")
        .err();
    ns.kubectl_with(&["create", "--validate=warn", "-f", "-"], manifest)
        .says("Warning: unknown field \"nana\"")
        .ok();
    ns.kubectl(&["delete", "configmap", "x"]).ok();
    let ignored = ns.kubectl_with(&["create", "--validate=ignore", "-f", "-"], manifest);
    assert!(ignored.ok().contains("created") && ignored.stderr.is_empty(), "{ignored}");
    still_serves(&ns);
}

#[test]
fn wrong_types_and_values() {
    let ns = cluster().namespace("types");
    let api = Api::of(&ns);
    let pod =
        |spec: Value| json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}, "spec": spec});
    let container = |more: Value| {
        let mut container = json!({"name": "c", "image": "x"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pod(json!({"containers": [container]}))
    };
    let cannot = "Pod in version \"v1\" cannot be handled as a Pod: ";
    let string = format!("{cannot}json: cannot unmarshal string into Go struct field ");
    let cases = [
        (pod(json!({"containers": "none"})), 400, string.as_str()),
        (pod(json!([])), 400, cannot),
        (container(json!({"ports": [{"containerPort": "x"}]})), 400, &string),
        (container(json!({"stdin": "yes"})), 400, &string),
        (
            container(json!({"resources": {"limits": {"cpu": "lots"}}})),
            400,
            "quantities must match the regular expression",
        ),
        (pod(json!({})), 422, "Pod \"x\" is invalid: spec.containers: Required value"),
        (
            container(json!({"ports": [{"containerPort": 70000}]})),
            422,
            "containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            container(json!({"name": "A_b"})),
            422,
            "spec.containers[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label must consist of",
        ),
        (
            container(json!({"imagePullPolicy": "Maybe"})),
            422,
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: ",
        ),
        (
            container(json!({"volumeMounts": [{"name": "no", "mountPath": "/x"}]})),
            422,
            "spec.containers[0].volumeMounts[0].name: Not found: \"no\"",
        ),
    ];
    for (body, code, message) in cases {
        let reason = if code == 400 { "BadRequest" } else { "Invalid" };
        api.ask("POST", &pods(&ns), &[JSON], body.to_string()).fails(code, reason, message);
    }
    let number = "{kind: ConfigMap, apiVersion: v1, metadata: {name: x}, data: {a: 1}}";
    ns.kubectl_with(&["create", "-f", "-"], number)
        .says("json: cannot unmarshal number into Go struct field ConfigMap.data of type string")
        .err();
    still_serves(&ns);
}

#[test]
fn bodies_that_are_too_large() {
    let ns = cluster().namespace("oversize");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, size: usize| {
        let body = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"a": "x".repeat(size)}});
        let path = dir.path().join(format!("{name}.json"));
        fs::write(&path, body.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (huge, large) = (file("huge", 3 << 20), file("large", (1 << 20) + 1));
    for words in [vec!["create", "-f", &huge], vec!["create", "--raw", &config_maps(&ns), "-f", &huge]] {
        ns.kubectl(&words)
            .says("Error from server (RequestEntityTooLarge)")
            .says("Request entity too large: limit is 3145728")
            .err();
    }
    ns.kubectl(&["create", "-f", &large]).says("Too long: may not be more than 1048576 bytes").err();
    ns.kubectl(&["create", "-f", &file("fits", 900 << 10)]).ok();
    still_serves(&ns);
}

#[test]
fn deep_documents() {
    let ns = cluster().namespace("deep");
    let (api, path) = (Api::of(&ns), config_maps(&ns));
    let arrays = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let objects = format!("{}1{}", "{\"a\":".repeat(DEPTH), "}".repeat(DEPTH));
    let flow = format!("{}1{}", "{a: ".repeat(DEPTH), "}".repeat(DEPTH));
    for deep in [&arrays, &objects] {
        let body =
            format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"x"}},"data":{deep}}}"#);
        api.ask("POST", &path, &[JSON], &body).fails(400, "BadRequest", "exceeded max depth");
        let said = ns.kubectl_with(&["create", "--validate=false", "-f", "-"], &body);
        said.says("Error from server (BadRequest)").says("exceeded max depth").err();
    }
    api.ask("POST", &path, &[YAML], &flow).fails(400, "BadRequest", "(must be of type ConfigMap): yaml: ");
    let namespace = format!("/api/v1/namespaces/{}", ns.name);
    for kind in ["merge-patch+json", "strategic-merge-patch+json", "json-patch+json"] {
        let kind = format!("Content-Type: application/{kind}");
        api.ask("PATCH", &namespace, &[&kind], &objects).fails(400, "BadRequest", "invalid JSON patch");
    }
    let apply = "Content-Type: application/apply-patch+yaml";
    api.ask("PATCH", &format!("{namespace}?fieldManager=x"), &[apply], &flow).fails(
        400,
        "BadRequest",
        "yaml",
    );
    still_serves(&ns);
}

#[test]
fn names_labels_and_namespaces() {
    let ns = cluster().namespace("names");
    let (api, path) = (Api::of(&ns), config_maps(&ns));
    ns.kubectl(&["create", "configmap", "Bad_Name"])
        .says("ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of")
        .err();
    cluster().kubectl(&["create", "namespace", "a.b"]).says("must not contain dots").err();
    let map =
        |metadata: Value| json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}).to_string();
    let labels = map(json!({"name": "x", "labels": {"a b": "c d"}, "annotations": {"-": ""}}));
    for message in [
        "metadata.labels: Invalid value: \"a b\": name part must consist of",
        "metadata.labels: Invalid value: \"c d\": a valid label must be",
        "metadata.annotations: Invalid value: \"-\"",
    ] {
        api.ask("POST", &path, &[JSON], &labels).fails(422, "Invalid", message);
    }
    api.ask("POST", &path, &[JSON], map(json!({}))).fails(422, "Invalid", "name or generateName is required");
    api.ask("POST", &path, &[JSON], map(json!({"name": "x".repeat(254)}))).fails(
        422,
        "Invalid",
        "must be no more than 253",
    );
    api.ask("POST", &path, &[JSON], map(json!({"name": "x", "namespace": "other"}))).fails(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    api.ask("POST", "/api/v1/namespaces/no-such/configmaps", &[JSON], map(json!({"name": "x"}))).fails(
        404,
        "NotFound",
        "namespaces \"no-such\" not found",
    );
    let manifest = "{kind: ConfigMap, apiVersion: v1, metadata: {name: x, namespace: other}}";
    ns.kubectl_with(&["create", "-f", "-"], manifest).says("does not match the namespace \"names\"").err();
    ns.kubectl_with(
        &["create", "-f", "-"],
        "{kind: ConfigMap, apiVersion: v1, metadata: {name: x}, data: {a/b: x}}",
    )
    .says("data[a/b]: Invalid value: \"a/b\": a valid config key must consist of")
    .err();
    ns.kubectl(&["create", "configmap", "twice"]).ok();
    ns.kubectl(&["create", "configmap", "twice"]).says("configmaps \"twice\" already exists").err();
    still_serves(&ns);
}

const IMMUTABLE: &str = r#"
{kind: Pod, apiVersion: v1, metadata: {name: p}, spec: {nodeSelector: {no: where}, containers: [{name: c, image: x}]}}
---
{kind: Deployment, apiVersion: apps/v1, metadata: {name: d}, spec: {replicas: 0, selector: {matchLabels: {a: b}},
 template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x}]}}}}
---
{kind: Secret, apiVersion: v1, metadata: {name: s}, data: {a: YQ==}}
---
{kind: ConfigMap, apiVersion: v1, metadata: {name: m}, immutable: true, data: {a: b}}
---
{kind: Service, apiVersion: v1, metadata: {name: v}, spec: {ports: [{port: 80}], selector: {a: b}}}
"#;

#[test]
fn fields_that_may_not_change() {
    let ns = cluster().namespace("immutable");
    ns.create_from(IMMUTABLE);
    let ip = ns.get("service/v")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let other =
        ip.rsplit_once('.').map(|(net, last)| format!("{net}.{}", if last == "9" { 10 } else { 9 })).unwrap();
    let invalid = "is invalid: ";
    let ip_patch = format!(r#"{{"spec":{{"clusterIP":"{other}","clusterIPs":["{other}"]}}}}"#);
    let cases = [
        (
            "pod/p",
            r#"{"spec":{"restartPolicy":"Never"}}"#,
            "The Pod \"p\" ",
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`",
        ),
        (
            "deployment/d",
            r#"{"spec":{"selector":{"matchLabels":{"a":"c"}},"template":{"metadata":{"labels":{"a":"c"}}}}}"#,
            "The Deployment \"d\" ",
            "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable",
        ),
        (
            "secret/s",
            r#"{"type":"other"}"#,
            "The Secret \"s\" ",
            "type: Invalid value: \"other\": field is immutable",
        ),
        (
            "configmap/m",
            r#"{"data":{"a":"c"}}"#,
            "The ConfigMap \"m\" ",
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "configmap/m",
            r#"{"immutable":false}"#,
            "The ConfigMap \"m\" ",
            "immutable: Forbidden: field is immutable when `immutable` is set",
        ),
        ("service/v", &ip_patch, "The Service \"v\" ", "may not change once set"),
    ];
    for (what, patch, who, message) in cases {
        ns.kubectl(&["patch", what, "-p", patch]).says(&format!("{who}{invalid}")).says(message).err();
    }
    let metadata = [
        (
            r#"{"namespace":"x"}"#,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (r#"{"name":"x"}"#, "the name of the object (x) does not match the name on the URL (m)"),
        (r#"{"uid":"x"}"#, "Error from server (Conflict)"),
        (
            r#"{"resourceVersion":"1"}"#,
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
    ];
    for (patch, message) in metadata {
        ns.kubectl(&["patch", "configmap/m", "-p", &format!("{{\"metadata\":{patch}}}")]).says(message).err();
    }
    assert_eq!(ns.get("configmap/m")["data"]["a"], "b");
    assert_eq!(ns.get("service/v")["spec"]["clusterIP"], ip.as_str());
    still_serves(&ns);
}

#[test]
fn methods_media_types_and_paths() {
    let ns = cluster().namespace("paths");
    let (api, maps, pods) = (Api::of(&ns), config_maps(&ns), pods(&ns));
    let merge = "Content-Type: application/merge-patch+json";
    let not_allowed = "the server does not allow this method on the requested resource";
    for (method, path) in [
        ("POST", format!("{maps}/x")),
        ("PUT", maps.clone()),
        ("PATCH", maps.clone()),
        ("DELETE", format!("{pods}/x/status")),
        ("GET", format!("{pods}/x/eviction")),
        ("BREW", maps.clone()),
    ] {
        let kind = if method == "PATCH" { merge } else { JSON };
        api.ask(method, &path, &[kind], "{}").fails(405, "MethodNotAllowed", not_allowed);
    }
    let namespace = format!("/api/v1/namespaces/{}", ns.name);
    let unknown =
        "the body of the request was in an unknown format - accepted media types include: application/json";
    api.ask("POST", &maps, &["Content-Type: text/plain"], "{}").fails(415, "UnsupportedMediaType", unknown);
    api.ask("PATCH", &namespace, &[JSON], "{}").fails(
        415,
        "UnsupportedMediaType",
        "415: Unsupported Media Type",
    );
    api.ask("GET", &namespace, &["Accept: text/html"], "").fails(
        406,
        "NotAcceptable",
        "Available representations: application/json",
    );
    let gone = "the server could not find the requested resource";
    for path in
        ["/api/v1/nonos", "/apis/apps/v9", "/apis/apps/v9/deployments", "/api/v1/namespaces/paths/nonos/x"]
    {
        api.ask("GET", path, &[], "").fails(404, "NotFound", gone);
    }
    api.ask("GET", "/nono", &[], "").is(404);
    api.ask("GET", &format!("{maps}/no"), &[], "").fails(404, "NotFound", "configmaps \"no\" not found");
    api.ask("GET", &format!("{pods}/no/log"), &[], "").fails(404, "NotFound", "pods \"no\" not found");
    for (query, message) in [
        (
            "labelSelector=a%20b%20c",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        ("fieldSelector=spec.nono=x", "field label not supported: spec.nono"),
        ("limit=many", ""),
        ("continue=x", "continue key is not valid"),
        ("resourceVersion=x", "resourceVersion: Invalid value: \"x\""),
    ] {
        api.ask("GET", &format!("{pods}?{query}"), &[], "").fails(400, "BadRequest", message);
    }
    still_serves(&ns);
}

/// Nobody without credentials gets in; who has none of the rights is told which one was missing.
#[test]
fn strangers() {
    let ns = cluster().namespace("strangers");
    let kubeconfig = cluster().kubectl(&["config", "view", "--raw", "-o", "json"]).json();
    let dir = tempfile::tempdir().unwrap();
    let run = |user: Value, words: &[&str]| {
        let mut config = kubeconfig.clone();
        config["users"][0]["user"] = user;
        let path = dir.path().join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        let output =
            cluster().kubectl_command().env("KUBECONFIG", path).args(words).stdin(Stdio::null()).output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    let said = run(json!({"token": "nono"}), &["get", "--raw", "/api/v1/pods"]);
    assert_eq!(said, "error: You must be logged in to the server (Unauthorized)\n");
    // Passwords are nothing that the API knows, so this is nobody.
    let said = run(json!({"username": "a", "password": "b"}), &["get", "--raw", "/api/v1/pods"]);
    assert_eq!(
        said,
        "Error from server (Forbidden): pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the \
         cluster scope\n"
    );
    let token = ns.kubectl(&["create", "token", "default"]).ok().to_owned();
    let who = "User \"system:serviceaccount:strangers:default\" cannot";
    let cases: &[(&[&str], &str, &str)] = &[
        (
            &["get", "pods", "-n", "strangers"],
            "pods is forbidden: ",
            "list resource \"pods\" in API group \"\" in the namespace \"strangers\"",
        ),
        (
            &["delete", "deployment", "d", "-n", "x"],
            "deployments.apps \"d\" is forbidden: ",
            "delete resource \"deployments\" in API group \"apps\" in the namespace \"x\"",
        ),
        (
            &["get", "nodes"],
            "nodes is forbidden: ",
            "list resource \"nodes\" in API group \"\" at the cluster scope",
        ),
        (&["get", "--raw", "/metrics"], "forbidden: ", "get path \"/metrics\""),
    ];
    for (words, what, right) in cases {
        let said = run(json!({"token": token}), words);
        assert_eq!(said, format!("Error from server (Forbidden): {what}{who} {right}\n"));
    }
    let log = run(json!({"token": token}), &["get", "--raw", "/api/v1/namespaces/strangers/pods/p/log"]);
    assert!(log.contains("cannot get resource \"pods/log\""), "{log}");
    ns.kubectl(&["get", "secrets", "--as=nobody"])
        .says("User \"nobody\" cannot list resource \"secrets\"")
        .err();
    still_serves(&ns);
}

#[test]
fn images_and_commands_that_do_not_exist() {
    let ns = cluster().namespace("nothing");
    let pod = |name: &str, container: Value| {
        let mut container = container;
        container["name"] = json!("c");
        let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    ns.create_from(&pod("command", json!({"image": "busybox:1.35", "command": ["/no/such"]})));
    // Nothing listens on port 1.
    ns.create_from(&pod("image", json!({"image": "127.0.0.1:1/no/such:1"})));
    let seen = ns.watch(&["pods"], "both say why they do not run", |pods| {
        let last =
            pods.get("command").map(|pod| &pod["status"]["containerStatuses"][0]["lastState"]["terminated"]);
        last.is_some_and(|last| last["reason"] == "StartError")
            && pods.get("image").is_some_and(|pod| waiting_reason(pod) == "ImagePullBackOff")
    });
    let last = &seen["command"]["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 128, "{last}");
    assert!(
        last["message"]
            .as_str()
            .is_some_and(|text| text.contains("/no/such") && text.contains("no such file or directory")),
        "{last}"
    );
    assert_eq!(phase(&seen["image"]), "Pending");
    let waiting = &state(&seen["image"], "")["waiting"]["message"];
    assert!(
        waiting
            .as_str()
            .is_some_and(|text| text.starts_with("Back-off pulling image \"127.0.0.1:1/no/such:1\"")),
        "{waiting}"
    );
    ns.watch(&["pod", "command"], "it is tried again", |pods| {
        pods.values()
            .any(|pod| waiting_reason(pod) == "CrashLoopBackOff" && corten_testkit::restarts(pod) > 0)
    });
    ns.kubectl(&["exec", "command", "--", "true"]).err();
    still_serves(&ns);
}

/// A control plane alone, on a disk of its own that only it and its descendants see: the disk goes with the process.
struct Small {
    process: Child,
    kubeconfig: PathBuf,
    disk: PathBuf,
    dir: tempfile::TempDir,
}

impl Small {
    const SCRIPT: &'static str = r#"mount -t tmpfs -o size=16m corten-test "$DISK" && exec "$@""#;

    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("corten-tfull-").tempdir().unwrap();
        let (disk, kubeconfig) = (dir.path().join("disk"), dir.path().join("kubeconfig"));
        fs::create_dir(&disk).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", Self::SCRIPT, "sh"]);
        command.arg(corten()).args(["server", "--name", "tfull", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(disk.join("data")).arg("--write-kubeconfig").arg(&kubeconfig).env("DISK", &disk);
        let log = fs::File::create(dir.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let small = Self { process: command.spawn().unwrap(), kubeconfig, disk, dir };
        eventually("the small server answers", || {
            small.kubectl(&["get", "--raw", "/readyz"]).0.then_some(())
        });
        small
    }

    /// Whether kubectl succeeded, and all that it said.
    fn kubectl(&self, words: &[&str]) -> (bool, String) {
        let mut command = cluster().kubectl_command();
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", self.dir.path().join("cache"));
        let output = command.args(words).stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// A path on the server's disk as seen from here.
    fn path(&self, name: &str) -> PathBuf {
        let disk = self.disk.strip_prefix("/").unwrap();
        Path::new(&format!("/proc/{}/root", self.process.id())).join(disk).join(name)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes zeros until nothing more fits.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    let block = [0_u8; 4096];
    while file.write(&block).is_ok_and(|written| written > 0) {}
}

#[test]
fn a_full_disk() {
    let server = Small::start();
    let create = |name: &str| {
        server.kubectl(&["create", "configmap", name, &format!("--from-literal=a={}", "x".repeat(64 << 10))])
    };
    eventually("the first write", || create("before").0.then_some(()));
    let filler = server.path("filler");
    fill(&filler);
    // What was reserved before may take some writes more, not 32 of them on 16 MiB that are full.
    let refused = (0..32).map(|n| create(&format!("full-{n}"))).find(|(ok, _)| !ok);
    let (_, said) = refused.expect("a full disk refuses writes");
    assert!(said.contains("Internal error occurred: ") && said.contains("no space left"), "{said}");
    for _ in 0..3 {
        let (ok, said) = server.kubectl(&["get", "configmap", "before", "-o", "jsonpath={.metadata.name}"]);
        assert!(ok && said == "before", "reads go on: {said}");
        assert!(!create("refused").0, "and writes fail as long as it is full");
    }
    fs::remove_file(&filler).unwrap();
    eventually("writes work again", || create("after").0.then_some(()));
    let (ok, said) = server.kubectl(&["get", "configmaps", "-o", "name"]);
    assert!(ok && said.contains("configmap/before") && said.contains("configmap/after"), "{said}");
    assert!(!said.contains("refused"), "what was refused is not there: {said}");
}
