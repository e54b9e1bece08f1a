//! A cluster leaves nothing behind, and several live side by side.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::process::Command;

use corten_testkit::{Cluster, HostState, Options, corten, eventually, http_get, root};
use nix::sys::signal::Signal;

/// Pods that use everything a cluster puts on its host: host ports, volumes, limits.
fn fill(cluster: &Cluster) {
    let port = corten_testkit::free_port();
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{volumes: [{{name: m, emptyDir: {{medium: Memory}}}}], containers: [\
         {{name: c, image: 'corten.local/testserver:1', ports: [{{containerPort: 8080, hostPort: {port}}}], \
         volumeMounts: [{{name: m, mountPath: /m}}], resources: {{limits: {{memory: 64Mi, cpu: 100m}}}}}}]}}}}"
    );
    cluster.kubectl_with(&["create", "-f", "-"], &manifest).ok();
    for example in ["nginx-pod.yaml", "mysql-rc.yaml", "deployment.yaml"] {
        cluster.kubectl(&["create", "-f", root().join("examples").join(example).to_str().unwrap()]).ok();
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", "pod/nginx-pod", "--timeout=180s"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]).ok();
}

#[test]
fn the_host_is_as_before() {
    let before = HostState::look();
    let cluster = Cluster::start(Options { beside_others: true, ..Options::default() });
    fill(&cluster);
    let during = HostState::look();
    for trace in ["interface", "cgroup", "nftables", "mount", "process"] {
        let found = during.since(&before, cluster.name());
        assert!(found.iter().any(|line| line.starts_with(trace)), "no {trace} seen: {found:?}");
    }
    cluster.down(&[]).says("is down").ok();
    assert_eq!(HostState::look().since(&before, cluster.name()), Vec::<String>::new());
    assert!(cluster.data_dir().join("store").exists(), "the data stays");
    cluster.down(&[]).ok();

    // It comes back with what it knew, and goes again, this time by force.
    cluster.up();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=180s"]).ok();
    cluster.end(Signal::SIGKILL);
    cluster.down(&["--purge"]).ok();
    assert_eq!(HostState::look().since(&before, cluster.name()), Vec::<String>::new());
    assert!(!cluster.data_dir().exists(), "--purge takes the data, too");
}

#[test]
fn clusters_live_side_by_side() {
    let start = || Cluster::start(Options { beside_others: true, ..Options::default() });
    let (one, two) = (start(), start());
    for cluster in [&one, &two] {
        cluster.kubectl(&["run", "p", "--image=corten.local/testserver:1"]).ok();
    }
    let address = |cluster: &Cluster| {
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=180s"]).ok();
        cluster.kubectl(&["get", "pod", "p", "-o", "jsonpath={.status.podIP}:8080"]).ok().to_owned()
    };
    let (first, second) = (address(&one), address(&two));
    assert_ne!(first, second);
    one.down(&["--purge"]).ok();
    // Without the cluster's route, who knows who answers under that address.
    assert_ne!(http_get(&first, "/hostname").as_deref(), Some("p\n"));
    let said = eventually("the other one does not notice", || http_get(&second, "/hostname"));
    assert_eq!(said, "p\n");
    two.kubectl(&["exec", "p", "--", "true"]).ok();
    two.down(&["--purge"]).ok();
}

#[test]
fn a_second_start_is_told_that_it_runs_already() {
    let cluster = Cluster::start(Options { beside_others: true, ..Options::default() });
    cluster.corten(&["up", "--detach"]).says("is running already").ok();
    cluster.corten(&["up"]).says("is running already").err();
    let config = cluster.corten(&["kubeconfig"]);
    assert!(config.ok().contains("certificate-authority-data"), "{config}");
    cluster.down(&["--purge"]).ok();
    cluster.corten(&["kubeconfig"]).says("no kubeconfig").err();
}

#[test]
fn the_help_helps() {
    let help = |words: &[&str]| {
        let output = Command::new(corten()).args(words).arg("--help").output().unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = help(&[]);
    for subcommand in ["up", "down", "image", "kubeconfig"] {
        assert!(all.contains(&format!("  {subcommand} ")), "{subcommand} in {all}");
        assert!(help(&[subcommand]).contains("Usage:"), "{subcommand}");
    }
    assert!(!all.contains("shim"), "what people never type is not shown");
    let wrong = Command::new(corten()).args(["up", "--name", "Not A Name"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("lower-case letters"), "{wrong:?}");
}
