//! The downward API: values of a pod's own fields and resources.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::pod::spec;
use crate::quantity;

/// What a pod cannot know from its spec.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The node's name.
    pub node_name: String,
    /// The node's allocatable CPU, in thousandths.
    pub node_cpu_milli: i64,
    /// The node's allocatable memory, in bytes.
    pub node_memory: i64,
    /// The node's allocatable ephemeral storage, in bytes.
    pub node_storage: i64,
}

/// Value of a `fieldRef`. Errors name the path, in upstream's words.
pub fn field(pod: &Pod, path: &str, around: &Surroundings) -> Result<String, String> {
    if let Some((map, key)) = subscript(path) {
        let values = match map {
            "metadata.labels" => pod.metadata.labels.as_ref(),
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            _ => return Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
        return Ok(values.and_then(|values| values.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => listing(pod.metadata.labels.as_ref()),
        "metadata.annotations" => listing(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => around.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => around.host_ips.join(","),
        "status.podIP" => around.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.pod_ips.join(","),
        "spec.restartPolicy" => spec::restart_policy(pod).to_owned(),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.split_once('[')?;
    Some((map, key.strip_suffix("']")?.strip_prefix('\'')?))
}

/// `key="value"` lines, sorted, values escaped as Go's `%q` does.
fn listing(values: Option<&BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={value:?}");
    values.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// Value of a `resourceFieldRef` of `container`; missing limits are the pod's own, or the node's allocatable amounts.
pub fn resource(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    around: &Surroundings,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let other = named.and_then(|name| spec::container(pod, name));
    if named.is_some() && other.is_none() {
        return Err(format!("container {} not found", named.unwrap_or_default()));
    }
    let container = other.as_ref().map_or(container, |(_, found)| found.as_ref());
    let (list, name) = selector.resource.split_once('.').ok_or_else(|| unsupported(&selector.resource))?;
    let resources = container.resources.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.limits.as_ref());
    let limit = quantity::get_milli(resources.and_then(|r| r.limits.as_ref()), name)
        .or_else(|| quantity::get_milli(of_pod, name));
    let amount = match (list, name) {
        ("limits", "cpu") => limit.or(Some(around.node_cpu_milli)),
        ("limits", "memory") => limit.or(Some(around.node_memory.saturating_mul(1000))),
        ("limits", "ephemeral-storage") => limit.or(Some(around.node_storage.saturating_mul(1000))),
        ("limits", _) => limit,
        ("requests", _) => quantity::get_milli(resources.and_then(|r| r.requests.as_ref()), name),
        _ => return Err(unsupported(&selector.resource)),
    };
    let divisor =
        selector.divisor.as_ref().and_then(|divisor| quantity::milli(&divisor.0)).filter(|d| *d > 0);
    let amount = i128::from(amount.unwrap_or(0));
    let divisor = divisor.unwrap_or(1000);
    Ok(((amount + divisor - 1) / divisor).to_string())
}

fn unsupported(resource: &str) -> String {
    format!("unsupported container resource : {resource}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                "labels": {"app": "x", "b": "say \"hi\""}, "annotations": {"k": "v"}},
            "spec": {"serviceAccountName": "sa", "containers": [
                {"name": "a", "image": "i", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "10Mi"}}}]}
        }))
        .unwrap()
    }

    fn around() -> Surroundings {
        Surroundings {
            pod_ips: vec!["10.1.1.1".into(), "fd::1".into()],
            host_ips: vec!["192.168.0.1".into()],
            node_name: "node".into(),
            node_cpu_milli: 2000,
            node_memory: 1 << 30,
            node_storage: 0,
        }
    }

    #[test]
    fn fields() {
        for (path, expected) in [
            ("metadata.name", Ok("p")),
            ("metadata.namespace", Ok("n")),
            ("metadata.uid", Ok("u")),
            ("metadata.labels['app']", Ok("x")),
            ("metadata.annotations['nope']", Ok("")),
            ("metadata.labels", Ok("app=\"x\"\nb=\"say \\\"hi\\\"\"")),
            ("spec.nodeName", Ok("node")),
            ("spec.serviceAccountName", Ok("sa")),
            ("status.podIP", Ok("10.1.1.1")),
            ("status.podIPs", Ok("10.1.1.1,fd::1")),
            ("status.hostIP", Ok("192.168.0.1")),
            ("status.phase", Err("unsupported fieldPath: status.phase")),
        ] {
            let found = field(&pod(), path, &around());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }

    #[test]
    fn resources() {
        let pod = pod();
        let (_, container) = spec::container(&pod, "a").unwrap();
        for (name, divisor, expected) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("requests.memory", None, "10485760"),
            ("requests.memory", Some("1Mi"), "10"),
            ("limits.memory", Some("1Mi"), "1024"),
            ("requests.cpu", None, "0"),
        ] {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": name, "divisor": divisor.unwrap_or("0")})).unwrap();
            assert_eq!(resource(&pod, &container, &selector, &around()).as_deref(), Ok(expected), "{name}");
        }
        let mut limited = pod.clone();
        let limits = json!({"limits": {"cpu": "4", "memory": "64Mi"}});
        limited.spec.as_mut().unwrap().resources = serde_json::from_value(limits).unwrap();
        for (name, expected) in [("limits.cpu", "2"), ("limits.memory", "67108864")] {
            let selector: ResourceFieldSelector = serde_json::from_value(json!({"resource": name})).unwrap();
            assert_eq!(
                resource(&limited, &container, &selector, &around()).as_deref(),
                Ok(expected),
                "{name}"
            );
        }
    }
}
