//! Label selectors and tolerations of typed objects, matched against labels and taints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// Does a selector match? No selector matches nothing, an empty one everything, an unknown operator nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|l| l.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|rule| {
            let values = rule.values.as_deref().unwrap_or_default();
            match rule.operator.as_str() {
                "In" => value(&rule.key).is_some_and(|v| values.contains(v)),
                "NotIn" => !value(&rule.key).is_some_and(|v| values.contains(v)),
                "Exists" => value(&rule.key).is_some(),
                "DoesNotExist" => value(&rule.key).is_none(),
                _ => false,
            }
        })
}

/// Selects everything? Controllers refuse such selectors, as they would adopt the whole namespace.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A selector that asks for all of these labels.
pub fn of_labels(labels: &Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels.clone()), match_expressions: None }
}

/// Does a toleration accept a taint?
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let unset = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    let effect = unset(&toleration.effect) || toleration.effect.as_deref() == Some(&taint.effect);
    let key = unset(&toleration.key) || toleration.key.as_deref() == Some(&taint.key);
    let value = match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    };
    // A toleration of every key must say "Exists".
    effect && key && value && !(unset(&toleration.key) && toleration.operator.as_deref() != Some("Exists"))
}
