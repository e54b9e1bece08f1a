//! The files of configMap, secret and downwardAPI volumes, and of each source of a projected one. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use super::atomic::{File, Payload};
use crate::fields::{self, Surroundings};
use crate::pod::spec;

/// Mode of files for which neither item nor volume names one.
pub const DEFAULT_MODE: u32 = 0o644;

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default).and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

fn chosen(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
    complaint: &str,
) -> Result<Payload, String> {
    let file = |data: &[u8], own| File { data: data.to_vec(), mode: mode(own, default_mode), uid: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.iter().map(|(key, value)| (key.clone(), file(value, None))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => drop(payload.insert(item.path.clone(), file(value, item.mode))),
            None if optional => {}
            None => return Err(format!("{complaint}: {}", item.key)),
        }
    }
    Ok(payload)
}

/// Files of a ConfigMap.
pub fn config_map(
    name: &str,
    map: Option<&ConfigMap>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, String> {
    let mut data = BTreeMap::new();
    match map {
        Some(map) => {
            let text = map.data.iter().flatten();
            data.extend(text.map(|(key, value)| (key.clone(), value.clone().into_bytes())));
            let binary = map.binary_data.iter().flatten();
            data.extend(binary.map(|(key, value)| (key.clone(), value.0.clone())));
        }
        None if optional => {}
        None => return Err(format!("configmap \"{name}\" not found")),
    }
    chosen(&data, items, default_mode, optional, "configmap references non-existent config key")
}

/// Files of a Secret.
pub fn secret(
    name: &str,
    secret: Option<&Secret>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, String> {
    let data = match secret {
        Some(secret) => {
            let data = secret.data.iter().flatten();
            data.map(|(key, value)| (key.clone(), value.0.clone())).collect()
        }
        None if optional => BTreeMap::new(),
        None => return Err(format!("secret \"{name}\" not found")),
    };
    chosen(&data, items, default_mode, optional, "references non-existent secret key")
}

/// Files of a downwardAPI volume.
pub fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: Option<i32>,
    around: &Surroundings,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items.into_iter().flatten() {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(pod, &field.field_path, around)?,
            (None, Some(selector)) => {
                let name = selector.container_name.as_deref().unwrap_or_default();
                let found = spec::container(pod, name);
                let (_, container) = found.ok_or_else(|| format!("container {name} not found"))?;
                fields::resource(pod, &container, selector, around)?
            }
            (None, None) => continue,
        };
        let file = File { data: value.into_bytes(), mode: mode(item.mode, default_mode), uid: None };
        payload.insert(item.path.clone(), file);
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn config_maps() {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}}))
                .unwrap();
        let all = config_map("m", Some(&map), None, None, false).unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((all["c"].data.clone(), all["a"].mode), (vec![0, 1], 0o644));
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "a", "path": "x/y", "mode": 0o400}])).unwrap();
        let one = config_map("m", Some(&map), Some(&items), Some(0o600), false).unwrap();
        assert_eq!(one["x/y"].mode, 0o400);
        let bad: Vec<KeyToPath> = serde_json::from_value(json!([{"key": "z", "path": "z"}])).unwrap();
        assert_eq!(
            config_map("m", Some(&map), Some(&bad), None, false).unwrap_err(),
            "configmap references non-existent config key: z"
        );
        assert_eq!(config_map("m", Some(&map), Some(&bad), None, true), Ok(Payload::new()));
        assert_eq!(config_map("m", None, None, None, false).unwrap_err(), "configmap \"m\" not found");
        assert_eq!(config_map("m", None, None, None, true), Ok(Payload::new()));
        assert_eq!(secret("s", None, None, None, false).unwrap_err(), "secret \"s\" not found");
    }

    #[test]
    fn downward_files() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}}))
        .unwrap();
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]))
        .unwrap();
        let files = downward(&pod, Some(&items), None, &Surroundings::default()).unwrap();
        assert_eq!(files["labels"].data, b"a=\"b\"");
        assert_eq!(files["cpu"].data, b"2");
    }
}
