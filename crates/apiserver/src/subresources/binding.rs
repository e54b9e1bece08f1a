//! `pods/binding`: the scheduler's word on which node a pod runs.

use corten_api::{GroupResource, Object, Result, Status, Value, time};
use http::{Request, Response};

use crate::body::{Body, read_all};
use crate::call::Call;
use crate::candidate::Make;
use crate::write::Write;
use crate::{ApiServer, decode};

const RESOURCE: GroupResource<'static> = GroupResource { group: "", resource: "pods/binding" };

/// POST to a pod's `binding`.
pub(super) async fn serve(server: &ApiServer, call: &Call, request: Request<Body>) -> Result<Response<Body>> {
    let body = read_all(request.into_body()).await?;
    let binding = decode::other(call, &body, ("", "v1", "Binding"))?;
    let named = binding.str_at(&["metadata", "name"]);
    if !named.is_empty() && named != call.info.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    bind(server, call, &call.info.name, &binding).await
}

/// Binds a pod of the call's namespace.
///
/// Errors: 404, 409 when it is bound or going away, 422 for a target that is no node.
pub(crate) async fn bind(
    server: &ApiServer,
    call: &Call,
    name: &str,
    binding: &Value,
) -> Result<Response<Body>> {
    let node = target(binding)?;
    let now = time::rfc3339(server.now_ms());
    let wanted = binding.get("metadata").cloned().unwrap_or_default();
    let pod_name = name.to_owned();
    let edit = Make::Edit(Box::new(move |pod| assign(pod, &pod_name, &node, &wanted, &now)));
    let pods = Call {
        user: call.user.clone(),
        user_agent: call.user_agent.clone(),
        query: call.query.clone(),
        ..Call::internal(server, ("", "pods"), &call.info.namespace, name, "binding")?
    };
    Write::new(server, &pods, name.to_owned(), edit)?.commit().await?;
    super::success(call)
}

fn target(binding: &Value) -> Result<String> {
    use corten_api::field::{Error, Path};
    let target = Path::root("target");
    let mut errors = Vec::new();
    let kind = binding.str_at(&["target", "kind"]);
    if !kind.is_empty() && kind != "Node" {
        errors.push(Error::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]));
    }
    let name = binding.str_at(&["target", "name"]);
    if name.is_empty() {
        errors.push(Error::required(&target.child("name"), ""));
    }
    match errors.is_empty() {
        true => Ok(name.to_owned()),
        false => Err(Status::invalid("", "Binding", binding.str_at(&["metadata", "name"]), &errors)),
    }
}

fn assign(pod: &mut Value, name: &str, node: &str, wanted: &Value, now: &str) -> Result<()> {
    let refuse = |why: String| Err(Status::conflict(RESOURCE, name, &why));
    for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let (wish, found) = (wanted.str_at(&[field]), pod.str_at(&["metadata", field]));
        if !wish.is_empty() && wish != found {
            return refuse(format!(
                "Precondition failed: {what} in precondition: {wish}, {what} in object meta: {found}"
            ));
        }
    }
    if crate::meta::is_deleting(pod) {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let bound = pod.str_at(&["spec", "nodeName"]);
    if !bound.is_empty() {
        return refuse(format!("pod {name} is already assigned to node \"{bound}\""));
    }
    if !pod.items_at(&["spec", "schedulingGates"]).is_empty() {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod.object_at_mut(&["spec"]).set("nodeName", node);
    for map in ["annotations", "labels"] {
        for (key, value) in wanted.get(map).and_then(Value::as_object).into_iter().flat_map(Object::iter) {
            pod.object_at_mut(&["metadata", map]).insert(key.clone(), value.clone());
        }
    }
    scheduled(pod, now);
    Ok(())
}

/// Sets the PodScheduled condition.
fn scheduled(pod: &mut Value, now: &str) {
    let generation = pod.at(&["metadata", "generation"]).cloned();
    let mut condition = Object::default();
    condition.set("type", Value::str("PodScheduled"));
    condition.set("status", Value::str("True"));
    condition.set("lastProbeTime", Value::Null);
    condition.set("lastTransitionTime", now);
    if let Some(generation) = generation {
        condition.set("observedGeneration", generation);
    }
    let list = pod.object_at_mut(&["status"]).entry("conditions");
    if list.as_array().is_none() {
        *list = Value::Array(Vec::new());
    }
    let Some(list) = list.as_array_mut() else { return };
    list.retain(|c| c.str_at(&["type"]) != "PodScheduled");
    list.push(condition.into());
}
