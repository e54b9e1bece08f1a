//! Clients that others wrote, unchanged: each runs through its own list of cases (`crates/testkit/clients`).
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::path::PathBuf;
use std::process::Command;

use corten_testkit::{Namespace, Output, cluster, root, tool};

/// Longest run of one program: each of its waits has an end of its own, far before.
const LONGEST: &str = "900";

/// Runs a client to its end, in a namespace of its own; its output has a line for each case.
#[track_caller]
fn passes(name: &str, program: PathBuf, words: &[PathBuf], environment: &[(&str, PathBuf)]) -> String {
    let ns = cluster().namespace(name);
    let mut command = Command::new("timeout");
    command.arg(LONGEST).arg(program).args(words).envs(environment.iter().cloned());
    let output = ns.run(&mut command);
    assert!(output.success(), "{output}\nlog of the cluster:\n{}", cluster().log_tail());
    output.stdout
}

fn python(name: &str, file: &str) -> String {
    let modules = tool("python");
    let program = root().join("crates/testkit/clients/python").join(file);
    let environment =
        [("PYTHONPATH", modules), ("PYTHONPYCACHEPREFIX", tool("python").with_file_name("pycache"))];
    passes(name, tool("bin/python"), &[program], &environment)
}

#[test]
fn the_official_python_client() {
    assert!(python("python", "official.py").contains("ok leader_election"));
}

#[test]
fn kr8s() {
    assert!(python("kr8s", "kr.py").contains("ok watches_and_new_kinds"));
}

#[test]
fn the_javascript_client() {
    let said = passes("javascript", "node".into(), &[tool("node/main.js")], &[]);
    assert!(said.contains("ok podsLogsExecAndPorts"), "{said}");
}

#[test]
fn client_go() {
    assert!(passes("client-go", tool("go/clients"), &[], &[]).contains("ok leader election"));
}

/// The same dynamic client, which then speaks CBOR wherever the server does.
#[test]
fn client_go_with_cbor() {
    let gates =
        ["KUBE_FEATURE_ClientsAllowCBOR", "KUBE_FEATURE_ClientsPreferCBOR"].map(|gate| (gate, "true".into()));
    assert!(
        passes("client-go-cbor", tool("go/clients"), &["cbor".into()], &gates)
            .contains("ok dynamic client in CBOR")
    );
}

/// kubectl of the version before ours.
struct Older<'a>(&'a Namespace<'a>);

impl Older<'_> {
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(tool("older/bin/kubectl"));
        command.args(["-n", &self.0.name]).args(words).env("LC_ALL", "C");
        self.0.run(command.env("KUBECACHEDIR", self.0.cluster.data_dir().join("kubecache-older")))
    }

    /// Runs it with a file of this content at the end of the words.
    fn with(&self, words: &[&str], manifest: &str) -> Output {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), manifest).unwrap();
        let mut all = words.to_vec();
        all.push(file.path().to_str().unwrap());
        self.run(&all)
    }
}

const CONFIG: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1', b: '2'}}";

#[test]
fn kubectl_of_the_version_before() {
    let ns = cluster().namespace("older");
    let older = Older(&ns);
    older.run(&["version"]).says("Client Version: v1.36").says("Server Version: v1.37").ok();
    older.run(&["api-resources"]).says("deployments").ok();
    older.run(&["explain", "pod.spec.containers.image"]).says("FIELD: image <string>").ok();
    older.run(&["auth", "can-i", "create", "pods"]).says("yes").ok();
    reads_and_writes(&older);
    workloads(&older);
    streams(&older);
}

fn reads_and_writes(older: &Older<'_>) {
    older.with(&["apply", "-f"], CONFIG).says("configmap/c created").ok();
    older.with(&["apply", "-f"], CONFIG).says("configmap/c unchanged").ok();
    let changed = CONFIG.replace("b: '2'", "z: '3'");
    assert_eq!(older.with(&["diff", "-f"], &changed).code, Some(1));
    older.with(&["apply", "--dry-run=server", "-f"], &changed).says("configured (server dry run)").ok();
    let others = CONFIG.replace("a: '1'", "a: '9'");
    older.with(&["apply", "--server-side", "--field-manager=other", "-f"], &others).says("conflict").err();
    older
        .with(&["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f"], &others)
        .says("serverside-applied")
        .ok();
    older.with(&["replace", "-f"], CONFIG).says("configmap/c replaced").ok();
    for (kind, patch) in [
        ("json", r#"[{"op":"add","path":"/data/k","value":"json"}]"#),
        ("merge", r#"{"data":{"k":"merge"}}"#),
        ("strategic", r#"{"data":{"k":"strategic"}}"#),
    ] {
        older.run(&["patch", "cm", "c", "--type", kind, "-p", patch]).ok();
        assert_eq!(older.run(&["get", "cm", "c", "-o", "jsonpath={.data.k}"]).ok(), kind);
    }
    older.run(&["label", "cm", "c", "x=y"]).says("labeled").ok();
    older.run(&["annotate", "cm", "c", "note=1"]).says("annotated").ok();
    assert_eq!(older.run(&["get", "cm", "-l", "x=y", "-o", "name"]).ok(), "configmap/c\n");
    older.run(&["get", "cm", "--chunk-size=1"]).says("NAME").ok();
    older.run(&["get", "cm", "nothing"]).says("(NotFound)").err();
    older
        .with(&["create", "-f"], &CONFIG.replace("name: c", "name: Bad_Name"))
        .says("is invalid: metadata.name")
        .err();
    older
        .with(&["create", "-f"], &CONFIG.replace("data:", "nonsense:"))
        .says("unknown field \"nonsense\"")
        .err();
    older.run(&["delete", "cm", "c"]).says("configmap \"c\" deleted").ok();
}

fn workloads(older: &Older<'_>) {
    let image = "--image=corten.local/testserver:1";
    older.run(&["create", "deployment", "d", image, "--replicas=2"]).ok();
    older.run(&["rollout", "status", "deployment/d", "--timeout=180s"]).says("successfully rolled out").ok();
    older.run(&["scale", "deployment/d", "--replicas=1"]).says("scaled").ok();
    older.run(&["set", "env", "deployment/d", "A=B"]).says("env updated").ok();
    older.run(&["rollout", "status", "deployment/d", "--timeout=180s"]).says("successfully rolled out").ok();
    older.run(&["rollout", "history", "deployment/d"]).says("2").ok();
    older.run(&["describe", "deployment", "d"]).says("RollingUpdate").ok();
    older
        .run(&["expose", "deployment", "d", "--port=80", "--target-port=8080"])
        .says("service/d exposed")
        .ok();
    older.run(&["get", "all"]).says("service/d").says("deployment.apps/d").ok();
    older.run(&["delete", "deployment", "d", "--cascade=foreground", "--timeout=180s"]).says("deleted").ok();
}

fn streams(older: &Older<'_>) {
    older.run(&["run", "p", "--image=corten.local/testserver:1"]).ok();
    older.run(&["wait", "--for=condition=Ready", "pod/p", "--timeout=180s"]).ok();
    older.run(&["logs", "p"]).ok();
    older.run(&["run", "b", "--image=busybox:1.35", "--command", "--", "sleep", "100000"]).ok();
    older.run(&["wait", "--for=condition=Ready", "pod/b", "--timeout=180s"]).ok();
    assert_eq!(older.run(&["exec", "b", "--", "sh", "-c", "echo in; exit 3"]).code, Some(3));
    older.run(&["get", "events"]).says("Started").ok();
    older.run(&["delete", "pod", "p", "b", "--grace-period=1", "--timeout=180s"]).says("deleted").ok();
}
