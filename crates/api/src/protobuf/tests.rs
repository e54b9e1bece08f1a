use super::*;
use crate::{cbor, yaml};

fn parsed(text: &str) -> Value {
    json::parse(&Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

#[test]
fn a_pod_there_and_back() {
    let text = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","labels":{"b":"c","a":"d"}},
        "spec":{"volumes":[{"name":"v","configMap":{"name":"m","optional":false}}],
        "containers":[{"name":"c","command":["x",""],"ports":[{"containerPort":80,"protocol":"TCP"}],
        "livenessProbe":{"httpGet":{"port":"web"}},"resources":{"limits":{"cpu":"500m"}}}],"tolerations":[]},
        "status":{"startTime":"2024-02-29T12:34:56Z"}}"#;
    let mut value = parsed(text);
    let schema = for_kind("", "v1", "Pod").unwrap();
    schema::conform(&mut value, schema, Mode::READ).unwrap();
    let encoded = encode(&value).unwrap();
    assert!(encoded.starts_with(b"k8s\0\n\t\n\x02v1\x12\x03Pod\x12"));
    assert_eq!(decode(&Bytes::from(encoded)).unwrap(), value);
}

#[test]
fn broken_bytes_are_errors() {
    let encoded = encode(&parsed(r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"a":"b"}}"#)).unwrap();
    for cut in 1..encoded.len() - 4 {
        let _ = decode(&Bytes::copy_from_slice(&encoded[..cut]));
    }
    let kind = decode(&Bytes::from(b"k8s\0\n\x08\n\x02v1\x12\x02No".to_vec())).unwrap_err();
    assert_eq!(kind.to_string(), "no kind \"No\" is registered for version \"v1\"");
    assert!(decode(&Bytes::from_static(b"{}")).unwrap_err().to_string().contains("expected prefix"));
    assert!(decode(&Bytes::from_static(b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")).is_err());
}

#[test]
fn watch_frames_come_off_a_stream_one_by_one() {
    let object = parsed(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"}}"#);
    let mut stream = Vec::new();
    watch_frame("ADDED", &encode(&object).unwrap(), &mut stream);
    watch_frame("DELETED", &encode(&object).unwrap(), &mut stream);
    let mut stream = Bytes::from(stream);
    assert_eq!(read_watch_frame(&mut stream.slice(..20)).unwrap(), None);
    let (event, first) = read_watch_frame(&mut stream).unwrap().unwrap();
    assert_eq!((event.as_str(), &first), ("ADDED", &object));
    assert_eq!(read_watch_frame(&mut stream).unwrap().unwrap().0, "DELETED");
    assert_eq!(read_watch_frame(&mut stream).unwrap(), None);
}

#[test]
fn upstreams_objects_turn_into_each_other_exactly() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/roundtrip");
    let Ok(files) = std::fs::read_dir(folder) else {
        println!("passed over: no round trip data beside the project");
        return;
    };
    let mut wrong = Vec::new();
    let mut cases = 0;
    for path in files.map(|file| file.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pb")) {
        cases += 1;
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let binary = Bytes::from(std::fs::read(&path).unwrap());
        let value = json::parse(&std::fs::read(path.with_extension("json")).unwrap().into()).unwrap();
        match decode(&binary) {
            Err(e) => wrong.push(format!("{name}: decode: {e}")),
            Ok(decoded) if decoded != value => {
                wrong.push(format!("{name}: {}", difference(&decoded, &value)))
            }
            Ok(_) => {}
        }
        if cbor::decode(&Bytes::from(cbor::encode(&value))).ok().as_ref() != Some(&value) {
            wrong.push(format!("{name}: CBOR"));
        }
        if yaml::parse(yaml::to_string(&value).as_bytes()).ok().map(|d| d.value).as_ref() != Some(&value) {
            wrong.push(format!("{name}: YAML"));
        }
        match encode(&value) {
            Err(e) => wrong.push(format!("{name}: encode: {e}")),
            Ok(encoded) if encoded != binary => {
                let at = encoded.iter().zip(&binary).take_while(|(a, b)| a == b).count();
                let around = |bytes: &[u8]| {
                    let part = &bytes[at.saturating_sub(30)..(at + 30).min(bytes.len())];
                    part.escape_ascii().to_string()
                };
                wrong.push(format!("{name}: byte {at}: {} instead of {}", around(&encoded), around(&binary)));
            }
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{} findings in {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases >= 142);
}

/// The first place where two values differ.
fn difference(a: &Value, b: &Value) -> String {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for (key, value) in x.iter() {
                match y.get(key) {
                    None => return format!("{key} decoded as {} but not there", json::to_string(value)),
                    Some(other) if value != other => return format!("{key}.{}", difference(value, other)),
                    Some(_) => {}
                }
            }
            let missing: Vec<&str> = y.keys().filter(|k| !x.contains_key(k)).map(Str::as_str).collect();
            format!("missing {missing:?}")
        }
        (Value::Array(x), Value::Array(y)) => {
            let at = x.iter().zip(y).position(|(x, y)| x != y);
            at.map_or_else(
                || format!("[] {} of {}", x.len(), y.len()),
                |i| format!("[{i}].{}", difference(&x[i], &y[i])),
            )
        }
        _ => format!(" {} instead of {}", json::to_string(a), json::to_string(b)),
    }
}
