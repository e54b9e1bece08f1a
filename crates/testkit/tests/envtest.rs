//! controller-runtime's envtest, as tests of operators use it, with this binary in place of kube-apiserver and etcd.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::os::unix::fs::symlink;
use std::process::Command;

use corten_testkit::{corten, tool};

/// Longest run of the program: each of its waits has an end of its own, far before.
const LONGEST: &str = "900";

#[test]
fn it_stands_where_kube_apiserver_and_etcd_stood() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["kube-apiserver", "etcd"] {
        symlink(corten(), dir.path().join(name)).unwrap();
    }
    let mut command = Command::new("timeout");
    command.arg(LONGEST).arg(tool("go/envtest")).env("KUBEBUILDER_ASSETS", dir.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for line in ["ok started", "ok objects", "ok users", "ok stopped"] {
        assert!(said.contains(line), "{said}");
    }
}
