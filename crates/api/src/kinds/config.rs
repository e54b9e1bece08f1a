//! Config maps, secrets and service accounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::look::{Errors, entries, immutable, is_true, same, set_empty, text};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value};

/// All data of one config map or secret together.
const DATA_MAX_BYTES: usize = 1024 * 1024;
const WHEN_IMMUTABLE: &str = "field is immutable when `immutable` is set";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

pub(super) const CONFIG_MAP: Hooks = Hooks { validate: Some(validate_config_map), ..NO_HOOKS };

pub(super) const SECRET: Hooks = Hooks {
    default: Some(default_secret),
    prepare_create: Some(|secret, _| fold_string_data(secret)),
    prepare_update: Some(|secret, _, _| fold_string_data(secret)),
    validate: Some(validate_secret),
    warnings: Some(secret_warnings),
    ..NO_HOOKS
};

fn validate_config_map(object: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if let Some(old) = old {
        frozen(&mut errors, object, old, &["data", "binaryData"]);
    }
    let (data, binary) = (Path::root("data"), Path::root("binaryData"));
    let mut bytes = 0;
    for (key, value) in entries(object, "data") {
        invalid_each(&mut errors, &data.key(key), key.as_str(), rules::config_key(key));
        if object.at(&["binaryData", key]).is_some() {
            let detail = "duplicate of key present in binaryData";
            errors.push(Error::invalid(&data.key(key), key.as_str(), detail));
        }
        bytes += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(object, "binaryData") {
        invalid_each(&mut errors, &binary.key(key), key.as_str(), rules::config_key(key));
        bytes += decoded_bytes(value);
    }
    if bytes > DATA_MAX_BYTES {
        errors.push(Error::too_long(&Path::root(""), DATA_MAX_BYTES));
    }
    errors
}

/// How many bytes a base64 text stands for.
fn decoded_bytes(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    (text.len() / 4 * 3).saturating_sub(text.bytes().rev().take_while(|b| *b == b'=').count())
}

fn frozen(errors: &mut Errors, object: &Value, old: &Value, fields: &[&'static str]) {
    if !is_true(old, "immutable") {
        return;
    }
    if !is_true(object, "immutable") {
        errors.push(Error::forbidden(&Path::root("immutable"), WHEN_IMMUTABLE));
    }
    for field in fields.iter().filter(|field| !same(object.get(field), old.get(field))) {
        errors.push(Error::forbidden(&Path::root(field), WHEN_IMMUTABLE));
    }
}

fn default_secret(secret: &mut Value) {
    set_empty(secret, "type", "Opaque");
    fold_string_data(secret);
}

/// `stringData` is write-only: its values go into `data`, over what is there.
fn fold_string_data(secret: &mut Value) {
    let Some(strings) = secret.as_object_mut().and_then(|s| s.remove("stringData")) else { return };
    let Value::Object(strings) = strings else { return };
    if strings.is_empty() {
        return;
    }
    let data: &mut Object = secret.object_at_mut(&["data"]);
    for (key, value) in strings {
        data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

fn validate_secret(object: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if let Some(old) = old {
        if text(object, "type") != text(old, "type") {
            errors.push(Error::invalid(&Path::root("type"), text(object, "type"), super::look::IMMUTABLE));
        }
        frozen(&mut errors, object, old, &["data"]);
    }
    let data = Path::root("data");
    let mut bytes = 0;
    for (key, value) in entries(object, "data") {
        invalid_each(&mut errors, &data.key(key), key.as_str(), rules::config_key(key));
        bytes += decoded_bytes(value);
    }
    if bytes > DATA_MAX_BYTES {
        errors.push(Error::too_long(&data, DATA_MAX_BYTES));
    }
    secret_type(&mut errors, object, &data);
    errors
}

/// A certificate or key that is none.
fn secret_warnings(secret: &Value, _old: Option<&Value>) -> Vec<String> {
    if text(secret, "type") != "kubernetes.io/tls" {
        return Vec::new();
    }
    for (key, what) in [("tls.crt", "certificate"), ("tls.key", "key")] {
        let encoded = secret.at(&["data", key]).and_then(Value::as_str).unwrap_or_default();
        let bytes = STANDARD.decode(encoded).unwrap_or_default();
        if !bytes.windows(PEM_START.len()).any(|w| w == PEM_START) {
            return vec![format!("tls: failed to find any PEM data in {what} input")];
        }
    }
    Vec::new()
}

const PEM_START: &[u8] = b"-----BEGIN ";

fn secret_type(errors: &mut Errors, secret: &Value, data: &Path<'_>) {
    let has = |key: &str| secret.at(&["data", key]).is_some();
    let mut must_have = |key: &'static str| {
        if !has(key) {
            errors.push(Error::required(&data.key(key), ""));
        }
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token" if !names_its_account(secret) => {
            let path = Path::root("metadata");
            errors.push(Error::required(&path.child("annotations").key(ACCOUNT_NAME), ""));
        }
        "kubernetes.io/dockercfg" => docker_config(errors, secret, ".dockercfg", data),
        "kubernetes.io/dockerconfigjson" => docker_config(errors, secret, ".dockerconfigjson", data),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            must_have("username");
            must_have("password");
        }
        "kubernetes.io/ssh-auth" => must_have("ssh-privatekey"),
        "kubernetes.io/tls" => {
            must_have("tls.crt");
            must_have("tls.key");
        }
        _ => {}
    }
}

fn names_its_account(secret: &Value) -> bool {
    let name = secret.at(&["metadata", "annotations", ACCOUNT_NAME]);
    name.and_then(Value::as_str).is_some_and(|name| !name.is_empty())
}

fn docker_config(errors: &mut Errors, secret: &Value, key: &'static str, data: &Path<'_>) {
    let Some(config) = secret.at(&["data", key]) else {
        errors.push(Error::required(&data.key(key), ""));
        return;
    };
    let bytes = STANDARD.decode(config.as_str().unwrap_or_default()).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes) {
        errors.push(Error::invalid(&data.key(key), "<secret contents redacted>", error.to_string()));
    }
}

/// Service accounts: of the secrets that they name only the names count.
pub(super) const SERVICE_ACCOUNT: Hooks = Hooks {
    prepare_create: Some(|account, _| only_names(account)),
    prepare_update: Some(|account, _, _| only_names(account)),
    ..NO_HOOKS
};

fn only_names(account: &mut Value) {
    for secret in super::look::items_mut(account, "secrets") {
        if let Some(fields) = secret.as_object_mut() {
            fields.retain(|key, _| key == "name");
        }
    }
}

/// Controller revisions: data that never changes.
pub(super) const CONTROLLER_REVISION: Hooks = Hooks { validate: Some(validate_revision), ..NO_HOOKS };

fn validate_revision(object: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if object.get("data").is_none_or(Value::is_null) {
        errors.push(Error::required(&Path::root("data"), "data is mandatory"));
    }
    let revision = super::look::int_or_zero(object, "revision");
    if revision < 0 {
        errors.push(Error::invalid(&Path::root("revision"), revision, rules::NOT_NEGATIVE));
    }
    if let Some(old) = old {
        immutable(&mut errors, object, old, "data", &Path::root(""));
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree, update_errors};

    #[test]
    fn string_data_is_folded() {
        let secret = defaulted("", "Secret", "{stringData: {a: x}, data: {a: b2xk, b: eQ==}}");
        assert_eq!(secret, tree("{type: Opaque, data: {a: eA==, b: eQ==}}"));
    }

    #[test]
    fn broken_data() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("ConfigMap", "{data: {a: b}}", &[]),
            (
                "ConfigMap",
                "{data: {'a/b': c}, binaryData: {x: YQ==}}",
                &[
                    "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', \
                   '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
                   '[-._a-zA-Z0-9]+')",
                ],
            ),
            (
                "ConfigMap",
                "{data: {a: c}, binaryData: {a: YQ==}}",
                &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
            ),
            (
                "Secret",
                "{type: kubernetes.io/tls, data: {tls.crt: YQ==}}",
                &["data[tls.key]: Required value"],
            ),
            (
                "Secret",
                "{type: kubernetes.io/basic-auth}",
                &["data[username]: Required value", "data[password]: Required value"],
            ),
            (
                "Secret",
                "{type: kubernetes.io/service-account-token}",
                &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            ("Secret", "{type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: e30=}}", &[]),
        ];
        for (kind, yaml, wanted) in cases {
            assert_eq!(create_errors("", kind, yaml), *wanted, "{yaml}");
        }
        let big = format!("{{data: {{a: {}}}}}", "x".repeat(super::DATA_MAX_BYTES + 1));
        assert_eq!(
            create_errors("", "ConfigMap", &big),
            ["[]: Too long: may not be more than 1048576 bytes"]
        );
    }

    #[test]
    fn immutable_means_immutable() {
        assert_eq!(
            update_errors("", "ConfigMap", "{immutable: true, data: {a: b}}", "{data: {a: c}}"),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        assert_eq!(
            update_errors("", "Secret", "{type: a/b}", "{type: c/d}"),
            ["type: Invalid value: \"c/d\": field is immutable"]
        );
    }
}
