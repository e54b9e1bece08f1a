//! Discovery documents, derived from the kind table: which groups, versions, resources and verbs there are.
//!
//! Two forms: the old one (one document a group version) and the aggregated one (`apidiscovery.k8s.io/v2`, all at once).

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::kind::{Kind, Scope, Subresource, Version};
use crate::kinds::{Snapshot, builtin};
use crate::{Object, Value};

const GROUP_VERSION_FIELD: &str = "groupVersion";
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// `GET /api`. `server_address` is `host:port` for clients of every network.
pub fn api_versions(server_address: &str) -> Value {
    let mut address = Object::default();
    address.set("clientCIDR", "0.0.0.0/0");
    address.set("serverAddress", server_address);
    let mut versions = Object::default();
    versions.set("kind", "APIVersions");
    versions.set("versions", vec![Value::str("v1")]);
    versions.set("serverAddressByClientCIDRs", vec![Value::Object(address)]);
    versions.into()
}

/// `GET /apis`: every group but the core one.
pub fn group_list(kinds: &Snapshot) -> Value {
    let groups: Vec<Value> = groups(kinds)
        .into_iter()
        .filter(|g| !g.is_empty())
        .filter_map(|name| group_fields(kinds, &name))
        .map(Value::Object)
        .collect();
    let mut list = typed("APIGroupList");
    list.set("groups", groups);
    list.into()
}

/// `GET /apis/GROUP`; `None` where no version of the group is served.
pub fn group(kinds: &Snapshot, name: &str) -> Option<Value> {
    let mut group = typed("APIGroup");
    for (key, value) in group_fields(kinds, name)? {
        group.push_unchecked(key, value);
    }
    Some(group.into())
}

/// `GET /api/v1` and `GET /apis/GROUP/VERSION`; `None` where that version is not served.
pub fn resource_list(kinds: &Snapshot, group: &str, version: &str) -> Option<Value> {
    let members = members(kinds, group, version);
    if members.is_empty() {
        return None;
    }
    let mut resources: Vec<(String, Value)> = Vec::new();
    for (kind, version) in members {
        resources.push((kind.plural.to_string(), resource(kinds, kind, version)));
        for sub in kind.subresources.iter() {
            resources.push((format!("{}/{}", kind.plural, sub.name()), subresource(kind, version, sub)));
        }
    }
    resources.sort_by(|a, b| a.0.cmp(&b.0));
    let mut list = Object::default();
    list.set("kind", "APIResourceList");
    if !group.is_empty() {
        list.set("apiVersion", "v1");
    }
    list.set(GROUP_VERSION_FIELD, group_version(group, version));
    list.set("resources", resources.into_iter().map(|(_, value)| value).collect::<Vec<_>>());
    Some(list.into())
}

/// `GET /api` (`legacy`) or `GET /apis` in the aggregated form.
pub fn aggregated(kinds: &Snapshot, legacy: bool) -> Value {
    let items: Vec<Value> = groups(kinds)
        .into_iter()
        .filter(|group| group.is_empty() == legacy)
        .map(|group| aggregated_group(kinds, &group))
        .collect();
    let mut list = Object::default();
    list.set("kind", "APIGroupDiscoveryList");
    list.set("apiVersion", "apidiscovery.k8s.io/v2");
    list.set("metadata", Object::default());
    list.set("items", items);
    list.into()
}

/// The API's part of `GET /`: one path a group and group version.
pub fn paths(kinds: &Snapshot) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned(), "/apis/".to_owned()];
    for group in groups(kinds).iter().filter(|g| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions(kinds, group).iter().map(|v| format!("/apis/{group}/{v}")));
    }
    paths.sort();
    paths
}

/// All groups with a served version: core, the built-in ones in upstream's order, then those of CRDs by name.
pub fn groups(kinds: &Snapshot) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for kind in builtin() {
        if all.last().is_none_or(|last| *last != kind.group)
            && kinds.group_kind(&kind.group, &kind.kind).is_some()
        {
            all.push(kind.group.to_string());
        }
    }
    all.dedup();
    let custom: BTreeSet<String> = kinds
        .iter()
        .filter(|kind| kind.versions.iter().any(|v| v.served))
        .map(|kind| kind.group.to_string())
        .filter(|group| !all.contains(group))
        .collect();
    all.extend(custom);
    all
}

/// The served versions of a group, the preferred one first.
pub fn versions(kinds: &Snapshot, group: &str) -> Vec<String> {
    let mut all: Vec<String> = kinds
        .iter()
        .filter(|kind| kind.group == group)
        .flat_map(|kind| kind.versions.iter().filter(|v| v.served).map(|v| v.name.to_string()))
        .collect();
    all.sort_by(|a, b| compare_versions(b, a));
    all.dedup();
    all
}

/// Kubernetes' order of version names: `v2 > v1 > v1beta2 > v1beta1 > v1alpha1 > anything else` (the latter by name, reversed).
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (version_rank(a), version_rank(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// Stability (2 for general availability), major, minor.
fn version_rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..end].parse().ok()?;
    let (stability, minor) = match &rest[end..] {
        "" => (2, "0"),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => (1, minor),
            (_, Some(minor)) => (0, minor),
            _ => return None,
        },
    };
    Some((stability, major, minor.parse().ok()?))
}

/// Identifies the version in which a resource rests; clients migrate storage when it changes.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    STANDARD.encode(&digest[..8])
}

fn typed(kind: &'static str) -> Object {
    let mut object = Object::default();
    object.set("kind", kind);
    object.set("apiVersion", "v1");
    object
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn group_fields(kinds: &Snapshot, name: &str) -> Option<Object> {
    let versions: Vec<Value> = versions(kinds, name)
        .into_iter()
        .map(|version| {
            let mut entry = Object::default();
            entry.set(GROUP_VERSION_FIELD, group_version(name, &version));
            entry.set("version", version);
            entry.into()
        })
        .collect();
    let preferred = versions.first()?.clone();
    let mut group = Object::default();
    group.set("name", name);
    group.set("versions", versions);
    group.set("preferredVersion", preferred);
    Some(group)
}

/// The kinds of a group version, by plural.
fn members<'a>(kinds: &'a Snapshot, group: &str, version: &str) -> Vec<(&'a Arc<Kind>, &'a Version)> {
    let mut members: Vec<_> = kinds
        .iter()
        .filter(|kind| kind.group == group)
        .filter_map(|kind| Some((kind, kind.served(version)?)))
        .collect();
    members.sort_by(|a, b| a.0.plural.cmp(&b.0.plural));
    members
}

fn verbs(kind: &Kind) -> Vec<Value> {
    kind.verbs.iter().map(|verb| verb.as_str().into()).collect()
}

fn words(words: &[&'static str]) -> Vec<Value> {
    words.iter().map(|word| Value::str(word)).collect()
}

fn texts(texts: &[crate::kind::Text]) -> Vec<Value> {
    texts.iter().map(|text| Value::from(&**text)).collect()
}

fn resource(kinds: &Snapshot, kind: &Kind, _version: &Version) -> Value {
    let mut entry = Object::default();
    entry.set("name", &*kind.plural);
    entry.set("singularName", &*kind.singular);
    entry.set("namespaced", kind.scope == Scope::Namespaced);
    entry.set("kind", &*kind.kind);
    entry.set("verbs", verbs(kind));
    names(&mut entry, kind);
    if kind.has_verb(crate::kind::Verb::Update) {
        let (owner, storage) = kinds.storage(kind);
        entry.set("storageVersionHash", storage_version_hash(&owner.group, &storage.name, &owner.kind));
    }
    entry.into()
}

fn names(entry: &mut Object, kind: &Kind) {
    if !kind.short_names.is_empty() {
        entry.set("shortNames", texts(&kind.short_names));
    }
    if !kind.categories.is_empty() {
        entry.set("categories", texts(&kind.categories));
    }
}

fn subresource(kind: &Kind, version: &Version, sub: &Subresource) -> Value {
    let (body, verbs) = subresource_body(kind, version, sub);
    let mut entry = Object::default();
    entry.set("name", format!("{}/{}", kind.plural, sub.name()));
    entry.set("singularName", "");
    entry.set("namespaced", kind.scope == Scope::Namespaced);
    if body.0 != kind.group || body.1 != version.name {
        if !body.0.is_empty() {
            entry.set("group", body.0);
        }
        entry.set("version", body.1);
    }
    entry.set("kind", body.2);
    entry.set("verbs", words(verbs));
    entry.into()
}

/// Group, version and kind of what a subresource takes and gives, and its verbs.
fn subresource_body<'a>(
    kind: &'a Kind,
    version: &'a Version,
    sub: &'a Subresource,
) -> ((&'a str, &'a str, &'a str), &'static [&'static str]) {
    let own = |name: &'a str| (&*kind.group, &*version.name, name);
    match sub {
        Subresource::Status => (own(&kind.kind), STATUS_VERBS),
        Subresource::Scale { .. } => (("autoscaling", "v1", "Scale"), STATUS_VERBS),
        Subresource::Object { verbs, .. } => (own(&kind.kind), verbs),
        Subresource::Action { body, .. } => (*body, &["create"]),
        Subresource::Connect { kind, verbs, .. } => (own(kind), verbs),
    }
}

fn aggregated_group(kinds: &Snapshot, group: &str) -> Value {
    let versions: Vec<Value> = versions(kinds, group)
        .into_iter()
        .map(|version| {
            let resources: Vec<Value> = members(kinds, group, &version)
                .into_iter()
                .map(|(kind, version)| aggregated_resource(kind, version))
                .collect();
            let mut entry = Object::default();
            entry.set("version", version);
            entry.set("resources", resources);
            entry.set("freshness", "Current");
            entry.into()
        })
        .collect();
    let mut metadata = Object::default();
    if !group.is_empty() {
        metadata.set("name", group);
    }
    let mut item = Object::default();
    item.set("metadata", metadata);
    item.set("versions", versions);
    item.into()
}

fn aggregated_resource(kind: &Kind, version: &Version) -> Value {
    let mut entry = Object::default();
    entry.set("resource", &*kind.plural);
    entry.set("responseKind", response_kind(kind, (&kind.group, &version.name, &kind.kind)));
    entry.set("scope", if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" });
    entry.set("singularResource", &*kind.singular);
    entry.set("verbs", verbs(kind));
    names(&mut entry, kind);
    if !kind.subresources.is_empty() {
        let mut subs: Vec<&Subresource> = kind.subresources.iter().collect();
        subs.sort_by_key(|sub| sub.name());
        entry.set(
            "subresources",
            subs.into_iter().map(|s| aggregated_sub(kind, version, s)).collect::<Vec<_>>(),
        );
    }
    entry.into()
}

fn aggregated_sub(kind: &Kind, version: &Version, sub: &Subresource) -> Value {
    let (body, verbs) = subresource_body(kind, version, sub);
    let mut entry = Object::default();
    entry.set("subresource", sub.name());
    entry.set("responseKind", response_kind(kind, body));
    entry.set("verbs", words(verbs));
    entry.into()
}

/// Group and version of the answer where they are not the resource's own; CRDs name them in any case.
fn response_kind(kind: &Kind, (group, version, name): (&str, &str, &str)) -> Value {
    let own = group == kind.group && kind.served(version).is_some();
    match own && super::kinds::builtin_kind(&kind.group, &kind.kind).is_some() {
        true => group_version_kind(("", "", name)),
        false => group_version_kind((group, version, name)),
    }
}

fn group_version_kind((group, version, kind): (&str, &str, &str)) -> Value {
    let mut gvk = Object::default();
    gvk.set("group", group);
    gvk.set("version", version);
    gvk.set("kind", kind);
    gvk.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::kinds::KindTable;

    fn names(list: &Value, items: &str, field: &str) -> Vec<String> {
        list.items_at(&[items]).iter().map(|i| i.str_at(&[field]).to_owned()).collect()
    }

    #[test]
    fn groups_stand_in_upstreams_order() {
        let kinds = KindTable::default().snapshot();
        let list = group_list(&kinds);
        let names = names(&list, "groups", "name");
        assert_eq!(names[..4], ["apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io"]);
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
        let autoscaling = group(&kinds, "autoscaling").expect("served");
        assert_eq!(
            json::to_string(&autoscaling),
            r#"{"kind":"APIGroup","apiVersion":"v1","name":"autoscaling","versions":[{"groupVersion":"autoscaling/v2","version":"v2"},{"groupVersion":"autoscaling/v1","version":"v1"}],"preferredVersion":{"groupVersion":"autoscaling/v2","version":"v2"}}"#
        );
        assert!(group(&kinds, "nobody").is_none());
    }

    #[test]
    fn resources_of_a_version() {
        let kinds = KindTable::default().snapshot();
        let core = resource_list(&kinds, "", "v1").expect("served");
        let pod = core.items_at(&["resources"]).iter().find(|r| r.str_at(&["name"]) == "pods").expect("pods");
        assert_eq!(
            json::to_string(pod),
            r#"{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["po"],"categories":["all"],"storageVersionHash":"xPOwRZ+Yhw8="}"#
        );
        let all = names(&core, "resources", "name");
        assert!(all.is_sorted(), "{all:?}");
        for name in
            ["pods/log", "pods/eviction", "namespaces/finalize", "services/proxy", "serviceaccounts/token"]
        {
            assert!(all.iter().any(|n| n == name), "{name}");
        }
        assert!(resource_list(&kinds, "apps", "v1beta1").is_none());
    }

    #[test]
    fn every_kind_is_discovered_in_both_forms() {
        let kinds = KindTable::default().snapshot();
        let both: Vec<Value> = [true, false]
            .into_iter()
            .flat_map(|l| aggregated(&kinds, l).items_at(&["items"]).to_vec())
            .collect();
        for kind in builtin() {
            let group = both.iter().find(|g| g.str_at(&["metadata", "name"]) == kind.group).expect("group");
            for version in kind.versions.iter() {
                let list = resource_list(&kinds, &kind.group, &version.name).expect("served");
                assert!(
                    names(&list, "resources", "name").iter().any(|n| *n == kind.plural),
                    "{}",
                    kind.plural
                );
                let entry =
                    group.items_at(&["versions"]).iter().find(|v| v.str_at(&["version"]) == version.name);
                let resources = names(entry.expect("version"), "resources", "resource");
                assert!(resources.iter().any(|n| *n == kind.plural), "{}", kind.plural);
            }
        }
    }

    #[test]
    fn versions_have_an_order() {
        let mut all = vec!["v1alpha1", "foo", "v2", "v1beta1", "v10", "v1", "v1beta2", "bar"];
        all.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(all, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "bar", "foo"]);
    }
}
