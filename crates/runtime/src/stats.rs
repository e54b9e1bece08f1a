//! What containers and pods use, from their control groups and the pod's interfaces.

use std::path::Path;
use std::sync::Arc;

use corten_sys::cgroups::{Cgroups, Usage};
use corten_sys::namespaces;
use k8s_cri::v1 as cri;

use crate::error::Result;
use crate::node::Node;
use crate::registry::{Container, CpuSample, Phase, Sandbox, locked};
use crate::status;

/// A rate of CPU use is told from samples at least this far apart.
const MIN_SAMPLE_NS: i64 = 1_000_000_000;
/// Files counted for the writable layer before the walk is given up.
const MAX_FILES: usize = 100_000;

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// ContainerStats. A container that does not run has attributes and its writable layer only.
pub(crate) fn container_stats(node: &Node, container: &Container) -> Result<cri::ContainerStats> {
    let (attributes, cgroup) = container.with(|r| {
        let attributes = cri::ContainerAttributes {
            id: r.id.clone(),
            metadata: r.config.metadata.clone(),
            labels: r.config.labels.clone(),
            annotations: r.config.annotations.clone(),
        };
        (attributes, r.cgroup.clone())
    });
    let now = crate::shim::now_ns();
    let mut stats = cri::ContainerStats { attributes: Some(attributes), ..Default::default() };
    stats.writable_layer = Some(writable_layer(&container.dir.join("upper"), now));
    if container.phase() != Phase::Running {
        return Ok(stats);
    }
    let Ok(usage) = node.cgroups.usage(&cgroup) else { return Ok(stats) };
    let rate = cpu_rate(&mut locked(&container.cpu), now, usage.cpu_ns);
    stats.cpu = Some(cpu(&usage, now, rate));
    stats.memory = Some(memory(&usage, now));
    stats.swap = Some(cri::SwapUsage {
        timestamp: now,
        swap_available_bytes: None,
        swap_usage_bytes: value(usage.swap_bytes),
    });
    Ok(stats)
}

fn cpu(usage: &Usage, now: i64, rate: Option<u64>) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: now,
        usage_core_nano_seconds: value(usage.cpu_ns),
        usage_nano_cores: rate.and_then(value),
    }
}

/// Nanoseconds of CPU a second since the last sample that is old enough.
fn cpu_rate(last: &mut CpuSample, now_ns: i64, used_ns: u64) -> Option<u64> {
    let passed = now_ns - last.at_ns;
    if last.at_ns == 0 || passed >= MIN_SAMPLE_NS {
        let used = u128::from(used_ns.saturating_sub(last.used_ns));
        let rate = (last.at_ns != 0).then(|| (used * 1_000_000_000 / passed.max(1) as u128) as u64);
        *last = CpuSample { at_ns: now_ns, used_ns, nano_cores: rate };
    }
    last.nano_cores
}

fn memory(usage: &Usage, now: i64) -> cri::MemoryUsage {
    let working_set = usage.working_set_bytes();
    cri::MemoryUsage {
        timestamp: now,
        working_set_bytes: value(working_set),
        available_bytes: usage.memory_limit_bytes.and_then(|limit| value(limit.saturating_sub(working_set))),
        usage_bytes: value(usage.memory_bytes),
        rss_bytes: value(usage.rss_bytes),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
    }
}

fn writable_layer(upper: &Path, now: i64) -> cri::FilesystemUsage {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut inodes) = (0, 0);
    let mut waiting = vec![upper.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(stat) = entry.metadata() else { continue };
            inodes += 1;
            bytes += stat.blocks() * 512;
            if stat.is_dir() {
                waiting.push(entry.path());
            }
        }
        if inodes as usize > MAX_FILES {
            break;
        }
    }
    cri::FilesystemUsage {
        timestamp: now,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: upper.display().to_string() }),
        used_bytes: value(bytes),
        inodes_used: value(inodes),
    }
}

/// PodSandboxStats.
pub(crate) fn sandbox_stats(node: &Arc<Node>, sandbox: &Sandbox) -> Result<cri::PodSandboxStats> {
    let now = crate::shim::now_ns();
    let record = sandbox.record();
    let usage = node.cgroups.usage(&record.cgroup).unwrap_or_default();
    let containers = node.registry.containers_of(&sandbox.id);
    let running = containers.iter().filter(|c| c.phase() == Phase::Running);
    let linux = cri::LinuxPodSandboxStats {
        cpu: Some(cpu(&usage, now, None)),
        memory: Some(memory(&usage, now)),
        network: network(sandbox, status::on_host_network(&record.config), now),
        process: Some(cri::ProcessUsage { timestamp: now, process_count: value(usage.pids) }),
        containers: running.map(|c| container_stats(node, c)).collect::<Result<_>>()?,
    };
    Ok(cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: record.id,
            metadata: record.config.metadata,
            labels: record.config.labels,
            annotations: record.config.annotations,
        }),
        linux: Some(linux),
        windows: None,
    })
}

fn network(sandbox: &Sandbox, on_host: bool, now: i64) -> Option<cri::NetworkUsage> {
    if on_host {
        return None;
    }
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
    let table = namespaces::run_in_netns(&sandbox.dir.join("ns/net"), read).ok()?.ok()?;
    let interfaces: Vec<_> = table.lines().filter_map(interface).filter(|i| i.name != "lo").collect();
    let default = interfaces.iter().find(|i| i.name == "eth0").cloned();
    Some(cri::NetworkUsage { timestamp: now, default_interface: default, interfaces })
}

/// One line of /proc/net/dev: bytes, packets and errors received, five more, then the same sent.
fn interface(line: &str) -> Option<cri::NetworkInterfaceUsage> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Some(cri::NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: value(*numbers.first()?),
        rx_errors: value(*numbers.get(2)?),
        tx_bytes: value(*numbers.get(8)?),
        tx_errors: value(*numbers.get(10)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_from_the_table() {
        let got = interface("  eth0: 100 2 3 0 0 0 0 0 900 10 11 0 0 0 0 0").unwrap();
        let numbers = [got.rx_bytes, got.rx_errors, got.tx_bytes, got.tx_errors].map(|n| n.unwrap().value);
        assert_eq!((got.name.as_str(), numbers), ("eth0", [100, 3, 900, 11]));
        assert!(interface(" face |bytes packets").is_none());
    }

    #[test]
    fn the_rate_needs_two_samples_far_enough_apart() {
        let mut last = CpuSample::default();
        let second = MIN_SAMPLE_NS;
        assert_eq!(cpu_rate(&mut last, second, 500), None);
        assert_eq!(cpu_rate(&mut last, second + 10, 600), None);
        assert_eq!(cpu_rate(&mut last, 3 * second, 1_000_000_500), Some(500_000_000));
        assert_eq!(cpu_rate(&mut last, 3 * second + 5, 9_000_000_000), Some(500_000_000));
    }
}
