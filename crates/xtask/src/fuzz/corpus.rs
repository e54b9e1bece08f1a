//! What mutation starts from: the cases handed over beside the project where they stand, our own cases, and what earlier runs found.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use corten_api::{Value, cbor, json, yaml};

use super::targets::{SEPARATOR, Target};

/// Seeds that are there in any case; real ones come from the cases.
const OBJECTS: &[&str] = &[
    r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"a":"b"}},"data":{"k":"v"}}"#,
    r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","finalizers":["a","b"],"managedFields":[{"manager":"x","operation":"Apply","apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}}}}}}}]},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]}}}}"#,
];
const PATCHES: &[&str] = &[
    r#"[{"op":"add","path":"/metadata/labels/x","value":"y"},{"op":"test","path":"/kind","value":"ConfigMap"},{"op":"move","from":"/data/k","path":"/data/l"}]"#,
    r#"[{"op":"replace","path":"/spec/replicas","value":2},{"op":"remove","path":"/spec/template/spec/containers/0"},{"op":"copy","from":"/spec","path":"/spec/x"}]"#,
];
const SELECTORS: &[&str] =
    &["a=b,c!=d,e in (f,g),!h,i>1", "metadata.name=x,status.phase!=Running", "1.5Gi", "-100m", "12e3"];

/// The inputs from which a target starts.
pub fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let mut seeds = match (target.name, target.documents) {
        ("json_patch", _) => json_patches(),
        ("strategic" | "merge_patch", _) => [pairs(&objects()), golden_patches()].concat(),
        (_, 2) => pairs(&objects()),
        ("selectors", _) => [lines(SELECTORS), golden_words()].concat(),
        ("yaml", _) => {
            objects().iter().filter_map(|o| Some(yaml::to_string(&parse(o)?).into_bytes())).collect()
        }
        ("cbor", _) => objects().iter().filter_map(|o| Some(cbor::encode(&parse(o)?))).collect(),
        ("protobuf", _) => files("roundtrip", "pb"),
        _ => objects(),
    };
    let kept = crate::root().join("fuzz/corpus").join(target.name);
    seeds.extend(read_all(&kept, |_| true));
    if seeds.is_empty() {
        seeds = objects();
    }
    seeds
}

fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn parse(text: &[u8]) -> Option<Value> {
    json::parse(&Bytes::copy_from_slice(text)).ok()
}

/// Every object that we have, as JSON without spaces.
fn objects() -> Vec<Vec<u8>> {
    let mut objects = lines(OBJECTS);
    let given = files("roundtrip", "json");
    objects.extend(given.iter().filter_map(|text| Some(json::to_vec(&parse(text)?))));
    let own = crate::root().join("crates/apiserver/testdata/kinds");
    for file in read_all(&own, |name| name.ends_with(".yaml")) {
        let Ok(documents) = yaml::parse_all(&file) else { continue };
        objects.extend(documents.iter().filter_map(|d| d.value.get("object")).map(json::to_vec));
    }
    objects
}

fn pairs(objects: &[Vec<u8>]) -> Vec<Vec<u8>> {
    objects.iter().map(|object| join(object, object)).collect()
}

fn join(a: &[u8], b: &[u8]) -> Vec<u8> {
    [a, &[SEPARATOR], b].concat()
}

fn json_patches() -> Vec<Vec<u8>> {
    let all = objects();
    PATCHES.iter().flat_map(|patch| all.iter().map(|object| join(object, patch.as_bytes()))).collect()
}

fn golden_patches() -> Vec<Vec<u8>> {
    let cases = golden("strategic-merge-patch.json");
    let pair = |case: &Value| {
        let (original, patch) = (case.str_at(&["Original"]), case.str_at(&["TwoWay"]));
        (!patch.is_empty()).then(|| join(original.as_bytes(), patch.as_bytes()))
    };
    cases.iter().filter_map(pair).collect()
}

fn golden_words() -> Vec<Vec<u8>> {
    let files = ["label-selectors.json", "field-selectors.json", "quantity.json"];
    let cases = files.iter().flat_map(|file| golden(file));
    cases.map(|case| case.str_at(&["in"]).as_bytes().to_vec()).collect()
}

fn golden(file: &str) -> Vec<Value> {
    let text = handed_over("golden").and_then(|folder| fs::read(folder.join(file)).ok());
    match text.as_deref().and_then(parse) {
        Some(Value::Array(cases)) => cases,
        Some(other) => other.items_at(&["cases"]).to_vec(),
        None => Vec::new(),
    }
}

fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let ending = format!(".{ending}");
    handed_over(folder).map(|folder| read_all(&folder, |name| name.ends_with(&ending))).unwrap_or_default()
}

fn handed_over(folder: &str) -> Option<PathBuf> {
    let root = crate::root();
    let mut places = root.ancestors().map(|dir| dir.join("shared/data").join(folder));
    places.find(|path| path.exists())
}

/// The files of a folder by name, so that a seed of the generator means the same everywhere.
fn read_all(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(&wanted));
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}
