//! Who may do what, and how much at once.

use super::{MAPS, POD, PODS, map, server_with_account};
use crate::testing::TestServer;

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

/// Keys of an issuer for whom `https://test` stands.
fn signing_keys() -> crate::ServiceAccountKeys {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    crate::ServiceAccountKeys {
        issuer: "https://test".into(),
        audiences: vec!["https://test".into()],
        signing_key_pem: key.serialize_pem().into_bytes(),
        verifying_keys_pem: vec![key.public_key_pem().into_bytes()],
        ..crate::ServiceAccountKeys::default()
    }
}

#[tokio::test]
async fn tokens_are_bound_to_their_account() {
    let server = TestServer::start_with(|config| {
        config.service_account = signing_keys();
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
async fn nodes_get_no_further_than_their_own() {
    use crate::user::{NODES, User};
    let server = server_with_account().await;
    let nodes = "/api/v1/nodes";
    let ask = async |method: &str, path: &str, body: &str| {
        let user = User::new("system:node:n1", [NODES]);
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let answer = server.ask_as(user, method, path, &[("content-type", kind)], body).await;
        (answer.code, answer.text)
    };
    let labelled = |key: &str| format!(r#"{{"metadata":{{"name":"n1","labels":{{"{key}":"x"}}}}}}"#);
    for key in ["node-restriction.kubernetes.io/secure", "node-role.kubernetes.io/control-plane"] {
        assert_eq!(ask("POST", nodes, &labelled(key)).await.0, 403, "{key}");
    }
    let (code, text) = ask("POST", nodes, &labelled("node.kubernetes.io/kind")).await;
    assert_eq!(code, 201, "{text}");
    let uid = server.ask("GET", "/api/v1/nodes/n1", "").await.json()["metadata"]["uid"].clone();
    let uid = uid.as_str().unwrap();

    // Mirror pods.
    let mirror = |name: &str, owner: &str, spec: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}","annotations":{{"kubernetes.io/config.mirror":"1"}},"ownerReferences":[{owner}]}},
                "spec":{{"nodeName":"n1","containers":[{{"name":"c","image":"i"}}]{spec}}}}}"#
        )
    };
    let own = format!(r#"{{"apiVersion":"v1","kind":"Node","name":"n1","uid":"{uid}","controller":true}}"#);
    server.ask("POST", "/api/v1/namespaces/default/secrets", r#"{"metadata":{"name":"s"}}"#).await;
    for (owner, spec) in [
        ("", ""),
        (&*own.replace("n1", "n2"), ""),
        (&*own.replace(uid, "other"), ""),
        (&*own.replace(",\"controller\":true", ""), ""),
        (&*own, r#","volumes":[{"name":"v","secret":{"secretName":"s"}}]"#),
        (&*own, r#","volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"p"}}]"#),
        (&*own, r#","imagePullSecrets":[{"name":"s"}]"#),
    ] {
        let (code, text) = ask("POST", PODS, &mirror("m", owner, spec)).await;
        assert_eq!(code, 403, "{owner} {spec}: {text}");
    }
    let (code, text) = ask("POST", PODS, &mirror("m", &own, "")).await;
    assert_eq!(code, 201, "{text}");
    // Made by others, it does not lead further, either.
    let others = mirror("o", &own, r#","volumes":[{"name":"v","secret":{"secretName":"s"}}]"#);
    let made = server.ask("POST", PODS, others).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(ask("GET", "/api/v1/namespaces/default/secrets/s", "").await.0, 403);

    let claims =
        r#""spec":{"nodeName":"n1","resourceClaims":[{"name":"c","resourceClaimTemplateName":"t"}],"#;
    let pod = POD.replace(r#""spec":{"#, claims);
    let pod = server.ask("POST", PODS, pod).await.json();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let (leases, csi, slices) = (
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        "/apis/storage.k8s.io/v1/csinodes",
        "/apis/resource.k8s.io/v1/resourceslices",
    );
    let slice = |node: &str| {
        format!(
            r#"{{"metadata":{{"name":"{node}"}},"spec":{{"driver":"d.example.com","nodeName":"{node}","pool":{{"name":"{node}","resourceSliceCount":1}}}}}}"#
        )
    };
    assert_eq!(server.ask("POST", slices, slice("n2")).await.code, 201);
    let token = |uid: &str| {
        format!(
            r#"{{"spec":{{"boundObjectRef":{{"apiVersion":"v1","kind":"Pod","name":"a","uid":"{uid}"}}}}}}"#
        )
    };
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    // Tokens have no key to be signed with here: 500 says that nothing was against it.
    for (method, path, body, code) in [
        ("PATCH", "/api/v1/nodes/n1", r#"{"spec":{"taints":[]}}"#, 403),
        ("PATCH", "/api/v1/nodes/n1", r#"{"metadata":{"labels":{"node.kubernetes.io/kind":null}}}"#, 200),
        ("PATCH", "/api/v1/nodes/n1", r#"{"metadata":{"labels":{"node-role.kubernetes.io/x":""}}}"#, 403),
        (
            "PATCH",
            "/api/v1/nodes/n1/status",
            r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"a","uid":"1"}]}}"#,
            403,
        ),
        ("PATCH", &format!("{PODS}/a/status"), r#"{"metadata":{"labels":{"app":"y"}}}"#, 403),
        (
            "PATCH",
            &format!("{PODS}/a/status"),
            r#"{"status":{"resourceClaimStatuses":[{"name":"c","resourceClaimName":"theirs"}]}}"#,
            403,
        ),
        ("PATCH", &format!("{PODS}/a/status"), r#"{"status":{"phase":"Running"}}"#, 200),
        ("POST", leases, r#"{"metadata":{"name":"n2"},"spec":{}}"#, 403),
        ("POST", leases, r#"{"metadata":{"name":"n1"},"spec":{}}"#, 201),
        ("POST", csi, r#"{"metadata":{"name":"n2"},"spec":{"drivers":[]}}"#, 403),
        ("POST", csi, r#"{"metadata":{"name":"n1"},"spec":{"drivers":[]}}"#, 201),
        ("POST", slices, &slice("n3"), 403),
        ("POST", slices, &slice("n1"), 201),
        ("DELETE", slices, "", 403),
        ("DELETE", &format!("{slices}/n2"), "", 403),
        ("DELETE", &format!("{slices}?fieldSelector=spec.nodeName%3Dn1"), "", 200),
        ("POST", tokens, "{}", 403),
        ("POST", tokens, &token(""), 403),
        ("POST", tokens, &token(uid), 500),
    ] {
        let (found, text) = ask(method, path, body).await;
        assert_eq!(found, code, "{method} {path} {body}: {text}");
    }
}

#[tokio::test]
async fn a_place_in_a_namespace_is_no_place_in_the_cluster() {
    use crate::user::User;
    let server = TestServer::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = r#"{"metadata":{"name":"r"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}"#;
    let binding = r#"{"metadata":{"name":"r"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},
        "subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"bob"}]}"#;
    server.ask("POST", &format!("{rbac}/roles"), role).await;
    assert_eq!(server.ask("POST", &format!("{rbac}/rolebindings"), binding).await.code, 201);
    let bob = || User::new("bob", [""; 0]);
    for (method, path, code) in [
        ("GET", "/api/v1/namespaces/default", 200),
        ("GET", "/api/v1/namespaces", 403),
        ("GET", "/api/v1/namespaces/kube-system", 403),
        ("GET", "/api/v1/namespaces/default/namespaces", 404),
        ("DELETE", "/api/v1/namespaces/default/namespaces", 404),
        ("GET", "/api/v1/namespaces/default/namespaces/kube-system", 404),
        ("DELETE", "/api/v1/namespaces/default/namespaces/kube-node-lease", 404),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
    ] {
        let answer = server.ask_as(bob(), method, path, &[], "").await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
    }
    assert_eq!(server.ask("GET", "/api/v1/namespaces/kube-node-lease", "").await.code, 200);
}

#[tokio::test]
async fn nobody_is_taken_for_the_one_who_asks_in_his_place() {
    let server = TestServer::start().await;
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let nobody = crate::User::new("bob", [""; 0]);
    let request = http::Request::builder()
        .method("POST")
        .uri(who)
        .header("impersonate-user", http::HeaderValue::from_bytes("Ünal".as_bytes()).unwrap())
        .body(crate::body::full("{}"))
        .unwrap();
    let answer = server.api.handle(request, crate::Peer::InProcess(nobody.into())).await;
    assert_eq!(answer.status(), 403, "bob may not be anybody else");
}

#[tokio::test]
async fn approving_and_signing_are_rights_of_their_own() {
    use crate::user::User;
    use base64::Engine;
    let server = TestServer::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = r#"{"metadata":{"name":"r"},"rules":[
        {"verbs":["*"],"apiGroups":["certificates.k8s.io"],"resources":["certificatesigningrequests","certificatesigningrequests/approval","certificatesigningrequests/status"]},
        {"verbs":["approve"],"apiGroups":["certificates.k8s.io"],"resources":["signers"],"resourceNames":["example.com/*"]}]}"#;
    let binding = r#"{"metadata":{"name":"r"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"r"},
        "subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"bob"}]}"#;
    server.ask("POST", &format!("{rbac}/clusterroles"), role).await;
    assert_eq!(server.ask("POST", &format!("{rbac}/clusterrolebindings"), binding).await.code, 201);
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let ask = async |method: &str, path: &str, body: &str| {
        let kind = match method {
            "PATCH" if body.starts_with('[') => "application/json-patch+json",
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let bob = User::new("bob", [""; 0]);
        let answer = server.ask_as(bob, method, path, &[("content-type", kind)], body).await;
        (answer.code, answer.text)
    };
    let request = |name: &str, signer: &str, group: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "bob");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let request = base64::engine::general_purpose::STANDARD.encode(pem);
        format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"request":"{request}","signerName":"{signer}","usages":["client auth"]}}}}"#
        )
    };
    const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    let (code, text) = ask("POST", path, &request("m", CLIENT, "system:masters")).await;
    assert!(code == 403 && text.contains("system:masters group is not allowed"), "{text}");
    for (name, signer) in [("client", CLIENT), ("other", "example.com/x")] {
        let (code, text) = ask("POST", path, &request(name, signer, "devs")).await;
        assert_eq!(code, 201, "{text}");
    }
    let approval =
        r#"{"status":{"conditions":[{"type":"Approved","status":"True","reason":"r","message":"m"}]}}"#;
    let signature = r#"[{"op":"add","path":"/status/conditions/-","value":{"type":"Failed","status":"True","reason":"r","message":"m"}}]"#;
    for (what, body, code) in [
        ("client/approval", approval, 403),
        ("other/approval", approval, 200),
        ("other/status", signature, 403),
        ("other/status", r#"{"metadata":{"labels":{"a":"b"}}}"#, 200),
    ] {
        let (found, text) = ask("PATCH", &format!("{path}/{what}"), body).await;
        assert_eq!(found, code, "{what}: {text}");
    }
}

#[tokio::test]
async fn what_is_asked_for_makes_no_series() {
    let server = TestServer::start().await;
    let nobody = || crate::user::User::new("bob", [""; 0]);
    for i in 0..9 {
        let path = format!("/apis/g{i}/v1/namespaces/default/things{i}/x/sub{i}");
        assert_eq!(server.ask_as(nobody(), "GET", &path, &[], "").await.code, 403);
        let path = format!("{PODS}/x/sub{i}");
        assert_eq!(server.ask_as(nobody(), "GET", &path, &[], "").await.code, 403);
    }
    let metrics = server.ask("GET", "/metrics", "").await.text;
    let named = |what: &str| metrics.lines().filter(|line| line.contains(what)).count();
    assert_eq!((named("things"), named("sub1")), (0, 0), "{metrics}");
    assert!(metrics.contains(r#"apiserver_request_total{verb="GET",group="",version="v1",resource="pods",subresource="",code="403"} 9"#));
}

#[tokio::test]
async fn tokens_do_not_outlive_what_only_a_finalizer_holds() {
    use std::sync::atomic::{AtomicI64, Ordering};
    static NOW_MS: AtomicI64 = AtomicI64::new(1_800_000_000_000);
    let server = TestServer::start_with(|config| {
        config.clock = std::sync::Arc::new(|| NOW_MS.load(Ordering::Relaxed));
        config.service_account = signing_keys();
    })
    .await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = r#"{"metadata":{"name":"sa","finalizers":["example.com/hold"]}}"#;
    server.ask("POST", accounts, account).await;
    let made = server.ask("POST", &format!("{accounts}/sa/token"), "{}").await;
    let token = made.json()["status"]["token"].as_str().unwrap().to_owned();
    server.ask("DELETE", &format!("{accounts}/sa"), "").await;
    assert!(server.api.authenticate_token(&token).await.is_some(), "what is under way may end");
    NOW_MS.fetch_add(62_000, Ordering::Relaxed);
    assert!(server.api.authenticate_token(&token).await.is_none());
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
