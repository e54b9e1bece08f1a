//! Requests for certificates: for what, from whom, and that a request is one. What is inside is the signer's to judge.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::look::{Errors, int, items, text};
use super::row::NO_HOOKS;
use crate::Value;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};

/// Certificates live at least so long, in seconds.
const EXPIRATION_MIN_SECONDS: i64 = 600;
/// The domain of a signer's name has at most so many bytes.
const DOMAIN_MAX: usize = 253;
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// Conditions that are true or not there.
const DECISIONS: &[&str] = &["Approved", "Denied", "Failed"];
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) const SIGNING_REQUEST: Hooks =
    Hooks { validate: Some(validate), name_rule: Some(rules::path_segment), ..NO_HOOKS };

/// The spec never changes after the start, so only the status of a request that is there is looked at.
fn validate(request: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = request.get("spec").unwrap_or(&empty);
    if let Some(old) = old {
        conditions(&mut errors, request);
        changes(&mut errors, request, old, cx);
        return errors;
    }
    if !is_request(text(spec, "request")) {
        let (detail, bad) = ("PEM block type must be CERTIFICATE REQUEST", spec.get("request"));
        errors.push(Error::invalid(&path.child("request"), bad.cloned().unwrap_or_default(), detail));
    }
    usages(&mut errors, items(spec, "usages"), &path.child("usages"));
    let at = path.child("signerName");
    match text(spec, "signerName") {
        LEGACY_SIGNER => {
            let detail = "the legacy signerName is not allowed via this API version";
            errors.push(Error::invalid(&at, LEGACY_SIGNER, detail));
        }
        name => signer(&mut errors, name, &at),
    }
    if let Some(seconds) = int(spec, "expirationSeconds").filter(|s| *s < EXPIRATION_MIN_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
    errors
}

fn conditions(errors: &mut Errors, request: &Value) {
    let (status, list) = (Path::root("status"), request.items_at(&["status", "conditions"]));
    let path = status.child("conditions");
    let of = |kind: &str| list.iter().any(|c| text(c, "type") == kind);
    for (i, condition) in list.iter().enumerate() {
        let (at, kind) = (path.index(i), text(condition, "type"));
        super::look::required(errors, condition, "type", &at);
        let allowed: &[&str] =
            if DECISIONS.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        super::look::one_of(errors, text(condition, "status"), allowed, &at.child("status"));
        if list[..i].iter().any(|other| text(other, "type") == kind) {
            errors.push(Error::duplicate(&at.child("type"), kind));
        }
    }
    if of("Approved") && of("Denied") {
        let last = list.iter().rev().map(|c| text(c, "type")).find(|k| matches!(*k, "Approved" | "Denied"));
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.push(Error::invalid(&path, last.unwrap_or_default(), detail));
    }
}

/// Who may decide may not issue, and the other way round; nothing is taken back.
fn changes(errors: &mut Errors, request: &Value, old: &Value, cx: &Context<'_>) {
    let status = Path::root("status");
    let path = status.child("conditions");
    let count = |of: &Value, kind: &str| {
        of.items_at(&["status", "conditions"]).iter().filter(|c| text(c, "type") == kind).count()
    };
    for kind in DECISIONS.iter().filter(|kind| count(request, kind) < count(old, kind)) {
        let detail = format!("updates may not remove a condition of type {kind:?}");
        errors.push(Error::forbidden(&path, detail));
    }
    for kind in ["Approved", "Denied"] {
        if cx.subresource != "approval" && count(request, kind) > count(old, kind) {
            let detail = format!("updates may not add a condition of type {kind:?}");
            errors.push(Error::forbidden(&path, detail));
        }
    }
    let (now, before) = (request.str_at(&["status", "certificate"]), old.str_at(&["status", "certificate"]));
    if now != before {
        let at = status.child("certificate");
        if !now.is_empty() && !holds_certificate(now) {
            let detail = "must contain at least one CERTIFICATE PEM block";
            errors.push(Error::invalid(&at, "<certificate data>", detail));
        }
        if cx.subresource != "status" {
            errors.push(Error::forbidden(&at, "updates may not set certificate content"));
        } else if !before.is_empty() {
            errors.push(Error::forbidden(&at, "updates may not modify existing certificate content"));
        }
    }
}

fn holds_certificate(base64: &str) -> bool {
    let pem = STANDARD.decode(base64).unwrap_or_default();
    String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----")
}

fn is_request(base64: &str) -> bool {
    let Ok(pem) = STANDARD.decode(base64) else { return false };
    let has = |mark: &[u8]| pem.windows(mark.len()).any(|part| part == mark);
    has(b"-----BEGIN CERTIFICATE REQUEST-----") || has(b"-----BEGIN NEW CERTIFICATE REQUEST-----")
}

fn usages(errors: &mut Errors, usages: &[Value], path: &Path<'_>) {
    if usages.is_empty() {
        errors.push(Error::required(path, ""));
    }
    for (i, usage) in usages.iter().enumerate() {
        let word = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&word) {
            errors.push(Error::not_supported(&path.index(i), word, USAGES));
        }
        if usages[..i].contains(usage) {
            errors.push(Error::duplicate(&path.index(i), word));
        }
    }
}

/// `example.com/signer-name`
pub(super) fn signer(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    const SIGNER_NAME_MAX: usize = 253 + 1 + 253 + 63 + 1;
    let (Some((domain, signer)), 1) = (name.split_once('/'), name.matches('/').count()) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(Error::invalid(path, name, detail));
        return;
    };
    if domain.len() > DOMAIN_MAX {
        errors.push(Error::too_long(path, DOMAIN_MAX));
    }
    first_wrong_label(errors, domain, rules::dns_label, path);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(path, domain, detail));
    }
    first_wrong_label(errors, signer, rules::dns_subdomain, path);
    if name.len() > SIGNER_NAME_MAX {
        errors.push(Error::too_long(path, SIGNER_NAME_MAX));
    }
}

/// What is wrong with the first part between dots that breaks the rule.
fn first_wrong_label(errors: &mut Errors, name: &str, rule: fn(&str) -> rules::Messages, path: &Path<'_>) {
    if let Some(label) = name.split('.').find(|label| !rule(label).is_empty()) {
        let told = rule(label).into_iter().map(|message| format!("validating label {label:?}: {message}"));
        invalid_each(errors, path, name, told.collect());
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::create_errors;

    #[test]
    fn requests() {
        // "-----BEGIN CERTIFICATE REQUEST-----"
        let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=";
        let good = format!("{{spec: {{request: {pem}, signerName: example.com/a, usages: [client auth]}}}}");
        let create = |yaml: &str| create_errors("certificates.k8s.io", "CertificateSigningRequest", yaml);
        assert_eq!(create(&good), Vec::<String>::new());
        let bad = format!("{{spec: {{request: {pem}, signerName: a/b, expirationSeconds: 5}}}}");
        assert_eq!(
            create(&bad),
            [
                "spec.usages: Required value",
                "spec.signerName: Invalid value: \"a\": should be a domain with at least two segments separated by dots",
                "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
            ]
        );
        assert!(create("{spec: {request: AAAA, usages: [a]}}")[0].ends_with("CERTIFICATE REQUEST"));
    }
}
