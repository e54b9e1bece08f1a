//! Kinds that the server does something for: pods, services, events, quotas, and what it makes itself.

use super::{MAPS, POD, PODS, map, server_with_account};
use crate::testing::TestServer;

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
    assert_eq!(pod["metadata"]["generation"], 1, "a binding is no new wish");
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
async fn evictions_respect_budgets() {
    let server = server_with_account().await;
    server.ask("POST", PODS, POD).await;
    let mut pod = server.ask("GET", &format!("{PODS}/a"), "").await.json();
    pod["status"]["phase"] = "Running".into();
    server.ask("PUT", &format!("{PODS}/a/status"), pod.to_string()).await;
    let kept = [("content-type", "application/merge-patch+json")];
    server.ask_with("PATCH", &format!("{PODS}/a"), &kept, r#"{"metadata":{"finalizers":["a.b/c"]}}"#).await;
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
    let ending = server.ask("GET", &format!("{PODS}/a"), "").await.json();
    let conditions = ending["status"]["conditions"].as_array().unwrap();
    let why = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (why["status"].as_str(), why["reason"].as_str()),
        (Some("True"), Some("EvictionByEvictionAPI"))
    );
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
async fn a_server_on_loopback_has_its_endpoints() {
    let local = |c: &mut crate::Config| c.advertise_address = Some(std::net::Ipv4Addr::LOCALHOST.into());
    let server = TestServer::start_with(local).await;
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(server.ask("GET", path, "").await.code, 200);
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

#[tokio::test]
async fn an_ingress_without_a_class_gets_the_default() {
    let server = TestServer::start().await;
    let group = "/apis/networking.k8s.io/v1";
    let ingresses = format!("{group}/namespaces/default/ingresses");
    let ingress = |name: &str, more: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}"{more}}},"spec":{{"defaultBackend":{{"service":{{"name":"s","port":{{"number":80}}}}}}}}}}"#
        )
    };
    let before = server.ask("POST", &ingresses, ingress("before", "")).await;
    assert_eq!(before.code, 201, "{}", before.text);
    assert!(before.json()["spec"].get("ingressClassName").is_none());
    let class = r#"{"metadata":{"name":"main","annotations":{"ingressclass.kubernetes.io/is-default-class":"true"}},"spec":{"controller":"example.com/c"}}"#;
    assert_eq!(server.ask("POST", &format!("{group}/ingressclasses"), class).await.code, 201);
    let after = server.ask("POST", &ingresses, ingress("after", "")).await.json();
    assert_eq!(after["spec"]["ingressClassName"], "main");
    let annotated = r#","annotations":{"kubernetes.io/ingress.class":"old"}"#;
    let old = server.ask("POST", &ingresses, ingress("old", annotated)).await.json();
    assert!(old["spec"].get("ingressClassName").is_none(), "{old}");
    // Changes are not filled in: a class that was taken away stays away.
    let label = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    let path = format!("{ingresses}/before");
    let merge = [("content-type", "application/merge-patch+json")];
    let same = server.ask_with("PATCH", &path, &merge, label).await;
    assert_eq!(same.code, 200, "{}", same.text);
    assert!(same.json()["spec"].get("ingressClassName").is_none());
}
