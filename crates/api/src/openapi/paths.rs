//! Operations of a kind: paths, verbs, parameters, bodies.

use std::collections::BTreeSet;

use super::Form;
use super::schemas::{PATCH_BODY, name_of};
use crate::kind::{Kind, Scope, Subresource, Verb, Version};
use crate::{Object, Value};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];
const JSON_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const LIST_PARAMETERS: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE_PARAMETERS: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH_PARAMETERS: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE_PARAMETERS: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// What an operation does; the word begins its id.
#[derive(Clone, Copy)]
struct Action {
    method: &'static str,
    word: &'static str,
    /// `x-kubernetes-action`
    name: &'static str,
    parameters: &'static [(&'static str, &'static str)],
}

const LIST: Action = Action { method: "get", word: "list", name: "list", parameters: LIST_PARAMETERS };
const CREATE: Action = Action { method: "post", word: "create", name: "post", parameters: WRITE_PARAMETERS };
const READ: Action = Action { method: "get", word: "read", name: "get", parameters: &[] };
const REPLACE: Action = Action { method: "put", word: "replace", name: "put", parameters: WRITE_PARAMETERS };
const PATCH: Action = Action { method: "patch", word: "patch", name: "patch", parameters: PATCH_PARAMETERS };
const DELETE: Action =
    Action { method: "delete", word: "delete", name: "delete", parameters: DELETE_PARAMETERS };
const DELETE_ALL: Action = Action {
    method: "delete",
    word: "deleteCollection",
    name: "deletecollection",
    parameters: LIST_PARAMETERS,
};

struct Writer<'a> {
    form: Form,
    kind: &'a Kind,
    version: &'a Version,
    wanted: &'a mut BTreeSet<String>,
}

/// Adds the paths of one version of a kind; `wanted` collects the definitions they name.
pub(super) fn of_kind(
    form: Form,
    kind: &Kind,
    version: &Version,
    paths: &mut Object,
    wanted: &mut BTreeSet<String>,
) {
    let mut writer = Writer { form, kind, version, wanted };
    let namespaced = kind.scope == Scope::Namespaced;
    let root = match &*kind.group {
        "" => format!("/api/{}", version.name),
        group => format!("/apis/{group}/{}", version.name),
    };
    let base = if namespaced { format!("{root}/namespaces/{{namespace}}") } else { root.clone() };
    let collection = format!("{base}/{}", kind.plural);
    let has = |verb| kind.has_verb(verb);
    let mut item = writer.path_item(namespaced, false);
    writer.add(&mut item, LIST, has(Verb::List), Body::List);
    writer.add(&mut item, CREATE, has(Verb::Create), Body::Own);
    writer.add(&mut item, DELETE_ALL, has(Verb::DeleteCollection), Body::Status);
    paths.insert(collection.as_str(), item);
    if namespaced && has(Verb::List) {
        let mut item = writer.path_item(false, false);
        writer.add(&mut item, LIST, true, Body::List);
        paths.insert(format!("{root}/{}", kind.plural), item);
    }
    if !has(Verb::Get) {
        return;
    }
    let mut item = writer.path_item(namespaced, true);
    writer.add(&mut item, READ, true, Body::Own);
    writer.add(&mut item, REPLACE, has(Verb::Update), Body::Own);
    writer.add(&mut item, PATCH, has(Verb::Patch), Body::Own);
    writer.add(&mut item, DELETE, has(Verb::Delete), Body::Status);
    paths.insert(format!("{collection}/{{name}}"), item);
    for sub in kind.subresources.iter() {
        let mut item = writer.path_item(namespaced, true);
        writer.subresource(&mut item, sub);
        paths.insert(format!("{collection}/{{name}}/{}", sub.name()), item);
    }
}

/// What an operation takes or gives.
#[derive(Clone, Copy)]
enum Body<'a> {
    Own,
    List,
    Status,
    Other {
        group: &'a str,
        version: &'a str,
        kind: &'a str,
    },
    /// A stream or text.
    Plain,
}

impl Writer<'_> {
    fn path_item(&self, namespaced: bool, named: bool) -> Object {
        let mut item = Object::default();
        let mut parameters = Vec::new();
        for (name, wanted) in [("namespace", namespaced), ("name", named)] {
            if wanted {
                parameters.push(self.parameter(name, "path", "string"));
            }
        }
        parameters.push(self.parameter("pretty", "query", "string"));
        item.set("parameters", parameters);
        item
    }

    fn parameter(&self, name: &str, place: &'static str, kind: &'static str) -> Value {
        let mut parameter = Object::default();
        parameter.set("name", name);
        parameter.set("in", Value::str(place));
        if place == "path" {
            parameter.set("required", true);
        }
        let mut schema = Object::default();
        schema.set("type", Value::str(kind));
        schema.set("uniqueItems", true);
        match self.form {
            Form::V2 => {
                for (key, value) in schema {
                    parameter.push_unchecked(key, value);
                }
            }
            Form::V3 => parameter.set("schema", schema),
        }
        parameter.into()
    }

    fn subresource(&mut self, item: &mut Object, sub: &Subresource) {
        match sub {
            Subresource::Status => self.read_and_write(item, Body::Own),
            Subresource::Scale { .. } => {
                self.read_and_write(item, Body::Other { group: "autoscaling", version: "v1", kind: "Scale" });
            }
            Subresource::Object { verbs, .. } => {
                for action in [READ, REPLACE, PATCH] {
                    let verb = match action.method {
                        "put" => "update",
                        method => method,
                    };
                    self.add(item, action, verbs.contains(&verb), Body::Own);
                }
            }
            Subresource::Action { body: (group, version, kind), .. } => {
                self.add(item, CREATE, true, Body::Other { group, version, kind });
            }
            Subresource::Connect { verbs, .. } => {
                for action in [READ, CREATE, REPLACE, PATCH, DELETE] {
                    let verb = match action.method {
                        "put" => "update",
                        "post" => "create",
                        method => method,
                    };
                    self.add(item, Action { parameters: &[], ..action }, verbs.contains(&verb), Body::Plain);
                }
            }
        }
    }

    fn read_and_write(&mut self, item: &mut Object, body: Body<'_>) {
        for action in [READ, REPLACE, PATCH] {
            self.add(item, action, true, body);
        }
    }

    /// Definition name and group version kind of a body.
    fn body_of(&self, body: Body<'_>) -> Option<(String, [String; 3])> {
        let own = |kind: &str| [self.kind.group.to_string(), self.version.name.to_string(), kind.to_owned()];
        match body {
            Body::Own => Some((name_of(self.kind, self.version, false), own(&self.kind.kind))),
            Body::List => Some((name_of(self.kind, self.version, true), own(&self.kind.kind))),
            Body::Status => Some((STATUS.to_owned(), own(&self.kind.kind))),
            Body::Other { group, version, kind } => {
                let package =
                    if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
                let name = format!("io.k8s.api.{package}.{version}.{kind}");
                Some((name, [group.to_owned(), version.to_owned(), kind.to_owned()]))
            }
            Body::Plain => None,
        }
    }

    fn add(&mut self, item: &mut Object, action: Action, served: bool, body: Body<'_>) {
        if !served {
            return;
        }
        let of = self.body_of(body);
        let mut operation = Object::default();
        operation.set("description", format!("{} {}", action.word, self.kind.plural));
        operation.set("tags", vec![Value::from(self.tag())]);
        let id = format!("{}{}{}", action.word, capital(&self.tag()), self.kind.kind);
        operation.set("operationId", format!("{id}_{}", item.len()));
        let mut parameters: Vec<Value> =
            action.parameters.iter().map(|(name, kind)| self.parameter(name, "query", kind)).collect();
        let taken = match action.method {
            "post" | "put" => of.as_ref().map(|(name, _)| name.clone()),
            "patch" => Some(PATCH_BODY.to_owned()),
            "delete" => Some(DELETE_OPTIONS.to_owned()),
            _ => None,
        };
        let types = if action.method == "patch" { PATCH_TYPES } else { JSON_TYPES };
        if let Some(name) = taken.filter(|_| of.is_some()) {
            self.request(&mut operation, &mut parameters, &name, types);
        }
        operation.set("parameters", parameters);
        operation.set("responses", self.responses(of.as_ref().map(|(name, _)| name.as_str())));
        operation.set("x-kubernetes-action", Value::str(action.name));
        if let Some((_, [group, version, kind])) = of {
            let mut gvk = Object::default();
            gvk.set("group", group);
            gvk.set("kind", kind);
            gvk.set("version", version);
            operation.set("x-kubernetes-group-version-kind", gvk);
        }
        item.set(action.method, operation);
    }

    fn request(
        &mut self,
        operation: &mut Object,
        parameters: &mut Vec<Value>,
        name: &str,
        types: &[&'static str],
    ) {
        let schema = self.reference(name);
        match self.form {
            Form::V2 => {
                let mut body = Object::default();
                body.set("name", Value::str("body"));
                body.set("in", Value::str("body"));
                body.set("required", true);
                body.set("schema", schema);
                parameters.push(body.into());
                operation.set("consumes", types.iter().map(|t| Value::str(t)).collect::<Vec<_>>());
            }
            Form::V3 => {
                let mut request = Object::default();
                request.set("content", content(types, schema));
                request.set("required", true);
                operation.set("requestBody", request);
            }
        }
    }

    fn responses(&mut self, given: Option<&str>) -> Object {
        let mut ok = Object::default();
        ok.set("description", Value::str("OK"));
        if let Some(name) = given {
            let schema = self.reference(name);
            match self.form {
                Form::V2 => ok.set("schema", schema),
                Form::V3 => ok.set("content", content(JSON_TYPES, schema)),
            }
        }
        let mut unauthorized = Object::default();
        unauthorized.set("description", Value::str("Unauthorized"));
        let mut responses = Object::default();
        responses.set("200", ok);
        responses.set("401", unauthorized);
        responses
    }

    fn reference(&mut self, name: &str) -> Object {
        self.wanted.insert(name.to_owned());
        let mut reference = Object::default();
        reference.set("$ref", self.form.reference(name));
        reference
    }

    fn tag(&self) -> String {
        let group =
            if self.kind.group.is_empty() { "core" } else { self.kind.group.split('.').next().unwrap_or("") };
        format!("{group}_{}", self.version.name)
    }
}

fn content(types: &[&'static str], schema: Object) -> Object {
    let mut content = Object::default();
    for name in types {
        let mut media = Object::default();
        media.set("schema", schema.clone());
        content.set(name, media);
    }
    content
}

/// `core_v1` as `CoreV1`.
fn capital(tag: &str) -> String {
    tag.split('_')
        .flat_map(|part| {
            let mut chars = part.chars();
            let first = chars.next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(chars)
        })
        .collect()
}
