//! RuntimeClass: a pod of a class costs what the class says, and runs where the class can run.

use corten_api::{Result, Value, json};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};
use crate::peek;

pub(super) fn wants(a: &Attributes<'_>) -> bool {
    a.operation == Operation::Create && a.is("pods", "")
}

pub(super) fn mutate<'a>(a: &'a Attributes<'a>, pod: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    async move {
        let name = pod.str_at(&["spec", "runtimeClassName"]).to_owned();
        if !name.is_empty() {
            let Some(class) = find(a, &name).await? else {
                return Err(a.forbidden(pod, &format!("pod rejected: RuntimeClass \"{name}\" not found")));
            };
            overhead(a, pod, &class)?;
            return scheduling(a, pod, &class);
        }
        if pod.at(&["spec", "overhead"]).is_some_and(|o| !o.is_null()) {
            return Err(a.forbidden(pod, WITHOUT_CLASS));
        }
        Ok(())
    }
    .boxed()
}

const WITHOUT_CLASS: &str =
    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

async fn find(a: &Attributes<'_>, name: &str) -> Result<Option<Value>> {
    let classes = a.server.list_group("node.k8s.io", "runtimeclasses", "").await?;
    let class = classes.iter().find(|class| peek::text(&class.value, &["metadata", "name"]) == name);
    Ok(class.and_then(|class| json::parse(&class.value).ok()))
}

fn overhead(a: &Attributes<'_>, pod: &mut Value, class: &Value) -> Result<()> {
    let asked = pod.at(&["spec", "overhead"]).filter(|o| !o.is_null());
    let Some(costs) = class.get("overhead").filter(|o| !o.is_null()) else {
        return if asked.is_some() { Err(a.forbidden(pod, WITHOUT_CLASS)) } else { Ok(()) };
    };
    let costs = costs.get("podFixed").cloned().unwrap_or_default();
    let is_set = asked.and_then(Value::as_object).is_some_and(|o| !o.is_empty());
    if is_set && asked != Some(&costs) {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(a.forbidden(pod, why));
    }
    pod.object_at_mut(&["spec"]).set("overhead", costs);
    Ok(())
}

fn scheduling(a: &Attributes<'_>, pod: &mut Value, class: &Value) -> Result<()> {
    let wanted = class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object);
    for (key, value) in wanted.into_iter().flat_map(corten_api::Object::iter) {
        let own = pod.at(&["spec", "nodeSelector", key]).and_then(Value::as_str).map(str::to_owned);
        let value = value.as_str().unwrap_or_default();
        if let Some(own) = own.filter(|own| own != value) {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            );
            return Err(a.forbidden(pod, &why));
        }
        pod.object_at_mut(&["spec", "nodeSelector"]).insert(key.clone(), value);
    }
    let more = class.items_at(&["scheduling", "tolerations"]).to_vec();
    let missing: Vec<Value> =
        more.into_iter().filter(|t| !pod.items_at(&["spec", "tolerations"]).contains(t)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = pod.object_at_mut(&["spec"]).entry("tolerations");
    match list.as_array_mut() {
        Some(list) => list.extend(missing),
        None => *list = missing.into(),
    }
    Ok(())
}
