//! What users of apply see, on built-in kinds and on custom resources without a schema.

use super::*;
use crate::testdata::parse;
use crate::{json, schema};

const T1: &str = "2026-01-01T00:00:00Z";
const T2: &str = "2026-01-02T00:00:00Z";

fn deployments() -> Target<'static> {
    let schema = schema::for_kind("apps", "v1", "Deployment");
    Target { reset_fields: RESET_STATUS, ..Target::new(schema, "apps/v1", "Deployment") }
}

fn config_maps() -> Target<'static> {
    Target::new(schema::for_kind("", "v1", "ConfigMap"), "v1", "ConfigMap")
}

fn by<'a>(name: &'a str, time: &'a str) -> Manager<'a> {
    Manager { name, subresource: "", time }
}

fn config(fields: &str) -> Value {
    parse(&format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c","namespace":"d"}}{}{fields}}}"#,
        if fields.is_empty() { "" } else { "," }
    ))
}

/// As the object lies in the store: with a UID.
fn stored(mut object: Value) -> Value {
    object.object_at_mut(&["metadata"]).set("uid", "u");
    object
}

/// `name operation day {fields}` of each manager.
fn managers(object: &Value) -> Vec<String> {
    let line = |entry: &Value| {
        let at = |key| entry.str_at(&[key]);
        let fields = json::to_string(entry.get("fieldsV1").unwrap());
        let subresource = at("subresource");
        let slash = if subresource.is_empty() { "" } else { "/" };
        format!(
            "{}{slash}{subresource} {} {} {fields}",
            at("manager"),
            at("operation"),
            at("time").get(8..10).unwrap_or("-")
        )
    };
    object.items_at(&["metadata", "managedFields"]).iter().map(line).collect()
}

fn apply(live: Option<&Value>, patch: &Value, name: &str, time: &str) -> Result<Value> {
    apply_patch(live, patch, &config_maps(), &by(name, time), false)
}

#[test]
fn create_owns_all_that_it_says_but_system_fields() {
    let mut pod = parse(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"d","labels":{"a":"b"},
        "creationTimestamp":null,"uid":"u","managedFields":[]},"spec":{"containers":[{"name":"web","image":"x",
        "ports":[{"containerPort":80,"protocol":"TCP"}],"args":["a"],"resources":{}}],"nodeSelector":{"k":"v"},
        "securityContext":{}},"status":{"phase":"Pending"}}"#,
    );
    let target =
        Target { reset_fields: RESET_STATUS, ..Target::new(schema::for_kind("", "v1", "Pod"), "v1", "Pod") };
    track_update(None, &mut pod, &target, &by("kubectl-run", T1));
    let want = r#"kubectl-run Update 01 {"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:args":{},"f:image":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{}}},"f:nodeSelector":{},"f:securityContext":{}}}"#;
    assert_eq!(managers(&pod), [want]);
    let entry = json::to_string(&pod.items_at(&["metadata", "managedFields"])[0]);
    assert!(entry.starts_with(r#"{"manager":"kubectl-run","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"#), "{entry}");
}

#[test]
fn an_update_takes_what_it_changes() {
    let mut first = config(r#""data":{"a":"1","b":"1"}"#);
    track_update(None, &mut first, &config_maps(), &by("one", T1));
    let live = stored(first);

    let mut same = live.clone();
    track_update(Some(&live), &mut same, &config_maps(), &by("two", T2));
    assert_eq!(same, live, "nothing changed, nothing is owned otherwise");

    let mut forgot = live.clone();
    managed::take_entries(&mut forgot);
    track_update(Some(&live), &mut forgot, &config_maps(), &by("two", T2));
    assert_eq!(forgot, live, "clients that drop the field do not drop the managers");

    let mut second = live.clone();
    second.object_at_mut(&["data"]).set("a", "2");
    track_update(Some(&live), &mut second, &config_maps(), &by("two", T2));
    assert_eq!(
        managers(&second),
        [r#"one Update 01 {"f:data":{".":{},"f:b":{}}}"#, r#"two Update 02 {"f:data":{"f:a":{}}}"#]
    );

    let live = second;
    let mut third = live.clone();
    third.object_at_mut(&["data"]).remove("b");
    track_update(Some(&live), &mut third, &config_maps(), &by("two", T2));
    assert_eq!(managers(&third)[0], r#"one Update 01 {"f:data":{}}"#, "who owned b owns it no more");
    third.object_at_mut(&["data"]).set("a", "3");
    let live = stored(third.clone());
    let mut fourth = live.clone();
    fourth.object_at_mut(&["data"]).set("a", "4");
    track_update(Some(&live), &mut fourth, &config_maps(), &by("two", T1));
    assert_eq!(
        managers(&fourth)[1],
        r#"two Update 01 {"f:data":{"f:a":{}}}"#,
        "the time is that of the last change"
    );
}

#[test]
fn apply_creates_keeps_and_prunes() {
    let made = apply(None, &config(r#""data":{"a":"1","b":"1"}"#), "me", T1).unwrap();
    assert_eq!(managers(&made), [r#"me Apply 01 {"f:data":{"f:a":{},"f:b":{}}}"#]);

    let live = stored(made);
    let again = apply(Some(&live), &config(r#""data":{"a":"1","b":"1"}"#), "me", T2).unwrap();
    assert_eq!(again, live, "applying twice changes nothing, not even the time");

    let fewer = apply(Some(&live), &config(r#""data":{"a":"1"}"#), "me", T2).unwrap();
    assert_eq!(fewer.get("data").unwrap(), &parse(r#"{"a":"1"}"#), "what the manager no longer says goes");
    assert_eq!(managers(&fewer), [r#"me Apply 02 {"f:data":{"f:a":{}}}"#]);

    let other = apply(Some(&live), &config(r#""data":{"b":"1"}"#), "you", T2).unwrap();
    let fewer = apply(Some(&other), &config(r#""data":{"a":"1"}"#), "me", T2).unwrap();
    assert_eq!(
        fewer.get("data").unwrap(),
        &parse(r#"{"a":"1","b":"1"}"#),
        "unless somebody else says it too"
    );

    let nothing = apply(Some(&live), &config(""), "me", T2).unwrap();
    assert_eq!(nothing.get("data"), None);
    assert!(managers(&nothing).is_empty());
}

#[test]
fn conflicts_in_upstreams_words() {
    let mut live = parse(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"d"},
        "spec":{"replicas":1,"paused":true,"selector":{"matchLabels":{"a":"b"}},"template":{"spec":{"containers":[{"name":"c","image":"1"}]}}}}"#,
    );
    track_update(None, &mut live, &deployments(), &by("kubectl", T1));
    let live = stored(live);
    let patch = |spec: &str| {
        parse(&format!(
            r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"web","namespace":"d"}},"spec":{spec}}}"#
        ))
    };
    let try_apply =
        |spec, force| apply_patch(Some(&live), &patch(spec), &deployments(), &by("me", T2), force);

    let one = try_apply(r#"{"replicas":2}"#, false).unwrap_err();
    assert_eq!((one.code, one.reason), (409, "Conflict"));
    assert_eq!(
        one.message,
        r#"Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas"#
    );
    assert_eq!(one.causes.len(), 1);
    assert_eq!(one.causes[0].reason, "FieldManagerConflict");
    assert_eq!(one.causes[0].message, r#"conflict with "kubectl" using apps/v1"#);
    assert_eq!(one.causes[0].field, ".spec.replicas");

    let two = r#"{"replicas":2,"template":{"spec":{"containers":[{"name":"c","image":"2"}]}}}"#;
    assert_eq!(
        try_apply(two, false).unwrap_err().message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using apps/v1:\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );

    let forced = try_apply(two, true).unwrap();
    assert_eq!(forced.at(&["spec", "replicas"]), Some(&Value::Int(2)));
    assert_eq!(forced.at(&["spec", "paused"]), Some(&Value::Bool(true)));
    let lines = managers(&forced);
    assert_eq!(
        lines[0],
        r#"me Apply 02 {"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}}}}"#
    );
    assert!(lines[1].starts_with("kubectl Update 01") && !lines[1].contains("f:replicas"), "{}", lines[1]);

    let agreed = try_apply(r#"{"replicas":1}"#, false).unwrap();
    assert!(managers(&agreed).iter().all(|line| line.contains("f:replicas")), "two may say the same");
}

#[test]
fn what_an_apply_may_not_be() {
    let rows = [
        (
            config(r#""data":1"#),
            500,
            "failed to create typed patch object (d/c; /v1, Kind=ConfigMap): .data: expected map, got &{1}",
        ),
        (
            config(r#""nope":1"#),
            500,
            "failed to create typed patch object (d/c; /v1, Kind=ConfigMap): .nope: field not declared in schema",
        ),
        (
            config(r#""data":{"a":1}"#),
            500,
            "failed to create typed patch object (d/c; /v1, Kind=ConfigMap): .data.a: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (parse(r#"{"apiVersion":"v1","kind":"Secret"}"#), 400, "invalid object type: /v1, Kind=Secret"),
        (
            parse(r#"{"apiVersion":"apps/v1","kind":"ConfigMap"}"#),
            400,
            "invalid object type: apps/v1, Kind=ConfigMap",
        ),
        (
            parse(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"managedFields":[]}}"#),
            400,
            "metadata.managedFields must be nil",
        ),
    ];
    for (patch, code, message) in rows {
        let error = apply(None, &patch, "me", T1).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, message));
    }
    let twice = parse(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":{"spec":{"containers":[{"name":"a"},{"name":"a"}]}}}}"#,
    );
    let error = apply_patch(None, &twice, &deployments(), &by("me", T1), false).unwrap_err();
    assert_eq!(
        error.message,
        "failed to create typed patch object (/; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"a\"]"
    );
}

#[test]
fn list_keys_count_with_their_defaults() {
    let live = parse(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","ports":[{"containerPort":80,"protocol":"TCP"}]}]}}"#,
    );
    let patch = parse(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","ports":[{"containerPort":80,"name":"web"},{"containerPort":80,"protocol":"UDP"}]}]}}"#,
    );
    let target = Target::new(schema::for_kind("", "v1", "Pod"), "v1", "Pod");
    let made = apply_patch(Some(&live), &patch, &target, &by("me", T1), false).unwrap();
    let ports = &made.at(&["spec", "containers"]).unwrap().as_array().unwrap()[0];
    let want =
        r#"[{"containerPort":80,"protocol":"TCP","name":"web"},{"containerPort":80,"protocol":"UDP"}]"#;
    assert_eq!(ports.get("ports").unwrap(), &parse(want));
}

#[test]
fn status_and_spec_do_not_own_each_other() {
    let mut live = parse(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":1},"status":{}}"#,
    );
    track_update(None, &mut live, &deployments(), &by("me", T1));
    let live = stored(live);
    let mut new = live.clone();
    new.object_at_mut(&["status"]).set("replicas", 1);
    new.object_at_mut(&["metadata"]).set("managedFields", vec![]);
    let target = Target { reset_fields: RESET_SPEC, ..deployments() };
    let status = Manager { name: "controller", subresource: "status", time: T2 };
    track_update(Some(&live), &mut new, &target, &status);
    assert_eq!(
        managers(&new),
        [
            r#"me Update 01 {"f:spec":{"f:replicas":{}}}"#,
            r#"controller/status Update 02 {"f:status":{"f:replicas":{}}}"#
        ],
        "a subresource cannot reset managers"
    );
    let patch = parse(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":1},"status":{"replicas":7}}"#,
    );
    let made = apply_patch(Some(&new), &patch, &deployments(), &by("you", T2), false).unwrap();
    assert_eq!(managers(&made)[0], r#"you Apply 02 {"f:spec":{"f:replicas":{}}}"#);
}

#[test]
fn managers_given_by_a_client() {
    let mut live = config(r#""data":{"a":"1"}"#);
    track_update(None, &mut live, &config_maps(), &by("one", T1));
    let live = stored(live);
    let with = |entries: &str| {
        let mut new = live.clone();
        new.object_at_mut(&["metadata"]).set("managedFields", parse(entries));
        track_update(Some(&live), &mut new, &config_maps(), &by("two", T2));
        managers(&new)
    };
    let nobody: [&str; 0] = [];
    assert_eq!(with("[]"), nobody, "an empty list resets");
    assert_eq!(with("[{}]"), nobody, "as does one empty entry");
    let before = managers(&live);
    assert_eq!(with("null"), before);
    for bad in [
        r#"[{"manager":"x","operation":"Bogus","apiVersion":"v1","fieldsType":"FieldsV1"}]"#,
        r#"[{"manager":"x","operation":"Update","fieldsType":"FieldsV1"}]"#,
        r#"[{"manager":"x","operation":"Update","apiVersion":"v1"}]"#,
        r#"[{"manager":"x","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"k:{":{}}}]"#,
        r#"[1,"a",null]"#,
    ] {
        assert_eq!(with(bad), before, "what cannot be read is ignored: {bad}");
    }
    let own = r#"[{"manager":"x","operation":"Apply","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:a":{}}}}]"#;
    assert_eq!(with(own), [r#"x Apply 01 {"f:data":{"f:a":{}}}"#]);
    let metadata = Path::root("metadata");
    let path = metadata.child("managedFields");
    let entries = parse(r#"[{"operation":"Bogus","fieldsType":"X","manager":"a\u0007"}]"#);
    let errors: Vec<_> = validate_managed_fields(&entries, &path).iter().map(ToString::to_string).collect();
    assert_eq!(
        errors[0],
        "metadata.managedFields[0].operation: Invalid value: \"Bogus\": must be `Apply` or `Update`"
    );
    assert_eq!(errors[1], "metadata.managedFields[0].fieldsType: Invalid value: \"X\": must be `FieldsV1`");
    assert!(errors[2].ends_with("invalid character U+0007 (at position 1)"), "{}", errors[2]);
}

#[test]
fn nobody_tracks_an_untracked_object_until_the_first_apply() {
    let live = stored(config(r#""data":{"a":"1","b":"1"}"#));
    let mut new = live.clone();
    new.object_at_mut(&["data"]).set("a", "2");
    track_update(Some(&live), &mut new, &config_maps(), &by("one", T1));
    assert!(managers(&new).is_empty());
    let error = apply(Some(&new), &config(r#""data":{"a":"3"}"#), "me", T2).unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.a"#
    );
    let made = apply(Some(&new), &config(r#""data":{"a":"2"}"#), "me", T2).unwrap();
    assert_eq!(managers(&made)[1], r#"before-first-apply Update 02 {"f:data":{".":{},"f:a":{},"f:b":{}}}"#);
}

#[test]
fn kubectl_moves_from_client_side_to_server_side() {
    let text = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"d"},"data":{"a":"1","b":"1"}}"#;
    let mut live = parse(text);
    live.object_at_mut(&["metadata", "annotations"]).set(LAST_APPLIED, text);
    track_update(None, &mut live, &config_maps(), &by("kubectl-client-side-apply", T1));
    let mut live = stored(live);

    let patch = config(r#""data":{"a":"2","b":"1"}"#);
    let made = apply(Some(&live), &patch, "kubectl", T2).unwrap();
    assert_eq!(made.at(&["data", "a"]), Some(&Value::str("2")));
    let annotation = made.at(&["metadata", "annotations"]).and_then(|a| a.get(LAST_APPLIED));
    let want = r#"{"apiVersion":"v1","data":{"a":"2","b":"1"},"kind":"ConfigMap","metadata":{"name":"c","namespace":"d"}}"#;
    assert_eq!(annotation.and_then(Value::as_str), Some(format!("{want}\n").as_str()));
    assert!(apply(Some(&live), &patch, "other", T2).is_err(), "only kubectl is spared");

    let before = live.clone();
    live.object_at_mut(&["data"]).set("a", "9");
    track_update(Some(&before), &mut live, &config_maps(), &by("editor", T2));
    let error = apply(Some(&live), &patch, "kubectl", T2).unwrap_err();
    assert_eq!(error.message, r#"Apply failed with 1 conflict: conflict with "editor" using v1: .data.a"#);
}

#[test]
fn at_most_ten_updaters() {
    let mut live = stored(config(r#""data":{"x":"0"}"#));
    managed::put_entries(&mut live, vec![]);
    let mut first = live.clone();
    first.object_at_mut(&["metadata"]).remove("uid");
    track_update(None, &mut first, &config_maps(), &by("m00", "2026-01-01T00:00:00Z"));
    let mut live = stored(first);
    for i in 1..=14 {
        let mut new = live.clone();
        new.object_at_mut(&["data"]).insert(format!("k{i:02}"), Value::str("v"));
        track_update(
            Some(&live),
            &mut new,
            &config_maps(),
            &by(&format!("m{i:02}"), &format!("2026-01-{:02}T00:00:00Z", i + 1)),
        );
        live = new;
    }
    let lines = managers(&live);
    assert_eq!(lines.len(), MAX_UPDATERS);
    assert_eq!(
        lines[0],
        r#"ancient-changes Update 06 {"f:data":{".":{},"f:k01":{},"f:k02":{},"f:k03":{},"f:k04":{},"f:k05":{},"f:x":{}}}"#
    );
    assert!(lines[1].starts_with("m06 Update 07"), "{}", lines[1]);
}

#[test]
fn managers_of_another_version() {
    let convert = |object: &Value, to: &str| {
        let mut object = object.clone();
        object.object_at_mut(&[]).set("apiVersion", to.to_owned());
        (to != "apps/v1beta0").then(|| (object, schema::for_kind("apps", "v1", "Deployment")))
    };
    let target = Target { convert: &convert, ..deployments() };
    let mut live = parse(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","uid":"u"},"spec":{"replicas":1,"paused":true}}"#,
    );
    let entry = |name: &str, operation: &str, version: &str, field: &str| {
        format!(
            r#"{{"manager":"{name}","operation":"{operation}","apiVersion":"{version}","fieldsType":"FieldsV1","fieldsV1":{{"f:spec":{{"f:{field}":{{}}}}}},"time":"{T1}"}}"#
        )
    };
    let entries = [
        entry("old", "Update", "apps/v1beta1", "replicas"),
        entry("gone", "Update", "apps/v1beta0", "paused"),
        entry("me", "Apply", "apps/v1beta1", "paused"),
    ];
    live.object_at_mut(&["metadata"]).set("managedFields", parse(&format!("[{}]", entries.join(","))));
    let patch = parse(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":2}}"#,
    );
    let error = apply_patch(Some(&live), &patch, &target, &by("me", T2), false).unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "old" using apps/v1beta1: .spec.replicas"#
    );
    let made = apply_patch(Some(&live), &patch, &target, &by("me", T2), true).unwrap();
    assert_eq!(made.get("spec").unwrap(), &parse(r#"{"replicas":2}"#), "pruned across versions");
    assert_eq!(made.str_at(&["apiVersion"]), "apps/v1");
    assert_eq!(managers(&made), [r#"me Apply 02 {"f:spec":{"f:replicas":{}}}"#]);
}

#[test]
fn custom_resources_without_a_schema() {
    let target = Target::new(None, "x.io/v1", "Thing");
    let patch = |spec: &str| {
        parse(&format!(
            r#"{{"apiVersion":"x.io/v1","kind":"Thing","metadata":{{"name":"t"}},"spec":{spec}}}"#
        ))
    };
    let made =
        apply_patch(None, &patch(r#"{"a":1,"l":[1,{"x":2}],"m":{"n":true}}"#), &target, &by("me", T1), false)
            .unwrap();
    let want = r#"me Apply 01 {"f:spec":{".":{},"f:a":{},"f:l":{},"f:m":{".":{},"f:n":{}}}}"#;
    assert_eq!(managers(&made), [want]);
    let made =
        apply_patch(Some(&made), &patch(r#"{"a":"x","l":[2]}"#), &target, &by("me", T2), false).unwrap();
    assert_eq!(made.get("spec").unwrap(), &parse(r#"{"a":"x","l":[2]}"#));
}

#[test]
fn custom_resources_with_a_schema() {
    let open_api = parse(
        r#"{"type":"object","properties":{"spec":{"type":"object","properties":{
            "set":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
            "rules":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["port","protocol"],
                "items":{"type":"object","properties":{"port":{"type":"integer"},"protocol":{"type":"string","default":"TCP"},"to":{"type":"string"}}}},
            "plain":{"type":"array","items":{"type":"integer"}},
            "whole":{"type":"object","x-kubernetes-map-type":"atomic","additionalProperties":{"type":"string"}},
            "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true},
            "size":{"x-kubernetes-int-or-string":true}}}}}"#,
    );
    let schema = schema::Schema::from_open_api(&open_api);
    let target = Target::new(Some(schema.root()), "x.io/v1", "Thing");
    let object = |metadata: &str, spec: &str| {
        parse(&format!(
            r#"{{"apiVersion":"x.io/v1","kind":"Thing","metadata":{{"name":"t"{metadata}}},"spec":{spec}}}"#
        ))
    };
    let first = object(
        r#","finalizers":["a/b"]"#,
        r#"{"set":["a"],"rules":[{"port":1,"to":"x"}],"plain":[1],"whole":{"a":"b"},"free":{"x":{"y":1}},"size":"5%"}"#,
    );
    let made = apply_patch(None, &first, &target, &by("me", T1), false).unwrap();
    assert_eq!(
        managers(&made),
        [
            r#"me Apply 01 {"f:metadata":{"f:finalizers":{"v:\"a/b\"":{}}},"f:spec":{"f:free":{"f:x":{".":{},"f:y":{}}},"f:plain":{},"f:rules":{"k:{\"port\":1,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:to":{}}},"f:set":{"v:\"a\"":{}},"f:size":{},"f:whole":{}}}"#
        ]
    );
    let second = object(
        r#","finalizers":["c/d"]"#,
        r#"{"set":["b"],"rules":[{"port":1,"protocol":"TCP","to":"x"},{"port":1,"protocol":"UDP"}],"plain":[1],"size":"5%"}"#,
    );
    let both = apply_patch(Some(&made), &second, &target, &by("you", T2), false).unwrap();
    assert_eq!(both.at(&["metadata", "finalizers"]), Some(&parse(r#"["a/b","c/d"]"#)));
    assert_eq!(both.at(&["spec", "set"]), Some(&parse(r#"["a","b"]"#)));
    assert_eq!(both.items_at(&["spec", "rules"]).len(), 2);
    let wrong = object("", r#"{"whole":{"z":"1"},"plain":[2]}"#);
    let error = apply_patch(Some(&both), &wrong, &target, &by("it", T2), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"me\":\n- .spec.plain\n- .spec.whole\nconflicts with \"you\":\n- .spec.plain"
    );
    let unknown = object("", r#"{"nope":1}"#);
    let error = apply_patch(Some(&both), &unknown, &target, &by("it", T2), false).unwrap_err();
    assert!(error.message.ends_with(".spec.nope: field not declared in schema"), "{}", error.message);

    let mut created = first;
    track_update(None, &mut created, &target, &by("me", T1));
    let line = &managers(&created)[0];
    assert!(line.contains(r#""f:spec":{".":{},"#), "no struct is there before its first field: {line}");
}

#[test]
fn through_scale_and_back() {
    let replicas = |version: &str| -> Option<&'static [&'static str]> {
        (version == "apps/v1").then_some(&["spec", "replicas"])
    };
    let parent = parse(&format!(
        r#"[{{"manager":"a","operation":"Apply","apiVersion":"apps/v1","time":"{T1}","fieldsType":"FieldsV1","fieldsV1":{{"f:spec":{{"f:paused":{{}},"f:replicas":{{}}}}}}}},
            {{"manager":"b","operation":"Update","apiVersion":"apps/v1","time":"{T1}","fieldsType":"FieldsV1","fieldsV1":{{"f:spec":{{"f:replicas":{{}}}}}}}},
            {{"manager":"c","operation":"Update","apiVersion":"apps/v1","time":"{T1}","fieldsType":"FieldsV1","fieldsV1":{{"f:spec":{{"f:paused":{{}}}}}}}}]"#
    ));
    let parent = parent.as_array().unwrap();
    let scale = scale_entries(parent, &replicas).unwrap();
    let names: Vec<_> = scale.iter().map(|e| (e.str_at(&["manager"]), e.str_at(&["apiVersion"]))).collect();
    assert_eq!(names, [("a", "autoscaling/v1"), ("b", "autoscaling/v1")]);
    assert_eq!(parent_entries(parent, &scale, "apps/v1", &replicas).unwrap(), *parent, "untouched");

    let mut old = parse(
        r#"{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web","uid":"u"},"spec":{"replicas":1}}"#,
    );
    managed::put_entries(&mut old, scale);
    let mut new = old.clone();
    new.object_at_mut(&["spec"]).set("replicas", 2);
    let target = Target::new(schema::for_kind("autoscaling", "v1", "Scale"), "autoscaling/v1", "Scale");
    let writer = Manager { name: "hpa", subresource: "scale", time: T2 };
    track_update(Some(&old), &mut new, &target, &writer);
    let after = parent_entries(parent, managed::entries(&new), "apps/v1", &replicas).unwrap();
    let mut object = parse(r#"{"metadata":{}}"#);
    managed::put_entries(&mut object, after);
    assert_eq!(
        managers(&object),
        [
            r#"a Apply 01 {"f:spec":{"f:paused":{}}}"#,
            r#"hpa/scale Update - {"f:spec":{"f:replicas":{}}}"#,
            r#"c Update 01 {"f:spec":{"f:paused":{}}}"#
        ]
    );
}

#[test]
fn names_of_managers() {
    assert_eq!(manager_name("given", "kubectl/v1"), "given");
    assert_eq!(manager_name("", "kubectl/v1.37 (linux/amd64)"), "kubectl");
    assert_eq!(manager_name("", "a\u{7}b"), "ab");
    assert_eq!(manager_name("", ""), "");
    assert_eq!(manager_name("", &"é".repeat(100)).len(), MAX_MANAGER_LEN);
    let mut object = config(r#""data":{"a":"1"}"#);
    track_update(None, &mut object, &config_maps(), &by("", T1));
    assert!(managers(&object)[0].starts_with("unknown Update"));
}
