//! What a failed pod means for its job: the job's policy about failures, and the pause before the next try. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use crate::pods;

/// The pause after the first failure; doubled with each one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What follows from a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the limit.
    Count,
    /// As if it had not happened.
    Ignore,
    /// It counts, and its index is not tried again.
    FailIndex,
    /// The whole job fails; why.
    FailJob(String),
}

/// Has the pod failed? Pods that are being deleted count as failed, too, unless the job waits for their real end.
pub fn has_failed(job: &Job, pod: &Pod) -> bool {
    let waits = job.spec.as_ref().and_then(|s| s.pod_replacement_policy.as_deref()) == Some("Failed");
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => !waits && pod.metadata.deletion_timestamp.is_some(),
    }
}

/// The first rule of the job's policy that fits decides.
pub fn judge(job: &Job, pod: &Pod) -> Verdict {
    let policy = job.spec.as_ref().and_then(|s| s.pod_failure_policy.as_ref());
    if pods::phase(pod) != "Failed" {
        return Verdict::Count;
    }
    let rules = policy.into_iter().flat_map(|p| &p.rules).enumerate();
    let fitting = rules.filter_map(|(index, rule)| Some((index, rule, fits(rule, pod)?))).next();
    match fitting {
        Some((_, rule, _)) if rule.action == "Ignore" => Verdict::Ignore,
        Some((_, rule, _)) if rule.action == "FailIndex" => Verdict::FailIndex,
        Some((index, rule, why)) if rule.action == "FailJob" => {
            Verdict::FailJob(format!("{why} matching {} rule at index {index}", rule.action))
        }
        _ => Verdict::Count,
    }
}

/// Why a rule fits, in upstream's words.
fn fits(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let (namespace, name) = (
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default(),
    );
    let status = pod.status.as_ref()?;
    if let Some(codes) = &rule.on_exit_codes {
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let named = all.filter(|c| codes.container_name.as_ref().is_none_or(|name| *name == c.name));
        let ended = named.filter_map(|c| Some((&c.name, c.state.as_ref()?.terminated.as_ref()?.exit_code)));
        let is_listed = |code: &i32| codes.values.contains(code) == (codes.operator == "In");
        let (container, code) = ended.into_iter().find(|(_, code)| *code != 0 && is_listed(code))?;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    let holds = |kind: &str, wanted: &str| {
        status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == wanted)
    };
    let found = patterns.into_iter().find(|p| holds(&p.type_, p.status.as_deref().unwrap_or("True")))?;
    Some(format!("Pod {namespace}/{name} has condition {}", found.type_))
}

/// When the last of the pod's containers ended.
pub fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends =
        containers.filter_map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    ends.max().or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|t| t.0))
}

/// How long to wait before new pods are made: longer with each failure since the last success.
pub fn pause(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Duration {
    let mut ends: Vec<(Timestamp, bool)> = pods
        .iter()
        .filter(|pod| pods::phase(pod) == "Succeeded" || has_failed(job, pod))
        .filter_map(|pod| Some((ended_at(pod)?, pods::phase(pod) == "Succeeded")))
        .collect();
    ends.sort();
    let failures = ends.iter().rev().take_while(|(_, well)| !well).count();
    ends.last().map_or(Duration::ZERO, |(last, _)| remaining(failures, *last, now))
}

/// What is left of the pause after so many failures, the last of them at `last`.
pub fn remaining(failures: usize, last: Timestamp, now: Timestamp) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let factor = 1u32.checked_shl(u32::try_from(doublings).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
    let whole = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
    let passed =
        Duration::from_millis(u64::try_from(now.as_millisecond() - last.as_millisecond()).unwrap_or(0));
    whole.saturating_sub(passed)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    pub(crate) fn pod(name: &str, phase: &str, exit: i32) -> Arc<Pod> {
        let state = json!({ "terminated": { "exitCode": exit, "finishedAt": "2026-01-01T00:01:00Z" } });
        let state = if matches!(phase, "Succeeded" | "Failed") { state } else { json!({ "running": {} }) };
        Arc::new(
            from_value(json!({
                "metadata": { "name": name, "namespace": "ns", "uid": name, "finalizers": [super::super::TRACKING],
                    "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "j1",
                        "controller": true }] },
                "spec": { "containers": [] },
                "status": { "phase": phase, "conditions": [{ "type": "DisruptionTarget", "status": "True" }],
                    "containerStatuses": [{ "name": "c", "ready": false, "restartCount": 0, "image": "i",
                        "imageID": "i", "state": state }] },
            }))
            .unwrap(),
        )
    }

    pub(crate) fn job(spec: Value) -> Job {
        let mut whole = json!({ "parallelism": 1, "completions": 1, "backoffLimit": 6, "template": {} });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        from_value(json!({ "metadata": { "name": "job", "namespace": "ns", "uid": "j1" }, "spec": whole,
            "status": { "startTime": "2026-01-01T00:00:00Z" } }))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let codes = |operator: &str, values: Value| json!({ "operator": operator, "values": values });
        let rule = |action: &str, codes: Value| json!({ "action": action, "onExitCodes": codes });
        let disrupted = json!({ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] });
        let why = "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 0";
        let table = [
            (json!([]), Verdict::Count),
            (json!([rule("FailJob", codes("In", json!([42])))]), Verdict::FailJob(why.to_owned())),
            (json!([rule("FailJob", codes("NotIn", json!([42]))), disrupted]), Verdict::Ignore),
            (json!([rule("Count", codes("In", json!([42]))), disrupted]), Verdict::Count),
            (json!([rule("FailIndex", codes("In", json!([42]))), disrupted]), Verdict::FailIndex),
        ];
        for (rules, expected) in table {
            let job = job(json!({ "podFailurePolicy": { "rules": rules } }));
            assert_eq!(judge(&job, &pod("p", "Failed", 42)), expected, "{rules}");
        }
    }

    #[test]
    fn pauses_double_with_each_failure() {
        let at = |s: i64| Timestamp::from_second(1_767_225_660 + s).unwrap();
        let job = job(json!({}));
        let failed = |n: usize| (0..n).map(|i| pod(&i.to_string(), "Failed", 1)).collect::<Vec<_>>();
        for (failures, seconds, expected) in
            [(0, 0, 0), (1, 0, 10), (1, 4, 6), (3, 0, 40), (20, 0, 600), (2, 90, 0)]
        {
            let pause = pause(&job, &failed(failures), at(seconds));
            assert_eq!(pause, Duration::from_secs(expected), "{failures} failures, {seconds} s later");
        }
    }
}
