//! NamespaceLifecycle: nothing is made in a namespace that is not there or goes away; the system's namespaces stay.

use corten_api::kind::Scope;
use corten_api::status::Cause;
use corten_api::{GroupResource, Result, Status, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};
use crate::peek;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn wants(a: &Attributes<'_>) -> bool {
    let creates = a.operation == Operation::Create && a.call.kind.scope == Scope::Namespaced;
    creates || (a.operation == Operation::Delete && a.is("namespaces", ""))
}

pub(super) fn mutate<'a>(a: &'a Attributes<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    async move {
        let name = a.call.info.namespace.as_str();
        if a.operation != Operation::Create {
            return Ok(());
        }
        let Some(namespace) = a.server.read_raw("namespaces", "", name).await? else {
            return Err(Status::not_found(GroupResource { group: "", resource: "namespaces" }, name));
        };
        let terminating = peek::text(&namespace.value, &["status", "phase"]) == "Terminating"
            || peek::raw(&namespace.value, &["metadata", "deletionTimestamp"]).is_some();
        if !terminating {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut status = a.forbidden(object, &why);
        status.causes.push(Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        });
        Err(status)
    }
    .boxed()
}

pub(super) fn validate<'a>(a: &'a Attributes<'a>, object: &'a Value) -> BoxFuture<'a, Result<()>> {
    let name = object.str_at(&["metadata", "name"]);
    let refused = a.operation == Operation::Delete && IMMORTAL.contains(&name);
    let result = if refused { Err(a.forbidden(object, "this namespace may not be deleted")) } else { Ok(()) };
    std::future::ready(result).boxed()
}
