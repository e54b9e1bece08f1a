//! Who asks for a certificate is written into the request by the server, whatever the request says; what was asked for
//! stays as it is (upstream does both in the kind's strategy). Who approves or signs needs the right to do so for the signer that
//! was asked, and nobody becomes a member of `system:masters` by asking.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corten_api::{Object, Result, Str, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{Attributes, Operation};
use crate::authz;
use crate::meta;
use crate::user::MASTERS;

/// The signer of certificates that clients show to the API server.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn is_request(a: &Attributes<'_>) -> bool {
    a.call.kind.group == "certificates.k8s.io" && a.call.kind.plural == "certificatesigningrequests"
}

fn changes(a: &Attributes<'_>, subresource: &str) -> bool {
    a.operation == Operation::Update && is_request(a) && a.call.info.subresource == subresource
}

pub(super) fn wants(a: &Attributes<'_>) -> bool {
    a.operation != Operation::Delete && is_request(a)
}

pub(super) fn wants_approval(a: &Attributes<'_>) -> bool {
    changes(a, "approval")
}

pub(super) fn wants_signature(a: &Attributes<'_>) -> bool {
    changes(a, "status")
}

pub(super) fn is_new(a: &Attributes<'_>) -> bool {
    a.operation == Operation::Create && is_request(a)
}

pub(super) fn approve<'a>(a: &'a Attributes<'a>, object: &'a Value) -> BoxFuture<'a, Result<()>> {
    check_signer(a, object, "approve").boxed()
}

/// A status that says the same as before signs nothing.
pub(super) fn issue<'a>(a: &'a Attributes<'a>, object: &'a Value) -> BoxFuture<'a, Result<()>> {
    async move {
        let same = |field: &str| {
            a.old.is_some_and(|old| old.at(&["status", field]) == object.at(&["status", field]))
        };
        if same("certificate") && same("conditions") { Ok(()) } else { check_signer(a, object, "sign").await }
    }
    .boxed()
}

/// May the user do this for the signer of the stored request, or for all of its domain?
async fn check_signer(a: &Attributes<'_>, object: &Value, verb: &str) -> Result<()> {
    let signer = a.old.unwrap_or(object).str_at(&["spec", "signerName"]);
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let asked = authz::Attributes {
            verb: verb.into(),
            group: a.call.kind.group.to_string(),
            resource: "signers".into(),
            name,
            ..authz::Attributes::default()
        };
        if a.server.decide(&a.call.user, &asked).await.is_ok() {
            return Ok(());
        }
    }
    Err(a.forbidden(object, &format!("user not permitted to {verb} requests with signerName \"{signer}\"")))
}

pub(super) fn subject<'a>(a: &'a Attributes<'a>, object: &'a Value) -> BoxFuture<'a, Result<()>> {
    let refused = match object.str_at(&["spec", "signerName"]) {
        CLIENT_SIGNER => match asks_for_masters(object) {
            Some(false) => None,
            Some(true) => Some(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")),
            None => Some("failed to parse CSR".to_owned()),
        },
        _ => None,
    };
    std::future::ready(refused.map_or(Ok(()), |why| Err(a.forbidden(object, &why)))).boxed()
}

/// `None` for what is no request.
fn asks_for_masters(object: &Value) -> Option<bool> {
    let pem = STANDARD.decode(object.str_at(&["spec", "request"])).ok()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    let groups: Vec<_> = subject.iter_organization().collect();
    Some(groups.iter().any(|group| group.as_str() == Ok(MASTERS)))
}

pub(super) fn mutate<'a>(a: &'a Attributes<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    match (a.operation, a.old) {
        (Operation::Update, Some(old)) => meta::take_field(object, "spec", old),
        _ => sign(a, object),
    }
    async { Ok(()) }.boxed()
}

fn sign(a: &Attributes<'_>, object: &mut Value) {
    let user = &a.call.user;
    let texts = |list: &[String]| list.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>();
    let spec = object.object_at_mut(&["spec"]);
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.set("username", user.name.as_str());
    if !user.uid.is_empty() {
        spec.set("uid", user.uid.as_str());
    }
    spec.set("groups", texts(&user.groups));
    if !user.extra.is_empty() {
        let mut extra = Object::default();
        for (key, values) in &user.extra {
            extra.insert(Str::from(key.as_str()), texts(values));
        }
        spec.set("extra", extra);
    }
}
