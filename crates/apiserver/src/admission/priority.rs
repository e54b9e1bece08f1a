//! Priority: the number behind a pod's priority class, and one global default among the classes.

use corten_api::{Result, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};
use crate::peek;

pub(super) fn wants(a: &Attributes<'_>) -> bool {
    let pods = a.is("pods", "");
    let classes = a.call.kind.group == "scheduling.k8s.io" && a.call.kind.plural == "priorityclasses";
    matches!(a.operation, Operation::Create | Operation::Update) && (pods || classes)
}

pub(super) fn mutate<'a>(a: &'a Attributes<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    async move {
        match (a.is("pods", ""), a.operation) {
            (true, Operation::Create) => pod(a, object).await,
            (true, _) => {
                keep(object, a.old);
                Ok(())
            }
            (false, _) => only_one_default(a, object).await,
        }
    }
    .boxed()
}

/// Clients that leave the computed fields out of an update mean no change.
fn keep(pod: &mut Value, old: Option<&Value>) {
    for field in ["priority", "preemptionPolicy"] {
        let Some(value) = old.and_then(|o| o.at(&["spec", field])) else { continue };
        let spec = pod.object_at_mut(&["spec"]);
        if spec.get(field).is_none_or(Value::is_null) {
            spec.set(field, value.clone());
        }
    }
}

async fn pod(a: &Attributes<'_>, pod: &mut Value) -> Result<()> {
    let name = pod.str_at(&["spec", "priorityClassName"]).to_owned();
    let classes = a.server.list_group("scheduling.k8s.io", "priorityclasses", "").await?;
    let class = classes.iter().find(|c| match name.as_str() {
        "" => peek::raw(&c.value, &["globalDefault"]) == Some(b"true"),
        name => peek::text(&c.value, &["metadata", "name"]) == name,
    });
    let (value, policy) = match class {
        Some(class) => {
            let value = peek::text(&class.value, &["value"]).parse().unwrap_or(0);
            (value, peek::text(&class.value, &["preemptionPolicy"]).into_owned())
        }
        None if name.is_empty() => (0, String::new()),
        None => return Err(a.forbidden(pod, &format!("no PriorityClass with name {name} was found"))),
    };
    if let Some(given) = pod.at(&["spec", "priority"]).and_then(Value::as_i64).filter(|p| *p != value) {
        return Err(a.forbidden(
            pod,
            &format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            ),
        ));
    }
    let class_name = class.map(|c| peek::text(&c.value, &["metadata", "name"]).into_owned());
    let policy = if policy.is_empty() { "PreemptLowerPriority".to_owned() } else { policy };
    let spec = pod.object_at_mut(&["spec"]);
    spec.set("priority", value);
    if let Some(class_name) = class_name {
        spec.set("priorityClassName", class_name);
    }
    let given = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|given| *given != policy);
    if let Some(given) = given {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(a.forbidden(pod, &why));
    }
    spec.set("preemptionPolicy", policy);
    Ok(())
}

async fn only_one_default(a: &Attributes<'_>, class: &Value) -> Result<()> {
    if class.get("globalDefault").and_then(Value::as_bool) != Some(true) {
        return Ok(());
    }
    let classes = a.server.list_group("scheduling.k8s.io", "priorityclasses", "").await?;
    let name = class.str_at(&["metadata", "name"]);
    let other = classes.iter().find(|c| {
        peek::raw(&c.value, &["globalDefault"]) == Some(b"true")
            && peek::text(&c.value, &["metadata", "name"]) != name
    });
    match other {
        None => Ok(()),
        Some(other) => {
            let other = peek::text(&other.value, &["metadata", "name"]);
            let why =
                format!("PriorityClass {other} is already marked as default. Only one default can exist");
            Err(a.forbidden(class, &why))
        }
    }
}
