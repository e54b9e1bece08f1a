//! Counting ended pods exactly once: first their UIDs stand in the status, then they lose their finalizer, then they become
//! numbers. Whoever stops in between goes on where it was. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::failure::{self, Verdict};
use super::per_index::{self, PerIndex};
use super::{TRACKING, indexes};
use crate::pods;

/// Most UIDs that stand in the status at once.
const MOST_UNCOUNTED: usize = 500;

/// The counts after a look at the pods.
#[derive(Debug, Default)]
pub struct Account {
    /// The job's status with new counts.
    pub status: JobStatus,
    /// Pods to take the finalizer from, once the status is written.
    pub untrack: Vec<Arc<Pod>>,
    /// Ended well, those in the status by UID included; of an indexed job, its completed indexes.
    pub succeeded: i32,
    /// Ended badly, those in the status by UID included.
    pub failed: i32,
    /// Completed indexes.
    pub completed: BTreeSet<i32>,
    /// Are UIDs left in the status?
    pub uncounted: bool,
    /// A failure that the job's policy takes for the job's.
    pub fatal: Option<String>,
    /// The indexes of a job that fail each on its own.
    pub per_index: Option<PerIndex>,
}

/// Is the pod's end still to be counted?
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)
}

/// Is it an indexed job?
pub fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|s| s.completion_mode.as_deref()) == Some("Indexed")
}

/// Brings the counts up to date.
pub fn account(job: &Job, pods: &[Arc<Pod>]) -> Account {
    let status = job.status.clone().unwrap_or_default();
    let end = job.spec.as_ref().and_then(|s| s.completions).unwrap_or(i32::MAX);
    let listed = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let completed = indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), end);
    let per_index = per_index::look(job, pods);
    let mut account = Account { status, completed, per_index, ..Account::default() };
    let tracked: HashMap<&str, &Arc<Pod>> = pods
        .iter()
        .filter(|pod| is_tracked(pod))
        .filter_map(|pod| Some((pod.metadata.uid.as_deref()?, pod)))
        .collect();
    let (well, counted_well) = still_tracked(listed.succeeded.unwrap_or_default(), &tracked);
    let (badly, counted_badly) = still_tracked(listed.failed.unwrap_or_default(), &tracked);
    let known: HashSet<String> = well.iter().chain(&badly).cloned().collect();
    account.untrack.extend(known.iter().filter_map(|uid| tracked.get(uid.as_str()).map(|p| (*p).clone())));
    let (mut well, mut badly) = (well, badly);
    for pod in pods.iter().filter(|pod| is_tracked(pod)) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if account.per_index.as_ref().is_some_and(|indexes| indexes.holds(pod)) {
            account.hold(job, pod);
        } else if !known.contains(&uid) && well.len() + badly.len() < MOST_UNCOUNTED {
            add(job, pod, &mut account, &mut well, &mut badly);
        }
    }
    account.finish(job, (well, counted_well), (badly, counted_badly));
    account
}

/// Those whose pod has its finalizer still; the others are numbers now.
fn still_tracked(uids: Vec<String>, tracked: &HashMap<&str, &Arc<Pod>>) -> (Vec<String>, i32) {
    let all = uids.len();
    let left: Vec<_> = uids.into_iter().filter(|uid| tracked.contains_key(uid.as_str())).collect();
    let counted = i32::try_from(all - left.len()).unwrap_or(i32::MAX);
    (left, counted)
}

/// Notes the end of a pod that was not noted yet.
fn add(job: &Job, pod: &Arc<Pod>, account: &mut Account, well: &mut Vec<String>, badly: &mut Vec<String>) {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let succeeded = pods::phase(pod) == "Succeeded";
    if !succeeded && !failure::has_failed(job, pod) {
        return;
    }
    account.untrack.push(pod.clone());
    if !succeeded {
        match failure::judge(job, pod) {
            Verdict::Count | Verdict::FailIndex => badly.push(uid),
            Verdict::Ignore => {}
            Verdict::FailJob(why) => {
                account.fatal.get_or_insert(why);
                badly.push(uid);
            }
        }
    } else if !is_indexed(job) {
        well.push(uid);
    } else if let Some(index) = indexes::of_pod(pod) {
        // A second success of the same index counts for nothing.
        account.completed.insert(index);
    }
}

impl Account {
    /// A failure that the status counts later.
    fn hold(&mut self, job: &Job, pod: &Pod) {
        match failure::judge(job, pod) {
            Verdict::Ignore => return,
            Verdict::FailJob(why) => drop(self.fatal.get_or_insert(why)),
            Verdict::Count | Verdict::FailIndex => {}
        }
        self.failed += 1;
    }

    fn finish(&mut self, job: &Job, well: (Vec<String>, i32), badly: (Vec<String>, i32)) {
        let status = &mut self.status;
        let number = |list: &Vec<String>| i32::try_from(list.len()).unwrap_or(i32::MAX);
        let (before_well, before_badly) =
            (status.succeeded.unwrap_or_default(), status.failed.unwrap_or_default());
        let (now_well, now_badly) = (before_well + well.1, before_badly + badly.1);
        self.failed += now_badly + number(&badly.0);
        self.succeeded = now_well + number(&well.0);
        status.succeeded = Some(now_well).filter(|n| *n > 0);
        status.failed = Some(now_badly).filter(|n| *n > 0);
        if is_indexed(job) {
            self.succeeded = i32::try_from(self.completed.len()).unwrap_or(i32::MAX);
            status.succeeded = Some(self.succeeded).filter(|n| *n > 0);
            status.completed_indexes = Some(indexes::write(&self.completed)).filter(|t| !t.is_empty());
            status.failed_indexes = self.per_index.as_ref().map(|all| indexes::write(&all.failed));
        }
        self.uncounted = !well.0.is_empty() || !badly.0.is_empty();
        let list = |uids: Vec<String>| Some(uids).filter(|l| !l.is_empty());
        status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: list(well.0), failed: list(badly.0) });
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::tests::{job, pod};
    use super::*;
    use serde_json::json;

    #[test]
    fn an_ended_pod_is_noted_then_freed_then_counted() {
        let mut job = job(json!({ "completions": 3 }));
        let pods = [pod("a", "Succeeded", 0), pod("b", "Failed", 1), pod("c", "Running", 0)];
        let first = account(&job, &pods);
        assert_eq!((first.succeeded, first.failed, first.untrack.len(), first.uncounted), (1, 1, 2, true));
        assert_eq!((first.status.succeeded, first.status.failed), (None, None));
        job.status = Some(first.status);
        let same = account(&job, &pods);
        assert_eq!((same.succeeded, same.failed, same.untrack.len()), (1, 1, 2));
        assert_eq!(Some(&same.status), job.status.as_ref());
        let freed: Vec<_> = pods
            .iter()
            .map(|p| {
                Arc::new(Pod {
                    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                        finalizers: None,
                        ..p.metadata.clone()
                    },
                    ..(**p).clone()
                })
            })
            .collect();
        let counted = account(&job, &freed);
        assert_eq!((counted.status.succeeded, counted.status.failed), (Some(1), Some(1)));
        assert!(counted.untrack.is_empty() && !counted.uncounted);
        job.status = Some(counted.status);
        assert_eq!(account(&job, &[]).succeeded, 1, "pods that are gone stay counted");
    }

    #[test]
    fn indexes_are_completed_once() {
        let job = job(json!({ "completionMode": "Indexed", "completions": 3 }));
        let with = |name: &str, index: &str| {
            let mut pod = (*pod(name, "Succeeded", 0)).clone();
            pod.metadata.annotations = Some([(super::super::INDEX.to_owned(), index.to_owned())].into());
            Arc::new(pod)
        };
        let counts = account(&job, &[with("a", "0"), with("b", "2"), with("c", "2")]);
        assert_eq!(counts.status.completed_indexes.as_deref(), Some("0,2"));
        assert_eq!((counts.succeeded, counts.untrack.len()), (2, 3));
    }
}
