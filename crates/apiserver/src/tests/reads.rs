//! Reads: lists, watches, revisions, and the forms in which answers come.

use super::{MAPS, map};
use crate::testing::TestServer;

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
async fn a_new_object_shows_the_counters_that_go_always_writes() {
    let server = TestServer::start().await;
    let rc = r#"{"kind":"ReplicationController","apiVersion":"v1","metadata":{"name":"r"},"spec":{"template":
        {"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}},"status":{"replicas":9}}"#;
    let made = server.ask("POST", "/api/v1/namespaces/default/replicationcontrollers", rc).await.json();
    assert_eq!(made["status"], serde_json::json!({"replicas": 0}));
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

fn base64_token(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}
