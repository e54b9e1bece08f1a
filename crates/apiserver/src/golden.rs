//! Our own cases of what each kind is given by default and what of it is refused, asked of a whole server: `testdata/kinds`.
//!
//! A case is a YAML document: `object` is created (or put in the place of `old`) as a dry run. Either `defaults` says what stands at
//! some paths of the answer (`null`: nothing), or `refused` says what is wrong with it, every finding, with the `code` (422).

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value as Json;

use crate::testing::{Answer, TestServer};

/// Kinds that cannot be made, and why.
const CANNOT_BE_MADE: &[(&str, &str)] = &[("v1/ComponentStatus", "is only read")];
/// Kinds of which nothing is refused that could be written at all, and why.
const TAKE_ANYTHING: &[(&str, &str)] =
    &[("authentication.k8s.io/v1/SelfSubjectReview", "the answer depends on the asker alone")];
/// Kinds that are given nothing: a create is passed on to another object.
const GIVEN_NOTHING: &[(&str, &str)] = &[("v1/Binding", "changes a pod")];

fn cases() -> Vec<(String, Json)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/kinds");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let documents = corten_api::yaml::parse_all(&std::fs::read(&file).unwrap()).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        for (at, document) in documents.iter().enumerate() {
            let text = corten_api::json::to_string(&document.value);
            cases.push((format!("{name} {}", at + 1), serde_json::from_str(&text).unwrap()));
        }
    }
    cases
}

fn text<'a>(object: &'a Json, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

fn kind_of(object: &Json) -> String {
    format!("{}/{}", text(object, "apiVersion"), text(object, "kind"))
}

/// Where objects of the kind are created.
fn collection(server: &TestServer, object: &Json) -> String {
    let api_version = text(object, "apiVersion");
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let kinds = server.api.kinds().snapshot();
    let kind =
        kinds.kind(group, version, text(object, "kind")).unwrap_or_else(|| panic!("{object} is of no kind"));
    let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{api_version}") };
    match kind.scope {
        corten_api::kind::Scope::Namespaced => format!("{root}/namespaces/default/{}", kind.plural),
        corten_api::kind::Scope::Cluster => format!("{root}/{}", kind.plural),
    }
}

async fn ask(server: &TestServer, case: &Json) -> Answer {
    let object = &case["object"];
    let path = collection(server, object);
    if case["old"].is_null() {
        return server
            .ask("POST", &format!("{path}?dryRun=All&fieldValidation=Strict"), object.to_string())
            .await;
    }
    let made = server.ask("POST", &path, case["old"].to_string()).await;
    assert_eq!(made.code, 201, "the old object: {}", made.text);
    let path = format!("{path}/{}", text(&object["metadata"], "name"));
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = made.json()["metadata"]["resourceVersion"].clone();
    let answer = server.ask("PUT", &format!("{path}?dryRun=All"), object.to_string()).await;
    let gone = server.ask("DELETE", &format!("{path}?gracePeriodSeconds=0"), "").await;
    assert!(gone.code < 300, "{}", gone.text);
    answer
}

/// In the order of the alphabet: upstream tells what it has rules for in its code before what it has generated rules for.
fn findings(answer: &Json) -> Vec<String> {
    let mut found = told(answer);
    found.sort();
    found
}

fn told(answer: &Json) -> Vec<String> {
    let text = |value: &Json, key: &str| text(value, key).to_owned();
    match answer["details"]["causes"].as_array().filter(|_| answer["reason"] == "Invalid") {
        Some(causes) => {
            causes.iter().map(|c| format!("{}: {}", text(c, "field"), text(c, "message"))).collect()
        }
        None => vec![text(answer, "message")],
    }
}

/// What is wrong with the answer to a case.
fn differences(case: &Json, answer: &Answer) -> Vec<String> {
    let got = answer.json();
    if let Some(wanted) = case["defaults"].as_object() {
        if !matches!(answer.code, 200 | 201) {
            return vec![format!("is refused: {}", answer.text)];
        }
        let at = |path: &String| got.pointer(path).cloned().unwrap_or_default();
        let wrong = wanted.iter().filter(|(path, value)| at(path) != **value);
        return wrong.map(|(path, value)| format!("{path} is {}, not {value}", at(path))).collect();
    }
    let code = case["code"].as_u64().unwrap_or(422);
    let mut wanted: Vec<&str> =
        case["refused"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    wanted.sort_unstable();
    match (u64::from(answer.code) == code, findings(&got)) {
        (true, found) if found == wanted => Vec::new(),
        (_, found) => vec![format!("{} {found:#?}", answer.code)],
    }
}

#[tokio::test]
async fn every_case_is_as_it_says() {
    let server = TestServer::start().await;
    let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    assert_eq!(server.ask("POST", "/api/v1/namespaces/default/serviceaccounts", account).await.code, 201);
    let mut wrong = Vec::new();
    let cases = cases();
    for (name, case) in &cases {
        let answer = ask(&server, case).await;
        let found = differences(case, &answer);
        wrong.extend(found.iter().map(|what| format!("{name} ({}): {what}", kind_of(&case["object"]))));
    }
    assert!(wrong.is_empty(), "{} findings in {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn every_kind_has_a_case_of_defaults_and_one_that_is_refused() {
    let cases = cases();
    let with = |what: &str| -> BTreeSet<String> {
        cases
            .iter()
            .filter(|(_, case)| !case[what].is_null())
            .map(|(_, case)| kind_of(&case["object"]))
            .collect()
    };
    let (defaulted, refused) = (with("defaults"), with("refused"));
    let is = |list: &[(&str, &str)], name: &str| list.iter().any(|(kind, _)| *kind == name);
    let mut missing = Vec::new();
    for kind in corten_api::kinds::builtin() {
        for version in kind.versions.iter().filter(|v| v.served) {
            let name = format!("{}/{}", kind.api_version(&version.name), kind.kind);
            if is(CANNOT_BE_MADE, &name) {
                continue;
            }
            if !defaulted.contains(&name) && !is(GIVEN_NOTHING, &name) {
                missing.push(format!("{name}: no case of defaults"));
            }
            if !refused.contains(&name) && !is(TAKE_ANYTHING, &name) {
                missing.push(format!("{name}: no case that is refused"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
