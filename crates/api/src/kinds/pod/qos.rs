//! The quality-of-service class of a pod, set once when it is created.

use crate::Value;
use crate::kinds::look::{given, items, quantity};

/// `Guaranteed`, `Burstable` or `BestEffort`, from the amounts of cpu and memory that containers (or the pod) ask for.
pub fn class(spec: &Value) -> &'static str {
    let pod_level =
        given(spec, "resources").filter(|r| given(r, "requests").or_else(|| given(r, "limits")).is_some());
    let all: Vec<Option<&Value>> = match pod_level {
        Some(resources) => vec![Some(resources)],
        None => ["containers", "initContainers"]
            .iter()
            .flat_map(|field| items(spec, field))
            .map(|container| given(container, "resources"))
            .collect(),
    };
    let amount = |resources: Option<&Value>, list: &str, name: &str| {
        let amount = resources.and_then(|r| r.at(&[list, name]));
        Some(quantity(amount)).filter(|a| a.sign() > 0)
    };
    let each = || all.iter().flat_map(|r| ["cpu", "memory"].map(|name| (*r, name)));
    let asks = |(r, name)| amount(r, "requests", name).is_some() || amount(r, "limits", name).is_some();
    if !each().any(asks) {
        return "BestEffort";
    }
    let pinned = |(r, name)| {
        let limit = amount(r, "limits", name);
        limit.is_some() && amount(r, "requests", name).is_none_or(|request| Some(request) == limit)
    };
    if each().all(pinned) { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::tree;

    #[test]
    fn classes() {
        let cases = [
            ("{containers: [{}]}", "BestEffort"),
            ("{containers: [{resources: {requests: {ephemeral-storage: 1Gi}}}]}", "BestEffort"),
            ("{containers: [{resources: {requests: {cpu: 100m}}}]}", "Burstable"),
            ("{containers: [{resources: {limits: {cpu: '0'}}}]}", "BestEffort"),
            (
                "{containers: [{resources: {limits: {cpu: '1', memory: 1Gi}, requests: {cpu: 1000m, memory: 1024Mi}}}]}",
                "Guaranteed",
            ),
            ("{containers: [{resources: {limits: {cpu: '1', memory: 1Gi}}}, {}]}", "Burstable"),
            (
                "{containers: [{resources: {limits: {cpu: '1', memory: 1Gi}}}], initContainers: [{}]}",
                "Burstable",
            ),
            ("{containers: [{}], resources: {limits: {cpu: '1', memory: 1Gi}}}", "Guaranteed"),
        ];
        for (spec, class_of) in cases {
            assert_eq!(class(&tree(spec)), class_of, "{spec}");
        }
    }
}
