//! Cluster roles that are gathered from others: `admin`, `edit` and `view` hold what the roles with certain labels hold.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::selector::matches;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::answer::changed_is_fine;
use crate::cluster::Cluster;
use crate::shell::Shell;

const MANAGER: &str = "clusterrole-aggregation-controller";

/// Keeps gathered roles true until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    // One key: a role may gather what another one has gathered.
    Shell::<_, ()>::open(cluster, cluster.clone())
        .wakes(&cluster.cluster_roles, |_, _| Some(()))
        .run(1, |me, ()| async move { gather(&me).await })
        .await;
}

async fn gather(cluster: &Cluster) -> Result<Option<Duration>, kube::Error> {
    let api = Api::<ClusterRole>::all(cluster.client.clone());
    for (name, rules) in plan(&cluster.cluster_roles.list()) {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": name }, "rules": rules
        });
        let params = PatchParams::apply(MANAGER).force();
        changed_is_fine(api.patch(&name, &params, &Patch::Apply(role)).await)?;
    }
    Ok(None)
}

/// The roles whose rules are not what they should gather, with what they should be.
fn plan(roles: &[Arc<ClusterRole>]) -> Vec<(String, Vec<PolicyRule>)> {
    let mut by_name: Vec<&ClusterRole> = roles.iter().map(|r| &**r).collect();
    by_name.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let wrong = by_name.iter().filter_map(|role| {
        let rules = gathered(role, &by_name)?;
        let found = role.rules.as_deref().unwrap_or_default();
        (found != rules).then(|| (role.metadata.name.clone().unwrap_or_default(), rules))
    });
    wrong.collect()
}

/// `None` for a role that gathers nothing.
fn gathered(role: &ClusterRole, by_name: &[&ClusterRole]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let fits = |other: &&&ClusterRole| {
            other.metadata.name != role.metadata.name && matches(selector, other.metadata.labels.as_ref())
        };
        for rule in by_name.iter().filter(fits).flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(json: serde_json::Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(json).unwrap())
    }

    fn part(name: &str, label: &str, resource: &str) -> Arc<ClusterRole> {
        role(json!({
            "metadata": { "name": name, "labels": { label: "true" } },
            "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": [resource] }]
        }))
    }

    fn whole(rules: serde_json::Value) -> Arc<ClusterRole> {
        role(json!({
            "metadata": { "name": "all", "labels": { "x": "true" } },
            "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "x": "true" } }, { "matchLabels": { "y": "true" } }] },
            "rules": rules
        }))
    }

    #[test]
    fn gathers_each_rule_once_in_the_order_of_names() {
        let parts = [
            part("b", "x", "pods"),
            part("a", "x", "nodes"),
            part("c", "y", "pods"),
            part("d", "z", "secrets"),
        ];
        let planned = |rules| plan(&[&parts[..], &[whole(rules)]].concat());
        let [(name, rules)] = planned(json!(null)).try_into().unwrap();
        let resources: Vec<_> = rules.iter().map(|r| r.resources.clone().unwrap()[0].clone()).collect();
        assert_eq!((name.as_str(), resources), ("all", vec!["nodes".to_owned(), "pods".to_owned()]));
        assert!(planned(json!(rules)).is_empty());
        // A rule of its own is not kept.
        assert_eq!(planned(json!([{ "verbs": ["*"], "nonResourceURLs": ["*"] }])), [(name, rules)]);
    }
}
