//! What is fuzzed: one function a target, from bytes to "nothing broke". Each panics where a law is broken; refusing an input is fine.
//!
//! `cargo xtask fuzz` runs them on any toolchain, and the targets of `fuzz/` (cargo-fuzz) take in this same file.

use bytes::Bytes;
use corten_api::apply::{self, Manager, Target as Written};
use corten_api::kind::Context;
use corten_api::schema::{self, Mode, SchemaRef};
use corten_api::selector::{FieldSelector, LabelSelector};
use corten_api::table::{self, Include};
use corten_api::{Value, cbor, json, kinds, meta, patch, protobuf, quantity, yaml};

/// A function that is fed with anything.
pub struct Target {
    /// As on the command line.
    pub name: &'static str,
    /// Panics where a law is broken.
    pub run: fn(&[u8]),
    /// How many JSON documents an input holds, [`SEPARATOR`] between them; 0 for plain bytes.
    pub documents: usize,
}

/// Between the documents of one input.
pub const SEPARATOR: u8 = 0x1e;
/// Requests are made at this time.
const NOW_MS: i64 = 1_700_000_000_000;

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "json", run: json_codec, documents: 1 },
    Target { name: "yaml", run: yaml_codec, documents: 0 },
    Target { name: "protobuf", run: protobuf_codec, documents: 0 },
    Target { name: "cbor", run: cbor_codec, documents: 0 },
    Target { name: "json_patch", run: json_patch, documents: 2 },
    Target { name: "merge_patch", run: merge_patch, documents: 2 },
    Target { name: "strategic", run: strategic_patch, documents: 2 },
    Target { name: "apply", run: apply_twice, documents: 2 },
    Target { name: "selectors", run: selectors, documents: 0 },
    Target { name: "kinds", run: kind_hooks, documents: 2 },
];

fn json_codec(input: &[u8]) {
    let Ok(strict) = json::parse_strict(&Bytes::copy_from_slice(input)) else { return };
    let text = json::to_vec(&strict.value);
    let again = json::parse(&text.into()).expect("what is written can be read");
    assert_eq!(again, strict.value, "JSON reads back what it wrote");
}

fn yaml_codec(input: &[u8]) {
    let Ok(document) = yaml::parse(input) else { return };
    let text = yaml::to_string(&document.value);
    let again = yaml::parse(text.as_bytes()).map(|d| d.value);
    assert_eq!(again.as_ref(), Ok(&document.value), "YAML reads back what it wrote: {text}");
}

fn protobuf_codec(input: &[u8]) {
    let body = Bytes::copy_from_slice(input);
    let mut stream = body.clone();
    while let Ok(Some(_)) = protobuf::read_watch_frame(&mut stream) {}
    let Ok(value) = protobuf::decode(&body) else { return };
    let Ok(written) = protobuf::encode(&value) else { return };
    let again = protobuf::decode(&written.into()).expect("what is written can be read");
    let twice = protobuf::encode(&again).expect("what was read can be written");
    let third = protobuf::decode(&twice.into()).expect("what is written can be read");
    assert_eq!(again, third, "protobuf settles");
}

fn cbor_codec(input: &[u8]) {
    let body = Bytes::copy_from_slice(input);
    let mut stream = body.clone();
    while let Ok(Some(_)) = cbor::decode_next(&mut stream) {}
    let Ok(value) = cbor::decode(&body) else { return };
    let again = cbor::decode(&cbor::encode(&value).into()).expect("what is written can be read");
    assert_eq!(again, value, "CBOR reads back what it wrote");
}

/// The JSON documents of an input; `None` unless there are two.
fn pair(input: &[u8]) -> Option<(Value, Value)> {
    let mut parts = input.splitn(2, |b| *b == SEPARATOR);
    let mut next = || json::parse(&Bytes::copy_from_slice(parts.next()?)).ok();
    Some((next()?, next()?))
}

fn writable(value: &Value) {
    let again = json::parse(&json::to_vec(value).into()).expect("what a patch makes can be written");
    assert_eq!(&again, value, "what a patch makes is JSON");
}

fn json_patch(input: &[u8]) {
    let Some((mut object, patch)) = pair(input) else { return };
    if patch::json::apply(&mut object, &patch).is_ok() {
        writable(&object);
    }
}

fn merge_patch(input: &[u8]) {
    let Some((object, patch)) = pair(input) else { return };
    let mut once = object.clone();
    if patch::merge::apply(&mut once, patch.clone()).is_ok() {
        writable(&once);
        let mut twice = once.clone();
        patch::merge::apply(&mut twice, patch).expect("a merge that was done can be done again");
        assert_eq!(twice, once, "a merge patch done twice changes nothing");
    }
}

fn strategic_patch(input: &[u8]) {
    let Some((mut object, patch)) = pair(input) else { return };
    let schema = schema_of(&object).or_else(|| schema::for_kind("apps", "v1", "Deployment"));
    let Some(schema) = schema else { return };
    if patch::strategic::apply(&mut object, patch, schema).is_ok() {
        writable(&object);
    }
}

fn apply_twice(input: &[u8]) {
    let Some((live, wanted)) = pair(input) else { return };
    let (group, version, kind) = names(&wanted);
    let api_version = wanted.str_at(&["apiVersion"]).to_owned();
    let target = Written::new(schema::for_kind(&group, &version, &kind), &api_version, &kind);
    let manager = Manager { name: "fuzz", subresource: "", time: "2026-01-01T00:00:00Z" };
    let _ = apply::apply_patch(Some(&live), &wanted, &target, &manager, false);
    let Ok(made) = apply::apply_patch(Some(&live), &wanted, &target, &manager, true) else { return };
    if let Ok(again) = apply::apply_patch(Some(&made), &wanted, &target, &manager, false) {
        assert_eq!(again, made, "an apply done twice changes nothing");
    }
    let other = Manager { name: "other", ..manager };
    let mut changed = live;
    apply::track_update(Some(&made), &mut changed, &target, &other);
}

fn selectors(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let written = selector.to_string();
        let again = LabelSelector::parse(&written).expect("a written selector can be read");
        assert_eq!(again.to_string(), written, "label selectors settle");
        let _ = selector.matches_with(|key| (key.len() > 1).then_some("a"));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        // Terms are put in order as they were written (`z==a` before `z=b`), and are all written with one `=`: as upstream does it.
        let once = FieldSelector::parse(&selector.to_string()).expect("a written selector can be read");
        let twice = FieldSelector::parse(&once.to_string()).expect("a written selector can be read");
        assert_eq!(once, twice, "field selectors settle");
        let _ = selector.matches_with(|_| "a");
    }
    if let Ok(quantity) = quantity::Quantity::parse(text) {
        let written = quantity.to_string();
        let again = quantity::Quantity::parse(&written).expect("a written quantity can be read");
        assert_eq!(again.to_string(), written, "quantities settle");
    }
}

/// Two states of an object through everything that the API server does to objects: types and defaults, hooks, rows, protobuf.
fn kind_hooks(input: &[u8]) {
    let Some((first, second)) = pair(input) else { return };
    let Some(old) = written(first, None) else { return };
    written(second, Some(&old));
}

fn written(mut object: Value, old: Option<&Value>) -> Option<Value> {
    let (group, version, name) = names(&object);
    let kind = kinds::builtin_kind(&group, &name)?;
    let schema = schema::for_kind(&group, &version, &name)?;
    schema::conform(&mut object, schema, Mode::REQUEST).ok()?;
    if let Some(default) = kind.hooks.default {
        default(&mut object);
    }
    if let Some(convert) = kind.served(&version).and_then(|v| v.convert) {
        (convert.to_storage)(&mut object);
    }
    let cx = Context { group: "", version: &version, subresource: "", now_ms: NOW_MS };
    let old = old.filter(|old| old.str_at(&["kind"]) == name);
    match (old, kind.hooks.prepare_create, kind.hooks.prepare_update) {
        (None, Some(prepare), _) => prepare(&mut object, &cx),
        (Some(old), _, Some(prepare)) => prepare(&mut object, old, &cx),
        _ => {}
    }
    match old {
        None => drop(meta::validate_create(kind, &object)),
        Some(old) => drop(meta::validate_update(kind, &object, old)),
    }
    kind.hooks.validate.map(|validate| validate(&object, old, &cx));
    kind.hooks.warnings.map(|warnings| warnings(&object, old));
    table::row(kind, &object, Include::Object, NOW_MS);
    if let Some(delete) = kind.hooks.graceful_delete {
        let _ = delete(&mut object.clone(), Some(1));
    }
    let _ = protobuf::encode(&object);
    Some(object)
}

fn names(object: &Value) -> (String, String, String) {
    let api_version = object.str_at(&["apiVersion"]);
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    (group.to_owned(), version.to_owned(), object.str_at(&["kind"]).to_owned())
}

fn schema_of(object: &Value) -> Option<SchemaRef<'static>> {
    let (group, version, kind) = names(object);
    schema::for_kind(&group, &version, &kind)
}
