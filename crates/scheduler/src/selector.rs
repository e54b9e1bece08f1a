//! Label selectors, node selectors and tolerations, matched against typed objects.

use std::collections::BTreeMap;

use corten_client::selector;
pub use corten_client::selector::tolerates;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Does a label selector match? No selector matches nothing, an empty one everything.
pub fn label_selector_matches(
    selector: Option<&LabelSelector>,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
    selector.is_some_and(|s| selector::matches(s, labels))
}

/// Do all terms' rules of one of the terms hold? Terms are alternatives; a term without rules never holds.
pub fn node_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| node_term_matches(term, node))
}

/// Do all rules of a term hold? A term without rules never holds.
pub fn node_term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let name = node.metadata.name.as_deref();
    let on_labels = term.match_expressions.as_deref().unwrap_or_default();
    let on_fields = term.match_fields.as_deref().unwrap_or_default();
    if on_labels.is_empty() && on_fields.is_empty() {
        return false;
    }
    let holds = |rule: &NodeSelectorRequirement, value: Option<&str>| {
        requirement_matches(&rule.operator, value, rule.values.as_deref().unwrap_or_default())
    };
    on_labels.iter().all(|rule| holds(rule, labels.and_then(|l| l.get(&rule.key)).map(String::as_str)))
        && on_fields.iter().all(|rule| holds(rule, name.filter(|_| rule.key == "metadata.name")))
}

fn requirement_matches(operator: &str, value: Option<&str>, values: &[String]) -> bool {
    let listed = |v: &str| values.iter().any(|one| one == v);
    let compare =
        |holds: fn(i64, i64) -> bool| match (value.map(str::parse), values.first().map(|v| v.parse())) {
            (Some(Ok(have)), Some(Ok(limit))) => holds(have, limit),
            _ => false,
        };
    match operator {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

/// The taint, of those with one of these effects, that none of the tolerations accepts.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn requirements() {
        let values = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let table: &[(&str, Option<&str>, &[&str], bool)] = &[
            ("In", Some("a"), &["a", "b"], true),
            ("In", None, &["a"], false),
            ("NotIn", None, &["a"], true),
            ("NotIn", Some("a"), &["a"], false),
            ("Exists", Some(""), &[], true),
            ("DoesNotExist", Some(""), &[], false),
            ("Gt", Some("5"), &["4"], true),
            ("Gt", Some("x"), &["4"], false),
            ("Lt", Some("3"), &["4"], true),
            ("Bad", Some("3"), &["4"], false),
        ];
        for (operator, value, of, expected) in table {
            assert_eq!(
                requirement_matches(operator, *value, &values(of)),
                *expected,
                "{operator} {value:?} {of:?}"
            );
        }
    }

    #[test]
    fn tolerations() {
        let taint: Taint = from_value(json!({ "key": "k", "value": "v", "effect": "NoSchedule" })).unwrap();
        let table = [
            (json!({ "key": "k", "value": "v", "effect": "NoSchedule" }), true),
            (json!({ "key": "k", "value": "w", "effect": "NoSchedule" }), false),
            (json!({ "key": "k", "operator": "Exists" }), true),
            (json!({ "operator": "Exists" }), true),
            (json!({ "value": "v" }), false),
            (json!({ "key": "k", "operator": "Exists", "effect": "NoExecute" }), false),
        ];
        for (toleration, expected) in table {
            assert_eq!(tolerates(&from_value(toleration.clone()).unwrap(), &taint), expected, "{toleration}");
        }
    }
}
