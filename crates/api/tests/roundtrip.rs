//! Whatever value there is: every format gives back what it was given.

use bytes::Bytes;
use corten_api::schema::{self, Mode};
use corten_api::{Object, Str, Value, cbor, json, protobuf, quantity::Quantity, yaml};
use proptest::prelude::*;

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>()
            .prop_filter("finite, not whole", |n| n.is_finite() && n.fract() != 0.0)
            .prop_map(Value::Float),
        any::<String>().prop_map(Value::from),
        "[-+ yn0-9.:#'\"!&*~a-f\n]{0,8}".prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map("[ -~]{0,6}", inner, 0..5).prop_map(|map| {
                Value::Object(map.into_iter().map(|(key, value)| (Str::from(key), value)).collect::<Object>())
            }),
        ]
    })
}

fn text_map() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-z]{1,5}", any::<String>(), 0..6).prop_map(|map| {
        Value::Object(map.into_iter().map(|(k, v)| (Str::from(k), Value::from(v))).collect::<Object>())
    })
}

fn deployment() -> impl Strategy<Value = Value> {
    (any::<i32>(), text_map(), any::<Option<bool>>(), prop::collection::vec("[a-z]{0,4}", 0..4), any::<u16>())
        .prop_map(|(replicas, labels, flag, words, port)| {
            let mut value = Value::object();
            let root = value.object_at_mut(&[]);
            root.set("kind", Value::str("Deployment"));
            root.set("apiVersion", Value::str("apps/v1"));
            value.object_at_mut(&["metadata"]).set("labels", labels);
            value.object_at_mut(&["spec"]).set("replicas", i64::from(replicas));
            let mut container = Object::default();
            container.set("name", Value::str("c"));
            container.set("command", words.into_iter().map(Value::from).collect::<Vec<_>>());
            let mut probe = Value::object();
            probe.object_at_mut(&["httpGet"]).set("port", i64::from(port));
            container.set("livenessProbe", probe);
            let spec = value.object_at_mut(&["spec", "template", "spec"]);
            spec.set("containers", vec![Value::Object(container)]);
            if let Some(flag) = flag {
                spec.set("automountServiceAccountToken", flag);
            }
            value
        })
}

/// serde_json reads floats only nearly.
fn without_floats(value: Value) -> Value {
    match value {
        Value::Float(_) => Value::Null,
        Value::Array(items) => Value::Array(items.into_iter().map(without_floats).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (key, without_floats(value))).collect())
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_gives_back(value in value()) {
        let text = json::to_vec(&value);
        prop_assert_eq!(json::parse(&Bytes::from(text)).unwrap(), value);
    }

    #[test]
    fn json_is_what_serde_reads(value in value().prop_map(without_floats)) {
        let text = json::to_string(&value);
        let other: serde_json::Value = serde_json::from_str(&text).unwrap();
        let again = json::parse(&Bytes::from(other.to_string())).unwrap();
        prop_assert_eq!(again, value);
    }

    #[test]
    fn json_never_panics(body in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = json::parse_strict(&Bytes::from(body));
    }

    #[test]
    fn broken_json_never_panics(text in "[\\[\\]{}:,\"\\\\0-9eE.truefalsn +-]{0,40}") {
        let ours = json::parse(&Bytes::from(text.clone()));
        let other = serde_json::from_str::<serde_json::Value>(&text);
        prop_assert_eq!(ours.is_ok(), other.is_ok(), "{}", text);
    }

    #[test]
    fn yaml_gives_back(value in value()) {
        let text = yaml::to_string(&value);
        let read = yaml::parse(text.as_bytes());
        prop_assert_eq!(read.map(|d| d.value), Ok(value), "{}", text);
    }

    #[test]
    fn cbor_gives_back(value in value()) {
        prop_assert_eq!(cbor::decode(&Bytes::from(cbor::encode(&value))).unwrap(), value);
    }

    #[test]
    fn binary_formats_never_panic(body in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = cbor::decode(&Bytes::from(body.clone()));
        let enveloped = [b"k8s\0\n\t\n\x02v1\x12\x03Pod\x12", &[body.len() as u8][..], &body].concat();
        let _ = protobuf::decode(&Bytes::from(enveloped));
    }

    #[test]
    fn conform_objects_survive_protobuf(value in deployment()) {
        let mut value = value;
        let schema = schema::for_kind("apps", "v1", "Deployment").unwrap();
        schema::conform(&mut value, schema, Mode::REQUEST).unwrap();
        let encoded = protobuf::encode(&value).unwrap();
        prop_assert_eq!(protobuf::decode(&Bytes::from(encoded)).unwrap(), value);
    }

    #[test]
    fn canonical_quantities_stay(n in any::<i32>(), suffix in "(n|u|m||k|M|G|T|Ki|Mi|Gi|e3|e-3|\\.5|\\.25Mi)") {
        let text = format!("{n}{suffix}");
        let quantity = Quantity::parse(&text).unwrap();
        let written = quantity.to_string();
        prop_assert_eq!(Quantity::parse(&written).unwrap(), quantity);
        prop_assert_eq!(Quantity::parse(&written).unwrap().to_string(), written);
    }
}
