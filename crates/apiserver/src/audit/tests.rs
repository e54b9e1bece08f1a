//! Events of real requests.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::time::Duration;

use serde_json::Value as Json;

use super::AuditConfig;
use crate::testing::TestServer;
use crate::user::User;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: RequestResponse
  omitManagedFields: true
  resources: [{group: "", resources: [configmaps]}]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
  omitStages: []
- level: None
"#;

async fn events(asks: impl AsyncFnOnce(&TestServer)) -> Vec<Json> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let config = AuditConfig {
        policy: POLICY.into(),
        log: log.clone(),
        max_bytes: 1 << 20,
        max_files: 0,
        max_age: Duration::ZERO,
    };
    let server = TestServer::start_with(|c| c.audit = Some(config)).await;
    asks(&server).await;
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_write_with_its_objects() {
    let found = events(async |server| {
        let body = r#"{"metadata":{"name":"m"},"data":{"a":"1"}}"#;
        server.ask("POST", "/api/v1/namespaces/default/configmaps", body).await;
        server.ask("GET", "/api/v1/namespaces/default/pods", "").await;
    })
    .await;
    let [event] = found.as_slice() else { panic!("{found:?}") };
    for (field, value) in [
        ("kind", "Event"),
        ("apiVersion", "audit.k8s.io/v1"),
        ("level", "RequestResponse"),
        ("stage", "ResponseComplete"),
        ("verb", "create"),
    ] {
        assert_eq!(event[field], value);
    }
    assert_eq!(event["responseStatus"]["code"], 201);
    assert_eq!(event["user"]["username"], "kubernetes-admin");
    assert_eq!(event["objectRef"]["resource"], "configmaps");
    assert_eq!(event["requestObject"]["data"]["a"], "1");
    assert_eq!(event["responseObject"]["metadata"]["name"], "m");
    assert_eq!(event["responseObject"]["metadata"]["managedFields"], Json::Null);
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
}

#[tokio::test]
async fn a_refusal_and_who_was_meant() {
    let found = events(async |server| {
        let secrets = "/api/v1/namespaces/default/secrets";
        server.ask_as(User::new("bob", [""; 0]), "GET", secrets, &[], "").await;
        server.ask_with("GET", secrets, &[("impersonate-user", "ann")], "").await;
        server.ask("GET", "/api/v1/namespaces/default/configmaps", "").await;
    })
    .await;
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(found[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(found[0]["responseObject"], Json::Null);
    assert_eq!(found[1]["impersonatedUser"]["username"], "ann");
    assert_eq!(found[2]["responseObject"]["kind"], "ConfigMapList");
}

#[tokio::test]
async fn a_watch_begins_and_ends() {
    let found = events(async |server| {
        let watch = "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1";
        assert_eq!(server.ask("GET", watch, "").await.code, 200);
    })
    .await;
    let stages: Vec<_> = found.iter().map(|e| e["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
    assert_eq!(found[0]["auditID"], found[1]["auditID"]);
}

#[tokio::test]
async fn nobody_is_listened_to_before_he_may_speak() {
    let found = events(async |server| {
        let maps = "/api/v1/namespaces/default/configmaps";
        let body = r#"{"metadata":{"name":"m"},"data":{"a":"1"}}"#;
        server.ask_as(User::new("bob", [""; 0]), "POST", maps, &[], body).await;
    })
    .await;
    let [event] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(event["responseStatus"]["reason"], "Forbidden");
    assert_eq!(event["requestObject"], Json::Null);
}
