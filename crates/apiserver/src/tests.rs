//! The server as its clients see it, over a real store.

use crate::testing::TestServer;

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"app":"x"}},
    "spec":{"containers":[{"name":"c","image":"busybox"}]}}"#;
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"l":"{value}"}}}},"data":{{"k":"{value}"}}}}"#
    )
}

async fn server_with_account() -> TestServer {
    let server = TestServer::start().await;
    let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    let made = server.ask("POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    assert_eq!(made.code, 201, "{}", made.text);
    server
}

#[tokio::test]
async fn bootstrap_objects_are_there() {
    let server = TestServer::start().await;
    for path in [
        "/api/v1/namespaces/default",
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/default/services/kubernetes",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
    ] {
        let answer = server.ask("GET", path, "").await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.text);
    }
    let service = server.ask("GET", "/api/v1/namespaces/default/services/kubernetes", "").await.json();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");

    // At a later start what has drifted is put right; the object's own address is no obstacle.
    let mut drifted = service.clone();
    drifted["spec"]["ports"][0]["targetPort"] = 1.into();
    let path = "/api/v1/namespaces/default/services/kubernetes";
    assert_eq!(server.ask("PUT", path, drifted.to_string()).await.code, 200);
    server.api.bootstrap().await.unwrap();
    let again = server.ask("GET", path, "").await.json();
    assert_eq!(again["spec"], service["spec"]);
    assert_eq!(again["metadata"]["uid"], service["metadata"]["uid"]);
}

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
async fn lists_page_and_select() {
    let server = TestServer::start().await;
    for i in 0..5 {
        server.ask("POST", MAPS, map(&format!("m{i}"), if i % 2 == 0 { "even" } else { "odd" })).await;
    }
    let names = |list: &serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let page = server.ask("GET", &format!("{MAPS}?limit=2"), "").await.json();
    assert_eq!(names(&page), ["m0", "m1"]);
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    server.ask("DELETE", &format!("{MAPS}/m3"), "").await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = server.ask("GET", &format!("{MAPS}?limit=10&continue={token}"), "").await.json();
    assert_eq!(names(&rest), ["m2", "m3", "m4"], "a continued list shows the first page's revision");
    assert_eq!(rest["metadata"]["resourceVersion"], page["metadata"]["resourceVersion"]);
    let odd = server.ask("GET", &format!("{MAPS}?labelSelector=l%3Dodd"), "").await.json();
    assert_eq!(names(&odd), ["m1"]);
    let one = server.ask("GET", &format!("{MAPS}?fieldSelector=metadata.name%3Dm4"), "").await.json();
    assert_eq!(names(&one), ["m4"]);
    let thin = server.ask("GET", &format!("{MAPS}?labelSelector=l%3Deven&limit=2"), "").await.json();
    assert_eq!(names(&thin), ["m0", "m2"]);
    assert!(thin["metadata"]["remainingItemCount"].is_null());
    let bad = server.ask("GET", &format!("{MAPS}?fieldSelector=spec.x%3Dm4"), "").await;
    assert_eq!(bad.code, 400);
    let all = server.ask("GET", "/api/v1/configmaps", "").await.json();
    assert_eq!((all["kind"].as_str(), names(&all).len()), (Some("ConfigMapList"), 4));
    let future = server.ask("GET", &format!("{MAPS}?resourceVersion=99999"), "").await;
    assert_eq!(future.code, 504);
}

#[tokio::test]
async fn watches_tell_what_happens() {
    let server = TestServer::start().await;
    let made = server.ask("POST", MAPS, map("m", "1")).await.json();
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut changed = made.clone();
    changed["metadata"]["labels"]["l"] = "2".into();
    server.ask("PUT", &format!("{MAPS}/m"), changed.to_string()).await;
    server.ask("DELETE", &format!("{MAPS}/m"), "").await;
    let events = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        lines.map(|e| e["type"].as_str().unwrap().to_owned()).collect()
    };
    let after = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={revision}");
    assert_eq!(events(&server.ask("GET", &after, "").await.text), ["MODIFIED", "DELETED"]);
    let crossing = server.ask("GET", &format!("{after}&labelSelector=l%3D1"), "").await.text;
    assert_eq!(events(&crossing), ["DELETED"]);
    let entering = server.ask("GET", &format!("{after}&labelSelector=l%3D2"), "").await.text;
    assert_eq!(events(&entering), ["ADDED", "DELETED"]);
    server.ask("POST", MAPS, map("n", "1")).await;
    let streaming = "watch=1&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let initial = server.ask("GET", &format!("{MAPS}?{streaming}"), "").await.text;
    assert_eq!(events(&initial), ["ADDED", "BOOKMARK"]);
    assert!(initial.contains("k8s.io/initial-events-end"), "{initial}");
    let bad = server.ask("GET", &format!("{MAPS}?watch=1&sendInitialEvents=true"), "").await;
    assert_eq!(bad.code, 422);
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
async fn other_forms() {
    let server = TestServer::start().await;
    server.ask("POST", MAPS, map("m", "1")).await;
    let yaml = server.ask_with("GET", &format!("{MAPS}/m"), &[("accept", "application/yaml")], "").await;
    assert!(yaml.text.contains("\nkind: ConfigMap\n"), "{}", yaml.text);
    let body = "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: why\n";
    let made = server.ask_with("POST", MAPS, &[("content-type", "application/yaml")], body).await;
    assert_eq!(made.code, 201, "{}", made.text);
    for kind in ["application/vnd.kubernetes.protobuf", "application/cbor"] {
        for path in [format!("{MAPS}/m"), MAPS.to_owned(), format!("{MAPS}?watch=1&timeoutSeconds=1")] {
            let answer = server.ask_with("GET", &path, &[("accept", kind)], "").await;
            assert_eq!(answer.code, 200, "{kind} {path}: {}", answer.text);
            assert!(answer.headers["content-type"].to_str().unwrap().starts_with(kind));
        }
    }
    let pretty = server.ask("GET", &format!("{MAPS}/m?pretty=true"), "").await;
    assert!(pretty.text.starts_with("{\n  \"kind\""), "{}", pretty.text);
}

#[tokio::test]
async fn pods_get_what_admission_gives() {
    let server = server_with_account().await;
    let pod = server.ask("POST", PODS, POD).await;
    assert_eq!(pod.code, 201, "{}", pod.text);
    let pod = pod.json();
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert!(pod["spec"]["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(pod["spec"]["priority"], 0);
    assert_eq!(pod["status"]["phase"], "Pending");
    let binding =
        r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"a"},"target":{"kind":"Node","name":"n"}}"#;
    let bound = server.ask("POST", &format!("{PODS}/a/binding"), binding).await;
    assert_eq!(bound.code, 201, "{}", bound.text);
    let again = server.ask("POST", &format!("{PODS}/a/binding"), binding).await;
    assert_eq!(again.code, 409, "{}", again.text);
    let pod = server.ask("GET", &format!("{PODS}/a"), "").await.json();
    assert_eq!(pod["spec"]["nodeName"], "n");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    let on_node = server.ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn", "").await.json();
    assert_eq!(on_node["items"].as_array().unwrap().len(), 1);

    // Bound pods wait for their kubelet, and go when it says so.
    let marked = server.ask("DELETE", &format!("{PODS}/a"), "").await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30, "{marked}");
    let forced = server.ask("DELETE", &format!("{PODS}/a"), r#"{"gracePeriodSeconds":0}"#).await;
    assert_eq!(forced.code, 200);
    assert_eq!(server.ask("GET", &format!("{PODS}/a"), "").await.code, 404);
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
async fn services_get_addresses_and_ports() {
    let server = TestServer::start().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: &str| {
        format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"ports":[{{"port":80}}]{spec}}}}}"#)
    };
    let one = server.ask("POST", path, service("one", "")).await;
    assert_eq!(one.code, 201, "{}", one.text);
    let address = one.json()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96."));
    let taken = server.ask("POST", path, service("two", &format!(r#","clusterIP":"{address}""#))).await;
    assert_eq!(taken.code, 422, "{}", taken.text);
    server.ask("DELETE", &format!("{path}/one"), "").await;
    let free = server.ask("POST", path, service("two", &format!(r#","clusterIP":"{address}""#))).await;
    assert_eq!(free.code, 201, "{}", free.text);
    let node_port = server.ask("POST", path, service("three", r#","type":"NodePort""#)).await.json();
    let port = node_port["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));

    // The tenth address is there for who asks for it; what lies outside of the range is not.
    assert_eq!(server.ask("POST", path, service("dns", r#","clusterIP":"10.96.0.10""#)).await.code, 201);
    let outside = server.ask("POST", path, service("x", r#","clusterIP":"10.1.0.1""#)).await;
    assert_eq!(
        (outside.code, outside.json()["message"].as_str().unwrap()),
        (
            422,
            r#"Service "x" is invalid: spec.clusterIPs: Invalid value: ["10.1.0.1"]: failed to allocate IP 10.1.0.1: the provided network does not match the current range"#
        )
    );
    let dual = server.ask("POST", path, service("x", r#","ipFamilyPolicy":"RequireDualStack""#)).await;
    assert_eq!(dual.code, 422);
    assert!(dual.text.contains("this cluster is not configured for dual-stack services"), "{}", dual.text);

    // Types come and go, and what they hold with them.
    let header = [("content-type", "application/merge-patch+json")];
    let change =
        async |patch: &str| server.ask_with("PATCH", &format!("{path}/three"), &header, patch).await.json();
    let cluster_ip = change(r#"{"spec":{"type":"ClusterIP"}}"#).await;
    assert_eq!(cluster_ip["spec"]["clusterIP"], node_port["spec"]["clusterIP"]);
    assert!(cluster_ip["spec"]["ports"][0].get("nodePort").is_none(), "{cluster_ip}");
    let taken = service("four", r#","type":"NodePort""#)
        .replace(r#""port":80"#, &format!(r#""port":80,"nodePort":{port}"#));
    assert_eq!(server.ask("POST", path, taken.clone()).await.code, 201, "its old port is free");
    assert_eq!(server.ask("POST", path, taken.replace("four", "five")).await.code, 422, "but once");
    let external = change(r#"{"spec":{"type":"ExternalName","externalName":"example.com"}}"#).await;
    assert!(
        external["spec"].get("clusterIP").is_none() && external["spec"].get("ipFamilies").is_none(),
        "{external}"
    );
    let back =
        change(r#"{"spec":{"type":"LoadBalancer","externalName":null,"externalTrafficPolicy":"Local"}}"#)
            .await;
    assert!(back["spec"]["healthCheckNodePort"].as_i64().is_some_and(|n| n >= 30000), "{back}");
    assert!(back["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")));
    let moved = change(r#"{"spec":{"healthCheckNodePort":30123}}"#).await;
    assert!(
        moved["message"]
            .as_str()
            .is_some_and(|m| m.contains("spec.healthCheckNodePort: Forbidden: field is immutable")),
        "{moved}"
    );
}

#[tokio::test]
async fn addresses_survive_restarts_and_leftovers() {
    let server =
        TestServer::start_with(|config| config.service_cidrs = vec!["10.0.0.0/29".parse().unwrap()]).await;
    let path = "/api/v1/namespaces/default/services";
    let service =
        |name: &str| format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"ports":[{{"port":80}}]}}}}"#);
    // Six addresses, one is the API server's.
    for i in 0..5 {
        assert_eq!(server.ask("POST", path, service(&format!("s{i}"))).await.code, 201);
    }
    let full = server.ask("POST", path, service("s5")).await;
    assert_eq!(full.code, 500, "{}", full.text);
    assert!(full.text.contains("failed to allocate a serviceIP: range is full"), "{}", full.text);
    // A Service that went without the allocator's knowledge (a crash): its address is found to be free.
    let key = "/registry/services/specs/default/s0";
    let store = &server.api.config().store;
    let revision = store.get(key, None).await.unwrap().unwrap().mod_revision;
    store.txn(corten_store::Txn::delete(key, revision)).await.unwrap();
    let again = server.ask("POST", path, service("s5")).await;
    assert_eq!(again.code, 201, "{}", again.text);
    // A second server over the same store knows what is taken.
    let other = crate::ApiServer::new(server.api.config().clone()).unwrap();
    other.bootstrap().await.unwrap();
    let request = http::Request::post(path).body(crate::body::full(service("s6"))).unwrap();
    let admin = crate::User::new("a", [crate::user::MASTERS]);
    let answer = other.handle(request, crate::Peer::InProcess(admin.into())).await;
    assert_eq!(answer.status(), 500);
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
async fn tables_and_partial_metadata() {
    let server = TestServer::start().await;
    server.ask("POST", MAPS, map("m", "1")).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let table = server.ask_with("GET", MAPS, &accept, "").await.json();
    assert_eq!((table["kind"].as_str(), table["rows"].as_array().unwrap().len()), (Some("Table"), 1));
    let accept = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let partial = server.ask_with("GET", MAPS, &accept, "").await.json();
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0]["data"].is_null());
    // One object's metadata is not that of a list, and the other way round.
    let of_one =
        [("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json")];
    let refused = server.ask_with("GET", MAPS, &of_one, "").await;
    let why = "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)";
    assert_eq!((refused.code, refused.json()["message"].as_str()), (406, Some(why)));
    let refused = server.ask_with("GET", &format!("{MAPS}/m"), &accept, "").await;
    let why =
        "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)";
    assert_eq!((refused.code, refused.json()["message"].as_str()), (406, Some(why)));
    let events = "/apis/events.k8s.io/v1/events";
    let refused = server.ask_with("GET", events, &of_one, "").await;
    assert!(refused.text.contains("(*core.EventList)"), "{}", refused.text);
}

#[tokio::test]
async fn what_debugging_asks_for() {
    use crate::user::User;
    use std::sync::atomic::{AtomicU32, Ordering};
    static LEVEL: AtomicU32 = AtomicU32::new(0);
    let server = TestServer::start_with(|config| {
        config.verbosity = Some(std::sync::Arc::new(|level| {
            LEVEL.store(level, Ordering::Relaxed);
            Ok(())
        }));
    })
    .await;
    for (path, has) in [
        ("/debug/api_priority_and_fairness/dump_priority_levels", "PriorityLevelName, ActiveQueues,"),
        ("/debug/api_priority_and_fairness/dump_queues", "workload-low,"),
        ("/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1", "SubResource"),
        ("/debug/flags", "v<br>"),
        ("/debug/pprof/", "profile"),
        ("/debug/pprof/goroutine?debug=1", "watches: 0"),
        ("/debug/pprof/heap?debug=1", "VmRSS:"),
        ("/debug/pprof/threadcreate", "threads: "),
        ("/debug/pprof/symbol", "num_symbols: 1"),
    ] {
        let answer = server.ask("GET", path, "").await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.text);
        assert!(answer.text.contains(has), "{path}: {}", answer.text);
        let nobody = User::new("bob", [""; 0]);
        assert_eq!(server.ask_as(nobody, "GET", path, &[], "").await.code, 403, "{path}");
    }
    assert_eq!(server.ask("GET", "/debug/pprof/nope", "").await.code, 404);
    assert_eq!(server.ask("GET", "/debug/nope", "").await.code, 404);
    assert_eq!(server.ask("GET", "/debug/pprof", "").await.headers["location"], "/debug/pprof/");
    assert_eq!(server.ask("GET", "/debug/pprof/profile?seconds=100000", "").await.code, 400);
    assert_eq!(server.ask("GET", "/debug/flags/v", "").await.code, 406);
    assert_eq!(server.ask("PUT", "/debug/flags/v", "x").await.code, 400);
    let set = server.ask("PUT", "/debug/flags/v", "4").await;
    assert_eq!((set.code, set.text.as_str()), (200, "successfully set klog.logging.verbosity to 4\n"));
    assert_eq!(LEVEL.load(Ordering::Relaxed), 4);

    let without = TestServer::start_with(|config| config.profiling = false).await;
    assert_eq!(without.ask("GET", "/debug/pprof/heap", "").await.code, 404);
    assert_eq!(without.ask("PUT", "/debug/flags/v", "4").await.code, 404);
}

#[tokio::test]
async fn who_may_what() {
    use crate::user::User;
    let server = TestServer::start().await;
    let nobody = User::new("bob", [""; 0]);
    let refused = server.ask_as(nobody.clone(), "GET", PODS, &[], "").await;
    assert_eq!(
        refused.json()["message"],
        r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    let nodes = server.ask_as(nobody.clone(), "GET", "/api/v1/nodes/x", &[], "").await;
    assert_eq!(
        nodes.json()["message"],
        r#"nodes "x" is forbidden: User "bob" cannot get resource "nodes" in API group "" at the cluster scope"#
    );
    assert_eq!(server.ask_as(nobody.clone(), "GET", "/apis", &[], "").await.code, 200);
    let review = r#"{"spec":{"resourceAttributes":{"verb":"list","resource":"pods"}}}"#;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = server.ask_as(nobody, "POST", path, &[], review).await;
    assert_eq!(
        (answer.code, answer.json()["status"]["allowed"].as_bool()),
        (201, Some(false)),
        "{}",
        answer.text
    );
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    assert_eq!(server.ask_with("POST", path, &table, review).await.code, 406);
    let as_bob = server.ask_with("GET", PODS, &[("impersonate-user", "bob")], "").await;
    assert_eq!(as_bob.code, 403);
    let who = server.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}").await.json();
    assert_eq!(who["status"]["userInfo"]["username"], "kubernetes-admin");
    let anonymous = crate::Peer::Network(None);
    let request = http::Request::builder().uri("/api").body(crate::body::empty()).unwrap();
    assert_eq!(server.api.handle(request, anonymous.clone()).await.status(), 403);
    let request = http::Request::builder().uri("/readyz").body(crate::body::empty()).unwrap();
    assert_eq!(server.api.handle(request, anonymous).await.status(), 200);
}

#[tokio::test]
async fn tokens_are_bound_to_their_account() {
    use rcgen::KeyPair;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let server = TestServer::start_with(|config| {
        config.service_account = crate::ServiceAccountKeys {
            issuer: "https://test".into(),
            audiences: vec!["https://test".into()],
            signing_key_pem: key.serialize_pem().into_bytes(),
            verifying_keys_pem: vec![key.public_key_pem().into_bytes()],
            ..crate::ServiceAccountKeys::default()
        };
    })
    .await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    server.ask("POST", accounts, r#"{"metadata":{"name":"sa"}}"#).await;
    let made = server.ask("POST", &format!("{accounts}/sa/token"), r#"{"spec":{"audiences":[]}}"#).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let token = made.json()["status"]["token"].as_str().unwrap().to_owned();
    let user = server.api.authenticate_token(&token).await.expect("a new token is good");
    assert_eq!(user.name, "system:serviceaccount:default:sa");
    // Others find the key that the token names.
    let keys = server.ask("GET", "/openid/v1/jwks", "").await;
    assert_eq!(
        (keys.code, keys.headers["content-type"].to_str().unwrap()),
        (200, "application/jwk-set+json")
    );
    let header = base64::Engine::decode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        token.split('.').next().unwrap(),
    );
    let header: serde_json::Value = serde_json::from_slice(&header.unwrap()).unwrap();
    assert_eq!(keys.json()["keys"][0]["kid"], header["kid"]);
    assert!(header["kid"].is_string());
    let discovery = server.ask("GET", "/.well-known/openid-configuration", "").await.json();
    assert_eq!(discovery["issuer"], "https://test");
    assert_eq!(discovery["jwks_uri"], "https://192.0.2.1:6443/openid/v1/jwks");
    assert_eq!(discovery["id_token_signing_alg_values_supported"], serde_json::json!(["ES256"]));
    let review = format!(r#"{{"spec":{{"token":"{token}"}}}}"#);
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let reviewed = server.ask("POST", path, review.clone()).await.json();
    assert_eq!(reviewed["status"]["authenticated"], true, "{reviewed}");
    let forged = format!("{}x", &token[..token.len() - 1]);
    assert!(server.api.authenticate_token(&forged).await.is_none());
    server.ask("DELETE", &format!("{accounts}/sa"), "").await;
    assert!(server.api.authenticate_token(&token).await.is_none(), "the account is gone");
    let short =
        server.ask("POST", &format!("{accounts}/sa/token"), r#"{"spec":{"expirationSeconds":5}}"#).await;
    assert_eq!(short.code, 404);
}

#[tokio::test]
async fn evictions_respect_budgets() {
    let server = server_with_account().await;
    server.ask("POST", PODS, POD).await;
    let mut pod = server.ask("GET", &format!("{PODS}/a"), "").await.json();
    pod["status"]["phase"] = "Running".into();
    server.ask("PUT", &format!("{PODS}/a/status"), pod.to_string()).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget =
        r#"{"metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"x"}}}}"#;
    let made = server.ask("POST", budgets, budget).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let eviction = r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"a"}}"#;
    let refused = server.ask("POST", &format!("{PODS}/a/eviction"), eviction).await;
    assert_eq!(refused.code, 429, "{}", refused.text);
    assert!(refused.headers.contains_key("retry-after"));
    server.ask("DELETE", &format!("{budgets}/b"), "").await;
    let evicted = server.ask("POST", &format!("{PODS}/a/eviction"), eviction).await;
    assert_eq!(evicted.code, 201, "{}", evicted.text);
}

#[tokio::test]
async fn discovery_and_paths() {
    let server = TestServer::start().await;
    for path in [
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        "/version",
        "/",
        "/metrics",
        "/livez?verbose",
    ] {
        let answer = server.ask("GET", path, "").await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.text);
    }
    assert_eq!(server.ask("GET", "/version", "").await.json()["gitVersion"], crate::VERSION);
    let checks = server.ask("GET", "/readyz?verbose&exclude=etcd&exclude=nothing", "").await.text;
    assert!(checks.contains("[+]etcd excluded: ok\n[+]etcd-readiness ok\n"), "{checks}");
    assert!(checks.contains("no matches for \"nothing\""), "{checks}");
    assert!(checks.contains("[+]poststarthook/priority-and-fairness-config-producer ok\n"), "{checks}");
    assert_eq!(server.ask("GET", "/readyz/etcd", "").await.text, "ok");
    assert_eq!(server.ask("GET", "/nothing", "").await.code, 404);
    assert_eq!(server.ask("POST", "/apis", "{}").await.code, 405);
}

#[tokio::test]
async fn too_many_at_once() {
    let server = TestServer::start_with(|c| {
        c.limits.reads_in_flight = 0;
        c.limits.writes_in_flight = 0;
    })
    .await;
    let user = crate::user::User { name: "of no group".into(), ..Default::default() };
    let refused = server.ask_as(user, "GET", "/api/v1/nodes", &[], "").await;
    assert_eq!((refused.code, refused.headers["retry-after"].to_str().unwrap()), (429, "1"));
    let admin = server.ask("GET", "/api/v1/nodes", "").await;
    assert_eq!(admin.code, 200, "who is exempt needs no seat");
}

#[tokio::test]
async fn answers_tell_what_the_request_was_taken_for() {
    let server = TestServer::start().await;
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let schema = server.ask("GET", &format!("{group}/flowschemas/global-default"), "").await.json();
    let level =
        server.ask("GET", &format!("{group}/prioritylevelconfigurations/global-default"), "").await.json();
    assert_eq!(schema["status"]["conditions"][0]["status"], "False", "{schema}");
    let me = || crate::user::User::new("me", [""; 0]);
    let answer = server.ask_as(me(), "GET", "/api/v1/nodes", &[], "").await;
    assert_eq!(answer.code, 403, "{}", answer.text);
    assert_eq!(answer.headers["x-kubernetes-pf-flowschema-uid"], schema["metadata"]["uid"].as_str().unwrap());
    assert_eq!(
        answer.headers["x-kubernetes-pf-prioritylevel-uid"],
        level["metadata"]["uid"].as_str().unwrap()
    );

    // Objects take effect with the answer to their write.
    let mine = r#"{"metadata":{"name":"mine"},"spec":{"matchingPrecedence":500,"priorityLevelConfiguration":{"name":"none"},
        "rules":[{"subjects":[{"kind":"User","user":{"name":"me"}}],"nonResourceRules":[{"verbs":["*"],"nonResourceURLs":["*"]}]}]}}"#;
    assert_eq!(server.ask("POST", &format!("{group}/flowschemas"), mine).await.code, 201);
    let mut made = server.ask("GET", &format!("{group}/flowschemas/mine"), "").await.json();
    assert_eq!(made["status"]["conditions"][0]["status"], "True", "{made}");
    made["spec"]["priorityLevelConfiguration"]["name"] = "system".into();
    let changed = server.ask("PUT", &format!("{group}/flowschemas/mine"), made.to_string()).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    let answer = server.ask_as(me(), "GET", "/version", &[], "").await;
    assert_eq!(answer.headers["x-kubernetes-pf-flowschema-uid"], made["metadata"]["uid"].as_str().unwrap());
    let made = server.ask("GET", &format!("{group}/flowschemas/mine"), "").await.json();
    assert_eq!(made["status"]["conditions"][0]["status"], "False", "{made}");
    let fixed = r#"{"spec":{"matchingPrecedence":9999}}"#;
    let patch = [("content-type", "application/merge-patch+json")];
    let refused = server.ask_with("PATCH", &format!("{group}/flowschemas/catch-all"), &patch, fixed).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let figures = server.ask("GET", "/metrics", "").await.text;
    assert!(
        figures.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-high\"} 98"),
        "{figures}"
    );
}

#[tokio::test]
async fn requests_name_their_own_time_limit() {
    let server = TestServer::start().await;
    assert_eq!(server.ask("GET", "/api/v1/nodes?timeout=5s", "").await.code, 200);
    let refused = server.ask("GET", "/api/v1/nodes?timeout=soon", "").await;
    assert_eq!(refused.code, 400, "{}", refused.text);
}

#[tokio::test]
async fn kubelets_reach_their_own_objects_only() {
    use crate::user::{NODES, User};
    let server = server_with_account().await;
    let pod = POD.replace(
        r#""spec":{"#,
        r#""spec":{"nodeName":"n1","volumes":[{"name":"v","secret":{"secretName":"mine"}},{"name":"w","configMap":{"name":"map"}}],"#,
    );
    assert_eq!(server.ask("POST", PODS, pod).await.code, 201);
    let other = POD.replace(r#""name":"a""#, r#""name":"other""#);
    assert_eq!(server.ask("POST", PODS, other).await.code, 201);
    for name in ["mine", "theirs"] {
        let secret = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
        server.ask("POST", "/api/v1/namespaces/default/secrets", secret).await;
    }
    server.ask("POST", MAPS, map("map", "1")).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let merge = "application/merge-patch+json";
    let cases: Vec<(&str, String, &str, u16)> = vec![
        ("POST", "/api/v1/nodes".into(), r#"{"metadata":{"name":"n1"}}"#, 201),
        ("POST", "/api/v1/nodes".into(), r#"{"metadata":{"name":"n2"}}"#, 403),
        ("GET", "/api/v1/nodes/n1".into(), "", 200),
        ("GET", "/api/v1/nodes/n2".into(), "", 403),
        ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1".into(), "", 200),
        ("GET", "/api/v1/nodes".into(), "", 403),
        ("PATCH", "/api/v1/nodes/n1/status".into(), r#"{"status":{"phase":"Running"}}"#, 200),
        ("PATCH", "/api/v1/nodes/n1".into(), r#"{"metadata":{"labels":{"a":"b"}}}"#, 200),
        (
            "PATCH",
            "/api/v1/nodes/n1".into(),
            r#"{"spec":{"taints":[{"key":"x","effect":"NoSchedule"}]}}"#,
            403,
        ),
        ("DELETE", "/api/v1/nodes/n1".into(), "", 403),
        ("POST", leases.into(), r#"{"metadata":{"name":"n1"},"spec":{}}"#, 201),
        ("PATCH", format!("{leases}/n1"), r#"{"spec":{"holderIdentity":"n1"}}"#, 200),
        ("PATCH", format!("{leases}/n2"), "{}", 403),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".into(), "", 200),
        ("GET", "/api/v1/pods?watch=1&timeoutSeconds=1&fieldSelector=spec.nodeName%3Dn1".into(), "", 200),
        ("GET", "/api/v1/pods".into(), "", 403),
        ("GET", format!("{PODS}/a"), "", 200),
        ("GET", format!("{PODS}/other"), "", 403),
        ("GET", format!("{PODS}/missing"), "", 403),
        ("PATCH", format!("{PODS}/missing/status"), "{}", 404),
        ("GET", format!("{MAPS}/missing"), "", 403),
        ("PATCH", format!("{PODS}/a/status"), r#"{"status":{"phase":"Running"}}"#, 200),
        ("PATCH", format!("{PODS}/other/status"), r#"{"status":{"phase":"Running"}}"#, 403),
        ("PATCH", format!("{PODS}/a"), r#"{"metadata":{"labels":{"x":"y"}}}"#, 403),
        ("GET", "/api/v1/namespaces/default/secrets/mine".into(), "", 200),
        ("GET", "/api/v1/namespaces/default/secrets/theirs".into(), "", 403),
        ("GET", "/api/v1/namespaces/default/secrets".into(), "", 403),
        ("GET", format!("{MAPS}/map"), "", 200),
        ("GET", format!("{MAPS}/kube-root-ca.crt"), "", 404),
        (
            "POST",
            "/api/v1/namespaces/default/events".into(),
            r#"{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"a"}}"#,
            201,
        ),
        ("GET", "/api/v1/services".into(), "", 200),
        ("GET", "/apis/node.k8s.io/v1/runtimeclasses".into(), "", 200),
        ("POST", PODS.into(), POD, 403),
        ("DELETE", format!("{PODS}/other"), "", 403),
        ("DELETE", format!("{PODS}/a"), r#"{"gracePeriodSeconds":0}"#, 200),
    ];
    for (method, path, body, code) in cases {
        let user = User::new("system:node:n1", [NODES]);
        let kind = if method == "PATCH" { merge } else { "application/json" };
        let answer = server.ask_as(user, method, &path, &[("content-type", kind)], body).await;
        assert_eq!(answer.code, code, "{method} {path} {body}: {}", answer.text);
    }
}

#[tokio::test]
async fn components_may_do_their_work() {
    use crate::user::User;
    let server = server_with_account().await;
    server.ask("POST", PODS, POD).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let binding = r#"{"target":{"kind":"Node","name":"n"}}"#;
    let condition = r#"{"status":{"conditions":[{"type":"PodScheduled","status":"False"}]}}"#;
    let event =
        r#"{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"a"}}"#;
    let cases: [(&str, &str, String, &str, u16); 9] = [
        ("system:kube-scheduler", "POST", leases.into(), r#"{"metadata":{"name":"kube-scheduler"}}"#, 201),
        ("system:kube-scheduler", "GET", "/api/v1/pods".into(), "", 200),
        ("system:kube-scheduler", "PATCH", format!("{PODS}/a/status"), condition, 200),
        ("system:kube-scheduler", "POST", format!("{PODS}/a/binding"), binding, 201),
        ("system:kube-scheduler", "POST", "/api/v1/namespaces/default/events".into(), event, 201),
        ("system:kube-scheduler", "POST", MAPS.into(), "{}", 403),
        ("system:kube-controller-manager", "POST", MAPS.into(), r#"{"metadata":{"name":"m"}}"#, 201),
        ("system:kube-controller-manager", "DELETE", MAPS.into(), "", 200),
        ("system:kube-controller-manager", "GET", "/api/v1/secrets".into(), "", 200),
    ];
    for (user, method, path, body, code) in cases {
        let kind =
            if method == "PATCH" { "application/strategic-merge-patch+json" } else { "application/json" };
        let user = User::new(user, [""; 0]);
        let answer = server.ask_as(user, method, &path, &[("content-type", kind)], body).await;
        assert_eq!(answer.code, code, "{method} {path} {body}: {}", answer.text);
    }
}

#[tokio::test]
async fn events_die_with_their_lease() {
    let server = TestServer::start().await;
    let event =
        r#"{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"a"}}"#;
    server.ask("POST", "/api/v1/namespaces/default/events", event).await;
    assert_eq!(server.api.config().store.stats().leases, 1);
    let both = server.ask("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e", "").await;
    assert_eq!(
        (both.code, both.json()["apiVersion"].as_str()),
        (200, Some("events.k8s.io/v1")),
        "{}",
        both.text
    );
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
async fn a_new_object_shows_the_counters_that_go_always_writes() {
    let server = TestServer::start().await;
    let rc = r#"{"kind":"ReplicationController","apiVersion":"v1","metadata":{"name":"r"},"spec":{"template":
        {"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}},"status":{"replicas":9}}"#;
    let made = server.ask("POST", "/api/v1/namespaces/default/replicationcontrollers", rc).await.json();
    assert_eq!(made["status"], serde_json::json!({"replicas": 0}));
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
async fn forgotten_history_is_told() {
    let server = TestServer::start().await;
    for i in 0..5 {
        server.ask("POST", MAPS, map(&format!("m{i}"), "1")).await;
    }
    let page = server.ask("GET", &format!("{MAPS}?limit=2"), "").await.json();
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    server.ask("POST", MAPS, map("late", "1")).await;
    let store = &server.api.config().store;
    store.compact(store.current_revision().await.unwrap()).await.unwrap();
    let expired = server.ask("GET", &format!("{MAPS}?limit=2&continue={token}"), "").await.json();
    assert_eq!((expired["code"].as_i64(), expired["reason"].as_str()), (Some(410), Some("Expired")));
    let watch = server.ask("GET", &format!("{MAPS}?watch=1&resourceVersion=2"), "").await;
    let event: serde_json::Value = serde_json::from_str(watch.text.trim()).unwrap();
    assert_eq!(
        (watch.code, event["type"].as_str(), event["object"]["code"].as_i64()),
        (200, Some("ERROR"), Some(410))
    );
    let exact = "resourceVersion=2&resourceVersionMatch=Exact";
    assert_eq!(server.ask("GET", &format!("{MAPS}?{exact}"), "").await.code, 410);
    assert_eq!(server.ask("GET", &format!("{MAPS}?continue=garbage"), "").await.code, 400);
}

#[tokio::test]
async fn a_server_on_loopback_has_its_endpoints() {
    let local = |c: &mut crate::Config| c.advertise_address = Some(std::net::Ipv4Addr::LOCALHOST.into());
    let server = TestServer::start_with(local).await;
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(server.ask("GET", path, "").await.code, 200);
}

#[tokio::test]
async fn large_answers_are_compressed_on_request() {
    use std::io::Read;
    let server = TestServer::start().await;
    for i in 0..4 {
        let big =
            map(&format!("m{i}"), "1").replace(r#""k":"1""#, &format!(r#""k":"{}""#, "x".repeat(60_000)));
        assert_eq!(server.ask("POST", MAPS, big).await.code, 201);
    }
    let request = http::Request::builder().uri(MAPS).header("accept-encoding", "gzip");
    let peer = crate::Peer::InProcess(std::sync::Arc::new(crate::User::new("a", [crate::user::MASTERS])));
    let response = server.api.handle(request.body(crate::body::empty()).unwrap(), peer).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert!(bytes.len() < 10_000);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 4);
    let plain = server.ask("GET", MAPS, "").await;
    assert!(!plain.headers.contains_key("content-encoding"));
    assert_eq!(plain.json(), list);
}

#[tokio::test]
async fn protobuf_bodies() {
    let server = TestServer::start().await;
    let object = crate::decode::json(map("p", "1").into()).unwrap();
    let body = corten_api::protobuf::encode(&object).unwrap();
    let request = http::Request::builder()
        .method("POST")
        .uri(MAPS)
        .header("content-type", "application/vnd.kubernetes.protobuf")
        .body(crate::body::full(body))
        .unwrap();
    let peer = crate::Peer::InProcess(std::sync::Arc::new(crate::User::new("a", [crate::user::MASTERS])));
    assert_eq!(server.api.handle(request, peer).await.status(), 201);
    let made = server.ask("GET", &format!("{MAPS}/p"), "").await.json();
    assert_eq!(made["data"]["k"], "1");
}

#[tokio::test]
async fn the_server_writes_down_who_asks_for_a_certificate() {
    let server = TestServer::start().await;
    let request = r#"{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"a"},
        "spec":{"request":"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=","signerName":"example.com/x","usages":["client auth"],"username":"admin",
        "groups":["system:masters"]}}"#;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let peer = crate::User::new("system:bootstrap:abcdef", ["system:bootstrappers"]);
    let ask = http::Request::builder()
        .method("POST")
        .uri(path)
        .header("content-type", "application/json")
        .body(crate::body::full(request))
        .unwrap();
    let answer = server.api.handle(ask, crate::Peer::InProcess(std::sync::Arc::new(peer))).await;
    assert_eq!(answer.status(), 201);
    let mut made = server.ask("GET", &format!("{path}/a"), "").await.json();
    assert_eq!(made["spec"]["username"], "system:bootstrap:abcdef");
    let groups = serde_json::json!(["system:bootstrappers", "system:authenticated"]);
    assert_eq!(made["spec"]["groups"], groups);
    made["spec"]["username"] = "someone".into();
    let again = server.ask("PUT", &format!("{path}/a"), made.to_string()).await;
    assert_eq!(again.json()["spec"]["username"], "system:bootstrap:abcdef", "{}", again.text);
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

#[tokio::test]
async fn limit_ranges_and_quotas() {
    let server = server_with_account().await;
    let core = "/api/v1/namespaces/default";
    let range = r#"{"metadata":{"name":"r"},"spec":{"limits":[{"type":"Container","default":{"cpu":"200m"},"defaultRequest":{"cpu":"100m"},"max":{"cpu":"1"}}]}}"#;
    assert_eq!(server.ask("POST", &format!("{core}/limitranges"), range).await.code, 201);
    let quota =
        r#"{"metadata":{"name":"q"},"spec":{"hard":{"pods":"2","requests.cpu":"250m","configmaps":"1"}}}"#;
    assert_eq!(server.ask("POST", &format!("{core}/resourcequotas"), quota).await.code, 201);
    let pod = |name: &str, cpu: &str| {
        POD.replace(r#""name":"a""#, &format!(r#""name":"{name}""#))
            .replace(r#""image":"busybox""#, &format!(r#""image":"busybox"{cpu}"#))
    };
    let made = server.ask("POST", PODS, pod("a", "")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let made = made.json();
    assert_eq!(made["spec"]["containers"][0]["resources"]["requests"]["cpu"], "100m");
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let large = server.ask("POST", PODS, pod("b", r#","resources":{"limits":{"cpu":"2"}}"#)).await.json();
    assert_eq!(
        large["message"],
        "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
    let dry = server.ask("POST", &format!("{PODS}?dryRun=All"), pod("b", "")).await;
    assert_eq!(dry.code, 201, "{}", dry.text);
    assert_eq!(server.ask("POST", PODS, pod("b", "")).await.code, 201);
    let third = server.ask("POST", PODS, pod("d", "")).await;
    assert_eq!(
        (third.code, third.json()["message"].as_str().unwrap()),
        (
            403,
            "pods \"d\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=100m, used: \
             pods=2,requests.cpu=200m, limited: pods=2,requests.cpu=250m"
        )
    );
    let found = server.ask("GET", &format!("{core}/resourcequotas/q"), "").await.json();
    assert_eq!(found["status"]["used"]["requests.cpu"], "200m", "{found}");
    assert_eq!(found["status"]["hard"]["pods"], "2");

    // Many at once get no more than there is.
    let makes = (0..6).map(|i| server.ask("POST", MAPS, map(&format!("m{i}"), "1")));
    let codes: Vec<u16> = futures::future::join_all(makes).await.into_iter().map(|a| a.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 5, "{codes:?}");

    let strict = r#"{"metadata":{"name":"s"},"spec":{"hard":{"limits.memory":"1Gi"}}}"#;
    server.ask("POST", &format!("{core}/resourcequotas"), strict).await;
    let unsaid = server.ask("POST", PODS, pod("e", "")).await.json();
    assert!(
        unsaid["message"].as_str().unwrap().contains("failed quota: s: must specify limits.memory for: c"),
        "{unsaid}"
    );
}

/// Every combination of how a list can be asked for, and what upstream answers.
#[tokio::test]
async fn resource_versions_of_lists() {
    let server = TestServer::start().await;
    for i in 0..4 {
        server.ask("POST", MAPS, map(&format!("m{i}"), "1")).await;
    }
    let list = server.ask("GET", &format!("{MAPS}?limit=2"), "").await.json();
    let (now, token) = (
        list["metadata"]["resourceVersion"].as_str().unwrap(),
        list["metadata"]["continue"].as_str().unwrap(),
    );
    let future = now.parse::<u64>().unwrap() + 1000;
    let forbidden = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden";
    let cases: &[(String, u16, &str)] = &[
        (String::new(), 200, ""),
        ("resourceVersion=0".into(), 200, ""),
        (format!("resourceVersion={now}"), 200, ""),
        (format!("resourceVersion={now}&limit=1"), 200, ""),
        (format!("resourceVersion={now}&resourceVersionMatch=Exact"), 200, ""),
        (format!("resourceVersion={now}&resourceVersionMatch=NotOlderThan"), 200, ""),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan".into(), 200, ""),
        (format!("continue={token}"), 200, ""),
        (format!("continue={token}&resourceVersion=0"), 200, ""),
        (format!("resourceVersion={future}"), 504, "Timeout: Too large resource version"),
        ("resourceVersionMatch=Exact".into(), 422, "is forbidden unless resourceVersion is provided"),
        (
            "resourceVersion=0&resourceVersionMatch=Exact".into(),
            422,
            "\\\"exact\\\" is forbidden for resourceVersion \\\"0\\\"",
        ),
        (
            format!("resourceVersion={now}&resourceVersionMatch=Often"),
            422,
            "supported values: \\\"Exact\\\", \\\"NotOlderThan\\\", \\\"\\\"",
        ),
        (
            format!("resourceVersionMatch=Exact&continue={token}"),
            422,
            &format!(
                "[{forbidden} unless resourceVersion is provided, {forbidden} when continue is provided]"
            ),
        ),
        ("sendInitialEvents=true".into(), 422, "sendInitialEvents is forbidden for list"),
        (
            format!("continue={token}&resourceVersion={now}"),
            400,
            "specifying resource version is not allowed when using continue",
        ),
        ("continue=%25".into(), 400, "invalid continue token: continue key is not valid"),
        ("resourceVersion=abc".into(), 400, "strconv.ParseUint: parsing"),
        ("limit=abc".into(), 400, ""),
    ];
    for (query, code, text) in cases {
        let answer = server.ask("GET", &format!("{MAPS}?{query}"), "").await;
        assert_eq!(answer.code, *code, "{query}: {}", answer.text);
        assert!(answer.text.contains(text), "{query}: {}", answer.text);
    }
    // A token that goes on at the present revision shows what is there now.
    server.ask("POST", MAPS, map("m9", "1")).await;
    let newer = base64_token(r#"{"v":"meta.k8s.io/v1","rv":-1,"start":"default/m1\u0000"}"#);
    let rest = server.ask("GET", &format!("{MAPS}?continue={newer}"), "").await.json();
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|m| m["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m2", "m3", "m9"]);
}

fn base64_token(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test]
async fn a_list_whose_revision_is_gone_can_go_on() {
    let server = TestServer::start().await;
    for i in 0..4 {
        server.ask("POST", MAPS, map(&format!("m{i}"), "1")).await;
    }
    let list = server.ask("GET", &format!("{MAPS}?limit=2"), "").await.json();
    let token = list["metadata"]["continue"].as_str().unwrap();
    server.ask("DELETE", &format!("{MAPS}/m2"), "").await;
    let newest = server.ask("GET", MAPS, "").await.json();
    let newest = newest["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    server.api.config().store.compact(newest).await.unwrap();
    let gone = server.ask("GET", &format!("{MAPS}?limit=2&continue={token}"), "").await;
    assert_eq!((gone.code, gone.json()["reason"].as_str()), (410, Some("Expired")), "{}", gone.text);
    let status = gone.json();
    let newer = status["metadata"]["continue"].as_str().expect("a token to go on with");
    let rest = server.ask("GET", &format!("{MAPS}?limit=2&continue={newer}"), "").await.json();
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|m| m["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m3"], "{rest}");
    let old = list["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    assert_eq!(server.ask("GET", &exact, "").await.code, 410);
}

/// What a client takes, and in which form it gets one object, a list and a watch.
#[tokio::test]
async fn forms_of_answers() {
    const TABLE: &str = "as=Table;v=v1;g=meta.k8s.io";
    const PARTIAL: &str = "as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    const PARTIAL_LIST: &str = "as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let server = TestServer::start().await;
    server.ask("POST", MAPS, map("m", "1")).await;
    let (json, yaml, cbor, proto) =
        ("application/json", "application/yaml", "application/cbor", "application/vnd.kubernetes.protobuf");
    let cases = [
        ("", format!("{MAPS}/m"), json, "ConfigMap"),
        ("*/*", MAPS.into(), json, "ConfigMapList"),
        ("application/*;q=0.1", MAPS.into(), json, "ConfigMapList"),
        ("application/json;q=0.2, application/yaml;q=0.3", MAPS.into(), yaml, "ConfigMapList"),
        ("application/json;q=0, application/yaml;q=0.3", MAPS.into(), yaml, "ConfigMapList"),
        ("text/html, application/yaml", format!("{MAPS}/m"), yaml, "ConfigMap"),
        ("application/cbor", format!("{MAPS}/m"), cbor, "ConfigMap"),
        ("application/cbor", MAPS.into(), cbor, "ConfigMapList"),
        ("application/vnd.kubernetes.protobuf, application/json", MAPS.into(), proto, "ConfigMapList"),
        (&format!("application/json;{TABLE}"), format!("{MAPS}/m"), json, "Table"),
        (&format!("application/yaml;{TABLE}"), MAPS.into(), yaml, "Table"),
        (&format!("application/cbor;{TABLE}"), MAPS.into(), cbor, "Table"),
        // Tables have no protobuf form, so the next wish counts.
        (
            &format!("application/vnd.kubernetes.protobuf;{TABLE}, application/json"),
            MAPS.into(),
            json,
            "ConfigMapList",
        ),
        (&format!("application/json;{PARTIAL}"), format!("{MAPS}/m"), json, "PartialObjectMetadata"),
        (
            &format!("application/vnd.kubernetes.protobuf;{PARTIAL_LIST}"),
            MAPS.into(),
            proto,
            "PartialObjectMetadataList",
        ),
        (&format!("application/cbor;{PARTIAL_LIST}"), MAPS.into(), cbor, "PartialObjectMetadataList"),
        (
            "application/json;as=Table;v=v9;g=meta.k8s.io, application/json",
            MAPS.into(),
            json,
            "ConfigMapList",
        ),
    ];
    for (accept, path, form, kind) in cases {
        let (content_type, body) = bytes_of(&server, &path, accept).await;
        assert_eq!(content_type, form, "{accept} {path}");
        let tree = match form {
            "application/json" => corten_api::json::parse(&body).unwrap(),
            "application/yaml" => corten_api::yaml::parse(&body).unwrap().value,
            "application/cbor" => corten_api::cbor::decode(&body).unwrap(),
            _ => corten_api::protobuf::decode(&body).unwrap(),
        };
        assert_eq!(tree.str_at(&["kind"]), kind, "{accept} {path}");
    }
    for accept in ["text/html", "application/json;as=Table;v=v9;g=meta.k8s.io"] {
        let refused = server.ask_with("GET", MAPS, &[("accept", accept)], "").await;
        assert_eq!(refused.code, 406, "{accept}: {}", refused.text);
    }
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=1");
    for (accept, form, kind) in [
        (json.to_owned(), json, "ConfigMap"),
        (format!("{json};{TABLE}"), json, "Table"),
        (format!("{json};{PARTIAL}"), json, "PartialObjectMetadata"),
        (cbor.to_owned(), "application/cbor-seq", "ConfigMap"),
        (format!("{cbor};{TABLE}"), "application/cbor-seq", "Table"),
        (proto.to_owned(), "application/vnd.kubernetes.protobuf;stream=watch", "ConfigMap"),
        (
            format!("{proto};{PARTIAL}"),
            "application/vnd.kubernetes.protobuf;stream=watch",
            "PartialObjectMetadata",
        ),
    ] {
        let (content_type, mut body) = bytes_of(&server, &watch, &accept).await;
        assert_eq!(content_type, form, "{accept}");
        let first = match form {
            "application/json" => {
                let line = body.split(|b| *b == b'\n').next().unwrap().to_vec();
                corten_api::json::parse(&line.into()).unwrap().get("object").cloned().unwrap()
            }
            "application/cbor-seq" => {
                corten_api::cbor::decode_next(&mut body).unwrap().unwrap().get("object").cloned().unwrap()
            }
            _ => corten_api::protobuf::read_watch_frame(&mut body).unwrap().unwrap().1,
        };
        assert_eq!(first.str_at(&["kind"]), kind, "{accept}");
    }
}

async fn bytes_of(server: &TestServer, path: &str, accept: &str) -> (String, bytes::Bytes) {
    use http_body_util::BodyExt;
    let mut request = http::Request::builder().uri(path);
    if !accept.is_empty() {
        request = request.header("accept", accept);
    }
    let admin = crate::User::new("kubernetes-admin", [crate::user::MASTERS]);
    let request = request.body(crate::body::empty()).unwrap();
    let response = server.api.handle(request, crate::Peer::InProcess(admin.into())).await;
    assert_eq!(response.status(), 200, "{accept} {path}");
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    (content_type, response.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn documents_that_a_client_has_are_not_sent_again() {
    let server = TestServer::start().await;
    let aggregated = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let json = ("accept", "application/json");
    let index = server.ask("GET", "/openapi/v3", "").await.json();
    let apps = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let cases = [
        ("/api", aggregated, "public"),
        ("/apis", aggregated, "public"),
        ("/openapi/v2", json, "no-cache, private"),
        ("/openapi/v3/apis/apps/v1", json, "no-cache, private"),
        (&apps, json, "public, immutable"),
    ];
    for (path, accept, cache) in cases {
        let whole = server.ask_with("GET", path, &[accept], "").await;
        let tag = whole.headers["etag"].to_str().unwrap().to_owned();
        assert!(tag.len() > 64 && tag.starts_with('"') && tag.ends_with('"'), "{path} {tag}");
        let known = server.ask_with("GET", path, &[accept, ("if-none-match", &tag)], "").await;
        assert_eq!((known.code, known.text.as_str()), (304, ""), "{path}");
        for answer in [&whole, &known] {
            assert_eq!(answer.headers["etag"], tag, "{path}");
            assert_eq!(answer.headers["vary"], "Accept", "{path}");
            assert_eq!(answer.headers["cache-control"], cache, "{path}");
            assert_eq!(answer.headers.contains_key("expires"), cache.ends_with("immutable"), "{path}");
        }
        let other = server.ask_with("GET", path, &[accept, ("if-none-match", "\"A\"")], "").await;
        assert_eq!((other.code, &other.text), (200, &whole.text), "{path}");
    }
    let old = server.ask("GET", "/openapi/v3/apis/apps/v1?hash=AB", "").await;
    assert_eq!((old.code, old.text.as_str(), old.headers["location"].to_str().unwrap()), (301, "", &*apps));
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
async fn heads_of_paths_and_resources() {
    let server = TestServer::start().await;
    let cases = [
        ("/livez", 200, "2"),
        ("/", 200, ""),
        ("/metrics", 200, ""),
        ("/openapi/v2", 200, ""),
        ("/nowhere", 404, ""),
        ("/version", 405, ""),
        ("/api", 405, ""),
        ("/apis/apps/v1", 405, ""),
        ("/apis/none.example", 404, ""),
        ("/api/v1/namespaces", 405, ""),
        ("/api/v1/namespaces/default", 405, ""),
        ("/api/v1/namespaces/none", 405, ""),
    ];
    for (path, code, length) in cases {
        let answer = server.ask("HEAD", path, "").await;
        assert_eq!((answer.code, answer.text.as_str()), (code, ""), "{path}");
        let told = answer.headers.get("content-length").map_or("", |value| value.to_str().unwrap());
        assert!(length.is_empty() && told != "0" || told == length, "{path}: {told}");
    }
    let aggregated = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let known = server.ask_with("HEAD", "/apis", &[aggregated], "").await;
    assert!(known.code == 200 && known.text.is_empty() && known.headers.contains_key("etag"));
}
