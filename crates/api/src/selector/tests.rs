use bytes::Bytes;

use super::*;
use crate::json;

fn parsed(text: &str) -> Value {
    json::parse(&Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn golden(name: &str) -> Option<Value> {
    let path = format!("{}/../../../shared/data/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let Ok(body) = std::fs::read(path) else {
        println!("passed over: no golden {name} beside the project");
        return None;
    };
    Some(json::parse(&body.into()).unwrap())
}

#[test]
fn label_selectors_match() {
    let labels = parsed(r#"{"app":"web","tier":"front","n":"5","empty":""}"#);
    for (text, fits) in [
        ("", true),
        ("app=web", true),
        ("app==web,tier!=back", true),
        ("app in (web,db)", true),
        ("app notin (web,db)", false),
        ("other notin (web)", true),
        ("other!=x", true),
        ("other", false),
        ("!other,app", true),
        ("n>4,n<6", true),
        ("n>5", false),
        ("app>1", false),
        ("empty=", true),
        ("empty in ()", true),
        ("app in (,web)", true),
    ] {
        let selector = LabelSelector::parse(text).unwrap();
        assert_eq!(selector.matches(labels.as_object().unwrap()), fits, "{text}");
        let again = LabelSelector::parse(&selector.to_string()).unwrap();
        assert_eq!(again, selector, "{text}");
    }
}

#[test]
fn label_selector_errors_in_upstreams_words() {
    for (text, message) in [
        ("a,", "found '', expected: identifier after ','"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=(", "unable to parse requirement: found '(', expected: identifier"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        (
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap_err().to_string(), message, "{text}");
    }
    let key = LabelSelector::parse("a/b/c=d").unwrap_err().to_string();
    assert!(key.starts_with("unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a"), "{key}");
    let value = LabelSelector::parse("a=-").unwrap_err().to_string();
    assert!(
        value.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-\": a"),
        "{value}"
    );
}

#[test]
fn selector_objects() {
    let pod = parsed(r#"{"metadata":{"labels":{"app":"web","tier":"front"}}}"#);
    for (object, fits) in [
        ("null", false),
        ("{}", true),
        (r#"{"matchLabels":{"app":"web"}}"#, true),
        (r#"{"matchLabels":{"app":"db"}}"#, false),
        (r#"{"matchExpressions":[{"key":"tier","operator":"In","values":["back","front"]}]}"#, true),
        (
            r#"{"matchExpressions":[{"key":"x","operator":"DoesNotExist"},{"key":"app","operator":"Exists"}]}"#,
            true,
        ),
        (
            r#"{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"tier","operator":"NotIn","values":["front"]}]}"#,
            false,
        ),
    ] {
        assert_eq!(
            LabelSelector::from_object(&parsed(object)).unwrap().matches_object(&pod),
            fits,
            "{object}"
        );
    }
    let wrong = LabelSelector::from_object(&parsed(r#"{"matchExpressions":[{"key":"a","operator":"in"}]}"#));
    assert_eq!(wrong.unwrap_err().to_string(), "\"in\" is not a valid label selector operator");
    let map = LabelSelector::from_map(parsed(r#"{"app":"web","a":"b"}"#).as_object().unwrap());
    assert!(!map.matches_object(&pod));
    assert_eq!(map.to_string(), "a=b,app=web");
    assert!(LabelSelector::from_map(&Object::default()).is_everything());
}

#[test]
fn field_selectors() {
    let selector = FieldSelector::parse("status.phase!=Running,metadata.name=a\\,b").unwrap();
    assert_eq!(selector.exact("metadata.name"), Some("a,b"));
    assert_eq!(selector.to_string(), "metadata.name=a\\,b,status.phase!=Running");
    let fields = |name: &str| if name == "metadata.name" { "a,b" } else { "Pending" };
    assert!(selector.matches_with(fields) && !selector.matches_with(|_| "Running"));
    for (text, message) in [
        ("x", "invalid selector: 'x'; can't understand 'x'"),
        ("x=\\n", "invalid field selector: invalid escape sequence: \\n"),
        ("x=a=b", "invalid field selector: unescaped character in value: 61"),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn upstreams_label_selectors() {
    let Some(golden) = golden("label-selectors") else { return };
    let sets = golden.items_at(&["sets"]);
    for case in golden.items_at(&["cases"]) {
        let text = case.str_at(&["in"]);
        let selector = LabelSelector::parse(text);
        if case.get("error").is_some() {
            assert!(selector.is_err(), "{text:?} should be an error");
            continue;
        }
        let selector = selector.unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!(selector.to_string(), case.str_at(&["canonical"]), "{text:?}");
        for (set, fits) in sets.iter().zip(case.items_at(&["matches"])) {
            assert_eq!(
                Some(selector.matches(set.as_object().unwrap())),
                fits.as_bool(),
                "{text:?} on {set:?}"
            );
        }
    }
}

#[test]
fn upstreams_field_selectors() {
    let Some(golden) = golden("field-selectors") else { return };
    for case in golden.as_array().unwrap() {
        let text = case.str_at(&["in"]);
        let selector = FieldSelector::parse(text);
        if case.get("error").is_some() {
            assert!(selector.is_err(), "{text:?} should be an error");
            continue;
        }
        let selector = selector.unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!(selector.to_string(), case.str_at(&["canonical"]), "{text:?}");
        let parts = |r: &Value| (r.str_at(&["Field"]).to_owned(), r.str_at(&["Value"]).to_owned());
        let wanted: Vec<_> = case.items_at(&["requirements"]).iter().map(parts).collect();
        let got: Vec<_> = selector.requirements.into_iter().map(|r| (r.field, r.value)).collect();
        assert_eq!(got, wanted, "{text:?}");
    }
}
