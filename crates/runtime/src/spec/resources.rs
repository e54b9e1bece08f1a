//! Limits of a container: as the OCI document wants them at the start, as control group files later.

use corten_sys::cgroups::{Limits, Version};
use k8s_cri::v1::LinuxContainerResources;
use serde_json::{Map, Value, json};

use super::Host;

/// The `resources` object. Zero means "not set" in CRI and stays out.
pub(super) fn to_oci(resources: Option<&LinuxContainerResources>, host: &Host, devices: Vec<Value>) -> Value {
    let mut out = Map::new();
    out.insert("devices".into(), Value::Array(devices));
    let Some(r) = resources else { return Value::Object(out) };
    let mut cpu = Map::new();
    for (name, value) in [("shares", r.cpu_shares), ("quota", r.cpu_quota), ("period", r.cpu_period)] {
        if value != 0 {
            cpu.insert(name.into(), json!(value));
        }
    }
    for (name, value) in [("cpus", &r.cpuset_cpus), ("mems", &r.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(name.into(), json!(value));
        }
    }
    if !cpu.is_empty() {
        out.insert("cpu".into(), Value::Object(cpu));
    }
    if r.memory_limit_in_bytes != 0 {
        let mut memory = json!({"limit": r.memory_limit_in_bytes});
        if let Some(swap) = swap_limit(r, host) {
            memory["swap"] = json!(swap);
        }
        out.insert("memory".into(), memory);
    }
    let pages = r.hugepage_limits.iter().map(|h| json!({"pageSize": h.page_size, "limit": h.limit}));
    if !r.hugepage_limits.is_empty() {
        out.insert("hugepageLimits".into(), pages.collect());
    }
    if host.cgroups == Version::V2 && !r.unified.is_empty() {
        out.insert("unified".into(), json!(r.unified));
    }
    Value::Object(out)
}

/// Memory and swap together; a container without a say gets no swap beyond its memory.
fn swap_limit(r: &LinuxContainerResources, host: &Host) -> Option<i64> {
    let asked = r.memory_swap_limit_in_bytes;
    host.swap_limits.then_some(if asked == 0 { r.memory_limit_in_bytes } else { asked })
}

/// The files to write for UpdateContainerResources.
pub(crate) fn limits(r: &LinuxContainerResources, host: &Host) -> Limits {
    let set = |value: i64| (value != 0).then_some(value);
    let positive = |value: i64| u64::try_from(value).ok().filter(|v| *v > 0);
    Limits {
        cpu_shares: positive(r.cpu_shares),
        cpu_quota_us: set(r.cpu_quota),
        cpu_period_us: positive(r.cpu_period),
        memory_bytes: set(r.memory_limit_in_bytes),
        memory_and_swap_bytes: set(r.memory_limit_in_bytes).and_then(|_| swap_limit(r, host)),
        pids: None,
        cpuset_cpus: r.cpuset_cpus.clone(),
        cpuset_mems: r.cpuset_mems.clone(),
        hugepages: r.hugepage_limits.iter().map(|h| (h.page_size.clone(), h.limit)).collect(),
        unified: r.unified.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    }
}

/// What a container has after an update: CRI sends only what changes.
pub(crate) fn merge_resources(old: &mut LinuxContainerResources, new: &LinuxContainerResources) {
    let number = |old: &mut i64, new: i64| *old = if new != 0 { new } else { *old };
    number(&mut old.cpu_period, new.cpu_period);
    number(&mut old.cpu_quota, new.cpu_quota);
    number(&mut old.cpu_shares, new.cpu_shares);
    number(&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes);
    number(&mut old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes);
    number(&mut old.oom_score_adj, new.oom_score_adj);
    for (old, new) in [(&mut old.cpuset_cpus, &new.cpuset_cpus), (&mut old.cpuset_mems, &new.cpuset_mems)] {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    if !new.hugepage_limits.is_empty() {
        old.hugepage_limits.clone_from(&new.hugepage_limits);
    }
    old.unified.extend(new.unified.iter().map(|(k, v)| (k.clone(), v.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(swap_limits: bool) -> Host {
        let hostname = "h".into();
        Host {
            cgroups: Version::V1,
            cgroup_mounts: Vec::new(),
            swap_limits,
            hostname,
            least_oom_score_adj: -1000,
        }
    }

    #[test]
    fn zero_means_unset_and_memory_bounds_swap() {
        let asked =
            LinuxContainerResources { memory_limit_in_bytes: 64, cpu_shares: 512, ..Default::default() };
        let oci = to_oci(Some(&asked), &host(true), Vec::new());
        assert_eq!(oci["cpu"], json!({"shares": 512}));
        assert_eq!(oci["memory"], json!({"limit": 64, "swap": 64}));
        assert_eq!(to_oci(Some(&asked), &host(false), Vec::new())["memory"], json!({"limit": 64}));
        assert_eq!(to_oci(None, &host(true), Vec::new()), json!({"devices": []}));
        assert_eq!(limits(&asked, &host(true)).memory_and_swap_bytes, Some(64));
    }

    #[test]
    fn an_update_changes_only_what_it_names() {
        let mut old =
            LinuxContainerResources { cpu_shares: 2, memory_limit_in_bytes: 64, ..Default::default() };
        merge_resources(&mut old, &LinuxContainerResources { cpu_shares: 1024, ..Default::default() });
        assert_eq!((old.cpu_shares, old.memory_limit_in_bytes), (1024, 64));
    }
}
