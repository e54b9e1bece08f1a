//! Who may do what, as people ask and say it with kubectl.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use corten_testkit::{cluster, eventually};

const ROBOT: &str = "system:serviceaccount:access:robot";

#[test]
fn an_account_may_what_a_role_gives_it() {
    let ns = cluster().namespace("access");
    ns.kubectl(&["create", "serviceaccount", "robot"]).ok();
    let may = |words: &[&str]| {
        let mut all = vec!["auth", "can-i"];
        all.extend(words);
        all.extend(["--as", ROBOT]);
        let output = ns.kubectl(&all);
        (output.success(), output.stdout.trim().to_owned())
    };
    assert_eq!(may(&["list", "pods"]), (false, "no".into()));
    ns.kubectl(&["create", "rolebinding", "robot", "--clusterrole=view", "--serviceaccount=access:robot"])
        .ok();
    // `view` is gathered from other roles soon after the cluster has started.
    eventually("the account may list pods", || {
        (may(&["list", "pods"]) == (true, "yes".into())).then_some(())
    });
    assert_eq!(may(&["delete", "pods"]), (false, "no".into()));
    assert_eq!(may(&["list", "secrets"]), (false, "no".into()));
    assert_eq!(may(&["list", "pods", "-n", "default"]), (false, "no".into()));
    let list = ns.kubectl(&["auth", "can-i", "--list", "--as", ROBOT]);
    let row = list.rows().into_iter().find(|row| row[0] == "configmaps").unwrap();
    assert_eq!(row, ["configmaps", "[]", "[]", "[get", "list", "watch]"], "{list}");
    ns.kubectl(&["get", "pods", "--as", ROBOT]).ok();
    ns.kubectl(&["get", "secrets", "--as", ROBOT])
        .says("User \"system:serviceaccount:access:robot\" cannot list resource \"secrets\" in API group \"\" in the namespace \"access\"")
        .err();
    let me = ns.kubectl(&["auth", "whoami", "--as", ROBOT, "-o", "json"]).json();
    assert_eq!(me["status"]["userInfo"]["username"], ROBOT);
}

#[test]
fn roles_are_reconciled_and_not_outgrown() {
    let ns = cluster().namespace("reconcile");
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: keeper, namespace: reconcile}\nrules:\n\
                - {apiGroups: [\"\"], resources: [configmaps], verbs: [get, list]}\n\
                - {apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [create]}\n";
    ns.kubectl_with(&["auth", "reconcile", "-f", "-"], role)
        .says("role.rbac.authorization.k8s.io/keeper reconciled")
        .ok();
    ns.kubectl(&["create", "rolebinding", "keeper", "--role=keeper", "--user=ann"]).ok();
    ns.kubectl(&["create", "role", "mine", "--verb=get", "--resource=configmaps", "--as=ann"]).ok();
    ns.kubectl(&["create", "role", "more", "--verb=get", "--resource=secrets", "--as=ann"])
        .says("user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:")
        .says("{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}")
        .err();
}

#[test]
fn gathered_roles_take_what_others_bring() {
    let ns = cluster().namespace("gathered");
    let part = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: gathered-part\n  labels: \
                {rbac.authorization.k8s.io/aggregate-to-view: \"true\"}\nrules: [{apiGroups: [example.com], resources: [things], verbs: [get]}]\n";
    ns.create_from(part);
    // `edit` gathers `view`, and `admin` gathers `edit`.
    for role in ["view", "edit", "admin"] {
        eventually(role, || {
            ns.get(&format!("clusterrole/{role}")).to_string().contains("things").then_some(())
        });
    }
    ns.kubectl(&["delete", "clusterrole", "gathered-part"]).ok();
    for role in ["view", "edit", "admin"] {
        eventually(role, || {
            (!ns.get(&format!("clusterrole/{role}")).to_string().contains("things")).then_some(())
        });
    }
}
