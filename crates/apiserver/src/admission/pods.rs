//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or cannot be reached.

use corten_api::{Object, Result, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) fn wants(a: &Attributes<'_>) -> bool {
    matches!(a.operation, Operation::Create | Operation::Update) && a.is("pods", "")
}

pub(super) fn tolerations<'a>(_: &'a Attributes<'a>, pod: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    let missing: Vec<&str> = TAINTS.into_iter().filter(|taint| !tolerates(pod, taint)).collect();
    if !missing.is_empty() && pod.get("spec").is_some() {
        let spec = pod.object_at_mut(&["spec"]);
        let list = spec.entry("tolerations");
        if list.as_array().is_none() {
            *list = Value::Array(Vec::new());
        }
        if let Some(list) = list.as_array_mut() {
            list.extend(missing.into_iter().map(toleration));
        }
    }
    std::future::ready(Ok(())).boxed()
}

fn tolerates(pod: &Value, taint: &str) -> bool {
    pod.items_at(&["spec", "tolerations"]).iter().any(|t| {
        let (key, effect) = (t.str_at(&["key"]), t.str_at(&["effect"]));
        (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    })
}

fn toleration(taint: &'static str) -> Value {
    let mut toleration = Object::default();
    toleration.set("key", Value::str(taint));
    toleration.set("operator", Value::str("Exists"));
    toleration.set("effect", Value::str("NoExecute"));
    toleration.set("tolerationSeconds", SECONDS);
    toleration.into()
}
