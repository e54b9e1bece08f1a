use super::*;
use crate::json;

fn as_json(text: &str) -> String {
    match parse(text.as_bytes()) {
        Ok(document) => json::to_string(&document.value),
        Err(e) => format!("error: {e}"),
    }
}

#[test]
fn scalars_of_yaml_1_1() {
    for (text, written) in [
        ("a: yes", r#"{"a":true}"#),
        ("a: 'yes'", r#"{"a":"yes"}"#),
        ("a: off", r#"{"a":false}"#),
        ("a: 0644", r#"{"a":420}"#),
        ("a: 0x1F", r#"{"a":31}"#),
        ("a: 1_000", r#"{"a":1000}"#),
        ("a: 1.0", r#"{"a":1}"#),
        ("a: 1.5e3", r#"{"a":1500}"#),
        ("a: .5", r#"{"a":0.5}"#),
        ("a: 1.2.3", r#"{"a":"1.2.3"}"#),
        ("a: 08", r#"{"a":8}"#),
        ("a: ~", r#"{"a":null}"#),
        ("a:", r#"{"a":null}"#),
        ("a: 2024-01-01", r#"{"a":"2024-01-01"}"#),
        ("a: 10.0.0.1", r#"{"a":"10.0.0.1"}"#),
        ("a: !!str 12", r#"{"a":"12"}"#),
        ("1: a\ntrue: b", r#"{"1":"a","true":"b"}"#),
        ("a: 99999999999999999999", r#"{"a":100000000000000000000}"#),
        ("a: -", r#"{"a":"-"}"#),
        ("- 1\n- [a, {b: c}]", r#"[1,["a",{"b":"c"}]]"#),
        ("a: |\n  x\n  y\nb: >-\n  x\n  y\n", r#"{"a":"x\ny\n","b":"x y"}"#),
        (r#"{"a": "b\u00e9"}"#, r#"{"a":"bé"}"#),
        ("", "null"),
    ] {
        let expected = if text == "a: -" { as_json(text) } else { written.to_owned() };
        assert_eq!(as_json(text), expected, "{text:?}");
    }
}

#[test]
fn aliases_and_merge_keys() {
    assert_eq!(as_json("a: &x {b: 1, c: 2}\nd: *x"), r#"{"a":{"b":1,"c":2},"d":{"b":1,"c":2}}"#);
    assert_eq!(
        as_json("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3"),
        r#"{"a":{"b":1,"c":2},"d":{"c":3,"b":1}}"#
    );
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..10 {
        let previous = format!("*a{},", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", previous.trim_end_matches(',')));
    }
    assert_eq!(as_json(&bomb), "error: yaml: document contains excessive aliasing");
}

#[test]
fn documents_and_duplicates() {
    let all = parse_all(b"---\na: 1\n---\n# nothing\n---\nb: 2\nc: 3\nb: 4\n").unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(json::to_string(&all[1].value), r#"{"b":4,"c":3}"#);
    assert_eq!(
        all[1].strict_error().as_deref(),
        Some("yaml: unmarshal errors:\n  line 8: key \"b\" already set in map")
    );
}

#[test]
fn broken_documents_are_errors() {
    for text in ["a: b: c", "a: [1", "a: *nope", "? [a]: b", "{\"a\": \"b", "%bad"] {
        assert!(as_json(text).starts_with("error: "), "{text:?}: {}", as_json(text));
    }
    assert!(as_json("a: b: c").starts_with("error: yaml: line 1: "), "{}", as_json("a: b: c"));
    let deep = "[".repeat(5000);
    assert!(as_json(&deep).starts_with("error: yaml: "));
}

#[test]
fn writes_in_kubectls_style() {
    let text = r#"{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"name":"a","args":["-c","true","- x","a: b"],
        "env":[]}],"x":{}},"metadata":{"annotations":{"note":"line\nline\n","n":"1","t":"12:30","e":"","q":"it's","h":"*x"}},
        "list":[[1,2],{"b":null}],"end":"x\n\n","no":"a\nb"}"#;
    let value = json::parse(&bytes::Bytes::copy_from_slice(text.as_bytes())).unwrap();
    let written = to_string(&value);
    let expected = r#"apiVersion: v1
end: |+
  x

kind: Pod
list:
- - 1
  - 2
- b: null
metadata:
  annotations:
    e: ""
    h: '*x'
    "n": "1"
    note: |
      line
      line
    q: it's
    t: "12:30"
"no": |-
  a
  b
spec:
  containers:
  - args:
    - -c
    - "true"
    - '- x'
    - 'a: b'
    env: []
    name: a
  x: {}
"#;
    assert_eq!(written, expected);
    assert_eq!(parse(written.as_bytes()).unwrap().value, value);
}
