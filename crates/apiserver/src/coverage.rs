//! Nothing in the kind table is forgotten anywhere: routes, both forms of discovery, both OpenAPI documents, protobuf, columns.

use std::collections::BTreeSet;

use corten_api::kind::{Kind, Scope, Subresource, Verb, Version};
use corten_api::{Value, kinds, protobuf, schema};
use serde_json::Value as Json;

use crate::testing::TestServer;

/// Kinds that have only the two columns that every kind has, upstream too.
const PLAIN_TABLES: &[&str] = &[
    "Binding",
    "LimitRange",
    "Role",
    "ClusterRole",
    "CustomResourceDefinition",
    "SelfSubjectReview",
    "TokenReview",
    "LocalSubjectAccessReview",
    "SelfSubjectAccessReview",
    "SelfSubjectRulesReview",
    "SubjectAccessReview",
];

fn each(mut look: impl FnMut(&Kind, &Version)) {
    for kind in kinds::builtin() {
        kind.versions.iter().filter(|v| v.served).for_each(|version| look(kind, version));
    }
}

fn root(kind: &Kind, version: &Version) -> String {
    let api_version = kind.api_version(&version.name);
    if kind.group.is_empty() { format!("/api/{api_version}") } else { format!("/apis/{api_version}") }
}

/// `/apis/apps/v1/namespaces/NAMESPACE/deployments`
fn collection(kind: &Kind, version: &Version, namespace: &str) -> String {
    match kind.scope {
        Scope::Namespaced => format!("{}/namespaces/{namespace}/{}", root(kind, version), kind.plural),
        Scope::Cluster => format!("{}/{}", root(kind, version), kind.plural),
    }
}

/// Method and whether it is the collection that is asked.
fn request_of(verb: Verb) -> (&'static str, bool) {
    match verb {
        Verb::Create => ("POST", true),
        Verb::List | Verb::Watch => ("GET", true),
        Verb::DeleteCollection => ("DELETE", true),
        Verb::Get => ("GET", false),
        Verb::Update => ("PUT", false),
        Verb::Patch => ("PATCH", false),
        Verb::Delete => ("DELETE", false),
    }
}

fn subresource_verbs(of: &Subresource) -> Vec<&'static str> {
    match of {
        Subresource::Status | Subresource::Scale { .. } => vec!["get", "patch", "update"],
        Subresource::Action { .. } => vec!["create"],
        Subresource::Object { verbs, .. } | Subresource::Connect { verbs, .. } => verbs.to_vec(),
    }
}

fn method_of(verb: &str) -> &'static str {
    match verb {
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        _ => "GET",
    }
}

/// Was the request led to the kind? Then it is about the kind or its body; no route says neither.
fn led_somewhere(code: u16, answer: &Json) -> bool {
    code != 405 && answer["message"] != "the server could not find the requested resource"
}

#[tokio::test]
async fn every_verb_is_routed_and_no_other() {
    let server = TestServer::start().await;
    let mut wrong = Vec::new();
    let patch = ("content-type", "application/merge-patch+json");
    for kind in kinds::builtin() {
        for version in kind.versions.iter().filter(|v| v.served) {
            let list = collection(kind, version, "nowhere");
            for verb in Verb::ALL.iter().filter(|v| **v != Verb::Watch) {
                let (method, on_list) = request_of(*verb);
                let path = if on_list { list.clone() } else { format!("{list}/nobody") };
                // A dry run: deleting every namespace for real would be thorough.
                let path = if method == "GET" { path } else { format!("{path}?dryRun=All") };
                let body = if method == "PATCH" { "{}" } else { "" };
                let answer = server.ask_with(method, &path, &[patch], body).await;
                if led_somewhere(answer.code, &answer.json()) != kind.has_verb(*verb) {
                    wrong.push(format!("{method} {path}: {} {}", answer.code, answer.text));
                }
            }
            for sub in kind.subresources.iter() {
                for verb in ["create", "get", "update", "patch", "delete"] {
                    let path = format!("{list}/nobody/{}", sub.name());
                    let method = method_of(verb);
                    let body = if method == "PATCH" { "{}" } else { "" };
                    let answer = server.ask_with(method, &path, &[patch], body).await;
                    let is_stream = matches!(sub, Subresource::Connect { .. });
                    let served = subresource_verbs(sub).contains(&verb);
                    if !is_stream && led_somewhere(answer.code, &answer.json()) != served
                        || is_stream && served && !led_somewhere(answer.code, &answer.json())
                    {
                        wrong.push(format!("{method} {path}: {} {}", answer.code, answer.text));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} requests were led wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn words(list: &Json) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned)).collect()
}

fn verbs_of(kind: &Kind) -> BTreeSet<String> {
    kind.verbs.iter().map(|verb| verb.as_str().to_owned()).collect()
}

#[tokio::test]
async fn every_kind_and_subresource_is_in_discovery() {
    let server = TestServer::start().await;
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let mut all = server.ask_with("GET", "/api", &[accept], "").await.json();
    let more = server.ask_with("GET", "/apis", &[accept], "").await.json();
    all["items"].as_array_mut().unwrap().extend(more["items"].as_array().unwrap().iter().cloned());
    let mut wrong = Vec::new();
    for kind in kinds::builtin() {
        for version in kind.versions.iter().filter(|v| v.served) {
            let list = server.ask("GET", &root(kind, version), "").await.json();
            let group = all["items"]
                .as_array()
                .unwrap()
                .iter()
                .find(|g| g["metadata"]["name"].as_str().unwrap_or_default() == kind.group);
            let served = group.and_then(|g| {
                g["versions"].as_array().unwrap().iter().find(|v| v["version"] == version.name.as_ref())
            });
            let resource = served.and_then(|v| {
                v["resources"].as_array().unwrap().iter().find(|r| r["resource"] == kind.plural.as_ref())
            });
            let name = format!("{}/{}", root(kind, version), kind.plural);
            let legacy = |wanted: &str| {
                let found = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == wanted);
                found.map(|r| words(&r["verbs"]))
            };
            if legacy(&kind.plural) != Some(verbs_of(kind)) {
                wrong.push(format!("{name} in the list of resources"));
            }
            let Some(resource) = resource else {
                wrong.push(format!("{name} in aggregated discovery"));
                continue;
            };
            if words(&resource["verbs"]) != verbs_of(kind)
                || resource["responseKind"]["kind"] != kind.kind.as_ref()
            {
                wrong.push(format!("{name} in aggregated discovery: {resource}"));
            }
            for sub in kind.subresources.iter() {
                let wanted: BTreeSet<String> =
                    subresource_verbs(sub).into_iter().map(str::to_owned).collect();
                let aggregated = resource["subresources"]
                    .as_array()
                    .and_then(|subs| subs.iter().find(|s| s["subresource"] == sub.name()))
                    .map(|s| words(&s["verbs"]));
                if legacy(&format!("{}/{}", kind.plural, sub.name())).as_ref() != Some(&wanted)
                    || aggregated.as_ref() != Some(&wanted)
                {
                    wrong.push(format!("{name}/{} in discovery", sub.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Adds what a document does not say of a kind.
fn missing_in(
    document: &Json,
    definitions: &Json,
    kind: &Kind,
    version: &Version,
    missing: &mut Vec<String>,
) {
    let list = collection(kind, version, "{namespace}");
    let operation = |path: &str, method: &str| !document["paths"][path][method.to_lowercase()].is_null();
    for verb in kind.verbs.iter() {
        let (method, on_list) = request_of(*verb);
        let path = if on_list { list.clone() } else { format!("{list}/{{name}}") };
        if !operation(&path, method) {
            missing.push(format!("{method} {path}"));
        }
    }
    for sub in kind.subresources.iter() {
        let path = format!("{list}/{{name}}/{}", sub.name());
        for verb in subresource_verbs(sub) {
            if !operation(&path, method_of(verb)) {
                missing.push(format!("{} {path}", method_of(verb)));
            }
        }
    }
    let definition = &definitions[version.message.as_ref()];
    let named = definition["x-kubernetes-group-version-kind"].as_array().is_some_and(|list| {
        list.iter().any(|k| {
            k["kind"] == kind.kind.as_ref()
                && k["group"] == kind.group.as_ref()
                && k["version"] == version.name.as_ref()
        })
    });
    if !named {
        missing.push(format!("{} with its group, version and kind", version.message));
    }
}

#[tokio::test]
async fn every_operation_is_in_both_openapi_documents() {
    let server = TestServer::start().await;
    let second = server.ask("GET", "/openapi/v2", "").await.json();
    let mut missing = Vec::new();
    for kind in kinds::builtin() {
        for version in kind.versions.iter().filter(|v| v.served) {
            let third = server.ask("GET", &format!("/openapi/v3{}", root(kind, version)), "").await.json();
            missing_in(&third, &third["components"]["schemas"], kind, version, &mut missing);
            missing_in(&second, &second["definitions"], kind, version, &mut missing);
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_kind_has_protobuf_and_columns() {
    each(|kind, version| {
        let name = kind.kind.as_ref();
        let message =
            schema::for_kind(&kind.group, &version.name, name).unwrap_or_else(|| panic!("{name}: no schema"));
        assert!(message.wire_fields().next().is_some(), "{name}: no numbers on the wire");
        let mut object = Value::object();
        object.object_at_mut(&[]).set("kind", name);
        object.object_at_mut(&[]).set("apiVersion", kind.api_version(&version.name));
        object.object_at_mut(&["metadata"]).set("name", "a");
        let bytes = protobuf::encode(&object).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = protobuf::decode(&bytes.into()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again.str_at(&["kind"]), name);
        assert_eq!(again.str_at(&["apiVersion"]), kind.api_version(&version.name));
        let plain = PLAIN_TABLES.contains(&name);
        assert_eq!(kind.columns.is_empty(), plain, "{name}: columns");
    });
}
