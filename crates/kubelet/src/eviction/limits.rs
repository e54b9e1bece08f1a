//! Limits of local storage: a pod that writes more than it may is ended. Upstream's order: its emptyDirs, all of it, its containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::spec::{self, Kind};
use crate::quantity;

const STORAGE: &str = "ephemeral-storage";

/// What a pod has on the node's disk, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// By name of the volume: emptyDirs on disk.
    pub volumes: BTreeMap<String, u64>,
    /// By name of the container: its writable layer and its logs.
    pub containers: BTreeMap<String, u64>,
}

impl Usage {
    fn total(&self) -> u64 {
        self.volumes.values().chain(self.containers.values()).sum()
    }
}

/// The pod's emptyDirs on disk; the kernel itself holds those in memory to their size.
pub fn volumes(pod: &Pod) -> impl Iterator<Item = (&Volume, &EmptyDirVolumeSource)> {
    let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    all.filter_map(|volume| Some((volume, volume.empty_dir.as_ref()?)))
        .filter(|(_, source)| source.medium.as_deref().is_none_or(str::is_empty))
}

/// Whether it is worth measuring.
pub fn has_limits(pod: &Pod) -> bool {
    volumes(pod).any(|(_, source)| source.size_limit.is_some()) || !limited(pod).is_empty()
}

/// Why the pod has to end, in upstream's words, if it uses more than it may.
pub fn exceeded(pod: &Pod, usage: &Usage) -> Option<String> {
    let over = |used: u64, limit: &Quantity| {
        let limit = u64::try_from(quantity::value(limit)).unwrap_or(0);
        limit > 0 && used > limit
    };
    let used = |of: &BTreeMap<String, u64>, name: &str| of.get(name).copied().unwrap_or(0);
    for (Volume { name, .. }, source) in volumes(pod) {
        if let Some(limit) =
            source.size_limit.as_ref().filter(|limit| over(used(&usage.volumes, name), limit))
        {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", limit.0));
        }
    }
    let limited = limited(pod);
    if let Some(limit) = total(&limited).filter(|limit| over(usage.total(), limit)) {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            limit.0
        ));
    }
    let (name, limit) =
        limited.into_iter().find(|(name, limit)| over(used(&usage.containers, name), limit))?;
    Some(format!("Container {name} exceeded its local ephemeral storage limit \"{}\". ", limit.0))
}

/// The containers that run with the pod and have a limit.
fn limited(pod: &Pod) -> Vec<(String, Quantity)> {
    let limit = |container: &Container| {
        let limit = container.resources.as_ref()?.limits.as_ref()?.get(STORAGE)?;
        (quantity::value(limit) != 0).then(|| limit.clone())
    };
    let running =
        spec::containers(pod).into_iter().filter(|(kind, _)| matches!(kind, Kind::Main | Kind::Sidecar));
    running.filter_map(|(_, container)| Some((container.name.clone(), limit(&container)?))).collect()
}

/// The limit of all together: one as it is written, more in the largest binary unit that fits.
fn total(limited: &[(String, Quantity)]) -> Option<Quantity> {
    match limited {
        [] => None,
        [(_, only)] => Some(only.clone()),
        several => {
            Some(binary(several.iter().map(|(_, limit)| quantity::value(limit)).fold(0, i64::saturating_add)))
        }
    }
}

fn binary(bytes: i64) -> Quantity {
    let (mut amount, mut unit) = (bytes, "");
    for next in ["Ki", "Mi", "Gi", "Ti"] {
        if amount == 0 || amount % 1024 != 0 {
            break;
        }
        (amount, unit) = (amount / 1024, next);
    }
    Quantity(format!("{amount}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(volumes: Value, limits: [Option<&str>; 2]) -> Pod {
        let container = |(name, limit): (&str, Option<&str>)| {
            let limits = limit.map(|limit| json!({ STORAGE: limit }));
            json!({ "name": name, "resources": { "limits": limits } })
        };
        let containers: Vec<Value> = ["a", "b"].into_iter().zip(limits).map(container).collect();
        serde_json::from_value(json!({ "spec": { "containers": containers, "volumes": volumes } })).unwrap()
    }

    fn usage(volume: u64, a: u64, b: u64) -> Usage {
        Usage {
            volumes: BTreeMap::from([("v".to_owned(), volume)]),
            containers: BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]),
        }
    }

    #[test]
    fn whoever_writes_more_than_he_may_is_ended() {
        let sized = || json!([{ "name": "v", "emptyDir": { "sizeLimit": "1Ki" } }]);
        let memory = || json!([{ "name": "v", "emptyDir": { "medium": "Memory", "sizeLimit": "1Ki" } }]);
        let plain = || json!([{ "name": "v", "emptyDir": {} }]);
        let whole = |limit| {
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
        };
        for (pod, usage, measured, expected) in [
            (pod(plain(), [None, None]), usage(9000, 9000, 0), false, None),
            (pod(memory(), [None, None]), usage(9000, 0, 0), false, None),
            (pod(sized(), [None, None]), usage(1024, 9000, 0), true, None),
            (
                pod(sized(), [None, None]),
                usage(1025, 0, 0),
                true,
                Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ".to_owned()),
            ),
            (pod(plain(), [Some("2k"), None]), usage(1000, 500, 501), true, Some(whole("2k"))),
            (pod(plain(), [Some("1Ki"), Some("3Ki")]), usage(4097, 0, 0), true, Some(whole("4Ki"))),
            (
                pod(plain(), [Some("1Ki"), Some("3Ki")]),
                usage(0, 1025, 0),
                true,
                Some("Container a exceeded its local ephemeral storage limit \"1Ki\". ".to_owned()),
            ),
            (pod(plain(), [Some("1Ki"), Some("3Ki")]), usage(0, 1024, 3072), true, None),
            (pod(plain(), [Some("0"), None]), usage(9000, 9000, 9000), false, None),
        ] {
            assert_eq!((has_limits(&pod), exceeded(&pod, &usage)), (measured, expected), "{usage:?}");
        }
    }
}
