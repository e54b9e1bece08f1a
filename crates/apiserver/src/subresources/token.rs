//! `serviceaccounts/token`: a TokenRequest answered with a signed token bound to its account and perhaps a pod.

use corten_api::field::{Error, Path};
use corten_api::{GroupResource, Object, Result, Status, Value, time};
use http::{Request, Response};

use crate::authn::token::{Bound, Claims, Ref};
use crate::body::{Body, read_all};
use crate::call::Call;
use crate::{ApiServer, decode, encode};

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// The kubelet's own tokens ask for this; they live a year so that old clients that never read them again go on working.
const RENEWED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// POST.
pub(super) async fn serve(server: &ApiServer, call: &Call, request: Request<Body>) -> Result<Response<Body>> {
    let body = read_all(request.into_body()).await?;
    let mut wanted = decode::other(call, &body, ("authentication.k8s.io", "v1", "TokenRequest"))?;
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let account =
        server.read_internal("serviceaccounts", namespace, name).await?.ok_or_else(|| call.not_found())?;
    let seconds =
        wanted.at(&["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
    check_seconds(seconds)?;
    let own_audiences = server.authority().audiences();
    let audiences = match wanted.items_at(&["spec", "audiences"]) {
        [] => own_audiences.to_vec(),
        some => some.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
    };
    let mut bound =
        Bound { namespace: namespace.to_owned(), serviceaccount: Ref::of(&account), ..Bound::default() };
    bind(server, call, &wanted, &mut bound).await?;
    let now = server.now_ms() / 1000;
    let extended = seconds == RENEWED_SECONDS && bound.pod.is_some() && audiences == own_audiences;
    bound.warnafter = extended.then_some(now + seconds);
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + if extended { EXTENDED_SECONDS } else { seconds },
        iat: now,
        iss: server.authority().issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: bound,
        nbf: now,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    let mut status = Object::default();
    status.set("token", server.authority().sign(&claims)?);
    status.set("expirationTimestamp", time::rfc3339((now + seconds) * 1000));
    let spec = wanted.object_at_mut(&["spec"]);
    spec.set("audiences", audiences.into_iter().map(Value::from).collect::<Vec<_>>());
    spec.set("expirationSeconds", seconds);
    let meta = wanted.object_at_mut(&["metadata"]);
    meta.set("name", name);
    meta.set("namespace", namespace);
    meta.set("creationTimestamp", time::rfc3339(now * 1000));
    wanted.object_at_mut(&[]).set("status", status);
    encode::value(call, 201, &wanted)
}

impl Ref {
    fn of(object: &Value) -> Ref {
        Ref {
            name: object.str_at(&["metadata", "name"]).to_owned(),
            uid: object.str_at(&["metadata", "uid"]).to_owned(),
        }
    }
}

fn check_seconds(seconds: i64) -> Result<()> {
    let spec = Path::root("spec");
    let path = spec.child("expirationSeconds");
    let error = match seconds {
        s if s < MIN_SECONDS => Error::invalid(&path, s, "may not specify a duration less than 10 minutes"),
        s if s > MAX_SECONDS => {
            Error::invalid(&path, s, "may not specify a duration larger than 2^32 seconds")
        }
        _ => return Ok(()),
    };
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &[error]))
}

/// Ties the token to the object that the request names.
async fn bind(server: &ApiServer, call: &Call, wanted: &Value, bound: &mut Bound) -> Result<()> {
    let reference = wanted.at(&["spec", "boundObjectRef"]).filter(|r| !r.is_null());
    if call.user.node_name().is_some() {
        check_asked_by_node(call, reference.unwrap_or(&Value::Null))?;
    }
    let Some(reference) = reference else { return Ok(()) };
    let (kind, name, uid) =
        (reference.str_at(&["kind"]), reference.str_at(&["name"]), reference.str_at(&["uid"]));
    let (plural, namespace) = match kind {
        "Pod" => ("pods", call.info.namespace.as_str()),
        "Secret" => ("secrets", call.info.namespace.as_str()),
        "Node" => ("nodes", ""),
        other => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {} Kind={other}",
                reference.str_at(&["apiVersion"])
            )));
        }
    };
    let of = GroupResource { group: "", resource: plural };
    let object =
        server.read_internal(plural, namespace, name).await?.ok_or_else(|| Status::not_found(of, name))?;
    let found = Ref::of(&object);
    if !uid.is_empty() && uid != found.uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(of, name, &why));
    }
    match kind {
        "Pod" => {
            bind_pod(server, call, &object, bound).await?;
            bound.pod = Some(found);
        }
        "Secret" => bound.secret = Some(found),
        _ => bound.node = Some(found),
    }
    Ok(())
}

/// A node's tokens are its pods' and end with them: one without a pod would outlive the node's right to it.
fn check_asked_by_node(call: &Call, reference: &Value) -> Result<()> {
    let refuse = |why| Err(Status::forbidden(call.resource(), &call.info.name, why));
    let said = |field: &str| reference.str_at(&[field]);
    if (said("apiVersion"), said("kind")) != ("v1", "Pod") || said("name").is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if said("uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    Ok(())
}

async fn bind_pod(server: &ApiServer, call: &Call, pod: &Value, bound: &mut Bound) -> Result<()> {
    let account = pod.str_at(&["spec", "serviceAccountName"]);
    if account != call.info.name {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
            call.info.name
        )));
    }
    let node = pod.str_at(&["spec", "nodeName"]);
    if let Some(caller) = call.user.node_name().filter(|caller| *caller != node) {
        let why = format!("node \"{caller}\" requested token bound to a pod scheduled on a different node");
        return Err(Status::forbidden(call.resource(), &call.info.name, &why));
    }
    if let Some(node) = server.read_internal("nodes", "", node).await? {
        bound.node = Some(Ref::of(&node));
    }
    Ok(())
}
