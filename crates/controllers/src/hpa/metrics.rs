//! What pods use, from the kubelets' summaries. CPU is the difference of two looks.

use std::collections::HashMap;

use corten_client::Key;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// Looks that are closer together than this say little about CPU.
const SHORTEST_WINDOW_MS: i64 = 1000;

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// In thousandths of a CPU; `None` until there were two looks.
    pub milli_cpu: Option<i64>,
    /// In bytes.
    pub memory: i64,
}

/// What each container of a pod uses.
pub type PodUse = HashMap<String, Use>;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Timestamp,
    cpu_ns: i64,
    milli_cpu: Option<i64>,
}

/// The samples of the last look, by pod UID and container.
#[derive(Debug, Default)]
pub struct Samples {
    seen: HashMap<(String, String), Sample>,
}

impl Samples {
    /// Takes in a kubelet's summary; gives what its pods use, by pod.
    pub fn take(&mut self, summary: &Value) -> HashMap<Key, PodUse> {
        let mut all = HashMap::new();
        for pod in summary["pods"].as_array().into_iter().flatten() {
            let text = |field: &str| pod["podRef"][field].as_str().unwrap_or_default().to_owned();
            let containers = pod["containers"].as_array().into_iter().flatten();
            let uses = containers.filter_map(|c| self.take_container(&text("uid"), c)).collect();
            all.insert(Key::new(text("namespace"), text("name")), uses);
        }
        all
    }

    fn take_container(&mut self, uid: &str, container: &Value) -> Option<(String, Use)> {
        let name = container["name"].as_str()?.to_owned();
        let at: Timestamp = container["cpu"]["time"].as_str()?.parse().ok()?;
        let cpu_ns = container["cpu"]["usageCoreNanoSeconds"].as_i64()?;
        let key = (uid.to_owned(), name.clone());
        let milli_cpu = match self.seen.get(&key) {
            Some(before) if at.as_millisecond() - before.at.as_millisecond() < SHORTEST_WINDOW_MS => {
                before.milli_cpu
            }
            before => {
                let milli_cpu = before.and_then(|before| rate(before, at, cpu_ns));
                self.seen.insert(key, Sample { at, cpu_ns, milli_cpu });
                milli_cpu
            }
        };
        let memory = container["memory"]["workingSetBytes"].as_i64().unwrap_or_default();
        Some((name, Use { milli_cpu, memory }))
    }

    /// Forgets what was not seen since then.
    pub fn forget_before(&mut self, time: Timestamp) {
        self.seen.retain(|_, sample| sample.at >= time);
    }
}

/// A counter that went back belongs to a container that was started again.
fn rate(before: &Sample, at: Timestamp, cpu_ns: i64) -> Option<i64> {
    let window_ms = at.as_millisecond() - before.at.as_millisecond();
    let used = cpu_ns.checked_sub(before.cpu_ns).filter(|used| *used >= 0)?;
    // Nanoseconds in milliseconds, as thousandths: used / 1e6 / window * 1e3.
    (window_ms > 0).then(|| used / 1000 / window_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cpu_is_known_after_two_looks() {
        let summary = |at: &str, cpu: i64| {
            let container = json!({ "name": "c", "cpu": { "time": at, "usageCoreNanoSeconds": cpu },
                "memory": { "workingSetBytes": 5 } });
            json!({ "pods": [{ "podRef": { "namespace": "ns", "name": "p", "uid": "u" }, "containers": [container] }] })
        };
        let mut samples = Samples::default();
        let mut look = |at: &str, cpu: i64| samples.take(&summary(at, cpu))[&Key::new("ns", "p")]["c"];
        assert_eq!(look("2026-01-01T00:00:00Z", 0), Use { milli_cpu: None, memory: 5 });
        assert_eq!(look("2026-01-01T00:00:10Z", 2_500_000_000).milli_cpu, Some(250));
        assert_eq!(look("2026-01-01T00:00:10.5Z", 9_000_000_000).milli_cpu, Some(250), "too soon");
        assert_eq!(look("2026-01-01T00:00:20Z", 100).milli_cpu, None, "started again");
    }
}
