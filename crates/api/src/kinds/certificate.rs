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
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
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

/// The spec never changes after the start, so only new requests are looked at.
fn validate(request: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = request.get("spec").unwrap_or(&empty);
    if old.is_some() {
        return errors;
    }
    if !is_request(text(spec, "request")) {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(Error::invalid(&path.child("request"), text(spec, "request"), detail));
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

fn is_request(base64: &str) -> bool {
    let Ok(pem) = STANDARD.decode(base64) else { return false };
    let has = |mark: &[u8]| pem.windows(mark.len()).any(|part| part == mark);
    has(b"-----BEGIN CERTIFICATE REQUEST-----") || has(b"-----BEGIN NEW CERTIFICATE REQUEST-----")
}

fn usages(errors: &mut Errors, usages: &[Value], path: &Path<'_>) {
    if usages.is_empty() {
        errors.push(Error::required(path, "usages must be provided"));
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
    let (Some((domain, signer)), 1) = (name.split_once('/'), name.matches('/').count()) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(Error::invalid(path, name, detail));
        return;
    };
    invalid_each(errors, path, domain, rules::dns_subdomain(domain));
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(path, domain, detail));
    }
    invalid_each(errors, path, signer, rules::dns_subdomain(signer));
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
                "spec.usages: Required value: usages must be provided",
                "spec.signerName: Invalid value: \"a\": should be a domain with at least two segments separated by dots",
                "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
            ]
        );
        assert!(create("{spec: {request: AAAA, usages: [a]}}")[0].ends_with("CERTIFICATE REQUEST"));
    }
}
