//! OpenAPI documents, derived from the kind table and the field table: what `kubectl explain`, its validation and generic
//! clients read.
//!
//! Version 3 has one document a group version and an index; version 2 is one document of everything. Building one takes
//! milliseconds and memory, so it happens at the first request, and only the bytes are kept, under the generation of the
//! kind table.

mod gnostic;
mod gnostic_v3;
mod paths;
mod schemas;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::kinds::Snapshot;
use crate::{Object, Value, discovery, json};

const TITLE: &str = "Kubernetes";

/// The two forms of the same facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

impl Form {
    /// Where definitions stand in the document.
    fn reference(self, name: &str) -> String {
        match self {
            Form::V2 => format!("#/definitions/{name}"),
            Form::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// One document as it goes out.
#[derive(Clone, Debug)]
pub struct Document {
    /// JSON, or protobuf where that was asked for.
    pub body: Bytes,
    /// Changes when the body does; part of the index's URLs and the ETag.
    pub hash: String,
}

impl Document {
    fn new(body: Vec<u8>, hash: String) -> Self {
        Document { body: Bytes::from(body), hash }
    }
}

/// A hash of all that a document is made of, so that the index costs nothing: the program's own facts (by its version and the
/// field table) and the kinds of the group version.
fn hash(kinds: &Snapshot, version: &str, key: &str) -> String {
    static FACTS: LazyLock<Vec<u8>> =
        LazyLock::new(|| Sha256::digest(include_bytes!("../../fields.tsv")).to_vec());
    let mut hash = Sha256::new();
    hash.update(&*FACTS);
    hash.update(version);
    hash.update(key);
    let group = parse_key(key).map(|(group, _)| group);
    for kind in kinds.iter().filter(|kind| group.is_none_or(|group| kind.group == group)) {
        hash.update(format!("{}/{} {:?} {:?}", kind.group, kind.plural, kind.verbs, kind.subresources));
        for version in kind.versions.iter() {
            hash.update(format!(" {} {}", version.name, version.served));
            hash.update(version.open_api.as_deref().map(json::to_vec).unwrap_or_default());
        }
    }
    format!("{:X}", hash.finalize())
}

/// Documents made so far; twice as many as there are group versions, and two.
#[derive(Debug, Default)]
pub struct Documents {
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    generation: u64,
    documents: HashMap<String, Document>,
}

impl Documents {
    /// `GET /openapi/v3/KEY`: the document of `api/v1` or `apis/GROUP/VERSION`; `None` for what is not served.
    pub fn v3(&self, kinds: &Arc<Snapshot>, version: &str, key: &str) -> Option<Document> {
        let (group, api_version) = served(kinds, key)?;
        Some(self.get(kinds, version, key, || json::to_vec(&v3_document(kinds, version, group, api_version))))
    }

    /// The same in gnostic's protobuf, under the same hash.
    pub fn v3_protobuf(&self, kinds: &Arc<Snapshot>, version: &str, key: &str) -> Option<Document> {
        let (group, api_version) = served(kinds, key)?;
        let make = || gnostic_v3::encode(&v3_document(kinds, version, group, api_version));
        let document = self.get(kinds, version, &format!("{key}.pb"), make);
        Some(Document { hash: hash(kinds, version, key), ..document })
    }

    /// `GET /openapi/v3`: where the documents are.
    pub fn v3_index(&self, kinds: &Arc<Snapshot>, version: &str) -> Document {
        let mut paths = Object::default();
        for key in keys(kinds) {
            let mut entry = Object::default();
            entry.set("serverRelativeURL", format!("/openapi/v3/{key}?hash={}", hash(kinds, version, &key)));
            paths.insert(key, entry);
        }
        let mut index = Object::default();
        index.set("paths", paths);
        Document::new(json::to_vec(&index.into()), hash(kinds, version, ""))
    }

    /// `GET /openapi/v2`
    pub fn v2(&self, kinds: &Arc<Snapshot>, version: &str) -> Document {
        self.get(kinds, version, "v2", || json::to_vec(&v2_document(kinds, version)))
    }

    /// `GET /openapi/v2` in gnostic's protobuf.
    pub fn v2_protobuf(&self, kinds: &Arc<Snapshot>, version: &str) -> Document {
        self.get(kinds, version, "v2.pb", || gnostic::encode(&v2_document(kinds, version)))
    }

    fn get(&self, kinds: &Snapshot, version: &str, key: &str, make: impl FnOnce() -> Vec<u8>) -> Document {
        {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            if made.generation != kinds.generation() {
                made.documents.clear();
                made.generation = kinds.generation();
            }
            if let Some(document) = made.documents.get(key) {
                return document.clone();
            }
        }
        let document = Document::new(make(), hash(kinds, version, key));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.generation == kinds.generation() {
            made.documents.insert(key.to_owned(), document.clone());
        }
        document
    }
}

/// The group and version of a key, where they are served.
fn served<'k>(kinds: &Snapshot, key: &'k str) -> Option<(&'k str, &'k str)> {
    let (group, version) = parse_key(key)?;
    discovery::versions(kinds, group).iter().any(|v| v == version).then_some((group, version))
}

/// `api/v1` and `apis/apps/v1` as group and version.
fn parse_key(key: &str) -> Option<(&str, &str)> {
    match key.split_once('/')? {
        ("api", version) => Some(("", version)),
        ("apis", rest) => rest.split_once('/'),
        _ => None,
    }
}

/// The keys of all documents of version 3.
fn keys(kinds: &Snapshot) -> Vec<String> {
    let mut keys = Vec::new();
    for group in discovery::groups(kinds) {
        for version in discovery::versions(kinds, &group) {
            keys.push(if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            });
        }
    }
    keys
}

fn info(version: &str) -> Object {
    let mut info = Object::default();
    info.set("title", Value::str(TITLE));
    info.set("version", version);
    info
}

fn bearer_token() -> Object {
    let mut scheme = Object::default();
    scheme.set("type", Value::str("apiKey"));
    scheme.set("description", Value::str("Bearer token"));
    scheme.set("name", Value::str("authorization"));
    scheme.set("in", Value::str("header"));
    let mut schemes = Object::default();
    schemes.set("BearerToken", scheme);
    schemes
}

fn v3_document(kinds: &Snapshot, version: &str, group: &str, api_version: &str) -> Value {
    let mut wanted = BTreeSet::new();
    let mut paths = Object::default();
    let members = kinds.iter().filter(|k| k.group == group);
    for (kind, of) in members.filter_map(|kind| Some((kind, kind.served(api_version)?))) {
        paths::of_kind(Form::V3, kind, of, &mut paths, &mut wanted);
    }
    let mut components = Object::default();
    components.set("schemas", schemas::definitions(Form::V3, kinds, wanted));
    components.set("securitySchemes", bearer_token());
    let mut document = Object::default();
    document.set("openapi", Value::str("3.0.0"));
    document.set("info", info(version));
    document.set("paths", paths);
    document.set("components", components);
    document.into()
}

fn v2_document(kinds: &Snapshot, version: &str) -> Value {
    let mut wanted = BTreeSet::new();
    let mut paths = Object::default();
    for kind in kinds.iter() {
        for of in kind.versions.iter().filter(|v| v.served) {
            paths::of_kind(Form::V2, kind, of, &mut paths, &mut wanted);
        }
    }
    let mut document = Object::default();
    document.set("swagger", Value::str("2.0"));
    document.set("info", info(version));
    document.set("paths", paths);
    document.set("definitions", schemas::definitions(Form::V2, kinds, wanted));
    document.set("securityDefinitions", bearer_token());
    let mut token = Object::default();
    token.set("BearerToken", Vec::new());
    document.set("security", vec![Value::Object(token)]);
    document.into()
}

#[cfg(test)]
mod tests;
