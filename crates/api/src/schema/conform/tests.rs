use bytes::Bytes;

use super::*;
use crate::json;
use crate::schema::for_kind;

fn walk(kind: (&str, &str, &str), body: &str) -> Result<(String, Findings), String> {
    let mut value = json::parse(&Bytes::copy_from_slice(body.as_bytes())).unwrap();
    let schema = for_kind(kind.0, kind.1, kind.2).unwrap();
    let findings = conform(&mut value, schema, Mode::REQUEST).map_err(|e| e.to_string())?;
    Ok((json::to_string(&value), findings))
}

const POD: (&str, &str, &str) = ("", "v1", "Pod");
const CONFIG_MAP: (&str, &str, &str) = ("", "v1", "ConfigMap");

#[test]
fn wrong_types_in_gos_words() {
    for (body, message) in [
        (
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"containers":[{"ports":[{"containerPort":"80"}]}]}}"#,
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            r#"{"spec":{"containers":[{"ports":[{"containerPort":1.5}]}]}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            r#"{"spec":{"containers":[{"ports":[{"containerPort":5000000000}]}]}}"#,
            "json: cannot unmarshal number 5000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            r#"{"metadata":{"generation":9223372036854775808}}"#,
            "json: cannot unmarshal number 9223372036854775808 into Go struct field ObjectMeta.metadata.generation of type int64",
        ),
        (
            r#"{"spec":{"restartPolicy":1}}"#,
            "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (r#"{"spec":[]}"#, "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        (r#"[]"#, "json: cannot unmarshal array into Go value of type v1.Pod"),
        (
            r#"{"spec":{"volumes":[{"hostPath":true}]}}"#,
            "json: cannot unmarshal bool into Go struct field Volume.spec.volumes.hostPath of type v1.HostPathVolumeSource",
        ),
        (
            r#"{"metadata":{"creationTimestamp":5}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        assert_eq!(walk(POD, body).unwrap_err(), message, "{body}");
    }
    let secret = walk(("", "v1", "Secret"), r#"{"data":{"a":"!"}}"#).unwrap_err();
    assert_eq!(secret, "illegal base64 data at input byte 0");
}

#[test]
fn unknown_fields_are_found_and_dropped() {
    let body = r#"{"Kind":"x","spec":{"foo":1,"containers":[{"name":"a","imagee":"b","env":[{"name":"x","vale":1}]}]}}"#;
    let (written, findings) = walk(POD, body).unwrap();
    let paths = ["Kind", "spec.foo", "spec.containers[0].imagee", "spec.containers[0].env[0].vale"];
    assert_eq!(findings.unknown, paths);
    assert_eq!(findings.messages().next().unwrap(), "unknown field \"Kind\"");
    assert!(!written.contains("foo") && !written.contains("imagee"));
}

#[test]
fn zero_values_go_and_come_as_in_go() {
    for (body, written) in [
        (
            r#"{"metadata":{"name":"a","labels":{},"annotations":null,"generateName":"","creationTimestamp":null},"data":{"k":null}}"#,
            r#"{"metadata":{"name":"a"},"data":{"k":""}}"#,
        ),
        (r#"{"immutable":false,"data":{}}"#, r#"{"immutable":false,"metadata":{}}"#),
        (r#"{"metadata":null}"#, r#"{"metadata":{}}"#),
        (
            r#"{"metadata":{"creationTimestamp":"2024-02-29T13:34:56.5+01:00","deletionTimestamp":"0001-01-01T00:00:00Z"}}"#,
            r#"{"metadata":{"creationTimestamp":"2024-02-29T12:34:56Z"}}"#,
        ),
    ] {
        assert_eq!(walk(CONFIG_MAP, body).unwrap().0, written, "{body}");
    }
    let (written, _) = walk(
        POD,
        r#"{"spec":{"hostNetwork":false,"automountServiceAccountToken":false,"securityContext":{}}}"#,
    )
    .unwrap();
    let expected = r#"{"spec":{"automountServiceAccountToken":false,"securityContext":{},"containers":null},"metadata":{},"status":{}}"#;
    assert_eq!(written, expected);
}

#[test]
fn scalars_become_canonical() {
    let body = r#"{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":0.5,"memory":" 1024Mi ","x":1}},
        "ports":[{"containerPort":80}],"livenessProbe":{"httpGet":{"port":"web"}}}]}}"#;
    let (written, _) = walk(POD, body).unwrap();
    assert!(written.contains(r#""limits":{"cpu":"500m","memory":"1Gi","x":"1"}"#), "{written}");
    assert!(written.contains(r#"{"containerPort":80,"protocol":"TCP"}"#), "{written}");
    let (secret, _) = walk(("", "v1", "Secret"), "{\"data\":{\"a\":\"YWJj\\nZGVm\",\"b\":null}}").unwrap();
    assert_eq!(secret, r#"{"data":{"a":"YWJjZGVm","b":null},"metadata":{}}"#);
    let (role, _) = walk(("rbac.authorization.k8s.io", "v1", "Role"), "{}").unwrap();
    assert_eq!(role, r#"{"metadata":{},"rules":null}"#);
}

#[test]
fn recursive_schemas_end_with_the_value() {
    let kind = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let schema = r#"{"type":"object","properties":{"a":{"items":{"type":"string","nonsense":1},"default":{"free":null}}},
        "additionalProperties":false}"#;
    let body = format!(r#"{{"spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#);
    let (written, findings) = walk(kind, &body).unwrap();
    assert_eq!(findings, Findings::default());
    assert!(written.contains(r#""default":{"free":null}"#) && !written.contains("nonsense"), "{written}");
}

#[test]
fn a_second_walk_changes_nothing() {
    let body = r#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":1}]}],
        "volumes":[{"name":"v","configMap":{"name":"x"}}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    let (once, _) = walk(POD, body).unwrap();
    let (twice, findings) = walk(POD, &once).unwrap();
    assert_eq!((once, Findings::default()), (twice, findings));
}

/// The deepest objects that the readers let through pass every walk on a thread's ordinary stack.
#[test]
fn the_deepest_schemas_fit_the_stack() {
    const WORKER_STACK: usize = 2 << 20;
    let walk_all = |depth: usize| {
        let nested = format!("{}{}{}", "{\"not\":".repeat(depth), "{\"type\":\"string\"}", "}".repeat(depth));
        let body = format!(
            r#"{{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{nested}}}}}]}}}}"#
        );
        let mut value = json::parse(&Bytes::from(body)).unwrap();
        let schema = for_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        conform(&mut value, schema, Mode::REQUEST).unwrap();
        let copy = value.clone();
        assert!(copy == value && json::to_vec(&value).len() > depth * 7);
        assert!(crate::cbor::decode(&Bytes::from(crate::cbor::encode(&value))).unwrap() == value);
        let encoded = Bytes::from(crate::protobuf::encode(&value).unwrap());
        let decoded = crate::protobuf::decode(&encoded);
        assert!(if depth < json::MAX_DEPTH / 2 { decoded.unwrap() == value } else { decoded.is_err() });
    };
    for depth in [json::MAX_DEPTH / 2 - 5, json::MAX_DEPTH - 7] {
        let thread = std::thread::Builder::new().stack_size(WORKER_STACK);
        thread.spawn(move || walk_all(depth)).unwrap().join().unwrap();
    }
}
