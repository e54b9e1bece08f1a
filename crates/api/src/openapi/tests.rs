use super::*;
use crate::kinds::KindTable;
use crate::kinds::testing::tree;

fn parse(document: &Document) -> Value {
    tree(std::str::from_utf8(&document.body).expect("UTF-8"))
}

/// Every reference of a document that nothing defines.
fn dangling(document: &Value, at: &Value, missing: &mut Vec<String>) {
    match at {
        Value::Object(fields) => {
            for (key, value) in fields.iter() {
                if let Some(reference) = value.as_str().filter(|_| key == "$ref") {
                    let name = reference.rsplit('/').next().unwrap_or_default();
                    let v3 = document.at(&["components", "schemas", name]);
                    if v3.or_else(|| document.at(&["definitions", name])).is_none() {
                        missing.push(name.to_owned());
                    }
                }
                dangling(document, value, missing);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| dangling(document, item, missing)),
        _ => {}
    }
}

#[test]
fn every_group_version_has_a_whole_document() {
    let (kinds, documents) = (KindTable::default().snapshot(), Documents::default());
    for key in keys(&kinds) {
        let document = parse(&documents.v3(&kinds, "v1.37.0", &key).expect("served"));
        let mut missing = Vec::new();
        dangling(&document, &document, &mut missing);
        assert_eq!(missing, Vec::<String>::new(), "{key}");
    }
    assert!(documents.v3(&kinds, "v1.37.0", "apis/apps/v1beta1").is_none());
    assert!(documents.v3(&kinds, "v1.37.0", "nonsense").is_none());
}

#[test]
fn version_2_is_whole() {
    let (kinds, documents) = (KindTable::default().snapshot(), Documents::default());
    let document = parse(&documents.v2(&kinds, "v1.37.0"));
    let mut missing = Vec::new();
    dangling(&document, &document, &mut missing);
    assert_eq!(missing, Vec::<String>::new());
    assert!(document.at(&["definitions", "io.k8s.api.core.v1.Pod", "properties", "spec", "$ref"]).is_some());
}

#[test]
fn version_2_speaks_protobuf() {
    let (kinds, documents) = (KindTable::default().snapshot(), Documents::default());
    let document = documents.v2_protobuf(&kinds, "v1.37.0");
    assert!(document.body.starts_with(b"\x0a\x032.0\x12"));
    let has = |text: &[u8]| document.body.windows(text.len()).any(|part| part == text);
    assert!(has(b"io.k8s.api.core.v1.Pod\x12"));
    assert!(has(b"\x0a\x1fx-kubernetes-group-version-kind\x12"));
    assert!(has(b"#/definitions/io.k8s.api.core.v1.PodSpec"));
}

#[test]
fn version_3_speaks_protobuf() {
    let (kinds, documents) = (KindTable::default().snapshot(), Documents::default());
    let document = documents.v3_protobuf(&kinds, "v1.37.0", "apis/apps/v1").expect("served");
    assert!(document.body.starts_with(b"\x0a\x053.0.0\x12"));
    let has = |text: &[u8]| document.body.windows(text.len()).any(|part| part == text);
    assert!(has(b"/apis/apps/v1/namespaces/{namespace}/deployments/{name}\x12"));
    assert!(has(b"#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"));
    assert!(has(b"\x0a\x1fx-kubernetes-group-version-kind\x12"));
    let json = documents.v3(&kinds, "v1.37.0", "apis/apps/v1").expect("served");
    assert_eq!(document.hash, json.hash, "it is the same document");
    assert!(documents.v3_protobuf(&kinds, "v1.37.0", "apis/apps/v9").is_none());
}

#[test]
fn what_kubectl_looks_for() {
    let (kinds, documents) = (KindTable::default().snapshot(), Documents::default());
    let document = parse(&documents.v3(&kinds, "v1.37.0", "api/v1").expect("served"));
    let pod = document.at(&["components", "schemas", "io.k8s.api.core.v1.Pod"]).expect("a pod");
    let gvk = &pod.items_at(&["x-kubernetes-group-version-kind"])[0];
    assert_eq!(gvk, &tree("{group: '', kind: Pod, version: v1}"));
    let patch =
        document.at(&["paths", "/api/v1/namespaces/{namespace}/pods/{name}", "patch"]).expect("patch");
    assert_eq!(patch.get("x-kubernetes-group-version-kind"), Some(gvk));
    let parameters: Vec<&str> = patch.items_at(&["parameters"]).iter().map(|p| p.str_at(&["name"])).collect();
    assert!(parameters.contains(&"fieldValidation"), "{parameters:?}");
    let containers =
        document.at(&["components", "schemas", "io.k8s.api.core.v1.PodSpec", "properties", "containers"]);
    let containers = containers.expect("containers");
    assert_eq!(containers.str_at(&["x-kubernetes-patch-merge-key"]), "name");
    assert_eq!(containers.str_at(&["x-kubernetes-patch-strategy"]), "merge");
    assert_eq!(containers.str_at(&["x-kubernetes-list-type"]), "map");
}

#[test]
fn the_index_names_documents_and_custom_kinds_join() {
    let table = KindTable::default();
    let documents = Documents::default();
    let before = documents.v3_index(&table.snapshot(), "v1.37.0");
    let mut kind = crate::Kind::clone(crate::kinds::builtin_kind("", "ConfigMap").expect("built in"));
    (kind.group, kind.kind, kind.plural) = ("example.org".into(), "Widget".into(), "widgets".into());
    kind.list_kind = "WidgetList".into();
    let mut version = kind.versions[0].clone();
    version.message = "".into();
    version.open_api = Some(Arc::new(tree("{type: object, properties: {spec: {type: object}}}")));
    kind.versions = vec![version].into();
    table.insert(kind);
    let after = documents.v3_index(&table.snapshot(), "v1.37.0");
    assert_ne!(before.hash, after.hash);
    assert!(parse(&after).at(&["paths", "apis/example.org/v1", "serverRelativeURL"]).is_some());
    let document = parse(&documents.v3(&table.snapshot(), "v1.37.0", "apis/example.org/v1").expect("served"));
    let widget = document.at(&["components", "schemas", "org.example.v1.Widget"]).expect("a widget");
    assert_eq!(widget.at(&["properties", "spec", "type"]), Some(&tree("object")));
    let mut missing = Vec::new();
    dangling(&document, &document, &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}
