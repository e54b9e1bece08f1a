//! Custom resource definitions: names, versions, conversion, and the form that their schemas must have.

use super::look::{Errors, at_mut, given, is_true, items, same, text};
use super::row::NO_HOOKS;
use super::webhook::client_config;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value};

const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &[&str] =
    &["int32", "int64", "float", "double", "byte", "date", "date-time", "password"];
const SCHEMA_TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const WARNING_MAX_BYTES: usize = 256;
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(|crd, _| note_storage_version(crd)),
    prepare_update: Some(|crd, _, _| note_storage_version(crd)),
    validate: Some(validate),
    ..NO_HOOKS
};

/// In which versions objects may rest from now on: a version that is stored once stays in the list.
fn note_storage_version(crd: &mut Value) {
    let stored = crd.items_at(&["spec", "versions"]).iter().find(|v| is_true(v, "storage"));
    let Some(name) = stored.map(|v| Value::from(text(v, "name"))) else { return };
    let mut list = crd.items_at(&["status", "storedVersions"]).to_vec();
    if !list.contains(&name) {
        list.push(name);
        crd.object_at_mut(&["status"]).set("storedVersions", list);
    }
}

fn default(crd: &mut Value) {
    crd.object_at_mut(&["spec", "names"]);
    let kind = crd.str_at(&["spec", "names", "kind"]).to_owned();
    if let Some(names) = at_mut(crd, &["spec", "names"]) {
        if text(names, "singular").is_empty() && !kind.is_empty() {
            names.object_at_mut(&[]).set("singular", kind.to_lowercase());
        }
        if text(names, "listKind").is_empty() && !kind.is_empty() {
            names.object_at_mut(&[]).set("listKind", format!("{kind}List"));
        }
    }
    if crd.at(&["spec", "conversion"]).is_none_or(Value::is_null) {
        crd.object_at_mut(&["spec", "conversion"]).set("strategy", Value::str("None"));
    }
    let stored = crd.items_at(&["spec", "versions"]).iter().find(|v| is_true(v, "storage"));
    let stored = stored.map(|v| text(v, "name").to_owned());
    if let Some(name) = stored.filter(|_| crd.items_at(&["status", "storedVersions"]).is_empty()) {
        crd.object_at_mut(&["status"]).set("storedVersions", vec![Value::from(name)]);
    }
}

/// Several mistakes of one value as one error, as these kinds tell them.
fn joined(errors: &mut Errors, path: &Path<'_>, value: &str, wrong: Vec<String>, lead: &str) {
    if !wrong.is_empty() {
        errors.push(Error::invalid(path, value, format!("{lead}{}", wrong.join(","))));
    }
}

fn validate(crd: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        return errors;
    }
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = crd.get("spec").unwrap_or(&empty);
    let (group, name) = (text(spec, "group"), crd.str_at(&["metadata", "name"]));
    if old.is_none() && name != format!("{}.{group}", spec.str_at(&["names", "plural"])) {
        let root = Path::root("metadata");
        errors.push(Error::invalid(&root.child("name"), name, "must be spec.names.plural+\".\"+spec.group"));
    }
    match group {
        "" => errors.push(Error::required(&path.child("group"), "")),
        group => {
            let mut wrong = rules::dns_subdomain(group);
            if wrong.is_empty() && !group.contains('.') {
                wrong.push("should be a domain with at least one dot".to_owned());
            }
            joined(&mut errors, &path.child("group"), group, wrong, "");
        }
    }
    one_of_required(&mut errors, spec, "scope", &["Cluster", "Namespaced"], &path);
    versions(&mut errors, spec, &path);
    names(&mut errors, spec.get("names").unwrap_or(&empty), &path.child("names"));
    if is_true(spec, "preserveUnknownFields") {
        let detail = "must be set to false in order to create a CRD with apiVersion apiextensions.k8s.io/v1";
        errors.push(Error::invalid(&path.child("preserveUnknownFields"), true, detail));
    }
    conversion(&mut errors, spec.get("conversion").unwrap_or(&empty), &path.child("conversion"));
    stored_versions(&mut errors, crd);
    if old.is_none() {
        approval(&mut errors, crd, group);
    }
    if let Some(old) = old {
        stays(&mut errors, spec, old, &path);
    }
    errors
}

fn one_of_required(errors: &mut Errors, of: &Value, field: &str, known: &[&str], path: &Path<'_>) {
    match text(of, field) {
        "" => errors.push(Error::required(&path.child(field), "")),
        word if !known.contains(&word) => errors.push(Error::not_supported(&path.child(field), word, known)),
        _ => {}
    }
}

/// Group and scope never change; names do not once the definition is in use.
fn stays(errors: &mut Errors, spec: &Value, old: &Value, path: &Path<'_>) {
    let conditions = old.items_at(&["status", "conditions"]);
    let is_on = |c: &&Value| text(c, "type") == "Established" && text(c, "status") == "True";
    let established = conditions.iter().any(|c| is_on(&c));
    let empty = Value::Null;
    let before = old.get("spec").unwrap_or(&empty);
    if !established {
        return;
    }
    for field in ["group", "scope"] {
        super::look::immutable(errors, spec, before, field, path);
    }
    let (names, old_names) = (spec.get("names").unwrap_or(&empty), before.get("names").unwrap_or(&empty));
    for field in ["kind", "plural"] {
        super::look::immutable(errors, names, old_names, field, &path.child("names"));
    }
}

fn versions(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let (versions, list) = (items(spec, "versions"), path.child("versions"));
    for (i, version) in versions.iter().enumerate() {
        if version.at(&["schema", "openAPIV3Schema"]).is_none_or(Value::is_null) {
            let item = list.index(i);
            errors.push(Error::required(&item.child("schema").child("openAPIV3Schema"), ""));
        }
    }
    // Upstream lifts what all versions share to where the first form of the API had it.
    let first = versions.first();
    let shares = |field: &str| versions.iter().all(|v| same(v.get(field), first.and_then(|f| f.get(field))));
    let lifted = ["schema", "subresources", "additionalPrinterColumns"].map(shares);
    let mut once = true;
    for (i, version) in versions.iter().enumerate() {
        let (item, name) = (list.index(i), text(version, "name"));
        joined(errors, &item.child("name"), name, rules::dns1035_label(name), "");
        deprecation(errors, version, &item);
        let at = |field: usize| if lifted[field] { (path, once) } else { (&item, true) };
        if let Some(root) = version.at(&["schema", "openAPIV3Schema"]).filter(|s| !s.is_null())
            && at(0).1
        {
            let place = at(0).0.child(if lifted[0] { "validation" } else { "schema" });
            schema_root(errors, root, &place.child("openAPIV3Schema"));
        }
        if let Some(of) = given(version, "subresources").filter(|_| at(1).1) {
            subresources(errors, of, &at(1).0.child("subresources"));
        }
        if at(2).1 {
            let list = at(2).0.child("additionalPrinterColumns");
            for (i, column) in items(version, "additionalPrinterColumns").iter().enumerate() {
                printer_column(errors, column, &list.index(i));
            }
        }
        once = false;
    }
    let bad = || Value::from(versions.to_vec());
    let unique = |(i, v): (usize, &Value)| versions[..i].iter().all(|o| text(o, "name") != text(v, "name"));
    if !versions.iter().enumerate().all(unique) {
        errors.push(Error::invalid(&list, bad(), "must contain unique version names"));
    }
    if versions.iter().filter(|v| is_true(v, "storage")).count() != 1 {
        errors.push(Error::invalid(&list, bad(), "must have exactly one version marked as storage version"));
    }
}

fn deprecation(errors: &mut Errors, version: &Value, path: &Path<'_>) {
    let Some(warning) = given(version, "deprecationWarning").and_then(Value::as_str) else { return };
    let field = path.child("deprecationWarning");
    let mut wrong = |detail: &str| errors.push(Error::invalid(&field, warning, detail));
    if !is_true(version, "deprecated") {
        wrong("can only be set for deprecated versions");
        return;
    }
    if warning.len() > WARNING_MAX_BYTES {
        wrong("must be <= 256 characters long");
    }
    if warning.is_empty() {
        wrong("must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        wrong(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
}

fn names(errors: &mut Errors, names: &Value, path: &Path<'_>) {
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(names, field).is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
    for (field, lead) in [
        ("plural", ""),
        ("singular", ""),
        ("kind", "may have mixed case, but should otherwise match: "),
        ("listKind", "may have mixed case, but should otherwise match: "),
    ] {
        let name = text(names, field);
        if !name.is_empty() {
            let checked = if lead.is_empty() { name.to_owned() } else { name.to_lowercase() };
            joined(errors, &path.child(field), name, rules::dns1035_label(&checked), lead);
        }
    }
    let list = path.child("shortNames");
    for (i, name) in items(names, "shortNames").iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        joined(errors, &list.index(i), name, rules::dns1035_label(name), "");
    }
    if !text(names, "kind").is_empty() && text(names, "kind") == text(names, "listKind") {
        let detail = "kind and listKind may not be the same";
        errors.push(Error::invalid(&path.child("listKind"), text(names, "listKind"), detail));
    }
    let list = path.child("categories");
    for (i, name) in items(names, "categories").iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        joined(errors, &list.index(i), name, rules::dns1035_label(name), "");
    }
}

fn schema_root(errors: &mut Errors, schema: &Value, path: &Path<'_>) {
    match text(schema, "type") {
        "" => errors.push(Error::required(&path.child("type"), "must not be empty at the root")),
        "object" => {}
        other => {
            let detail = "must be object at the root";
            errors.push(Error::invalid(&path.child("type"), other, detail));
        }
    }
    if is_true(schema, "nullable") {
        errors.push(Error::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    schema_parts(errors, schema, path);
}

/// Every part says its type: without it nobody could prune or default it.
fn schema_parts(errors: &mut Errors, schema: &Value, path: &Path<'_>) {
    let kind = text(schema, "type");
    if !kind.is_empty() && !SCHEMA_TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, SCHEMA_TYPES));
    }
    if kind == "array" && given(schema, "items").is_none() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    let properties = path.child("properties");
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Object::iter);
    for (name, part) in fields {
        typed(errors, part, "must not be empty for specified object fields", &properties.key(name));
    }
    if let Some(part) = given(schema, "items").filter(|part| matches!(part, Value::Object(_))) {
        typed(errors, part, "must not be empty for specified array items", &path.child("items"));
    }
    if let Some(part) = given(schema, "additionalProperties").filter(|part| matches!(part, Value::Object(_)))
    {
        let path = path.child("additionalProperties");
        if schema.get("properties").and_then(Value::as_object).is_some_and(|p| !p.is_empty()) {
            errors.push(Error::forbidden(&path, "additionalProperties and properties are mutual exclusive"));
        }
        typed(errors, part, "must not be empty for specified object fields", &path);
    }
}

fn typed(errors: &mut Errors, part: &Value, missing: &str, path: &Path<'_>) {
    let free =
        is_true(part, "x-kubernetes-int-or-string") || is_true(part, "x-kubernetes-preserve-unknown-fields");
    if text(part, "type").is_empty() && !free {
        errors.push(Error::required(&path.child("type"), missing));
    }
    schema_parts(errors, part, path);
}

fn subresources(errors: &mut Errors, of: &Value, path: &Path<'_>) {
    let Some(scale) = given(of, "scale") else { return };
    for (field, roots, under) in [
        ("specReplicasPath", &[".spec."][..], "under .spec"),
        ("statusReplicasPath", &[".status."][..], "under .status"),
        ("labelSelectorPath", &[".spec.", ".status."][..], "under either .spec or .status"),
    ] {
        let (place, value) = (format!("scale.{field}"), text(scale, field));
        let path = path.child(&place);
        if value.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(Error::required(&path, ""));
            }
        } else if !is_simple_path(value) {
            errors.push(Error::invalid(&path, value, "is an invalid path"));
        } else if !roots.iter().any(|root| value.starts_with(root)) {
            errors.push(Error::invalid(&path, value, format!("should be a json path {under}")));
        }
    }
}

/// `.a.b['c']`: fields only.
fn is_simple_path(path: &str) -> bool {
    path.starts_with('.') && !path.contains(['*', '?', '(', ' ']) && !path.ends_with('.')
}

fn printer_column(errors: &mut Errors, column: &Value, path: &Path<'_>) {
    if text(column, "name").is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let detail = format!("must be one of {COLUMN_TYPES}");
    match text(column, "type") {
        "" => errors.push(Error::required(&path.child("type"), detail)),
        kind if !COLUMN_TYPES.split(',').any(|known| known == kind) => {
            errors.push(Error::invalid(&path.child("type"), kind, detail));
        }
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let mut known = COLUMN_FORMATS.to_vec();
        known.sort_unstable();
        let detail = format!("must be one of {}", known.join(","));
        errors.push(Error::invalid(&path.child("format"), format, detail));
    }
    if text(column, "jsonPath").is_empty() {
        errors.push(Error::required(&path.child("JSONPath"), ""));
    }
}

fn conversion(errors: &mut Errors, conversion: &Value, path: &Path<'_>) {
    one_of_required(errors, conversion, "strategy", &["None", "Webhook"], path);
    let webhook = given(conversion, "webhook");
    let (config, versions) = (
        webhook.and_then(|w| given(w, "clientConfig")),
        webhook.map(|w| items(w, "conversionReviewVersions")).unwrap_or_default(),
    );
    let (config_path, list) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if text(conversion, "strategy") != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if config.is_some() {
            errors.push(Error::forbidden(&config_path, detail));
        }
        if !versions.is_empty() {
            errors.push(Error::forbidden(&list, detail));
        }
        return;
    }
    match config {
        None => errors.push(Error::required(&config_path, "required when strategy is set to Webhook")),
        Some(config) => client_config(errors, config, &config_path),
    }
    if versions.is_empty() {
        errors.push(Error::required(&list, ""));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if versions[..i].contains(version) {
            errors.push(Error::invalid(&list.index(i), name, "duplicate version"));
            continue;
        }
        invalid_each(errors, &list.index(i), name, rules::dns1035_label(name));
    }
    if !versions.iter().any(|v| REVIEW_VERSIONS.contains(&v.as_str().unwrap_or_default())) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::invalid(&list, Value::from(versions.to_vec()), detail));
    }
}

fn stored_versions(errors: &mut Errors, crd: &Value) {
    let root = Path::root("status");
    let (list, stored) = (root.child("storedVersions"), crd.items_at(&["status", "storedVersions"]));
    let bad = || Value::from(stored.to_vec());
    if stored.is_empty() {
        errors.push(Error::invalid(&list, bad(), "must have at least one stored version"));
        return;
    }
    let versions = crd.items_at(&["spec", "versions"]);
    let is_stored = |name: &str| stored.iter().any(|s| s.as_str() == Some(name));
    for version in versions.iter().filter(|v| is_true(v, "storage") && !is_stored(text(v, "name"))) {
        let detail = format!("must have the storage version {}", text(version, "name"));
        errors.push(Error::invalid(&list, bad(), detail));
    }
    for (i, name) in stored.iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        if versions.iter().all(|v| text(v, "name") != name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a \
                 storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(Error::invalid(&list.index(i), name, detail));
        }
    }
}

/// Groups of the Kubernetes project itself need its approval.
fn approval(errors: &mut Errors, crd: &Value, group: &str) {
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|end| group == *end || group.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')));
    if !protected {
        return;
    }
    let root = Path::root("metadata");
    let annotations = root.child("annotations");
    let path = annotations.key(APPROVAL);
    let given = crd.str_at(&["metadata", "annotations", APPROVAL]);
    let approved =
        given.starts_with("https://") || given.starts_with("http://") || given.starts_with("unapproved");
    if given.is_empty() {
        let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
                      https://github.com/kubernetes/enhancements/pull/1111";
        errors.push(Error::required(&path, detail));
    } else if !approved {
        let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason \
                      starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111";
        errors.push(Error::invalid(&path, given, detail));
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree, update_errors};

    const GROUP: &str = "apiextensions.k8s.io";
    const KIND: &str = "CustomResourceDefinition";
    const GOOD: &str = "{metadata: {name: widgets.example.org}, spec: {group: example.org, scope: Namespaced, names: {plural: widgets, \
                        kind: Widget}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, \
                        properties: {spec: {type: object}}}}}]}}";

    #[test]
    fn defaults() {
        let crd =
            defaulted(GROUP, KIND, "{spec: {names: {kind: Widget}, versions: [{name: v1, storage: true}]}}");
        let wanted = "{spec: {names: {kind: Widget, singular: widget, listKind: WidgetList}, versions: [{name: v1, storage: true}], \
                      conversion: {strategy: None}}, status: {storedVersions: [v1]}}";
        assert_eq!(crd, tree(wanted));
    }

    #[test]
    fn definitions() {
        let cases: &[(String, &[&str])] = &[
            (GOOD.to_owned(), &[]),
            (
                GOOD.replace("widgets.example.org", "widgets"),
                &["metadata.name: Invalid value: \"widgets\": must be spec.names.plural+\".\"+spec.group"],
            ),
            (
                GOOD.replace("scope: Namespaced", "scope: Global"),
                &["spec.scope: Unsupported value: \"Global\": supported values: \"Cluster\", \"Namespaced\""],
            ),
            (
                GOOD.replace(
                    "spec: {type: object}",
                    "spec: {}, list: {type: array}, any: {x-kubernetes-preserve-unknown-fields: true}",
                ),
                &[
                    "spec.validation.openAPIV3Schema.properties[list].items: Required value: must be specified",
                    "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
                ],
            ),
            (
                GOOD.replace("group: example.org", "group: example.k8s.io")
                    .replace("widgets.example.org", "widgets.example.k8s.io"),
                &[
                    "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \
                     \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
                ],
            ),
            (
                GOOD.replace("kind: Widget}", "kind: Widget, listKind: Widget, shortNames: [W_]}"),
                &[
                    "spec.names.shortNames[0]: Invalid value: \"W_\": a DNS-1035 label must consist of lower case alphanumeric characters \
                     or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
                     regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                    "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same",
                ],
            ),
            (
                GOOD.replace(
                    "storage: true, ",
                    "storage: true, additionalPrinterColumns: [{name: A, type: text}], subresources: {scale: \
                 {specReplicasPath: .status.x}}, ",
                ),
                &[
                    "spec.subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec",
                    "spec.subresources.scale.statusReplicasPath: Required value",
                    "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
                    "spec.additionalPrinterColumns[0].JSONPath: Required value",
                ],
            ),
            (
                GOOD.replace("versions: [", "conversion: {strategy: Webhook}, versions: ["),
                &[
                    "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
                    "spec.conversion.conversionReviewVersions: Required value",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, KIND, yaml), *wanted, "{yaml}");
        }
        let versions = create_errors(GROUP, KIND, &GOOD.replace("storage: true", "storage: false"));
        assert!(
            versions.iter().any(|e| e.ends_with("must have exactly one version marked as storage version")),
            "{versions:?}"
        );
    }

    #[test]
    fn what_is_in_use_stays() {
        let old = format!(
            "{}, status: {{conditions: [{{type: Established, status: 'True'}}], storedVersions: [v1]}}}}",
            &GOOD[..GOOD.len() - 1]
        );
        let errors = update_errors(GROUP, KIND, &old, &GOOD.replace("Namespaced", "Cluster"));
        assert_eq!(errors, ["spec.scope: Invalid value: \"Cluster\": field is immutable"]);
    }
}
