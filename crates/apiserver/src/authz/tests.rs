//! Roles and bindings through the whole pipeline.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use serde_json::{Value as Json, json};

use crate::AuthorizationMode as Mode;
use crate::testing::{Answer, TestServer};
use crate::user::User;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

fn bob() -> User {
    User::new("bob", ["devs"])
}

async fn make(server: &TestServer, path: &str, object: Json) {
    let answer = server.ask("POST", path, object.to_string()).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Json {
    json!({ "metadata": { "name": name }, "rules": [{ "verbs": verbs, "apiGroups": [""], "resources": resources }] })
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Json {
    let group = "rbac.authorization.k8s.io";
    json!({
        "metadata": { "name": name }, "roleRef": { "apiGroup": group, "kind": kind, "name": role },
        "subjects": [{ "kind": "User", "apiGroup": group, "name": user }]
    })
}

async fn as_bob(server: &TestServer, method: &str, path: &str, body: Json) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.ask_as(bob(), method, path, &[], body).await
}

/// `allowed` and `reason`.
async fn may(server: &TestServer, user: &str, attributes: Json) -> (bool, String) {
    let review = json!({ "spec": { "user": user, "resourceAttributes": attributes } });
    let answer =
        server.ask("POST", &format!("{REVIEWS}/subjectaccessreviews"), review.to_string()).await.json();
    let status = &answer["status"];
    (status["allowed"].as_bool().unwrap(), status["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_binding_counts_at_once_and_no_longer_than_it_is_there() {
    let server = TestServer::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(as_bob(&server, "GET", maps, Json::Null).await.code, 403);
    make(&server, &roles, role("readers", &["list"], &["configmaps"])).await;
    make(&server, &bindings, binding("readers", "Role", "readers", "bob")).await;
    assert_eq!(as_bob(&server, "GET", maps, Json::Null).await.code, 200);
    let (allowed, reason) =
        may(&server, "bob", json!({ "verb": "list", "resource": "configmaps", "namespace": "default" }))
            .await;
    assert!(allowed);
    assert_eq!(reason, r#"RBAC: allowed by RoleBinding "readers/default" of Role "readers" to User "bob""#);
    let elsewhere = as_bob(&server, "GET", "/api/v1/namespaces/kube-system/configmaps", Json::Null).await;
    assert_eq!(
        elsewhere.json()["message"],
        r#"configmaps is forbidden: User "bob" cannot list resource "configmaps" in API group "" in the namespace "kube-system""#
    );
    server.ask("DELETE", &format!("{roles}/readers"), "").await;
    let lost = as_bob(&server, "GET", maps, Json::Null).await.json();
    let message = lost["message"].as_str().unwrap();
    assert!(
        message.ends_with(r#": rbac: RBAC: role.rbac.authorization.k8s.io "readers" not found"#),
        "{message}"
    );
    server.ask("DELETE", &format!("{bindings}/readers"), "").await;
    assert!(!as_bob(&server, "GET", maps, Json::Null).await.text.contains("not found"));
}

#[tokio::test]
async fn nobody_gives_what_he_does_not_hold() {
    let server = TestServer::start().await;
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    let all = &["get", "list", "watch", "create", "update", "patch", "delete"];
    let mut manager = role("manager", all, &["configmaps"]);
    manager["rules"].as_array_mut().unwrap().push(
        json!({ "verbs": all, "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"] }),
    );
    make(&server, &roles, manager).await;
    make(&server, &bindings, binding("manager", "Role", "manager", "bob")).await;
    assert_eq!(as_bob(&server, "POST", &roles, role("mine", &["get"], &["configmaps"])).await.code, 201);
    let more =
        as_bob(&server, "POST", &roles, role("more", &["get", "list"], &["configmaps", "secrets"])).await;
    assert_eq!(
        (more.code, more.json()["message"].as_str().unwrap()),
        (
            403,
            "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"bob\" (groups=[\"devs\" \"system:authenticated\"]) is attempting \
             to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"
        )
    );
    let admin =
        as_bob(&server, "POST", &bindings, binding("admin", "ClusterRole", "cluster-admin", "bob")).await;
    assert_eq!(admin.code, 403, "{}", admin.text);
    let none = as_bob(&server, "POST", &bindings, binding("none", "ClusterRole", "none", "bob")).await;
    assert_eq!(
        (none.code, none.json()["message"].as_str().unwrap()),
        (404, r#"clusterroles.rbac.authorization.k8s.io "none" not found"#)
    );
    // The verbs `bind` and `escalate` are ways around.
    let mut binder = role("binder", &["bind"], &["clusterroles"]);
    binder["rules"][0]["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    binder["rules"][0]["resourceNames"] = json!(["cluster-admin"]);
    make(&server, &roles, binder).await;
    make(&server, &bindings, binding("binder", "Role", "binder", "bob")).await;
    let admin =
        as_bob(&server, "POST", &bindings, binding("admin", "ClusterRole", "cluster-admin", "bob")).await;
    assert_eq!(admin.code, 201, "{}", admin.text);
}

#[tokio::test]
async fn gathering_roles_needs_everything() {
    let server = TestServer::start().await;
    let all = format!("{RBAC}/clusterroles");
    let mut editor = role("editor", &["create"], &["clusterroles"]);
    editor["rules"][0]["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    make(&server, &all, editor).await;
    make(&server, &format!("{RBAC}/clusterrolebindings"), binding("editor", "ClusterRole", "editor", "bob"))
        .await;
    let gathering = json!({
        "metadata": { "name": "g" }, "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "x": "y" } }] }
    });
    let answer = as_bob(&server, "POST", &all, gathering).await;
    assert!(
        answer.text.contains("must have cluster-admin privileges to use the aggregationRule"),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn what_every_cluster_has() {
    let server = TestServer::start().await;
    let roles = server.ask("GET", &format!("{RBAC}/clusterroles"), "").await.json();
    let names: Vec<_> =
        roles["items"].as_array().unwrap().iter().map(|r| r["metadata"]["name"].clone()).collect();
    for name in ["admin", "cluster-admin", "edit", "system:node", "system:controller:job-controller", "view"]
    {
        assert!(names.contains(&json!(name)), "{name}");
    }
    // Taken away, it comes back at the next start.
    let view = format!("{RBAC}/clusterroles/system:discovery");
    let mut found = server.ask("GET", &view, "").await.json();
    found["rules"] = json!([]);
    assert_eq!(server.ask("PUT", &view, found.to_string()).await.code, 200);
    server.api.bootstrap().await.unwrap();
    let found = server.ask("GET", &view, "").await.json();
    assert!(!found["rules"].as_array().unwrap().is_empty());
    let again = found["metadata"]["resourceVersion"].clone();
    server.api.bootstrap().await.unwrap();
    assert_eq!(server.ask("GET", &view, "").await.json()["metadata"]["resourceVersion"], again);
}

#[tokio::test]
async fn lists_of_rules() {
    let server = TestServer::start().await;
    let path = format!("{REVIEWS}/selfsubjectrulesreviews");
    let review = json!({ "spec": { "namespace": "default" } });
    let admin = server.ask("POST", &path, review.to_string()).await.json();
    let all = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
    assert!(admin["status"]["resourceRules"].as_array().unwrap().contains(&all), "{admin}");
    let bob = as_bob(&server, "POST", &path, review.clone()).await.json();
    let status = &bob["status"];
    assert_eq!((&status["incomplete"], &status["evaluationError"]), (&json!(false), &Json::Null));
    assert!(status["nonResourceRules"].to_string().contains("/openapi/*"), "{bob}");
    let node = User::new("system:node:n1", ["system:nodes"]);
    let node = server.ask_as(node, "POST", &path, &[], review.to_string()).await.json();
    assert_eq!(node["status"]["incomplete"], json!(true));
    assert_eq!(node["status"]["evaluationError"], "node authorizer does not support user rule resolution");
    let without = as_bob(&server, "POST", &path, json!({ "spec": {} })).await;
    assert_eq!((without.code, without.json()["message"].as_str().unwrap()), (400, "no namespace on request"));
}

#[tokio::test]
async fn reviews_are_checked() {
    let server = TestServer::start().await;
    let ask = async |kind: &str, spec: Json| {
        let body = json!({ "spec": spec }).to_string();
        let answer = server.ask("POST", &format!("{REVIEWS}/{kind}"), body).await;
        (answer.code, answer.json()["message"].as_str().unwrap_or_default().to_owned())
    };
    let one = json!({ "verb": "get", "resource": "pods" });
    let (code, message) = ask("selfsubjectaccessreviews", json!({})).await;
    assert!(
        code == 422 && message.contains("exactly one of nonResourceAttributes or resourceAttributes"),
        "{message}"
    );
    let (code, message) = ask("subjectaccessreviews", json!({ "resourceAttributes": one })).await;
    assert!(code == 422 && message.contains("at least one of user or group must be specified"), "{message}");
}

#[tokio::test]
async fn modes() {
    let code = async |modes: &[Mode]| {
        let server = TestServer::start_with(|config| config.authorization = modes.to_vec()).await;
        let answer = as_bob(&server, "GET", "/api/v1/nodes", Json::Null).await;
        (answer.code, answer.json()["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(code(&[Mode::AlwaysAllow]).await.0, 200);
    let (number, message) = code(&[Mode::AlwaysDeny]).await;
    assert!(number == 403 && message.ends_with(": alwaysdeny: Everything is forbidden."), "{message}");
    assert_eq!(code(&[Mode::Node, Mode::AlwaysAllow]).await.0, 200);
}

#[tokio::test]
async fn impersonation_is_allowed_piece_by_piece() {
    let server = TestServer::start().await;
    let headers = [("impersonate-user", "ann"), ("impersonate-group", "ops")];
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let refused = server.ask_as(bob(), "POST", who, &headers, "{}").await;
    assert_eq!(
        refused.json()["message"],
        r#"users "ann" is forbidden: User "bob" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
    make(&server, &format!("{RBAC}/clusterroles"), role("actor", &["impersonate"], &["users"])).await;
    make(&server, &format!("{RBAC}/clusterrolebindings"), binding("actor", "ClusterRole", "actor", "bob"))
        .await;
    let refused = server.ask_as(bob(), "POST", who, &headers, "{}").await;
    assert!(refused.text.contains(r#"groups \"ops\" is forbidden"#), "{}", refused.text);
    let answer = server.ask_as(bob(), "POST", who, &headers[..1], "{}").await.json();
    assert_eq!(answer["status"]["userInfo"]["username"], "ann");
    let alone = server.ask_as(bob(), "POST", who, &headers[1..], "{}").await;
    assert_eq!(alone.code, 400, "{}", alone.text);
}
