//! Kinds that are questions: who am I, may I, is this token good. A POST is answered with the object filled in; nothing is stored.

use corten_api::field::{Error, Path};
use corten_api::{Object, Result, Status, Value};
use http::{Request, Response};

use crate::authz::Attributes;
use crate::body::{Body, read_all};
use crate::call::Call;
use crate::user::User;
use crate::{ApiServer, decode, encode, subresources};

/// Does the kind answer a POST instead of storing it?
pub(crate) fn is_review(call: &Call) -> bool {
    match call.kind.group.as_ref() {
        "authentication.k8s.io" | "authorization.k8s.io" => true,
        "" => call.kind.plural == "bindings",
        _ => false,
    }
}

/// Answers one.
pub(crate) async fn serve(server: &ApiServer, call: &Call, request: Request<Body>) -> Result<Response<Body>> {
    let body = read_all(request.into_body()).await?;
    let mut review = decode::object(call, &body)?;
    if call.kind.kind == "Binding" {
        let name = review.str_at(&["metadata", "name"]).to_owned();
        return subresources::binding::bind(server, call, &name, &review).await;
    }
    let status = match call.kind.kind.as_ref() {
        "SelfSubjectReview" => who_am_i(&call.user),
        "TokenReview" if review.str_at(&["spec", "token"]).is_empty() => {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        "TokenReview" => token(server, &review).await,
        "SelfSubjectAccessReview" => {
            check(call, &review)?;
            access(server, &call.user, &review).await
        }
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            check(call, &review)?;
            access(server, &subject(&review), &review).await
        }
        "SelfSubjectRulesReview" => rules(server, &call.user, &review).await?,
        _ => return Err(Status::no_route()),
    };
    review.object_at_mut(&[]).set("status", status);
    let meta = review.object_at_mut(&["metadata"]);
    meta.entry("creationTimestamp");
    encode::value(call, 201, &call.edge().out(review))
}

fn strings(list: &[String]) -> Vec<Value> {
    list.iter().map(|s| Value::from(s.as_str())).collect()
}

pub(crate) fn user_info(user: &User) -> Object {
    let mut info = Object::default();
    info.set("username", user.name.as_str());
    if !user.uid.is_empty() {
        info.set("uid", user.uid.as_str());
    }
    info.set("groups", strings(&user.groups));
    if !user.extra.is_empty() {
        let extra: Object =
            user.extra.iter().map(|(k, v)| (k.as_str().into(), Value::from(strings(v)))).collect();
        info.set("extra", extra);
    }
    info
}

fn who_am_i(user: &User) -> Object {
    let mut status = Object::default();
    status.set("userInfo", user_info(user));
    status
}

async fn token(server: &ApiServer, review: &Value) -> Object {
    let wanted: Vec<String> = review
        .items_at(&["spec", "audiences"])
        .iter()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let mut status = Object::default();
    let text = review.str_at(&["spec", "token"]);
    match server.review_account_token(text, &wanted).await {
        Ok(reviewed) => {
            status.set("authenticated", true);
            status.set("user", user_info(&reviewed.user));
            status.set("audiences", strings(&reviewed.audiences));
        }
        Err(error) => match server.authenticate_token(text).await.filter(|_| wanted.is_empty()) {
            Some(user) => {
                status.set("authenticated", true);
                status.set("user", user_info(&user));
            }
            None => {
                status.set("user", Object::default());
                status.set("error", error);
            }
        },
    }
    status
}

/// The rules of the three access reviews.
///
/// Errors: 422.
fn check(call: &Call, review: &Value) -> Result<()> {
    let root = Path::root("spec");
    let empty = Value::object();
    let spec = review.get("spec").unwrap_or(&empty);
    let given = |field: &str| spec.get(field).filter(|v| !v.is_null());
    let (resource, path) = (given("resourceAttributes"), given("nonResourceAttributes"));
    let mut errors = Vec::new();
    if resource.is_some() == path.is_some() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(Error::invalid(&root, path.cloned().unwrap_or(Value::Null), why));
    }
    let about_self = call.kind.kind == "SelfSubjectAccessReview";
    if !about_self && spec.str_at(&["user"]).is_empty() && spec.items_at(&["groups"]).is_empty() {
        errors.push(Error::invalid(
            &root.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    if call.kind.kind == "LocalSubjectAccessReview" {
        let namespace = spec.str_at(&["resourceAttributes", "namespace"]);
        if resource.is_some() && namespace != call.info.namespace {
            let at = root.child("resourceAttributes");
            let detail = "must match metadata.namespace";
            errors.push(Error::invalid(&at.child("namespace"), namespace, detail));
        }
        if let Some(path) = path {
            let at = root.child("nonResourceAttributes");
            errors.push(Error::invalid(&at, path.clone(), "disallowed on this kind of request"));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(&call.kind.group, &call.kind.kind, "", &errors)),
    }
}

/// The user whom a SubjectAccessReview asks about.
fn subject(review: &Value) -> User {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let words = |list: &[Value]| list.iter().filter_map(|g| g.as_str().map(str::to_owned)).collect();
    let extra = spec.get("extra").and_then(Value::as_object).into_iter().flat_map(Object::iter);
    let values = |v: &Value| v.as_array().map_or_else(Vec::new, |list| words(list));
    User {
        name: spec.str_at(&["user"]).to_owned(),
        uid: spec.str_at(&["uid"]).to_owned(),
        groups: words(spec.items_at(&["groups"])),
        extra: extra.map(|(k, v)| (k.as_str().to_owned(), values(v))).collect(),
    }
}

fn attributes(review: &Value) -> Attributes {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let text = |path: &[&str]| spec.str_at(path).to_owned();
    let Some(resource) = spec.get("resourceAttributes").filter(|v| !v.is_null()) else {
        return Attributes {
            verb: text(&["nonResourceAttributes", "verb"]),
            path: Some(text(&["nonResourceAttributes", "path"])),
            ..Attributes::default()
        };
    };
    let mut requirements = resource.items_at(&["fieldSelector", "requirements"]).iter();
    let node =
        requirements.find(|r| r.str_at(&["key"]) == "spec.nodeName" && r.str_at(&["operator"]) == "In");
    let node = node.and_then(|r| r.items_at(&["values"]).first()).and_then(Value::as_str);
    Attributes {
        verb: resource.str_at(&["verb"]).to_owned(),
        namespace: resource.str_at(&["namespace"]).to_owned(),
        group: resource.str_at(&["group"]).to_owned(),
        resource: resource.str_at(&["resource"]).to_owned(),
        subresource: resource.str_at(&["subresource"]).to_owned(),
        name: resource.str_at(&["name"]).to_owned(),
        path: None,
        selected_node: node.map(str::to_owned),
    }
}

async fn access(server: &ApiServer, user: &User, review: &Value) -> Object {
    let decision = server.decide(user, &attributes(review)).await;
    let mut status = Object::default();
    status.set("allowed", decision.is_ok());
    let reason = decision.unwrap_or_else(|reason| reason);
    if !reason.is_empty() {
        status.set("reason", reason);
    }
    status
}

/// What the user may do in a namespace.
///
/// Errors: 400 without a namespace.
async fn rules(server: &ApiServer, user: &User, review: &Value) -> Result<Object> {
    let namespace = review.str_at(&["spec", "namespace"]);
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let found = server.rules_for(user, namespace).await?;
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    for rule in &found.rules {
        let mut shown = Object::default();
        shown.set("verbs", strings(&rule.verbs));
        if !rule.resources.is_empty() {
            shown.set("apiGroups", strings(&rule.groups));
            shown.set("resources", strings(&rule.resources));
            if !rule.names.is_empty() {
                shown.set("resourceNames", strings(&rule.names));
            }
            resources.push(Value::from(shown));
        } else if !rule.urls.is_empty() {
            shown.set("nonResourceURLs", strings(&rule.urls));
            urls.push(Value::from(shown));
        }
    }
    let mut status = Object::default();
    status.set("resourceRules", resources);
    status.set("nonResourceRules", urls);
    status.set("incomplete", found.incomplete);
    if !found.error.is_empty() {
        status.set("evaluationError", found.error);
    }
    Ok(status)
}
