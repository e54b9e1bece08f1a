//! Who owns which field: server-side apply on objects and their subresources.

use super::{MAPS, POD, PODS, server_with_account};
use crate::testing::TestServer;

#[tokio::test]
async fn apply_owns_fields() {
    let server = TestServer::start().await;
    let path = format!("{MAPS}/m");
    let header = [("content-type", "application/apply-patch+yaml")];
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1'}\n";
    let none = server.ask_with("PATCH", &path, &header, body).await;
    assert_eq!(none.code, 422, "a field manager is needed: {}", none.text);
    let made = server.ask_with("PATCH", &format!("{path}?fieldManager=one"), &header, body).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let object = made.json();
    assert_eq!(object["metadata"]["managedFields"][0]["manager"], "one", "{object}");
    let again = server.ask_with("PATCH", &format!("{path}?fieldManager=one"), &header, body).await;
    assert_eq!(again.code, 200, "{}", again.text);
    assert_eq!(again.json()["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    let other = body.replace("'1'", "'2'");
    let conflict =
        server.ask_with("PATCH", &format!("{path}?fieldManager=two"), &header, other.clone()).await;
    assert_eq!(conflict.code, 409, "{}", conflict.text);
    let forced =
        server.ask_with("PATCH", &format!("{path}?fieldManager=two&force=true"), &header, other).await;
    assert_eq!((forced.code, forced.json()["data"]["a"].as_str()), (200, Some("2")), "{}", forced.text);
    let headers = [("content-type", "application/merge-patch+json"), ("user-agent", "kubectl/v1.37 (x)")];
    let patched = server.ask_with("PATCH", &path, &headers, r#"{"data":{"b":"3"}}"#).await.json();
    let managers = patched["metadata"]["managedFields"].to_string();
    assert!(managers.contains(r#""manager":"kubectl""#) && managers.contains("two"), "{managers}");
}

#[tokio::test]
async fn scale() {
    let server = TestServer::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let body = r#"{"metadata":{"name":"d"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},
        "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
    let made = server.ask("POST", path, body).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.json()["metadata"]["generation"], 1);
    let scale = server.ask("GET", &format!("{path}/d/scale"), "").await.json();
    assert_eq!(
        (scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()),
        (Some(2), Some("a=b"))
    );
    let header = [("content-type", "application/merge-patch+json")];
    let scaled =
        server.ask_with("PATCH", &format!("{path}/d/scale"), &header, r#"{"spec":{"replicas":5}}"#).await;
    assert_eq!((scaled.code, scaled.json()["spec"]["replicas"].as_i64()), (200, Some(5)), "{}", scaled.text);
    let object = server.ask("GET", &format!("{path}/d"), "").await.json();
    assert_eq!(
        (object["spec"]["replicas"].as_i64(), object["metadata"]["generation"].as_i64()),
        (Some(5), Some(2))
    );
}

/// Applies and patches to parts of a pod are owned there, as upstream records them.
#[tokio::test]
async fn subresources_of_pods_have_owners() {
    let server = server_with_account().await;
    let made = server
        .ask(
            "POST",
            &format!("{PODS}?fieldManager=maker"),
            POD.replace("\"c\",", "\"c\",\"resources\":{\"requests\":{\"cpu\":\"1\"}},"),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
    let resources = r#"{"f:resources":{"f:requests":{"f:cpu":{}}}}"#;
    let key = r#""k:{\"name\":\"c\"}""#;
    let cases = [
        (
            "ephemeralcontainers",
            "apply-patch+yaml",
            "spec: {ephemeralContainers: [{name: e, image: i}]}",
            r#"Apply {"f:spec":{"f:ephemeralContainers":{"k:{\"name\":\"e\"}":{".":{},"f:image":{},"f:name":{}}}}}"#.to_owned(),
        ),
        (
            "resize",
            "apply-patch+yaml",
            "spec: {containers: [{name: c, resources: {requests: {cpu: '2'}}}]}",
            format!(r#"Apply {{"f:spec":{{"f:containers":{{{key}:{{".":{{}},"f:name":{{}},{}}}}}}}"#, &resources[1..]),
        ),
        (
            "resize",
            "strategic-merge-patch+json",
            r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"3"}}}]}}"#,
            format!(r#"Update {{"f:spec":{{"f:containers":{{{key}:{resources}}}}}}}"#),
        ),
        ("status", "apply-patch+yaml", "status: {message: m}", r#"Apply {"f:status":{"f:message":{}}}"#.to_owned()),
    ];
    for (subresource, kind, body, wanted) in cases {
        let apply = kind == "apply-patch+yaml";
        let (manager, force) = if apply { ("app", "&force=true") } else { ("other", "") };
        let head = if apply { "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n" } else { "" };
        let content_type = format!("application/{kind}");
        let header = [("content-type", content_type.as_str())];
        let path = format!("{PODS}/a/{subresource}?fieldManager={manager}{force}");
        let answer = server.ask_with("PATCH", &path, &header, format!("{head}{body}")).await;
        assert_eq!(answer.code, 200, "{}", answer.text);
        let answer = answer.json();
        let entries = answer["metadata"]["managedFields"].as_array().unwrap();
        let own = entries.iter().find(|e| e["manager"] == manager && e["subresource"] == subresource);
        let own = own.unwrap_or_else(|| panic!("{subresource}: {answer}"));
        assert_eq!(format!("{} {}", own["operation"].as_str().unwrap(), own["fieldsV1"]), wanted);
    }
}

/// Upstream's answers: who gives a list that is always written owns it, empty or not, though at rest it is null.
#[tokio::test]
async fn empty_lists_have_owners() {
    let server = TestServer::start().await;
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    for (name, rules, owned) in
        [("a", r#","rules":[]"#, true), ("b", r#","rules":null"#, false), ("c", "", false)]
    {
        let body = format!(r#"{{"metadata":{{"name":"{name}"}}{rules}}}"#);
        let made = server.ask("POST", path, body.clone()).await;
        assert_eq!(made.code, 201, "{}", made.text);
        let made = made.json();
        let fields = &made["metadata"]["managedFields"][0]["fieldsV1"];
        assert_eq!(fields["f:rules"].is_object(), owned, "{made}");
        assert!(made["rules"].is_null(), "{made}");
        let again = server.ask("PUT", &format!("{path}/{name}"), body).await.json();
        assert_eq!(again["metadata"], made["metadata"], "written again, nothing changes");
    }
}

/// What a write to `/scale` of a new object of two replicas answers: content type, parameters, body and then the code and the
/// message or the replicas, and the managers of the object's replicas. Upstream's answers.
type ScaleCase = (&'static str, &'static str, &'static str, &'static str);

const SCALE_WRITES: &[ScaleCase] = &[
    (
        "apply-patch+yaml",
        "fieldManager=app",
        "spec: {replicas: 3}",
        r#"409 Apply failed with 1 conflict: conflict with "maker" using autoscaling/v1: .spec.replicas; maker"#,
    ),
    ("apply-patch+yaml", "fieldManager=app&force=true", "spec: {replicas: 3}", "200 3; app Apply scale"),
    ("apply-patch+yaml", "fieldManager=app&force=true", "spec: {replicas: 0}", "200 0; app Apply scale"),
    ("apply-patch+yaml", "fieldManager=app&force=true&dryRun=All", "spec: {replicas: 3}", "200 3; maker"),
    ("apply-patch+yaml", "fieldManager=app", "", "200 2; maker"),
    (
        "apply-patch+yaml",
        "",
        "spec: {replicas: 3}",
        r#"422 PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch; maker"#,
    ),
    (
        "apply-patch+yaml",
        "fieldManager=app&force=true",
        "spec: {replicas: -7}",
        r#"422 Scale.autoscaling "d" is invalid: spec.replicas: Invalid value: -7: must be greater than or equal to 0; maker"#,
    ),
    (
        "apply-patch+yaml",
        "fieldManager=app",
        "spec: {replica: 3}",
        "500 failed to create typed patch object (/d; autoscaling/v1, Kind=Scale): .spec.replica: field not declared in schema; maker",
    ),
    ("merge-patch+json", "fieldManager=m", r#"{"spec":{"replicas":7}}"#, "200 7; m Update scale"),
    ("merge-patch+json", "fieldManager=m", r#"{"status":{"replicas":7}}"#, "200 2; maker"),
    ("strategic-merge-patch+json", "fieldManager=m", r#"{"spec":{"replicas":7}}"#, "200 7; m Update scale"),
    (
        "json-patch+json",
        "fieldManager=m",
        r#"[{"op":"replace","path":"/spec/replicas","value":7}]"#,
        "200 7; m Update scale",
    ),
    (
        "merge-patch+json",
        "force=true",
        r#"{"spec":{"replicas":7}}"#,
        r#"422 PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch; maker"#,
    ),
    ("json", "fieldManager=p", r#"{"metadata":{"name":"d"},"spec":{"replicas":7}}"#, "200 7; p Update scale"),
    ("json", "fieldManager=p", r#"{"metadata":{"name":"d"},"spec":{"replicas":2}}"#, "200 2; maker"),
    (
        "json",
        "fieldManager=p",
        r#"{"metadata":{},"spec":{"replicas":7}}"#,
        "400 the name of the object (d based on URL) was undeterminable: name must be provided; maker",
    ),
];

/// The managers of `.spec.replicas`: `maker`, `app Apply scale`.
fn replica_managers(object: &serde_json::Value) -> String {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let owns = |e: &&serde_json::Value| e["fieldsV1"]["f:spec"]["f:replicas"].is_object();
    let line = |e: &serde_json::Value| match e["subresource"].as_str() {
        None => e["manager"].as_str().unwrap().to_owned(),
        Some(subresource) => {
            assert!(e["time"].is_null() && e["apiVersion"] == object["apiVersion"], "{e}");
            assert_eq!(e["fieldsV1"].to_string(), r#"{"f:spec":{"f:replicas":{}}}"#);
            format!("{} {} {subresource}", e["manager"].as_str().unwrap(), e["operation"].as_str().unwrap())
        }
    };
    entries.iter().filter(owns).map(line).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn scale_moves_ownership() {
    let server = TestServer::start().await;
    let template =
        r#""template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    let chosen = r#"{"matchLabels":{"a":"b"}}"#;
    for (path, selector) in [
        ("/apis/apps/v1/namespaces/default/deployments", chosen),
        ("/apis/apps/v1/namespaces/default/replicasets", chosen),
        ("/apis/apps/v1/namespaces/default/statefulsets", chosen),
        ("/api/v1/namespaces/default/replicationcontrollers", r#"{"a":"b"}"#),
    ] {
        let body = format!(
            r#"{{"metadata":{{"name":"d"}},"spec":{{"replicas":2,"selector":{selector},{template}}}}}"#
        );
        for &(kind, query, body_of_scale, wanted) in SCALE_WRITES {
            let made = server.ask("POST", &format!("{path}?fieldManager=maker"), body.clone()).await;
            assert_eq!(made.code, 201, "{}", made.text);
            let sent = match kind {
                "apply-patch+yaml" => {
                    format!("apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {{name: d}}\n{body_of_scale}")
                }
                _ => body_of_scale.to_owned(),
            };
            let content_type = format!("application/{kind}");
            let header = [("content-type", content_type.as_str())];
            let verb = if kind == "json" { "PUT" } else { "PATCH" };
            let answer = server.ask_with(verb, &format!("{path}/d/scale?{query}"), &header, sent).await;
            let shown = match answer.json()["message"].as_str() {
                Some(message) => message.to_owned(),
                None => answer.json()["spec"]["replicas"].as_i64().unwrap_or(0).to_string(),
            };
            let object = server.ask("GET", &format!("{path}/d"), "").await.json();
            let got = format!("{} {shown}; {}", answer.code, replica_managers(&object));
            assert_eq!(got, wanted, "{path} {kind} {query} {body_of_scale}");
            let gone = server.ask("DELETE", &format!("{path}/d?propagationPolicy=Background"), "").await;
            assert_eq!(gone.code, 200, "{}", gone.text);
        }
    }
}

#[tokio::test]
async fn one_manager_applies_in_two_versions() {
    let server = TestServer::start().await;
    let path =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h");
    let apply = [("content-type", "application/apply-patch+yaml")];
    for (version, cpu) in [("v1", r#","targetCPUUtilizationPercentage":50"#), ("v2", "")] {
        let body = format!(
            r#"{{"apiVersion":"autoscaling/{version}","kind":"HorizontalPodAutoscaler","metadata":{{"name":"h"}},
            "spec":{{"maxReplicas":3,"scaleTargetRef":{{"apiVersion":"apps/v1","kind":"Deployment","name":"d"}}{cpu}}}}}"#
        );
        let url = format!("{}?fieldManager=a", path(version));
        let answer = server.ask_with("PATCH", &url, &apply, body).await;
        assert!(answer.code < 300, "{}", answer.text);
        assert_eq!(answer.json()["apiVersion"], format!("autoscaling/{version}"), "{}", answer.text);
    }
    for version in ["v1", "v2"] {
        let got = server.ask("GET", &path(version), "").await.json();
        assert_eq!(got["apiVersion"], format!("autoscaling/{version}"), "{got}");
    }
}
