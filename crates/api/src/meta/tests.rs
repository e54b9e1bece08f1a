use super::*;
use crate::kinds::{builtin_kind, testing::tree};

fn create(group: &str, kind: &str, yaml: &str) -> Vec<String> {
    let kind = builtin_kind(group, kind).expect("built in");
    validate_create(kind, &tree(yaml)).iter().map(ToString::to_string).collect()
}

#[test]
fn bad_metadata_of_a_new_object() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("ConfigMap", "metadata: {name: ok, namespace: default}", &[]),
        ("ConfigMap", "metadata: {name: ok}", &["metadata.namespace: Required value"]),
        (
            "Node",
            "metadata: {name: ok, namespace: x}",
            &["metadata.namespace: Forbidden: not allowed on this type"],
        ),
        (
            "ConfigMap",
            "metadata: {namespace: default}",
            &["metadata.name: Required value: name or generateName is required"],
        ),
        (
            "ConfigMap",
            "metadata: {name: a, namespace: d, labels: {'a b': 'c'}}",
            &[
                "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or \
               '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
               regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ],
        ),
        (
            "ConfigMap",
            "metadata: {name: a, namespace: d, ownerReferences: [{apiVersion: a/b/c, kind: K, name: nn}]}",
            &[
                "metadata.ownerReferences[0].apiVersion: Invalid value: \"a/b/c\": must be <group>/<version> or <version>",
                "metadata.ownerReferences[0].uid: Required value: must not be empty",
            ],
        ),
    ];
    for (kind, yaml, wanted) in cases {
        assert_eq!(create("", kind, yaml), *wanted, "{yaml}");
    }
}

#[test]
fn annotations_have_a_size() {
    let big = "x".repeat(ANNOTATIONS_MAX_BYTES);
    let yaml = format!("metadata: {{name: a, namespace: d, annotations: {{K: {big}}}}}");
    assert_eq!(
        create("", "ConfigMap", &yaml),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
}

#[test]
fn updates_keep_what_is_immutable() {
    let kind = builtin_kind("", "ConfigMap").expect("built in");
    let old = tree(
        "metadata: {name: a, namespace: d, uid: u, resourceVersion: '1', creationTimestamp: t, \
         deletionTimestamp: t, finalizers: [x.y/z]}",
    );
    let mut new = tree("metadata: {name: b, namespace: d, uid: v, finalizers: [x.y/z, x.y/a]}");
    carry_over(&mut new, &old);
    let errors: Vec<String> = validate_update(kind, &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
             finalizers []string{\"x.y/a\"}",
            "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
            "metadata.name: Invalid value: \"b\": field is immutable",
            "metadata.uid: Invalid value: \"v\": field is immutable",
        ]
    );
}

#[test]
fn selectors() {
    let selector = tree("{matchLabels: {a: b}, matchExpressions: [{key: c, operator: NotIn, values: [d]}]}");
    assert!(selector_matches(&selector, Some(&tree("{a: b}"))));
    assert!(!selector_matches(&selector, Some(&tree("{a: b, c: d}"))));
    assert!(!selector_matches(&selector, None));
    let mut errors = Vec::new();
    let bad = tree("{matchExpressions: [{key: c, operator: In}, {key: c, operator: Is}]}");
    label_selector(&mut errors, Some(&bad), &Path::root("selector"));
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "selector.matchExpressions[1].operator: Invalid value: \"Is\": not a valid selector operator",
        ]
    );
}
