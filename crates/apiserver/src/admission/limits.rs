//! LimitRanger: containers get the defaults of their namespace's limit ranges; what lies outside of the ranges is refused.

use std::collections::BTreeSet;

use corten_api::kinds::usage::pod_total;
use corten_api::quantity::Quantity;
use corten_api::{Object, Result, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Containers cannot change, so updates of pods need no look.
pub(super) fn wants(a: &Attributes<'_>) -> bool {
    match a.operation {
        Operation::Create => a.is("pods", "") || a.is("persistentvolumeclaims", ""),
        Operation::Update => a.is("persistentvolumeclaims", ""),
        Operation::Delete => false,
    }
}

pub(super) fn mutate<'a>(a: &'a Attributes<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    async move {
        if !a.is("pods", "") {
            return Ok(());
        }
        for range in ranges(a).await? {
            for item in
                range.items_at(&["spec", "limits"]).iter().filter(|i| i.str_at(&["type"]) == "Container")
            {
                fill_in(object, item);
            }
        }
        Ok(())
    }
    .boxed()
}

pub(super) fn validate<'a>(a: &'a Attributes<'a>, object: &'a Value) -> BoxFuture<'a, Result<()>> {
    async move {
        for range in ranges(a).await? {
            let limits = range.items_at(&["spec", "limits"]);
            let broken: Vec<String> = match a.is("pods", "") {
                true => limits.iter().flat_map(|item| of_pod(object, item)).collect(),
                false => limits.iter().flat_map(|item| of_claim(object, item)).collect(),
            };
            match broken.as_slice() {
                [] => {}
                [one] => return Err(a.forbidden(object, one)),
                many => return Err(a.forbidden(object, &format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
    .boxed()
}

async fn ranges(a: &Attributes<'_>) -> Result<Vec<Value>> {
    let entries = a.server.list_raw("limitranges", &a.call.info.namespace).await?;
    let mut ranges = Vec::new();
    for entry in entries {
        let range = a.server.tree(&entry)?;
        if range.at(&["metadata", "deletionTimestamp"]).is_none() {
            ranges.push(range);
        }
    }
    Ok(ranges)
}

/// Sets what containers leave open, and says so in an annotation.
fn fill_in(pod: &mut Value, item: &Value) {
    let mut said = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.object_at_mut(&["spec"]).get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container.str_at(&["name"]).to_owned();
            for (side, default, word) in
                [("requests", "defaultRequest", "request"), ("limits", "default", "limit")]
            {
                let set = fill_side(container, side, item.get(default));
                if !set.is_empty() {
                    said.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() {
        let text = format!("LimitRanger plugin set: {}", said.join("; "));
        pod.object_at_mut(&["metadata", "annotations"]).set(ANNOTATION, text);
    }
}

fn fill_side(container: &mut Value, side: &'static str, defaults: Option<&Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults.and_then(Value::as_object).into_iter().flat_map(Object::iter) {
        let amounts = container.object_at_mut(&["resources", side]);
        if !amounts.contains_key(name) {
            amounts.insert(name.clone(), amount.clone());
            set.push(name.to_string());
        }
    }
    set.sort();
    set
}

fn of_pod(pod: &Value, item: &Value) -> Vec<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    match item.str_at(&["type"]) {
        "Container" => {
            let lists = ["containers", "initContainers"];
            let containers = lists.iter().flat_map(|list| spec.items_at(&[list]));
            let of = |container: &'_ Value| {
                let amount = |side: &str, name: &str| container.at(&["resources", side, name]).map(parsed);
                check(item, "Container", &amount)
            };
            containers.flat_map(of).collect()
        }
        "Pod" => {
            let (requests, limits) = (pod_total(spec, "requests"), pod_total(spec, "limits"));
            let amount = |side: &str, name: &str| {
                if side == "requests" { requests.get(name).copied() } else { limits.get(name).copied() }
            };
            check(item, "Pod", &amount)
        }
        _ => Vec::new(),
    }
}

fn parsed(amount: &Value) -> Quantity {
    let text = match amount {
        Value::Int(n) => n.to_string(),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    Quantity::parse(&text).unwrap_or_default()
}

fn amounts<'a>(item: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, Quantity)> {
    let list = item.get(field).and_then(Value::as_object).into_iter().flat_map(Object::iter);
    list.map(|(name, amount)| (name.as_str(), parsed(amount)))
}

type Amount<'a> = &'a dyn Fn(&str, &str) -> Option<Quantity>;

fn check(item: &Value, kind: &str, amount: Amount<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, least) in amounts(item, "min") {
        let head = format!("minimum {name} usage per {kind} is {least}");
        broken.extend(match (amount("requests", name), amount("limits", name)) {
            (None, _) => Some(format!("{head}.  No request is specified")),
            (Some(request), _) if request < least => Some(format!("{head}, but request is {request}")),
            (_, Some(limit)) if limit < least => Some(format!("{head}, but limit is {limit}")),
            _ => None,
        });
    }
    for (name, most) in amounts(item, "max") {
        let head = format!("maximum {name} usage per {kind} is {most}");
        broken.extend(match (amount("requests", name), amount("limits", name)) {
            (_, None) => Some(format!("{head}.  No limit is specified")),
            (_, Some(limit)) if limit > most => Some(format!("{head}, but limit is {limit}")),
            (Some(request), _) if request > most => Some(format!("{head}, but request is {request}")),
            _ => None,
        });
    }
    for (name, most) in amounts(item, "maxLimitRequestRatio") {
        let head = format!("{name} max limit to request ratio per {kind} is {most}");
        broken.extend(ratio(amount("requests", name), amount("limits", name), most).map(|why| head + &why));
    }
    broken
}

fn ratio(request: Option<Quantity>, limit: Option<Quantity>, most: Quantity) -> Option<String> {
    let Some(request) = request.filter(|q| !q.is_zero()) else {
        return Some(", but no request is specified or request is 0".into());
    };
    let Some(limit) = limit.filter(|q| !q.is_zero()) else {
        return Some(", but no limit is specified or limit is 0".into());
    };
    // Thousandths where they fit: bytes are whole anyway.
    let number = |q: Quantity| q.milli() as f64 / 1000.0;
    let number = |q: Quantity| if q.milli() == i64::MAX { q.value() as f64 } else { number(q) };
    let found = number(limit) / number(request);
    (found > number(most)).then(|| format!(", but provided ratio is {found:.6}"))
}

fn of_claim(claim: &Value, item: &Value) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    if item.str_at(&["type"]) != KIND {
        return Vec::new();
    }
    let request = |name: &str| claim.at(&["spec", "resources", "requests", name]).map(parsed);
    let known: BTreeSet<&str> =
        amounts(item, "min").chain(amounts(item, "max")).map(|(name, _)| name).collect();
    let bound =
        |field: &str, name: &str| amounts(item, field).find(|(n, _)| *n == name).map(|(_, amount)| amount);
    let mut broken = Vec::new();
    for name in known {
        for (field, word) in [("min", "minimum"), ("max", "maximum")] {
            let Some(bound) = bound(field, name) else { continue };
            let head = format!("{word} {name} usage per {KIND} is {bound}");
            match request(name) {
                None => broken.push(format!("{head}.  No request is specified")),
                Some(request)
                    if (field == "min" && request < bound) || (field == "max" && request > bound) =>
                {
                    broken.push(format!("{head}, but request is {request}"));
                }
                Some(_) => {}
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        crate::decode::json(text.to_owned().into()).unwrap()
    }

    #[test]
    fn defaults() {
        let mut pod = json(r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}}"#);
        let item = json(
            r#"{"type":"Container","default":{"cpu":"2","memory":"1Gi"},"defaultRequest":{"cpu":"500m","memory":"1Mi"}}"#,
        );
        fill_in(&mut pod, &item);
        let resources = &pod.items_at(&["spec", "containers"])[0];
        assert_eq!(resources.str_at(&["resources", "requests", "cpu"]), "1");
        assert_eq!(resources.str_at(&["resources", "requests", "memory"]), "1Mi");
        assert_eq!(resources.str_at(&["resources", "limits", "memory"]), "1Gi");
        assert_eq!(
            pod.str_at(&["metadata", "annotations", ANNOTATION]),
            "LimitRanger plugin set: memory request for container c; cpu, memory limit for container c"
        );
    }

    #[test]
    fn bounds() {
        let pod = |resources: &str| {
            json(&format!(r#"{{"spec":{{"containers":[{{"name":"c","resources":{resources}}}]}}}}"#))
        };
        let cases = [
            (
                r#"{"type":"Container","max":{"cpu":"1"}}"#,
                "{}",
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                r#"{"type":"Container","max":{"memory":"1Gi"}}"#,
                r#"{"limits":{"memory":"1536Mi"}}"#,
                "maximum memory usage per Container is 1Gi, but limit is 1536Mi",
            ),
            (
                r#"{"type":"Pod","min":{"cpu":"200m"}}"#,
                r#"{"requests":{"cpu":"100m"}}"#,
                "minimum cpu usage per Pod is 200m, but request is 100m",
            ),
            (
                r#"{"type":"Container","maxLimitRequestRatio":{"cpu":"2"}}"#,
                r#"{"requests":{"cpu":"100m"},"limits":{"cpu":"300m"}}"#,
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                r#"{"type":"Container","min":{"cpu":"100m"},"max":{"cpu":"1"}}"#,
                r#"{"requests":{"cpu":"100m"},"limits":{"cpu":"1"}}"#,
                "",
            ),
        ];
        for (item, resources, wanted) in cases {
            assert_eq!(of_pod(&pod(resources), &json(item)).join("|"), wanted, "{item} {resources}");
        }
        let claim = json(r#"{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}"#);
        let item =
            json(r#"{"type":"PersistentVolumeClaim","min":{"storage":"1Gi"},"max":{"storage":"2Gi"}}"#);
        assert_eq!(
            of_claim(&claim, &item),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
    }
}
