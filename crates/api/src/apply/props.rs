//! Laws that hold for all inputs: set algebra, apply, and that nothing in patches or apply panics, whatever is thrown at it.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use super::*;
use crate::patch::{PatchError, json as json_patch, merge as merge_patch, strategic};
use crate::testdata::parse;
use crate::{Object, schema};

fn config(cases: u32) -> ProptestConfig {
    let failure_persistence = Some(Box::new(FileFailurePersistence::Off) as Box<_>);
    ProptestConfig { cases, failure_persistence, ..ProptestConfig::default() }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-3i64..4).prop_map(Value::Int),
        prop_oneof![Just(1.0), Just(-0.5)].prop_map(Value::Float),
        prop_oneof!["[a-c]", Just("delete".to_owned()), Just("replace".to_owned())].prop_map(Value::from),
    ]
}

/// Names that mean something to a walk somewhere, so that random trees reach deep.
fn key() -> impl Strategy<Value = String> {
    const KEYS: &[&str] = &[
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "status",
        "template",
        "containers",
        "name",
        "image",
        "ports",
        "containerPort",
        "protocol",
        "env",
        "volumes",
        "strategy",
        "rollingUpdate",
        "type",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "uid",
        "managedFields",
        "manager",
        "operation",
        "fieldsType",
        "fieldsV1",
        "f:spec",
        "f:containers",
        "k:{\"name\":\"a\"}",
        "k:{\"name\":1}",
        "v:1",
        "i:0",
        ".",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/finalizers",
        "$setElementOrder",
        "$deleteFromPrimitiveList/finalizers",
        "$deleteFromPrimitiveList",
        "selector",
        "tolerations",
        "nodeSelector",
        "limits",
        "resources",
        "data",
    ];
    prop_oneof![8 => proptest::sample::select(KEYS).prop_map(str::to_owned), 1 => "[a-c~/$]{0,3}"]
}

fn tree() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(6, 60, 5, |inner| {
        prop_oneof![
            2 => vec(inner.clone(), 0..4).prop_map(Value::Array),
            5 => object_of(inner),
        ]
    })
}

fn object_of(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    btree_map(key(), inner, 0..5)
        .prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (Str::from(k), v)).collect()))
}

/// A good Deployment in which one subtree is random.
fn spoiled_deployment() -> impl Strategy<Value = Value> {
    const GOOD: &str = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","finalizers":["a","b"],
        "labels":{"a":"b"},"ownerReferences":[{"uid":"u","name":"o"}],
        "managedFields":[{"manager":"x","operation":"Update","apiVersion":"apps/v1","fieldsType":"FieldsV1",
        "fieldsV1":{"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}}}}}}}]},
        "spec":{"replicas":1,"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}},
        "template":{"spec":{"volumes":[{"name":"v","emptyDir":{}}],"nodeSelector":{"a":"b"},
        "containers":[{"name":"c","image":"1","ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"A","value":"1"}]}]}}}}"#;
    (0..200usize, tree(), any::<bool>()).prop_map(|(at, subtree, keep)| {
        let mut value = parse(GOOD);
        let mut left = at % (nodes(&value) + 20);
        if !keep {
            replace_node(&mut value, &mut left, &subtree);
        }
        value
    })
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(fields) => fields.iter().map(|(_, v)| nodes(v)).sum(),
        _ => 0,
    }
}

fn replace_node(value: &mut Value, left: &mut usize, with: &Value) {
    if *left == 0 {
        *value = with.clone();
        *left = usize::MAX;
        return;
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace_node(item, left, with)),
        Value::Object(fields) => fields.iter_mut().for_each(|(_, v)| replace_node(v, left, with)),
        _ => {}
    }
}

fn any_object() -> impl Strategy<Value = Value> {
    prop_oneof![2 => spoiled_deployment(), 1 => tree()]
}

fn operations() -> impl Strategy<Value = Value> {
    let path = vec(key(), 0..4).prop_map(|keys| keys.iter().map(|k| format!("/{k}")).collect::<String>());
    let path = prop_oneof![
        path,
        Just("/metadata/finalizers/-".to_owned()),
        Just("/metadata/finalizers/-1".to_owned())
    ];
    let names = &["add", "remove", "replace", "move", "copy", "test", "x"][..];
    let operation = (proptest::sample::select(names), path.clone(), path, tree());
    let operation = operation.prop_map(|(name, path, from, value)| {
        let mut operation = Object::default();
        operation.set("op", Value::str(name));
        operation.set("path", path);
        operation.set("from", from);
        operation.set("value", value);
        Value::Object(operation)
    });
    vec(prop_oneof![9 => operation, 1 => tree()], 0..6).prop_map(Value::Array)
}

fn deployments() -> Target<'static> {
    let schema = schema::for_kind("apps", "v1", "Deployment");
    Target { reset_fields: RESET_STATUS, ..Target::new(schema, "apps/v1", "Deployment") }
}

const MANAGER: Manager<'static> = Manager { name: "kubectl", subresource: "", time: "2026-01-01T00:00:00Z" };

fn set() -> impl Strategy<Value = Set> {
    let element = prop_oneof![
        "[a-c]".prop_map(|name| PathElement::Field(name.into())),
        (0i64..2).prop_map(|n| PathElement::Value(Value::Int(n))),
        (0i64..2).prop_map(PathElement::Index),
        "[a-b]".prop_map(|name| PathElement::Key([(Str::from("name"), Value::from(name))].into())),
    ];
    vec(vec(element, 1..4), 0..12).prop_map(|paths| {
        let mut set = Set::default();
        paths.iter().for_each(|path| set.insert(path));
        set
    })
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn sets_obey_the_laws(a in set(), b in set(), c in set()) {
        let union = |a: &Set, b: &Set| a.clone().union(b.clone());
        let minus = |a: &Set, b: &Set| a.clone().difference(b);
        prop_assert_eq!(union(&a, &b), union(&b, &a));
        prop_assert_eq!(union(&union(&a, &b), &c), union(&a, &union(&b, &c)));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(union(&a, &a), a.clone());
        prop_assert_eq!(union(&minus(&a, &b), &a.intersection(&b)), a.clone());
        prop_assert!(minus(&a, &a).is_empty());
        prop_assert_eq!(minus(&a, &union(&b, &c)), minus(&minus(&a, &b), &c));
        prop_assert_eq!(a.intersects(&b), !a.intersection(&b).is_empty());
        prop_assert_eq!(a.is_subset(&b), minus(&a, &b).is_empty());
        prop_assert!(a.clone().recursive_difference(&b).is_subset(&minus(&a, &b)));
        prop_assert_eq!(a.len(), a.paths().len());
        for path in a.paths() {
            prop_assert!(a.has(&path));
            prop_assert_eq!(b.has(&path), a.intersection(&b).has(&path));
        }
        prop_assert_eq!(Set::from_fields_v1(&a.to_fields_v1()), Ok(a));
    }

    #[test]
    fn merge_patches_do_what_diff_says(a in tree(), b in tree()) {
        let (mut a, mut b) = (a, b);
        merge_patch::prune_nulls(&mut a);
        merge_patch::prune_nulls(&mut b);
        if let (Value::Object(_), Value::Object(_)) = (&a, &b) {
            if let Some(patch) = merge_patch::diff(&a, &b) {
                merge_patch::apply(&mut a, patch).unwrap();
            }
            prop_assert_eq!(a, b);
        }
    }

    #[test]
    fn strategic_patches_do_what_diff_says(a in good_spec(), b in good_spec()) {
        let pod = schema::message("io.k8s.api.core.v1.PodSpec").unwrap();
        let patch = strategic::two_way(a.as_object().unwrap(), b.as_object().unwrap(), pod).unwrap();
        let mut value = a;
        strategic::apply(&mut value, patch.into(), pod).unwrap();
        prop_assert_eq!(value, b);
    }

    #[test]
    fn applying_again_changes_nothing(live in good_spec(), given in good_spec()) {
        let pod = |spec: &Value| {
            let mut pod = parse(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}"#);
            pod.object_at_mut(&[]).set("spec", spec.clone());
            pod
        };
        let target = Target::new(schema::for_kind("", "v1", "Pod"), "v1", "Pod");
        let other = Manager { name: "other", ..MANAGER };
        let made = apply_patch(None, &pod(&live), &target, &other, false).unwrap();
        let once = apply_patch(Some(&made), &pod(&given), &target, &MANAGER, true).unwrap();
        let later = Manager { time: "2027-01-01T00:00:00Z", ..MANAGER };
        let twice = apply_patch(Some(&once), &pod(&given), &target, &later, false).unwrap();
        prop_assert_eq!(&twice, &once);
        // All that was given is there, and what was there and is not spoken of stays.
        let node = target.node();
        let found = compare::compare(&pod(&given), &once, node).unwrap();
        prop_assert!(found.removed.is_empty(), "{:?}", found.removed);
        prop_assert!(found.modified.is_empty(), "{:?}", found.modified);
        let lost = compare::compare(&pod(&live), &once, node).unwrap().removed;
        prop_assert!(lost.is_empty(), "{:?}", lost);
    }
}

/// A pod spec without surprises: unique keys, right types, in one order.
fn good_spec() -> impl Strategy<Value = Value> {
    let container = btree_map("[A-C]", "[x-z]", 0..3).prop_map(|env| {
        let item =
            |(name, value): (String, String)| parse(&format!(r#"{{"name":"{name}","value":"{value}"}}"#));
        env.into_iter().map(item).collect::<Vec<_>>()
    });
    let containers = btree_map("[a-d]", ("[1-3]", container), 1..4);
    let selector = btree_map("[a-c]", "[x-z]", 1..3);
    (containers, selector, 0i64..3).prop_map(|(containers, selector, grace)| {
        let containers = containers.into_iter().map(|(name, (image, env))| {
            let mut container = Object::default();
            container.set("name", name);
            container.set("image", image);
            if !env.is_empty() {
                container.set("env", env);
            }
            Value::Object(container)
        });
        let selector = selector.into_iter().map(|(k, v)| (Str::from(k), Value::from(v)));
        let mut spec = Object::default();
        spec.set("containers", containers.collect::<Vec<_>>());
        spec.set("nodeSelector", selector.collect::<Object>());
        spec.set("terminationGracePeriodSeconds", grace);
        spec.into()
    })
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn patches_never_panic(object in any_object(), patch in any_object(), operations in operations()) {
        let deployment = schema::for_kind("apps", "v1", "Deployment").unwrap();
        let statuses = [
            json_patch::apply(&mut object.clone(), &operations),
            json_patch::apply(&mut object.clone(), &patch),
            merge_patch::apply(&mut object.clone(), patch.clone()),
            strategic::apply(&mut object.clone(), patch.clone(), deployment),
        ];
        for error in statuses.into_iter().filter_map(std::result::Result::err) {
            let status: Box<Status> = error.into();
            prop_assert!(matches!(status.code, 400 | 413 | 422 | 500), "{status:?}");
        }
        if let (Value::Object(a), Value::Object(b)) = (&object, &patch) {
            let _: Result<Object, PatchError> = strategic::two_way(a, b, deployment);
            let _ = strategic::three_way(a, b, a, deployment);
        }
    }

    #[test]
    fn apply_never_panics(live in any_object(), given in any_object(), force in any::<bool>(), deduced in any::<bool>()) {
        let target = Target { schema: deployments().schema.filter(|_| !deduced), ..deployments() };
        for live in [Some(&live), None] {
            if let Ok(made) = apply_patch(live, &given, &target, &MANAGER, force) {
                prop_assert_eq!(made.str_at(&["kind"]), "Deployment");
            }
            let mut new = given.clone();
            track_update(live, &mut new, &target, &MANAGER);
            track_update(live, &mut new, &target, &Manager { subresource: "status", ..MANAGER });
        }
        let replicas = |_: &str| -> Option<&'static [&'static str]> { Some(&["spec", "replicas"]) };
        if let Ok(scale) = scale_entries(managed::entries(&live), &replicas) {
            let _ = parent_entries(managed::entries(&live), &scale, "apps/v1", &replicas);
        }
        let _ = validate_managed_fields(&live, &Path::root("metadata"));
    }
}

/// As deep as the decoder lets in, in every position that a walk descends by.
#[test]
fn deep_trees_are_walked_on_a_small_stack() {
    let depth = crate::json::MAX_DEPTH - 4;
    let nest = |open: &str, close: &str| format!("{}1{}", open.repeat(depth / 2), close.repeat(depth / 2));
    let texts = [
        nest(r#"{"a":"#, "}"),
        nest("[", "]"),
        nest(r#"[{"name":"#, "}]"),
        nest(r#"{"f:a":"#, "}").replace('1', "{}"),
    ];
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        let deployment = schema::for_kind("apps", "v1", "Deployment").unwrap();
        for text in &texts {
            for field in ["spec", "status", "metadata"] {
                let object = parse(&format!(r#"{{"apiVersion":"apps/v1","kind":"Deployment","{field}":{text}}}"#));
                let nothing = parse(r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{}}"#);
                for (live, given) in [(&object, &object), (&object, &nothing), (&nothing, &object)] {
                    for schema in [Some(deployment), None] {
                        let target = Target { schema, ..deployments() };
                        let _ = apply_patch(Some(live), given, &target, &MANAGER, true);
                        track_update(Some(live), &mut given.clone(), &target, &MANAGER);
                        track_update(None, &mut given.clone(), &target, &MANAGER);
                    }
                    let _ = strategic::apply(&mut live.clone(), given.clone(), deployment);
                    let _ = merge_patch::apply(&mut live.clone(), given.clone());
                    let _ = merge_patch::diff(live, given);
                }
            }
            let entries = format!(
                r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"managedFields":[{{"manager":"x","operation":"Update","apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{text}}}]}}}}"#
            );
            let live = parse(&entries);
            let mut new = parse(r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{},"spec":{"replicas":2}}"#);
            track_update(Some(&live), &mut new, &deployments(), &MANAGER);
            let _ = apply_patch(Some(&live), &new, &deployments(), &MANAGER, false);
        }
    });
    thread.unwrap().join().unwrap();
}

/// What costs the square of its size is an attack.
#[test]
fn large_maps_and_lists_are_merged_in_time() {
    let many = 10_000;
    let map = |value: &str| {
        let fields = (0..many).map(|i| (Str::from(format!("k{i}")), Value::from(value))).collect::<Object>();
        let mut object = parse(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}"#);
        object.object_at_mut(&[]).set("data", fields);
        object
    };
    let config_map = schema::for_kind("", "v1", "ConfigMap");
    let target = Target::new(config_map, "v1", "ConfigMap");
    let (one, two) = (map("1"), map("2"));
    let made = apply_patch(None, &one, &target, &MANAGER, false).unwrap();
    let made = apply_patch(Some(&made), &two, &target, &MANAGER, false).unwrap();
    assert_eq!(made.get("data"), two.get("data"));
    let mut new = one.clone();
    track_update(Some(&made), &mut new, &target, &Manager { name: "other", ..MANAGER });
    let mut turned = one.clone();
    let fields = turned.object_at_mut(&["data"]);
    *fields =
        fields.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>().into_iter().rev().collect();
    assert_eq!(turned, one, "the order of fields does not count");
    turned.object_at_mut(&["data"]).insert("k0", Value::str("other"));
    assert_ne!(turned, one);
    let mut merged = one.clone();
    merge_patch::apply(&mut merged, two.clone()).unwrap();
    strategic::apply(&mut merged, two.clone(), config_map.unwrap()).unwrap();
    assert_eq!(merged, two);

    let list = |from: i64| {
        let items = (from..from + many).map(|i| Value::from(format!("f{i}"))).collect::<Vec<_>>();
        let mut object = parse(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}"#);
        object.object_at_mut(&["metadata"]).set("finalizers", items);
        object
    };
    let mut merged = list(0);
    strategic::apply(&mut merged, list(many / 2), config_map.unwrap()).unwrap();
    assert_eq!(merged.items_at(&["metadata", "finalizers"]).len() as i64, many + many / 2);
    let made = apply_patch(Some(&list(0)), &list(many / 2), &target, &MANAGER, true).unwrap();
    assert_eq!(made.items_at(&["metadata", "finalizers"]).len() as i64, many + many / 2);
}
