//! Writes as clients see them: create, update, patch, apply, scale, and what becomes of a bad one.

use super::{MAPS, POD, PODS, map, server_with_account};
use crate::testing::TestServer;

#[tokio::test]
async fn create_get_update_delete() {
    let server = TestServer::start().await;
    let made = server.ask("POST", MAPS, map("m", "1")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let object = made.json();
    assert_eq!(object["kind"], "ConfigMap");
    assert_eq!(object["metadata"]["namespace"], "default");
    assert!(!object["metadata"]["uid"].as_str().unwrap().is_empty());
    assert_eq!(server.ask("POST", MAPS, map("m", "1")).await.json()["reason"], "AlreadyExists");

    let mut changed = object.clone();
    changed["data"]["k"] = "2".into();
    let updated = server.ask("PUT", &format!("{MAPS}/m"), changed.to_string()).await;
    assert_eq!(updated.code, 200, "{}", updated.text);
    assert_ne!(updated.json()["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    let stale = server.ask("PUT", &format!("{MAPS}/m"), changed.to_string()).await;
    assert_eq!((stale.code, stale.json()["reason"].as_str()), (409, Some("Conflict")));
    assert!(stale.text.contains("the object has been modified"), "{}", stale.text);

    let wrong = r#"{"preconditions":{"uid":"x"}}"#;
    assert_eq!(server.ask("DELETE", &format!("{MAPS}/m"), wrong).await.code, 409);
    let gone = server.ask("DELETE", &format!("{MAPS}/m"), "").await.json();
    assert_eq!((gone["kind"].as_str(), gone["status"].as_str()), (Some("Status"), Some("Success")));
    let missing = server.ask("GET", &format!("{MAPS}/m"), "").await.json();
    assert_eq!(missing["message"], "configmaps \"m\" not found");
}

#[tokio::test]
async fn unchanged_updates_write_nothing() {
    let server = TestServer::start().await;
    let made = server.ask("POST", MAPS, map("m", "1")).await.json();
    let again = server.ask("PUT", &format!("{MAPS}/m"), made.to_string()).await.json();
    assert_eq!(made["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn finalizers_hold_and_release() {
    let server = TestServer::start().await;
    let body =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"f","finalizers":["example.com/x"]}}"#;
    assert_eq!(server.ask("POST", MAPS, body).await.code, 201);
    let marked = server.ask("DELETE", &format!("{MAPS}/f"), "").await.json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    let patch = r#"[{"op":"remove","path":"/metadata/finalizers"}]"#;
    let headers = [("content-type", "application/json-patch+json")];
    let released = server.ask_with("PATCH", &format!("{MAPS}/f"), &headers, patch).await;
    assert_eq!(released.code, 200, "{}", released.text);
    assert_eq!(server.ask("GET", &format!("{MAPS}/f"), "").await.code, 404);

    server.ask("POST", MAPS, map("g", "1")).await;
    let foreground = r#"{"propagationPolicy":"Foreground"}"#;
    let marked = server.ask("DELETE", &format!("{MAPS}/g"), foreground).await.json();
    assert_eq!(marked["metadata"]["finalizers"][0], "foregroundDeletion");
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let server = TestServer::start().await;
    let made = server.ask("POST", &format!("{MAPS}?dryRun=All"), map("m", "1")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(server.ask("GET", &format!("{MAPS}/m"), "").await.code, 404);
    assert_eq!(server.ask("POST", &format!("{MAPS}?dryRun=Some"), map("m", "1")).await.code, 422);
    server.ask("POST", MAPS, map("m", "1")).await;
    assert_eq!(server.ask("POST", &format!("{MAPS}?dryRun=All"), map("m", "1")).await.code, 409);
    assert_eq!(server.ask("DELETE", &format!("{MAPS}/m?dryRun=All"), "").await.code, 200);
    assert_eq!(server.ask("GET", &format!("{MAPS}/m"), "").await.code, 200);
}

#[tokio::test]
async fn patches() {
    let server = TestServer::start().await;
    server.ask("POST", MAPS, map("m", "1")).await;
    let path = format!("{MAPS}/m");
    let cases = [
        ("application/merge-patch+json", r#"{"data":{"a":"merge"}}"#, "merge"),
        ("application/strategic-merge-patch+json", r#"{"data":{"a":"strategic"}}"#, "strategic"),
        ("application/json-patch+json", r#"[{"op":"replace","path":"/data/a","value":"json"}]"#, "json"),
    ];
    for (kind, body, wanted) in cases {
        let patched = server.ask_with("PATCH", &path, &[("content-type", kind)], body).await;
        assert_eq!(
            (patched.code, patched.json()["data"]["a"].as_str()),
            (200, Some(wanted)),
            "{}",
            patched.text
        );
    }
    let header = [("content-type", "application/merge-patch+json")];
    let stale = server.ask_with("PATCH", &path, &header, r#"{"metadata":{"resourceVersion":"1"}}"#).await;
    assert_eq!(stale.code, 409);
    assert_eq!(server.ask_with("PATCH", &path, &header, "[]").await.code, 400);
    assert_eq!(server.ask_with("PATCH", &path, &[("content-type", "text/plain")], "{}").await.code, 415);
    let missing = server.ask_with("PATCH", &format!("{MAPS}/none"), &header, "{}").await;
    assert_eq!(missing.code, 404);
}

#[tokio::test]
async fn status_is_apart() {
    let server = server_with_account().await;
    server.ask("POST", PODS, POD).await;
    let mut pod = server.ask("GET", &format!("{PODS}/a"), "").await.json();
    pod["status"]["phase"] = "Running".into();
    let main = server.ask("PUT", &format!("{PODS}/a"), pod.to_string()).await;
    assert_eq!((main.code, main.json()["status"]["phase"].as_str()), (200, Some("Pending")), "{}", main.text);
    let status = server.ask("PUT", &format!("{PODS}/a/status"), pod.to_string()).await;
    assert_eq!(
        (status.code, status.json()["status"]["phase"].as_str()),
        (200, Some("Running")),
        "{}",
        status.text
    );
}

#[tokio::test]
async fn metadata_through_the_status() {
    let server = TestServer::start().await;
    let template =
        r#""template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    let deployment = format!(r#"{{"selector":{{"matchLabels":{{"a":"b"}}}},{template}}}"#);
    let ingress = r#"{"defaultBackend":{"service":{"name":"a","port":{"number":80}}}}"#;
    let level = r#"{"type":"Limited","limited":{"limitResponse":{"type":"Reject"}}}"#;
    // (collection, spec, whether annotations and labels follow)
    for (path, spec, annotations, labels) in [
        ("/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress, true, true),
        ("/apis/apps/v1/namespaces/default/deployments", deployment.as_str(), true, false),
        ("/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", level, false, false),
    ] {
        let made = server.ask("POST", path, format!(r#"{{"metadata":{{"name":"o"}},"spec":{spec}}}"#)).await;
        assert_eq!(made.code, 201, "{}", made.text);
        let merge = [("content-type", "application/merge-patch+json")];
        let patch = r#"{"metadata":{"annotations":{"x":"y"},"labels":{"x":"y"}},"status":{}}"#;
        let status = server.ask_with("PATCH", &format!("{path}/o/status"), &merge, patch).await.json();
        let has = |field: &str| status["metadata"][field]["x"] == "y";
        assert_eq!((has("annotations"), has("labels")), (annotations, labels), "{path}: {status}");
    }
}

#[tokio::test]
async fn generated_names_and_missing_namespaces() {
    let server = TestServer::start().await;
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"g-"}}"#;
    let made = server.ask("POST", MAPS, body).await.json();
    assert!(made["metadata"]["name"].as_str().unwrap().starts_with("g-"));
    let lost = server.ask("POST", "/api/v1/namespaces/none/configmaps", map("m", "1")).await.json();
    assert_eq!(lost["message"], "namespaces \"none\" not found");
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"going"}}"#;
    server.ask("POST", "/api/v1/namespaces", namespace).await;
    let marked = server.ask("DELETE", "/api/v1/namespaces/going", "").await.json();
    assert_eq!(marked["status"]["phase"], "Terminating", "{marked}");
    let refused = server.ask("POST", "/api/v1/namespaces/going/configmaps", map("m", "1")).await.json();
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating", "{refused}");
    let mut finalize = server.ask("GET", "/api/v1/namespaces/going", "").await.json();
    finalize["spec"]["finalizers"] = serde_json::json!([]);
    let done = server.ask("PUT", "/api/v1/namespaces/going/finalize", finalize.to_string()).await;
    assert_eq!(done.code, 200, "{}", done.text);
    assert_eq!(server.ask("GET", "/api/v1/namespaces/going", "").await.code, 404);
    assert_eq!(server.ask("DELETE", "/api/v1/namespaces/default", "").await.code, 403);
}

#[tokio::test]
async fn bad_input() {
    let server = TestServer::start().await;
    let deep = "[".repeat(5000);
    let cases: Vec<(String, String, u16)> = vec![
        (MAPS.into(), "{".into(), 400),
        (MAPS.into(), "[]".into(), 400),
        (MAPS.into(), String::new(), 400),
        (MAPS.into(), deep, 400),
        (MAPS.into(), map("Bad_Name", "1"), 422),
        (MAPS.into(), r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{}}"#.into(), 422),
        (MAPS.into(), r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#.into(), 400),
        (MAPS.into(), r#"{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"a"}}"#.into(), 400),
        (MAPS.into(), r#"{"metadata":{"name":"a"},"data":{"k":1}}"#.into(), 400),
        (MAPS.into(), r#"{"metadata":{"name":"a","namespace":"other"}}"#.into(), 400),
        (MAPS.into(), format!(r#"{{"metadata":{{"name":"{}"}}}}"#, "a".repeat(4 * 1024 * 1024)), 413),
        ("/api/v1/namespaces/default/nothing".into(), "{}".into(), 404),
        ("/api/v1/pods".into(), "{}".into(), 405),
    ];
    for (path, body, code) in cases {
        let answer = server.ask("POST", &path, body.clone()).await;
        let short: String = body.chars().take(80).collect();
        assert_eq!(answer.code, code, "{path} {short}: {}", answer.text);
        assert_eq!(answer.json()["kind"], "Status", "{short}");
    }
    for query in ["watch=1&timeoutSeconds=abc", "timeoutSeconds=abc", "limit=abc"] {
        let answer = server.ask("GET", &format!("{MAPS}?{query}"), "").await;
        assert_eq!(answer.code, 400, "{query}: {}", answer.text);
        assert_eq!(answer.json()["message"], "strconv.ParseInt: parsing \"abc\": invalid syntax");
    }
    let unknown = r#"{"metadata":{"name":"u"},"data":{},"foo":1}"#;
    let strict = server.ask("POST", &format!("{MAPS}?fieldValidation=Strict"), unknown).await;
    assert_eq!(strict.code, 400);
    assert!(strict.text.contains(r#"strict decoding error: unknown field \"foo\""#), "{}", strict.text);
    let warned = server.ask("POST", MAPS, unknown).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"foo\\\"\"");
    let old = server.ask("GET", "/api/v1/namespaces/default/endpoints", "").await;
    let sentence = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    assert_eq!(old.headers["warning"], sentence);
    let wrong = server.ask_with("POST", MAPS, &[("content-type", "text/plain")], "x").await;
    assert_eq!(wrong.code, 415);
    let wrong = server.ask_with("GET", MAPS, &[("accept", "text/html")], "").await;
    assert_eq!(wrong.code, 406);
}

#[tokio::test]
async fn parallel_patches_all_go_through() {
    let server = TestServer::start().await;
    server.ask("POST", MAPS, map("m", "1")).await;
    let writes = (0..8).map(|i| {
        let server = &server;
        async move {
            let header = [("content-type", "application/merge-patch+json")];
            let body = format!(r#"{{"data":{{"k{i}":"v"}}}}"#);
            server.ask_with("PATCH", &format!("{MAPS}/m"), &header, body).await.code
        }
    });
    let codes = futures::future::join_all(writes).await;
    assert_eq!(codes, [200; 8]);
    let data = server.ask("GET", &format!("{MAPS}/m"), "").await.json()["data"].as_object().unwrap().len();
    assert_eq!(data, 9);
}

#[tokio::test]
async fn patches_with_unknown_fields() {
    let server = TestServer::start().await;
    server.ask("POST", MAPS, map("m", "1")).await;
    let header = [("content-type", "application/merge-patch+json")];
    let (path, body) = (format!("{MAPS}/m"), r#"{"foo":{"bar":1}}"#);
    let strict = server.ask_with("PATCH", &format!("{path}?fieldValidation=Strict"), &header, body).await;
    assert_eq!(strict.code, 422, "{}", strict.text);
    assert!(strict.text.contains(r#"strict decoding error: unknown field \"foo\""#), "{}", strict.text);
    let warned = server.ask_with("PATCH", &path, &header, body).await;
    assert_eq!(
        (warned.code, warned.headers["warning"].to_str().unwrap()),
        (200, r#"299 - "unknown field \"foo\"""#)
    );
    let twice = r#"{"metadata":{"name":"t"},"data":{"a":"1"},"data":{"a":"2"}}"#;
    let strict = server.ask("POST", &format!("{MAPS}?fieldValidation=Strict"), twice).await;
    assert_eq!(strict.code, 400);
    assert!(strict.text.contains(r#"duplicate field \"data\""#), "{}", strict.text);
    let both = r#"{"metadata":{"name":"t"},"foo":1,"data":{"a":"1"},"data":{"a":"2"},"foo":2,"bar":3}"#;
    let strict = server.ask("POST", &format!("{MAPS}?fieldValidation=Strict"), both).await;
    let wanted = r#"strict decoding error: unknown field "foo", duplicate field "data", unknown field "bar""#;
    let message = strict.json()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.ends_with(wanted), "{message}");
}

#[tokio::test]
async fn collections_go_at_once() {
    let server = TestServer::start().await;
    server.ask("POST", "/api/v1/namespaces", r#"{"metadata":{"name":"other"}}"#).await;
    for i in 0..20 {
        server.ask("POST", MAPS, map(&format!("m{i}"), "1")).await;
    }
    server.ask("POST", "/api/v1/namespaces/other/configmaps", map("m", "1")).await;
    let gone = server.ask("DELETE", &format!("{MAPS}?labelSelector=l%3D1"), "").await;
    assert_eq!((gone.code, gone.json()["items"].as_array().unwrap().len()), (200, 20), "{}", gone.text);
    let left = server.ask("GET", "/api/v1/configmaps", "").await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_no_handler_takes() {
    let server = TestServer::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let nope = "application/json;as=Nope;v=v1;g=meta.k8s.io";
    for (method, path, accept, code, says) in [
        ("GET", "/nosuch", "*/*", 404, "404 page not found\n"),
        ("GET", "/apis/nosuch/v1", "*/*", 404, "404 page not found\n"),
        ("GET", "/api/v1/nosuch", "*/*", 404, r#""details":{}"#),
        ("GET", "/api/v1/pods/x", "*/*", 404, "the server could not find the requested resource"),
        ("PUT", maps, "*/*", 405, r#""details":{}"#),
        (
            "GET",
            maps,
            "text/html",
            406,
            "406: Not Acceptable\\n\\nAvailable representations: application/json",
        ),
        ("GET", maps, nope, 406, "only the following media types are accepted: application/json"),
        ("GET", "/version", "text/html", 406, "Available representations: application/json"),
        (
            "DELETE",
            "/api/v1/namespaces/default/configmaps/x?dryRun=",
            "*/*",
            422,
            r#"Unsupported value: [\"\"]"#,
        ),
    ] {
        let answer = server.ask_with(method, path, &[("accept", accept)], "").await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
        assert!(answer.text.contains(says), "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn errors_carry_the_warnings_that_came_before_them() {
    let server = TestServer::start().await;
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let (bad, json) = (r#"{"metadata":{"name":"E_"},"foo":1}"#, ("content-type", "application/json"));
    let old = r#"299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice""#;
    let unknown = r#"299 - "unknown field \"foo\"""#;
    let none = format!("{endpoints}/none");
    let cases: [(_, &str, _, _, _, &[&str]); 6] = [
        ("POST", endpoints, json, bad, 422, &[old, unknown]),
        ("POST", endpoints, json, "{", 400, &[old]),
        ("POST", endpoints, ("content-type", "text/plain"), "{", 415, &[old]),
        ("GET", &none, json, "", 404, &[old]),
        ("POST", MAPS, json, bad, 422, &[unknown]),
        ("POST", MAPS, json, "{", 400, &[]),
    ];
    for (method, path, header, body, code, wanted) in cases {
        let answer = server.ask_with(method, path, &[header], body).await;
        let warnings: Vec<_> =
            answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!((answer.code, warnings.as_slice()), (code, wanted), "{method} {path} {body}");
    }
}

#[tokio::test]
async fn times_stay_within_what_can_be_written() {
    let server = server_with_account().await;
    for (name, seconds) in [("a", i64::MAX), ("b", 300_000_000_000)] {
        // A pod without a node goes at once.
        let pod = POD.replace(r#""name":"a""#, &format!(r#""name":"{name}""#));
        let pod = pod.replace(r#""spec":{"#, r#""spec":{"nodeName":"n","#);
        assert_eq!(server.ask("POST", PODS, pod).await.code, 201);
        let options = format!(r#"{{"gracePeriodSeconds":{seconds}}}"#);
        let marked = server.ask("DELETE", &format!("{PODS}/{name}"), options).await;
        assert_eq!(marked.code, 200, "{}", marked.text);
        assert_eq!(marked.json()["metadata"]["deletionTimestamp"], "9999-12-31T23:59:59Z");
        let sooner = server.ask("DELETE", &format!("{PODS}/{name}"), r#"{"gracePeriodSeconds":5}"#).await;
        assert!(sooner.text.contains(r#""deletionTimestamp":"20"#), "{}", sooner.text);
        let again = server.ask("DELETE", &format!("{PODS}/{name}"), r#"{"gracePeriodSeconds":0}"#).await;
        assert_eq!(again.code, 200, "{}", again.text);
    }
    let watch = format!("{PODS}?watch=1&timeoutSeconds={}", i64::MAX);
    let request = http::Request::builder().uri(watch).body(crate::body::empty()).unwrap();
    let admin = crate::User::new("admin", [crate::user::MASTERS]);
    let answer = server.api.handle(request, crate::Peer::InProcess(admin.into())).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn events_outlive_a_clock_that_is_put_back() {
    use std::sync::atomic::{AtomicI64, Ordering};
    static NOW_MS: AtomicI64 = AtomicI64::new(1_800_000_000_000);
    let server = crate::testing::TestServer::start_with(|config| {
        config.clock = std::sync::Arc::new(|| NOW_MS.load(Ordering::Relaxed));
    })
    .await;
    let before = server.api.event_lease().get(&server.api).await.unwrap();
    assert_eq!(server.api.event_lease().get(&server.api).await.unwrap(), before);
    NOW_MS.fetch_sub(3_600_000, Ordering::Relaxed);
    let after = server.api.event_lease().get(&server.api).await.unwrap();
    assert_ne!(after, before, "its age is not known any more");
}

#[tokio::test]
async fn what_a_service_gives_up_is_given_away_once() {
    let server = crate::testing::TestServer::start().await;
    let services = "/api/v1/namespaces/default/services";
    let named = |name: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"clusterIP":"10.96.0.77","ports":[{{"port":1}}]}}}}"#
        )
    };
    let made = server.ask("POST", services, named("a")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    // Between the end of the stored object and that of the write that removes it.
    let call = crate::call::Call::internal(&server.api, ("", "services"), "default", "a", "").unwrap();
    let stored = server.api.read_internal("services", "default", "a").await.unwrap().unwrap();
    let leaving = server.api.allocator().leave(&call, &stored, server.api.now_ms());
    let key = "/registry/services/specs/default/a";
    let store = &server.api.config().store;
    let revision = store.get(key, None).await.unwrap().expect(key).mod_revision;
    store.txn(corten_store::Txn::delete(key, revision)).await.unwrap();
    assert_eq!(server.ask("POST", services, named("b")).await.code, 422);
    leaving.end(true);
    assert_eq!(server.ask("POST", services, named("b")).await.code, 201);
    assert_eq!(server.ask("POST", services, named("c")).await.code, 422);
    assert_eq!(server.ask("DELETE", &format!("{services}/b"), "").await.code, 200);
    assert_eq!(server.ask("POST", services, named("c")).await.code, 201);
}

#[tokio::test]
async fn pods_that_are_not_ready_may_be_evicted_where_enough_are() {
    let server = server_with_account().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let running = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"False"}]}}"#;
    let merge = [("content-type", "application/merge-patch+json")];
    // Policy, how many are well of one that should be, is the pod ready; may it go?
    for (policy, healthy, ready, code) in [
        ("", 1, false, 201),
        ("", 0, false, 429),
        (r#""unhealthyPodEvictionPolicy":"AlwaysAllow","#, 0, false, 201),
        (r#""unhealthyPodEvictionPolicy":"AlwaysAllow","#, 1, true, 429),
    ] {
        assert_eq!(server.ask("POST", PODS, POD).await.code, 201);
        let status = if ready { running.replace("False", "True") } else { running.to_owned() };
        assert_eq!(server.ask_with("PATCH", &format!("{PODS}/a/status"), &merge, status).await.code, 200);
        let budget = format!(
            r#"{{"metadata":{{"name":"b"}},"spec":{{{policy}"minAvailable":1,"selector":{{"matchLabels":{{"app":"x"}}}}}}}}"#
        );
        assert_eq!(server.ask("POST", budgets, budget).await.code, 201);
        let status = format!(
            r#"{{"status":{{"observedGeneration":1,"disruptionsAllowed":0,"desiredHealthy":1,"currentHealthy":{healthy},"expectedPods":1}}}}"#
        );
        let told = server.ask_with("PATCH", &format!("{budgets}/b/status"), &merge, status).await;
        assert_eq!(told.code, 200, "{}", told.text);
        let evicted = server.ask("POST", &format!("{PODS}/a/eviction"), "{}").await;
        assert_eq!(evicted.code, code, "{policy} {healthy} {ready}: {}", evicted.text);
        server.ask("DELETE", &format!("{PODS}/a"), r#"{"gracePeriodSeconds":0}"#).await;
        server.ask("DELETE", &format!("{budgets}/b"), "").await;
    }
}
