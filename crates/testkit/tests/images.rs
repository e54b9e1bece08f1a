//! Images: imported, listed, removed, pulled from a registry on loopback, and what is said when they cannot be.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use corten_testkit::{Namespace, Registry, cluster, eventually, image_tar, waiting_reason};
use serde_json::{Value, json};

fn pod(name: &str, image: &str, more: Value) -> String {
    let mut spec = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image, "command": ["sleep", "3600"]}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        if key == "imagePullPolicy" {
            spec["containers"][0][key] = value.clone();
        } else {
            spec[key] = value.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn waits_for(ns: &Namespace<'_>, name: &str, reason: &str) -> Value {
    ns.watch(&["pod", name], reason, |pods| pods.get(name).is_some_and(|pod| waiting_reason(pod) == reason))
        [name]
        .clone()
}

fn events_say(ns: &Namespace<'_>, name: &str, text: &str) {
    eventually(text, || {
        let events =
            ns.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")]);
        events.stdout.contains(text).then_some(())
    });
}

#[test]
fn imported_listed_and_removed() {
    let tar = image_tar("busybox");
    let tar = tar.to_str().unwrap();
    cluster().image(&["import", tar, "--as", "example.com/imported:1"]).says("example.com/imported:1").ok();
    cluster().image(&["ls"]).says("example.com/imported").says("corten.local/testserver").ok();
    let ns = cluster().namespace("imported");
    ns.create_from(&pod("p", "example.com/imported:1", json!({})));
    ns.wait("pod/p", "condition=Ready");
    let id = ns.get("pod/p")["status"]["containerStatuses"][0]["imageID"].as_str().unwrap().to_owned();
    assert!(id.contains("sha256:"), "{id}");
    ns.kubectl(&["delete", "pod", "p"]).ok();
    cluster().image(&["rm", "example.com/imported:1"]).says("removed").ok();
    let list = cluster().image(&["ls"]);
    assert!(!list.ok().contains("example.com/imported"), "{list}");
    cluster().image(&["import", "/dev/null"]).err();
    cluster().image(&["import", "/no/such.tar"]).says("/no/such.tar").err();
    cluster().image(&["rm", "example.com/never-seen:1"]).err();
    eventually("the node tells its images", || {
        let words = ["get", "node", "node-1", "-o", "jsonpath={.status.images[*].names}"];
        cluster().kubectl(&words).stdout.contains("testserver").then_some(())
    });
}

/// Archives may be compressed, and a name given at the import stands in place of those inside.
#[test]
fn compressed_archives_and_other_names() {
    let dir = tempfile::tempdir().unwrap();
    let zipped = dir.path().join("testserver.tar.gz");
    let tar = image_tar("testserver");
    let script = "gzip -c \"$1\" >\"$2\" && head -c 100000 \"$1\" >\"$3\"";
    let short = dir.path().join("short.tar");
    let status = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(tar)
        .arg(&zipped)
        .arg(&short)
        .status();
    assert!(status.unwrap().success());
    let before = cluster().image(&["ls"]).ok().to_owned();
    cluster().image(&["import", short.to_str().unwrap(), "--as", "example.com/short:1"]).err();
    assert!(!cluster().image(&["ls"]).ok().contains("example.com/short"), "half an archive leaves nothing");
    let zipped = zipped.to_str().unwrap();
    cluster().image(&["import", zipped]).says("imported corten.local/testserver:1").ok();
    // Columns are as wide as their widest entry, and other tests bring and take entries.
    let after = cluster().image(&["ls"]);
    for row in before.lines().filter(|row| row.starts_with("corten.local/testserver")) {
        let words: Vec<&str> = row.split_whitespace().collect();
        assert!(after.rows().contains(&words), "no {words:?} in {after}");
    }
    cluster().image(&["import", zipped, "--as", "Not A Name"]).err();
}

/// A container goes on when its image is removed; the next one with it cannot start.
#[test]
fn an_image_removed_under_a_container() {
    let tar = image_tar("busybox");
    let name = "example.com/removed:1";
    cluster().image(&["import", tar.to_str().unwrap(), "--as", name]).ok();
    let ns = cluster().namespace("removed");
    ns.create_from(&pod("p", name, json!({"imagePullPolicy": "Never"})));
    ns.wait("pod/p", "condition=Ready");
    cluster().image(&["rm", name]).ok();
    ns.kubectl(&["exec", "p", "--", "busybox", "echo", "alive"]).says("alive").ok();
    ns.create_from(&pod("next", name, json!({"imagePullPolicy": "Never"})));
    waits_for(&ns, "next", "ErrImageNeverPull");
    ns.kubectl(&["exec", "p", "--", "busybox", "echo", "alive"]).says("alive").ok();
}

/// What `docker save` writes: a manifest.json beside plain layers.
#[test]
fn archives_of_docker_save() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        set -e
        mkdir -p oci && tar xf "$1" -C oci
        digest() { sed 's/.*"digest":"sha256:\([0-9a-f]*\)".*/\1/'; }
        manifest=oci/blobs/sha256/$(tr '{' '\n' <oci/index.json | grep '"digest"' | head -1 | digest)
        config=$(tr '{' '\n' <"$manifest" | grep 'image.config' | digest)
        layer=$(tr '{' '\n' <"$manifest" | grep 'image.layer' | digest)
        cp "oci/blobs/sha256/$config" "$config.json"
        gzip -dc "oci/blobs/sha256/$layer" >layer.tar
        echo "[{\"Config\":\"$config.json\",\"RepoTags\":[\"saved:1\"],\"Layers\":[\"layer.tar\"]}]" >manifest.json
        tar cf saved.tar "$config.json" layer.tar manifest.json
    "#;
    let status = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(image_tar("busybox"))
        .current_dir(dir.path())
        .status();
    assert!(status.unwrap().success());
    cluster()
        .image(&["import", dir.path().join("saved.tar").to_str().unwrap()])
        .says("docker.io/library/saved:1")
        .ok();
    let ns = cluster().namespace("saved");
    ns.create_from(&pod("p", "saved:1", json!({})));
    ns.wait("pod/p", "condition=Ready");
}

#[test]
fn pulled_from_a_registry_by_policy() {
    let registry = Registry::start(false);
    registry.push(&image_tar("busybox"), "team/app", "1");
    let image = format!("{}/team/app:1", registry.address);
    let ns = cluster().namespace("pulling");
    ns.create_from(&pod("never", &image, json!({"imagePullPolicy": "Never"})));
    waits_for(&ns, "never", "ErrImageNeverPull");
    events_say(
        &ns,
        "never",
        &format!("Container image \"{image}\" is not present with pull policy of Never"),
    );
    ns.create_from(&pod("first", &image, json!({})));
    ns.wait("pod/first", "condition=Ready");
    events_say(&ns, "first", &format!("Pulling image \"{image}\""));
    events_say(&ns, "first", &format!("Successfully pulled image \"{image}\" in "));
    ns.create_from(&pod("again", &image, json!({"imagePullPolicy": "IfNotPresent"})));
    ns.wait("pod/again", "condition=Ready");
    events_say(&ns, "again", "already present on machine");
    ns.create_from(&pod("always", &image, json!({"imagePullPolicy": "Always"})));
    ns.wait("pod/always", "condition=Ready");
    events_say(&ns, "always", "Successfully pulled image");
    ns.wait("pod/never", "condition=Ready");
    cluster().image(&["pull", &format!("{}/team/app:2", registry.address)]).says("not found").err();
    let latest = pod("latest", &format!("{}/team/app", registry.address), json!({}));
    ns.create_from(&latest);
    assert_eq!(
        ns.get("pod/latest")["spec"]["containers"][0]["imagePullPolicy"],
        "Always",
        "no tag means latest"
    );
    waits_for(&ns, "latest", "ImagePullBackOff");
}

/// A tag that moves: who asks every time gets the new image, who does not keeps the old one.
#[test]
fn a_tag_that_moves() {
    let registry = Registry::start(false);
    let image = format!("{}/moving:1", registry.address);
    let ns = cluster().namespace("moving");
    let id = |name: &str| {
        ns.wait(&format!("pod/{name}"), "condition=Ready");
        let pod = ns.get(&format!("pod/{name}"));
        // The digest alone: what other tests pull may be the same image under another name.
        let id = pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap();
        id.rsplit('@').next().unwrap().to_owned()
    };
    registry.push(&image_tar("busybox"), "moving", "1");
    ns.create_from(&pod("old", &image, json!({})));
    let old = id("old");
    registry.push(&image_tar("nginx"), "moving", "1");
    ns.create_from(&pod("kept", &image, json!({"imagePullPolicy": "IfNotPresent"})));
    assert_eq!(id("kept"), old);
    ns.create_from(&pod("new", &image, json!({"imagePullPolicy": "Always"})));
    assert_ne!(id("new"), old);
    assert_eq!(id("old"), old, "what runs stays what it is");
}

#[test]
fn pull_secrets() {
    let registry = Registry::start(true);
    registry.push(&image_tar("busybox"), "private", "1");
    let image = format!("{}/private:1", registry.address);
    let ns = cluster().namespace("private");
    ns.create_from(&pod("stranger", &image, json!({})));
    waits_for(&ns, "stranger", "ImagePullBackOff");
    let server = format!("--docker-server={}", registry.address);
    ns.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "key",
        &server,
        "--docker-username=tester",
        "--docker-password=secret",
    ])
    .ok();
    ns.create_from(&pod(
        "friend",
        &image,
        json!({"imagePullSecrets": [{"name": "key"}], "imagePullPolicy": "Always"}),
    ));
    ns.wait("pod/friend", "condition=Ready");
    ns.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "wrong-key",
        &server,
        "--docker-username=tester",
        "--docker-password=wrong",
    ])
    .ok();
    for (name, secret) in [("wrong", "wrong-key"), ("keyless", "no-such-key")] {
        let more = json!({"imagePullSecrets": [{"name": secret}], "imagePullPolicy": "Always"});
        ns.create_from(&pod(name, &image, more));
        waits_for(&ns, name, "ImagePullBackOff");
        events_say(&ns, name, "may require authorization: authorization failed");
    }
    events_say(
        &ns,
        "keyless",
        "Unable to retrieve some image pull secrets (no-such-key); attempting to pull the image may not succeed.",
    );
    ns.kubectl(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":[{"name":"key"}]}"#])
        .ok();
    ns.create_from(&pod("by-account", &image, json!({"imagePullPolicy": "Always"})));
    ns.wait("pod/by-account", "condition=Ready");
    cluster().image(&["pull", &image, "--creds", "tester:secret"]).says("pulled").ok();
    cluster().image(&["pull", &image, "--creds", "tester:wrong"]).err();
}

#[test]
fn images_that_are_not_there() {
    let registry = Registry::start(false);
    let image = format!("{}/nothing:1", registry.address);
    let ns = cluster().namespace("missing");
    ns.create_from(&pod("p", &image, json!({})));
    ns.watch(&["pod", "p"], "an error at first", |pods| {
        pods.values().any(|pod| matches!(waiting_reason(pod), "ErrImagePull" | "ImagePullBackOff"))
    });
    let pod_now = waits_for(&ns, "p", "ImagePullBackOff");
    let message = corten_testkit::state(&pod_now, "")["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with(&format!("Back-off pulling image \"{image}\"")), "{message}");
    events_say(&ns, "p", &format!("Failed to pull image \"{image}\""));
    events_say(&ns, "p", "Error: ErrImagePull");
    events_say(&ns, "p", "Error: ImagePullBackOff");
    ns.kubectl(&["get", "pod", "p"]).says("ImagePullBackOff").ok();
    ns.create_from(&pod("invalid", "UPPER:1", json!({})));
    waits_for(&ns, "invalid", "InvalidImageName");
    events_say(
        &ns,
        "invalid",
        "Failed to apply default image tag \"UPPER:1\": couldn't parse image name \"UPPER:1\": invalid reference format: repository name (library/UPPER) must be lowercase",
    );
    events_say(&ns, "invalid", "Error: InvalidImageName");
    // It appears: the pod starts by itself.
    registry.push(&image_tar("busybox"), "nothing", "1");
    ns.wait("pod/p", "condition=Ready");
}
