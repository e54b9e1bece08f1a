//! Upstream's own cases, where the folder with reference data stands beside the workspace; and the directives one by one.

use super::*;
use crate::{json, testdata};

/// The schema of the reference cases: upstream's `MergeItem`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    MergeItem,
    /// A field of the item.
    Field(&'static str),
    Leaf,
}

impl PatchSchema for Case {
    fn child(self, key: &str) -> Option<Self> {
        const FIELDS: [&str; 13] = [
            "name",
            "value",
            "other",
            "mergingList",
            "nonMergingList",
            "mergingIntList",
            "nonMergingIntList",
            "mergeItemPtr",
            "simpleMap",
            "replacingItem",
            "jsonItem",
            "retainKeysMap",
            "retainKeysMergingList",
        ];
        let of_item = || FIELDS.into_iter().find(|f| *f == key).map(Case::Field);
        match self {
            Case::MergeItem | Case::Field("retainKeysMap" | "mergeItemPtr") => of_item(),
            Case::Field("simpleMap") => Some(Case::Leaf),
            Case::Field(_) | Case::Leaf => None,
        }
    }

    fn items(self) -> Option<Self> {
        match self {
            Case::Field("mergingList" | "nonMergingList" | "retainKeysMergingList" | "mergeItemPtr") => {
                Some(Case::MergeItem)
            }
            _ => None,
        }
    }

    fn strategy(&self) -> PatchStrategy {
        let none = PatchStrategy::default();
        match self {
            Case::Field("mergingList" | "mergingIntList" | "mergeItemPtr") => {
                PatchStrategy { merge: true, ..none }
            }
            Case::Field("replacingItem") => PatchStrategy { replace: true, ..none },
            Case::Field("retainKeysMap") => PatchStrategy { retain_keys: true, ..none },
            Case::Field("retainKeysMergingList") => PatchStrategy { merge: true, retain_keys: true, ..none },
            _ => none,
        }
    }

    fn merge_key(&self) -> &str {
        match self {
            Case::Field("mergingList" | "mergeItemPtr" | "retainKeysMergingList") => "name",
            _ => "",
        }
    }

    fn name(&self) -> &str {
        "MergeItem"
    }
}

fn read(text: &str) -> Object {
    if text.is_empty() { Object::default() } else { testdata::object(text) }
}

fn check(description: &str, got: Result<Object, PatchError>, want: &str, failures: &mut Vec<String>) {
    let want = read(want);
    match got {
        Ok(got) if got == want => {}
        Ok(got) => failures.push(format!(
            "{description}\n   got {}\n  want {}",
            json::to_string(&got.into()),
            json::to_string(&want.into())
        )),
        Err(error) => failures.push(format!("{description}\n   {error}")),
    }
}

fn applied(to: &str, patch: &str) -> Result<Object, PatchError> {
    let mut value = Value::Object(read(to));
    apply(&mut value, Value::Object(read(patch)), Case::MergeItem)?;
    Ok(value.as_object().unwrap().clone())
}

#[test]
fn reference_cases() {
    let Some(cases) = testdata::golden("strategic-merge-patch.json") else { return };
    let mut failures = Vec::new();
    let cases = cases.as_array().unwrap();
    for case in cases {
        let at = |key| case.str_at(&[key]);
        let name = format!("{}: {}", at("Table"), at("Description"));
        let after_two_way = if at("TwoWayResult").is_empty() { at("Modified") } else { at("TwoWayResult") };
        let two = applied(at("Original"), at("TwoWay"));
        if at("ExpectedError").is_empty() {
            check(&format!("{name}, two-way applied"), two, after_two_way, &mut failures);
        } else {
            match two {
                Err(error) if error.to_string().contains(at("ExpectedError")) => {}
                other => failures.push(format!("{name}: {other:?}")),
            }
        }
        if !at("ThreeWay").is_empty() && at("Table") != "customRaw" {
            let three = applied(at("Current"), at("ThreeWay"));
            check(&format!("{name}, three-way applied"), three, at("Result"), &mut failures);
        }
        let made = !matches!(at("Table"), "custom" | "customRaw") && at("ExpectedError").is_empty();
        if made {
            let (original, modified) = (read(at("Original")), read(at("Modified")));
            let two = two_way(&original, &modified, Case::MergeItem);
            check(&format!("{name}, two-way made"), two, at("TwoWay"), &mut failures);
            let three = three_way(&original, &modified, &read(at("Current")), Case::MergeItem);
            check(&format!("{name}, three-way made"), three, at("ThreeWay"), &mut failures);
        }
    }
    assert!(cases.len() >= 146);
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Original, patch, and the result or a part of the error: one row a directive and a way to get it wrong.
#[test]
fn directives() {
    const ROWS: &[(&str, &str, &str)] = &[
        (
            r#"{"simpleMap":{"a":1}}"#,
            r#"{"simpleMap":{"$patch":"replace","b":2}}"#,
            r#"{"simpleMap":{"b":2}}"#,
        ),
        (r#"{"simpleMap":{"a":1}}"#, r#"{"simpleMap":{"$patch":"delete"}}"#, r#"{"simpleMap":{}}"#),
        (r#"{"name":"x"}"#, r#"{"simpleMap":{"$patch":"delete"}}"#, r#"{"name":"x"}"#),
        (
            r#"{"simpleMap":{"a":1}}"#,
            r#"{"simpleMap":{"$patch":"merge"}}"#,
            "unknown patch type: merge in map: map[$patch:merge]",
        ),
        (
            r#"{"mergingList":[{"name":1}]}"#,
            r#"{"mergingList":[{"name":1,"$patch":"merge"}]}"#,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            r#"{"mergingList":[{"name":1}]}"#,
            r#"{"mergingList":[{"$patch":"delete"}]}"#,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            r#"{"mergingList":[{"name":1}]}"#,
            r#"{"mergingList":[{"name":1,"$patch":7}]}"#,
            "unknown patch type: 7 in map",
        ),
        (
            r#"{"mergingList":[{"name":1}]}"#,
            r#"{"mergingList":[{"name":2},{"$patch":"replace"}]}"#,
            r#"{"mergingList":[{"name":2}]}"#,
        ),
        (
            r#"{"mergingList":[{"name":1}]}"#,
            r#"{"mergingList":["x"]}"#,
            "list element types are not identical: [[map[name:1]] [x]]",
        ),
        (
            r#"{"mergingList":[{"name":1}]}"#,
            r#"{"mergingList":[[]]}"#,
            "list element types are not identical",
        ),
        (r#"{"mergingIntList":[[]]}"#, r#"{"mergingIntList":[[]]}"#, "lists of lists are not supported"),
        (
            r#"{"mergingIntList":[1]}"#,
            r#"{"mergingIntList":[1,null]}"#,
            "list element types are not identical: [[1] [1 <nil>]]",
        ),
        (
            r#"{"retainKeysMap":{"name":"a","value":"b"}}"#,
            r#"{"retainKeysMap":{"$retainKeys":["name"]}}"#,
            r#"{"retainKeysMap":{"name":"a"}}"#,
        ),
        (
            r#"{"retainKeysMap":{"name":"a"}}"#,
            r#"{"retainKeysMap":{"$retainKeys":["name"],"value":1}}"#,
            "invalid patch format of retainKeys",
        ),
        (
            r#"{"retainKeysMap":{"name":"a"}}"#,
            r#"{"retainKeysMap":{"$retainKeys":"name"}}"#,
            "invalid patch format of retainKeys",
        ),
        (
            r#"{"mergingIntList":[1,2,3]}"#,
            r#"{"$deleteFromPrimitiveList/mergingIntList":[1,3]}"#,
            r#"{"mergingIntList":[2]}"#,
        ),
        (
            r#"{"mergingIntList":[1]}"#,
            r#"{"$deleteFromPrimitiveList":[1]}"#,
            "invalid patch format of primitive list",
        ),
        (
            r#"{"mergingIntList":[1,2,3]}"#,
            r#"{"$setElementOrder/mergingIntList":[3,1]}"#,
            r#"{"mergingIntList":[2,3,1]}"#,
        ),
        (
            r#"{"mergingIntList":[1]}"#,
            r#"{"$setElementOrder":[1]}"#,
            "invalid patch format of setElementOrder list",
        ),
        (
            r#"{"mergingIntList":[1]}"#,
            r#"{"$setElementOrder/mergingIntList":1}"#,
            "expected a []interface {}, but received a int64",
        ),
        (
            r#"{"mergingIntList":[]}"#,
            r#"{"$setElementOrder/mergingIntList":[1]}"#,
            "no elements in any of the given slices",
        ),
        (
            r#"{"mergingList":[{"name":1}]}"#,
            r#"{"$setElementOrder/mergingList":["x"]}"#,
            "expected a map[string]interface {}, but received a string",
        ),
        (
            r#"{"nope":{"a":1}}"#,
            r#"{"nope":{"a":2}}"#,
            "unable to find api field in struct MergeItem for the json field \"nope\"",
        ),
        (r#"{"name":"x"}"#, r#"{"nope":{"a":2,"b":null}}"#, r#"{"name":"x","nope":{"a":2}}"#),
        (
            r#"{"nonMergingList":[{"name":1}]}"#,
            r#"{"nonMergingList":[{"name":2}]}"#,
            r#"{"nonMergingList":[{"name":2}]}"#,
        ),
        (r#"{"name":"x","value":"y"}"#, r#"{"name":null,"other":null}"#, r#"{"value":"y"}"#),
    ];
    for (original, patch, want) in ROWS {
        match applied(original, patch) {
            Ok(got) if want.starts_with('{') => assert_eq!(got, read(want), "{patch}"),
            Err(error) => assert!(error.to_string().contains(want), "{patch}: {error}"),
            Ok(got) => panic!("{patch}: {got:?}"),
        }
    }
}

#[test]
fn built_in_kinds_merge_by_their_schema() {
    let pod = crate::schema::for_kind("", "v1", "Pod").unwrap();
    let mut value = testdata::parse(
        r#"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","ports":[{"containerPort":80}]}]}}"#,
    );
    let patch = r#"{"spec":{"containers":[{"name":"b","image":"2","ports":[{"containerPort":81}]}],"nodeSelector":{"x":"y"}}}"#;
    apply(&mut value, testdata::parse(patch), pod).unwrap();
    let want = r#"{"spec":{"containers":[{"name":"a","image":"1"},
        {"name":"b","image":"2","ports":[{"containerPort":81},{"containerPort":80}]}],"nodeSelector":{"x":"y"}}}"#;
    assert_eq!(value, testdata::parse(want));
}
