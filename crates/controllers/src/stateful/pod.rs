//! A pod of a stateful set, and its volume claims. Pure.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use super::REVISION;
use crate::{claim, pods};

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The template of a revision.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    serde_json::from_value(revision.data.0.pointer("/spec/template")?.clone()).ok()
}

fn claim_name(template: &PersistentVolumeClaim, pod: &str) -> String {
    format!("{}-{pod}", template.metadata.name.as_deref().unwrap_or_default())
}

/// The pod of an ordinal.
pub fn new(set: &StatefulSet, ordinal: i32, template: &PodTemplateSpec, revision: &str) -> Pod {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let name = format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default());
    let mut pod = pods::from_template(template, namespace, &name, claim::reference(set));
    pod.metadata.generate_name = None;
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    labels.insert(REVISION.to_owned(), revision.to_owned());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(name.clone());
        spec.subdomain = set.spec.service_name.clone().filter(|name| !name.is_empty());
        let volumes = spec.volumes.get_or_insert_default();
        for template in set.spec.volume_claim_templates.iter().flatten() {
            let volume = template.metadata.name.clone().unwrap_or_default();
            volumes.retain(|v| v.name != volume);
            let source = PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, &name),
                ..PersistentVolumeClaimVolumeSource::default()
            };
            volumes.push(Volume { name: volume, persistent_volume_claim: Some(source), ..Volume::default() });
        }
    }
    pod.metadata.name = Some(name);
    pod
}

/// The claims of a pod.
pub fn claims(set: &StatefulSet, pod: &str) -> Vec<PersistentVolumeClaim> {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let goes_with_set = policy.and_then(|p| p.when_deleted.as_deref()) == Some("Delete");
    let one = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(template, pod));
        claim.metadata.namespace = set.metadata.namespace.clone();
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
        if goes_with_set {
            let mut owner = claim::reference(set);
            owner.controller = None;
            owner.block_owner_deletion = None;
            claim.metadata.owner_references = Some(vec![owner]);
        }
        claim.status = None;
        claim
    };
    set.spec.volume_claim_templates.iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn a_pod_knows_its_name_its_service_and_its_claims() {
        let claim = json!({ "metadata": { "name": "data" }, "spec": {} });
        let set: StatefulSet =
            from_value(json!({ "metadata": { "name": "web", "namespace": "ns", "uid": "u" },
            "spec": { "serviceName": "nginx", "selector": { "matchLabels": { "app": "x" } },
                "template": { "metadata": { "labels": { "app": "x" } }, "spec": { "containers": [],
                    "volumes": [{ "name": "data", "emptyDir": {} }, { "name": "tmp", "emptyDir": {} }] } },
                "volumeClaimTemplates": [claim],
                "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Delete" } } }))
            .unwrap();
        let pod = to_value(new(&set, 1, &set.spec.template, "web-abc")).unwrap();
        assert_eq!(pod["metadata"]["name"], "web-1");
        let labels = json!({ "app": "x", NAME_LABEL: "web-1", INDEX_LABEL: "1", REVISION: "web-abc" });
        assert_eq!(pod["metadata"]["labels"], labels);
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-1"), &json!("nginx")));
        assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 2);
        assert_eq!(pod["spec"]["volumes"][1]["persistentVolumeClaim"]["claimName"], "data-web-1");
        let claims = claims(&set, "web-1");
        assert_eq!(claims[0].metadata.name.as_deref(), Some("data-web-1"));
        assert_eq!(claims[0].metadata.owner_references.as_ref().unwrap()[0].uid, "u");
    }
}
