use std::collections::HashSet;

use super::*;
use crate::kind::Verb;

#[test]
fn names_are_sane_and_unique() {
    let mut seen = HashSet::new();
    for kind in builtin() {
        assert!(kind.plural.chars().all(|c| c.is_ascii_lowercase()), "{}", kind.plural);
        assert_eq!(kind.singular, kind.kind.to_lowercase());
        assert!(seen.insert((kind.group.clone(), kind.plural.clone())), "{} twice", kind.plural);
        assert_eq!(kind.versions.iter().filter(|v| v.storage).count(), 1, "{}", kind.kind);
        assert!(kind.has_verb(Verb::Create) || kind.has_verb(Verb::List));
    }
}

#[test]
fn every_message_is_in_the_field_table() {
    let table = include_str!("../../fields.tsv");
    let messages: HashSet<&str> = table.lines().filter_map(|line| line.split('\t').next()).collect();
    for version in builtin().iter().flat_map(|kind| kind.versions.iter()) {
        assert!(messages.contains(&*version.message), "{} is not in the field table", version.message);
    }
}

#[test]
fn kinds_of_crds_come_and_go() {
    let table = KindTable::default();
    let before = table.snapshot();
    let mut kind = Kind::clone(builtin_kind("", "ConfigMap").expect("built in"));
    (kind.group, kind.kind, kind.plural) = ("example.org".into(), "Widget".into(), "widgets".into());
    table.insert(kind);
    assert_eq!(table.resource("example.org", "v1", "widgets").map(|k| k.kind.clone()), Some("Widget".into()));
    assert!(table.kind("example.org", "v1", "Widget").is_some());
    assert!(table.resource("example.org", "v2", "widgets").is_none());
    assert!(before.resource("example.org", "v1", "widgets").is_none());
    table.remove("example.org", "widgets");
    assert!(table.resource("example.org", "v1", "widgets").is_none());
    assert_eq!(table.snapshot().generation(), 2);
}
