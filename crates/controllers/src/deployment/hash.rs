//! The name part of a replica set that follows from the template, and the comparison of templates.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use sha2::{Digest, Sha256};

use super::HASH_LABEL;

/// The letters of upstream's `SafeEncodeString`: no vowels, so no bad words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const LENGTH: usize = 10;

/// A short name for a template; `collisions` makes another one where two templates share it.
pub fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(template).unwrap_or_default());
    if collisions > 0 {
        digest.update(collisions.to_le_bytes());
    }
    digest
        .finalize()
        .iter()
        .take(LENGTH)
        .map(|byte| LETTERS[*byte as usize % LETTERS.len()] as char)
        .collect()
}

/// Are these the same but for the hash label?
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let mut meta = template.metadata.unwrap_or_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.filter(|l| !l.is_empty());
    template.metadata = Some(meta);
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_label_is_no_difference() {
        let template = |labels| -> PodTemplateSpec {
            serde_json::from_value(json!({ "metadata": { "labels": labels } })).unwrap()
        };
        let (a, b) = (template(json!({ "app": "x" })), template(json!({ "app": "x", HASH_LABEL: "abc" })));
        assert!(same_template(&a, &b));
        assert!(!same_template(&a, &template(json!({ "app": "y" }))));
        assert_ne!(hash(&a, 0), hash(&a, 1));
        assert_eq!(hash(&a, 0).len(), LENGTH);
    }
}
