//! Bundles of trust anchors, and requests of pods for certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::certificate::signer;
use super::look::{Errors, IMMUTABLE, entries, given, int, is_empty_map, items, same, text};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const BUNDLE_MAX_BYTES: usize = 1024 * 1024;
const UID_MAX_BYTES: usize = 128;
const CHAIN_MAX_BYTES: usize = 1024 * 1024;
/// How long a pod's certificate may live, in seconds: an hour at least, a day of Kubernetes' own signers, 91 days of others.
const LIFETIME_MIN_SECONDS: i64 = 60 * 60;
const OWN_LIFETIME_MAX_SECONDS: i64 = 24 * 60 * 60;
const LIFETIME_MAX_SECONDS: i64 = 91 * 24 * 60 * 60;
const DECISIONS: &[&str] = &["Issued", "Denied", "Failed"];

/// Names are checked with the signer's, since they begin with it.
pub(super) const BUNDLE: Hooks =
    Hooks { validate: Some(validate_bundle), name_rule: Some(|_, _| Vec::new()), ..NO_HOOKS };
pub(super) const REQUEST: Hooks =
    Hooks { default: Some(default_request), validate: Some(validate_request), ..NO_HOOKS };

fn default_request(request: &mut Value) {
    if let Some(spec) = request.get_mut("spec") {
        super::look::set_missing(spec, "maxExpirationSeconds", OWN_LIFETIME_MAX_SECONDS);
    }
}

fn validate_bundle(bundle: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = bundle.get("spec").unwrap_or(&empty);
    let (name, signer_name) = (bundle.str_at(&["metadata", "name"]), text(spec, "signerName"));
    let at = Path::root("metadata");
    invalid_each(&mut errors, &at.child("name"), name, bundle_name(name, signer_name));
    if !signer_name.is_empty() {
        signer(&mut errors, signer_name, &path.child("signerName"));
    }
    let anchors = text(spec, "trustBundle");
    if old.is_none_or(|old| old.str_at(&["spec", "trustBundle"]) != anchors) {
        trust_anchors(&mut errors, anchors, &path.child("trustBundle"));
    }
    if old.is_some_and(|old| old.str_at(&["spec", "signerName"]) != signer_name) {
        errors.push(Error::invalid(&path.child("signerName"), signer_name, IMMUTABLE));
    }
    errors
}

fn bundle_name(name: &str, signer: &str) -> rules::Messages {
    if signer.is_empty() {
        return match name.contains(':') {
            true => vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()],
            false => rules::name_is_subdomain(name, false),
        };
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => rules::name_is_subdomain(rest, false),
        None => {
            vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")]
        }
    }
}

/// A block of PEM: its type, has it headers, its bytes.
struct Block<'a> {
    kind: &'a str,
    headers: bool,
    bytes: Vec<u8>,
}

/// The blocks of a text; what stands between them is passed over, like blocks that are not well formed.
fn pem_blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    for part in text.split("-----BEGIN ").skip(1) {
        let Some((kind, rest)) = part.split_once("-----") else { continue };
        let Some((inside, _)) = rest.split_once(&format!("-----END {kind}-----")) else { continue };
        let headers = inside.contains(':');
        let body = inside.rsplit_once("\n\n").filter(|_| headers).map_or(inside, |(_, body)| body);
        let base64: String = body.split_ascii_whitespace().collect();
        if let Ok(bytes) = STANDARD.decode(base64) {
            blocks.push(Block { kind, headers, bytes });
        }
    }
    blocks
}

/// Does it begin like a certificate: a sequence that holds a sequence, as long as it says?
fn is_certificate(der: &[u8]) -> bool {
    let (Some(0x30), Some(&first)) = (der.first(), der.get(1)) else { return false };
    let (length, start) = match first {
        0x81 => (der.get(2).map(|n| usize::from(*n)), 3),
        0x82 => (der.get(2..4).map(|n| usize::from(n[0]) * 256 + usize::from(n[1])), 4),
        n => (Some(usize::from(n)), 2),
    };
    length.is_some_and(|length| start + length == der.len()) && der.get(start) == Some(&0x30)
}

fn trust_anchors(errors: &mut Errors, text: &str, path: &Path<'_>) {
    if text.len() > BUNDLE_MAX_BYTES {
        errors.push(Error::too_long(path, BUNDLE_MAX_BYTES));
        return;
    }
    let blocks = pem_blocks(text);
    let before = errors.len();
    let mut wrong = |what: String| errors.push(Error::invalid(path, "<value omitted>", what));
    for (i, block) in blocks.iter().enumerate() {
        if block.kind != "CERTIFICATE" {
            wrong(format!("entry {i} has bad block type: {}", block.kind));
        } else if block.headers {
            wrong(format!("entry {i} has PEM block headers"));
        } else if !is_certificate(&block.bytes) {
            wrong(format!("entry {i} does not parse as X.509"));
        }
    }
    if errors.len() > before {
        return;
    }
    let mut wrong = |what: String| errors.push(Error::invalid(path, "<value omitted>", what));
    if blocks.is_empty() {
        wrong("at least one trust anchor must be provided".to_owned());
    }
    for (i, block) in blocks.iter().enumerate() {
        let same: Vec<usize> = (0..blocks.len()).filter(|at| blocks[*at].bytes == block.bytes).collect();
        if same.len() > 1 && same[0] == i {
            let indices: Vec<String> = same.iter().map(ToString::to_string).collect();
            wrong(format!("duplicate trust anchor (indices [{}])", indices.join(" ")));
        }
    }
}

fn validate_request(request: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = request.get("spec").unwrap_or(&empty);
    match old {
        Some(old) if cx.subresource == "status" => request_status(&mut errors, request, old),
        Some(old) => {
            let before = old.get("spec").unwrap_or(&empty);
            if !same(Some(spec), Some(before)) {
                errors.push(Error::invalid(&path, spec.clone(), IMMUTABLE));
            }
        }
        None => request_spec(&mut errors, spec, &path),
    }
    errors
}

fn request_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    signer(errors, text(spec, "signerName"), &path.child("signerName"));
    user_annotations(errors, spec, &path.child("unverifiedUserAnnotations"));
    for (name, uid) in
        [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")]
    {
        let given_name = text(spec, name);
        invalid_each(errors, &path.child(name), given_name, rules::name_is_subdomain(given_name, false));
        match text(spec, uid) {
            "" => errors.push(Error::invalid(&path.child(uid), "", "must not be empty")),
            uid_text if uid_text.len() > UID_MAX_BYTES => {
                errors.push(Error::too_long(&path.child(uid), UID_MAX_BYTES));
            }
            _ => {}
        }
    }
    let at = path.child("maxExpirationSeconds");
    let Some(seconds) = int(spec, "maxExpirationSeconds") else {
        errors.push(Error::required(&at, "must be set"));
        return;
    };
    let own = text(spec, "signerName").split('/').next().is_some_and(is_own_domain);
    let most = if own { OWN_LIFETIME_MAX_SECONDS } else { LIFETIME_MAX_SECONDS };
    if !(LIFETIME_MIN_SECONDS..=most).contains(&seconds) {
        let detail = format!("must be in the range [{LIFETIME_MIN_SECONDS}, {most}]");
        errors.push(Error::invalid(&at, seconds, detail));
    }
    let has = |field: &str| !text(spec, field).is_empty();
    let (stub, key, proof) = (has("stubPKCS10Request"), has("pkixPublicKey"), has("proofOfPossession"));
    if !matches!((stub, key, proof), (true, false, false) | (false, true, true)) {
        let detail = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        errors.push(without_value(path, detail));
    }
}

/// "Invalid value" without the value, which would tell nobody anything.
fn without_value(path: &Path<'_>, detail: &str) -> Error {
    let mut error = Error::invalid(path, Value::Null, detail);
    error.body = format!("Invalid value: {detail}");
    error
}

fn is_own_domain(domain: &str) -> bool {
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

fn user_annotations(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    if is_empty_map(spec.get("unverifiedUserAnnotations")) {
        return;
    }
    for (key, _) in entries(spec, "unverifiedUserAnnotations") {
        let key = key.to_lowercase();
        match key.split_once('/') {
            None => {
                let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
                errors.push(Error::invalid(path, key.as_str(), detail));
            }
            Some((domain, name)) => {
                let wrong = rules::dns_subdomain(domain).into_iter();
                invalid_each(errors, path, domain, wrong.map(|m| format!("prefix part {m}")).collect());
                let wrong = rules::label_value(name);
                if name.is_empty() || !wrong.is_empty() {
                    invalid_each(errors, path, key.as_str(), rules::qualified_name(&key));
                }
            }
        }
    }
    let total: usize = entries(spec, "unverifiedUserAnnotations")
        .map(|(k, v)| k.len() + v.as_str().map_or(0, str::len))
        .sum();
    if total > meta::ANNOTATIONS_MAX_BYTES {
        errors.push(Error::too_long(path, meta::ANNOTATIONS_MAX_BYTES));
    }
}

/// Which of the decisions the request has, if any.
fn decision(request: &Value) -> Option<&str> {
    let conditions = request.items_at(&["status", "conditions"]);
    conditions.iter().map(|c| text(c, "type")).find(|kind| DECISIONS.contains(kind))
}

fn request_status(errors: &mut Errors, request: &Value, old: &Value) {
    let (empty, path) = (Value::Null, Path::root("status"));
    let (status, before) = (request.get("status").unwrap_or(&empty), old.get("status").unwrap_or(&empty));
    let list = path.child("conditions");
    decisions(errors, items(status, "conditions"), &list);
    super::conditions::validate(errors, items(status, "conditions"), &list);
    if !errors.is_empty() {
        return;
    }
    let mut must_be = |wanted: bool, why: &str| {
        if !wanted {
            errors.push(without_value(&path, why));
        }
    };
    if decision(old).is_some() {
        let why = "immutable after PodCertificateRequest is issued, denied, or failed";
        return must_be(same(Some(status), Some(before)), why);
    }
    match decision(request) {
        Some("Issued") => {}
        Some(_) => {
            let others = ["certificateChain", "notBefore", "notAfter", "beginRefreshAt"];
            let why =
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            return must_be(!others.iter().any(|field| given(status, field).is_some()), why);
        }
        None => {
            let why = "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
            return must_be(same(Some(status), Some(before)), why);
        }
    }
    issued(errors, status, &path);
}

fn decisions(errors: &mut Errors, conditions: &[Value], list: &Path<'_>) {
    let mut known = 0;
    for (i, condition) in conditions.iter().enumerate() {
        let (kind, path) = (text(condition, "type"), list.index(i));
        if !DECISIONS.contains(&kind) {
            errors.push(Error::not_supported(&path.child("type"), kind, DECISIONS));
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(Error::invalid(&path.child("type"), kind, detail));
        }
        if text(condition, "status") != "True" {
            errors.push(Error::not_supported(&path.child("status"), text(condition, "status"), &["True"]));
        }
    }
}

/// The certificate that was issued, as far as its form goes: what it says is the signer's to answer for.
fn issued(errors: &mut Errors, status: &Value, path: &Path<'_>) {
    let (chain, at) = (text(status, "certificateChain"), path.child("certificateChain"));
    if chain.len() > CHAIN_MAX_BYTES {
        errors.push(Error::too_long(&at, CHAIN_MAX_BYTES));
        return;
    }
    let blocks = pem_blocks(chain);
    let wrong = match blocks.first() {
        None => Some("issued certificate chain must contain at least one certificate"),
        Some(leaf) if leaf.kind != "CERTIFICATE" => {
            Some("issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
        }
        Some(leaf) if !is_certificate(&leaf.bytes) => Some("leaf certificate does not parse as valid X.509"),
        Some(_) => None,
    };
    if let Some(detail) = wrong {
        errors.push(Error::invalid(&at, chain, detail));
        return;
    }
    for field in ["notBefore", "notAfter"] {
        if given(status, field).is_none() {
            let detail = "must be present and consistent with the issued certificate";
            errors.push(Error::required(&path.child(field), detail));
        }
    }
    if given(status, "beginRefreshAt").is_none() {
        let detail = "must be present and in the range [notbefore+10min, notafter-10min]";
        errors.push(Error::required(&path.child("beginRefreshAt"), detail));
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::create_errors;

    const GROUP: &str = "certificates.k8s.io";
    const ANCHOR: &str = "-----BEGIN CERTIFICATE-----\\nMAIwAA==\\n-----END CERTIFICATE-----\\n";

    #[test]
    fn bundles() {
        let bundle = |name: &str, signer: &str, anchors: &str| {
            let yaml = format!(
                "{{metadata: {{name: '{name}'}}, spec: {{signerName: '{signer}', trustBundle: \"{anchors}\"}}}}"
            );
            create_errors(GROUP, "ClusterTrustBundle", &yaml)
        };
        assert_eq!(bundle("a", "", ANCHOR), Vec::<String>::new());
        assert_eq!(bundle("example.com:a:b", "example.com/a", ANCHOR), Vec::<String>::new());
        assert_eq!(
            bundle("a:b", "", ""),
            [
                "metadata.name: Invalid value: \"a:b\": ClusterTrustBundle without signer name must not have \":\" in its name",
                "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
            ]
        );
        assert_eq!(
            bundle("a", "example.com/a", &ANCHOR.repeat(2)),
            [
                "metadata.name: Invalid value: \"a\": ClusterTrustBundle for signerName example.com/a must be named with prefix \
                 example.com:a:",
                "spec.trustBundle: Invalid value: \"<value omitted>\": duplicate trust anchor (indices [0 1])",
            ]
        );
    }

    #[test]
    fn requests() {
        assert_eq!(
            create_errors(
                GROUP,
                "PodCertificateRequest",
                "{spec: {signerName: a.b/c, podName: p, podUID: u, serviceAccountName: s, serviceAccountUID: u, nodeName: node, \
                 maxExpirationSeconds: 5}}"
            ),
            [
                "spec.nodeUID: Invalid value: \"\": must not be empty",
                "spec.maxExpirationSeconds: Invalid value: 5: must be in the range [3600, 7862400]",
                "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
            ]
        );
    }
}
