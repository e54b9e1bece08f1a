//! Jobs whose indexes fail each on its own (`backoffLimitPerIndex`): which have, how often the others did, and when they may
//! be tried again. The count of an index stands in an annotation of its newest pod, so the last failed pod of an index keeps
//! its finalizer until the next one carries the count on. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::account::is_tracked;
use super::failure::{self, Verdict, ended_at, has_failed, judge};
use super::{indexes, target};
use crate::pods;

/// Annotation: failures of the index before this pod that count.
const COUNTED: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation: those that the job's policy ignores.
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// The failures of an index before a pod of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failures {
    /// Those that count towards the limit.
    pub counted: i32,
    /// Those that the policy ignores.
    pub ignored: i32,
}

impl Failures {
    /// What stands in the pod's annotations; nonsense is nothing.
    fn of(pod: &Pod) -> Self {
        let number = |name: &str| {
            let text = pod.metadata.annotations.as_ref().and_then(|all| all.get(name));
            text.and_then(|text| text.parse::<i32>().ok()).filter(|n| *n >= 0).unwrap_or_default()
        };
        Failures { counted: number(COUNTED), ignored: number(IGNORED) }
    }

    fn all(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }

    /// Those before the pod that comes after `pod`.
    fn after(job: &Job, pod: &Pod) -> Self {
        let mut next = Self::of(pod);
        match judge(job, pod) {
            Verdict::Ignore => next.ignored = next.ignored.saturating_add(1),
            _ => next.counted = next.counted.saturating_add(1),
        }
        next
    }

    /// Writes them into a new pod's annotations.
    pub fn note(self, pod: &mut Pod) {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(COUNTED.to_owned(), self.counted.to_string());
        if self.ignored > 0 {
            annotations.insert(IGNORED.to_owned(), self.ignored.to_string());
        }
    }
}

/// The indexes of such a job.
#[derive(Debug, Default)]
pub struct PerIndex {
    /// Indexes that are not tried again.
    pub failed: BTreeSet<i32>,
    /// The last failed pod of each index that waits for its next pod.
    last: BTreeMap<i32, Arc<Pod>>,
}

/// Looks at a job's pods; `None` for jobs that fail as a whole.
pub fn look(job: &Job, pods: &[Arc<Pod>]) -> Option<PerIndex> {
    let spec = job.spec.as_ref()?;
    let limit = spec.backoff_limit_per_index?;
    let end = spec.completions.unwrap_or_default();
    let known = |list: Option<&String>| indexes::parse(list.map_or("", String::as_str), end);
    let status = job.status.as_ref();
    let mut failed = known(status.and_then(|s| s.failed_indexes.as_ref()));
    let mut settled = known(status.and_then(|s| s.completed_indexes.as_ref()));
    let of = |pod: &Arc<Pod>| indexes::of_pod(pod).filter(|index| *index < end);
    let tracked: Vec<(i32, &Arc<Pod>)> =
        pods.iter().filter(|pod| is_tracked(pod)).filter_map(|pod| Some((of(pod)?, pod))).collect();
    failed.extend(tracked.iter().filter(|(_, pod)| fails_index(job, pod, limit)).map(|(index, _)| *index));
    let well = tracked.iter().filter(|(_, pod)| pods::phase(pod) == "Succeeded");
    settled.extend(well.map(|(index, _)| *index));
    settled.extend(&failed);
    settled.extend(pods.iter().filter(|pod| pods::is_active(pod)).filter_map(of));
    let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    let is_over = job.metadata.deletion_timestamp.is_some() || status.is_some_and(|s| target(s).is_some());
    let waiting = tracked
        .into_iter()
        .filter(|(index, pod)| !is_over && !settled.contains(index) && has_failed(job, pod));
    for (index, pod) in waiting {
        let age = |pod: &Pod| (Failures::of(pod).all(), ended_at(pod));
        if last.get(&index).is_none_or(|other| age(other) <= age(pod)) {
            last.insert(index, pod.clone());
        }
    }
    Some(PerIndex { failed, last })
}

fn fails_index(job: &Job, pod: &Pod, limit: i32) -> bool {
    has_failed(job, pod)
        && match judge(job, pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => Failures::of(pod).counted >= limit,
        }
}

impl PerIndex {
    /// Must the pod stay until there is a next one of its index?
    pub fn holds(&self, pod: &Pod) -> bool {
        self.last.values().any(|last| last.metadata.uid == pod.metadata.uid)
    }

    /// Those of the indexes that may be tried now; else how long until the first may.
    pub fn ready(&self, wanted: Vec<i32>, now: Timestamp) -> Result<Vec<i32>, Duration> {
        let pause = |index: &i32| {
            let last = self.last.get(index)?;
            let failures = usize::try_from(Failures::of(last).all()).unwrap_or_default() + 1;
            Some(failure::remaining(failures, ended_at(last)?, now))
        };
        let pauses: Vec<Duration> = wanted.iter().map(|index| pause(index).unwrap_or_default()).collect();
        let ready: Vec<i32> = wanted
            .iter()
            .zip(&pauses)
            .filter(|(_, pause)| pause.is_zero())
            .map(|(index, _)| *index)
            .collect();
        match pauses.into_iter().min() {
            Some(least) if ready.is_empty() => Err(least),
            _ => Ok(ready),
        }
    }

    /// What a new pod of the index has to carry on.
    pub fn failures(&self, job: &Job, index: i32) -> Failures {
        self.last.get(&index).map_or_else(Failures::default, |last| Failures::after(job, last))
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::tests::{job, pod};
    use super::*;
    use serde_json::json;

    fn of_index(name: &str, phase: &str, exit: i32, index: i32, counted: i32) -> Arc<Pod> {
        let mut pod = (*pod(name, phase, exit)).clone();
        let annotations = [(super::super::INDEX, index), (COUNTED, counted)];
        pod.metadata.annotations =
            Some(annotations.map(|(name, number)| (name.to_owned(), number.to_string())).into());
        Arc::new(pod)
    }

    fn indexed(more: serde_json::Value) -> Job {
        let mut spec = json!({ "completionMode": "Indexed", "completions": 4, "parallelism": 4,
            "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1 });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job(spec)
    }

    #[test]
    fn an_index_fails_beyond_its_limit() {
        let pods = [
            of_index("a", "Failed", 1, 0, 0),
            of_index("b", "Failed", 1, 1, 1),
            of_index("c", "Succeeded", 0, 2, 1),
            of_index("d", "Failed", 1, 3, 0),
            of_index("e", "Running", 0, 3, 1),
        ];
        let seen = look(&indexed(json!({})), &pods).unwrap();
        assert_eq!(seen.failed, [1].into());
        let held: Vec<bool> = pods.iter().map(|pod| seen.holds(pod)).collect();
        assert_eq!(held, [true, false, false, false, false], "only what has no successor yet");
        assert!(look(&job(json!({})), &pods).is_none());
    }

    #[test]
    fn counts_and_pauses_belong_to_an_index() {
        let at = |s: i64| Timestamp::from_second(1_767_225_660 + s).unwrap();
        let job = indexed(json!({ "backoffLimitPerIndex": 5 }));
        let seen = look(&job, &[of_index("a", "Failed", 1, 0, 1), of_index("b", "Failed", 1, 3, 0)]).unwrap();
        assert_eq!(seen.failures(&job, 0), Failures { counted: 2, ignored: 0 });
        assert_eq!(seen.failures(&job, 1), Failures::default());
        assert_eq!(seen.ready(vec![0, 1, 3], at(5)), Ok(vec![1]));
        assert_eq!(seen.ready(vec![0, 3], at(5)), Err(Duration::from_secs(5)));
        assert_eq!(seen.ready(vec![0, 3], at(12)), Ok(vec![3]));
        assert_eq!(seen.ready(Vec::new(), at(12)), Ok(Vec::new()));
        let mut next = Pod::default();
        Failures { counted: 2, ignored: 1 }.note(&mut next);
        assert_eq!(Failures::of(&next), Failures { counted: 2, ignored: 1 });
    }

    #[test]
    fn the_policy_fails_indexes_or_overlooks_failures() {
        let rule = |action: &str, code: i32| {
            let codes = json!({ "operator": "In", "values": [code] });
            json!({ "action": action, "onExitCodes": codes })
        };
        let rules = json!([rule("FailIndex", 42), rule("Ignore", 7)]);
        let job = indexed(json!({ "podFailurePolicy": { "rules": rules } }));
        let pods = [of_index("a", "Failed", 42, 0, 0), of_index("b", "Failed", 7, 1, 1)];
        let seen = look(&job, &pods).unwrap();
        assert_eq!(seen.failed, [0].into());
        assert_eq!(seen.failures(&job, 1), Failures { counted: 1, ignored: 1 });
    }
}
