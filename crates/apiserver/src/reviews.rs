//! Kinds that are questions: who am I, may I, is this token good. A POST is answered with the object filled in; nothing is stored.

use corten_api::{Object, Result, Status, Value};
use http::{Request, Response};

use crate::authz::{self, Attributes};
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
        "SelfSubjectAccessReview" => access(server, &call.user, &review).await?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            local_namespace(call, &review)?;
            access(server, &subject(&review)?, &review).await?
        }
        "SelfSubjectRulesReview" if review.str_at(&["spec", "namespace"]).is_empty() => {
            return Err(Status::bad_request("no namespace on request"));
        }
        "SelfSubjectRulesReview" => rules(&call.user),
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

fn user_info(user: &User) -> Object {
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

fn local_namespace(call: &Call, review: &Value) -> Result<()> {
    let found = review.str_at(&["spec", "resourceAttributes", "namespace"]);
    if call.kind.kind == "LocalSubjectAccessReview" && found != call.info.namespace {
        return Err(Status::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {}",
            call.info.namespace
        )));
    }
    Ok(())
}

/// The user whom a SubjectAccessReview asks about.
fn subject(review: &Value) -> Result<User> {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let list = |key: &str| -> Vec<String> {
        spec.items_at(&[key]).iter().filter_map(|g| g.as_str().map(str::to_owned)).collect()
    };
    let user = User {
        name: spec.str_at(&["user"]).to_owned(),
        uid: spec.str_at(&["uid"]).to_owned(),
        groups: list("groups"),
        extra: Vec::new(),
    };
    match user.name.is_empty() && user.groups.is_empty() {
        true => Err(Status::bad_request("at least one of user or group must be specified")),
        false => Ok(user),
    }
}

fn attributes(review: &Value) -> Result<Attributes> {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let text = |path: &[&str]| spec.str_at(path).to_owned();
    match (spec.get("resourceAttributes"), spec.get("nonResourceAttributes")) {
        (Some(resource), None) => Ok(Attributes {
            verb: resource.str_at(&["verb"]).to_owned(),
            namespace: resource.str_at(&["namespace"]).to_owned(),
            group: resource.str_at(&["group"]).to_owned(),
            resource: resource.str_at(&["resource"]).to_owned(),
            subresource: resource.str_at(&["subresource"]).to_owned(),
            name: resource.str_at(&["name"]).to_owned(),
            ..Attributes::default()
        }),
        (None, Some(_)) => Ok(Attributes {
            verb: text(&["nonResourceAttributes", "verb"]),
            path: Some(text(&["nonResourceAttributes", "path"])),
            ..Attributes::default()
        }),
        _ => Err(Status::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

async fn access(server: &ApiServer, user: &User, review: &Value) -> Result<Object> {
    let attributes = attributes(review)?;
    let mut status = Object::default();
    status.set("allowed", server.is_allowed(user, &attributes).await);
    Ok(status)
}

fn rules(user: &User) -> Object {
    let words = |list: &[&str]| -> Vec<Value> { list.iter().map(|w| Value::from(*w)).collect() };
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    let everything: &[&str] = &["*"];
    let mut add = |verbs: &[&str], groups: &[&str], kinds: &[&str], names: &[&str], paths: &[&str]| {
        let mut rule = Object::default();
        rule.set("verbs", words(verbs));
        if !kinds.is_empty() {
            rule.set("apiGroups", words(groups));
            rule.set("resources", words(kinds));
            if !names.is_empty() {
                rule.set("resourceNames", words(names));
            }
            resources.push(Value::from(rule));
        } else {
            rule.set("nonResourceURLs", words(paths));
            urls.push(Value::from(rule));
        }
    };
    if user.is_in(crate::user::MASTERS) {
        add(everything, everything, everything, &[], &[]);
        add(everything, &[], &[], &[], everything);
    }
    for rule in authz::rules_of(user) {
        add(rule.verbs, rule.groups, rule.resources, rule.names, rule.urls);
    }
    let mut status = Object::default();
    status.set("resourceRules", resources);
    status.set("nonResourceRules", urls);
    status.set("incomplete", user.node_name().is_some());
    status
}
