//! What to do for a job. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, SuccessPolicyRule};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::account::{self, Account, is_indexed, is_tracked};
use super::per_index::Failures;
use super::{condition, failure, finished_at, indexes, target};
use crate::pods::{self, BURST};

/// What people are told: is it a warning, reason, message.
pub type Word = (bool, &'static str, String);

/// What to do, in this order: write the status, take finalizers away, delete, create.
#[derive(Debug, Default)]
pub struct Plan {
    /// The status as it should be.
    pub status: JobStatus,
    /// Pods to take the finalizer from.
    pub untrack: Vec<Arc<Pod>>,
    /// Pods to delete; their end counts as a failure.
    pub delete: Vec<Arc<Pod>>,
    /// Pods to delete as if they had never been.
    pub drop: Vec<Arc<Pod>>,
    /// Pods to make; `Some` is the index that one is for.
    pub create: Vec<Option<i32>>,
    /// What they carry on of their indexes' failures, where each index has its own.
    pub failures: BTreeMap<i32, Failures>,
    /// Events.
    pub words: Vec<Word>,
    /// When to look again.
    pub again: Option<Duration>,
}

/// The pods of a job by what they are doing.
struct Crew {
    active: Vec<Arc<Pod>>,
    terminating: i32,
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn is_over(pod: &Pod) -> bool {
    matches!(pods::phase(pod), "Succeeded" | "Failed")
}

/// Plans a job; `pods` are those that it owns.
pub fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let crew = Crew {
        active: pods.iter().filter(|p| pods::is_active(p)).cloned().collect(),
        terminating: number(
            pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !is_over(p)).count(),
        ),
    };
    if finished_at(job).is_some() {
        let untrack = pods.iter().filter(|p| is_tracked(p)).cloned().collect();
        let status = job.status.clone().unwrap_or_default();
        return Plan { status, untrack, drop: crew.active, ..Plan::default() };
    }
    let Some(spec) = &job.spec else { return Plan::default() };
    let account = account::account(job, pods);
    let mut plan =
        Plan { status: account.status.clone(), untrack: account.untrack.clone(), ..Plan::default() };
    start(job, &mut plan, now);
    if let Some((reason, message)) = failure_of(spec, &plan.status, &account, &crew, now) {
        set(&mut plan.status, "FailureTarget", "True", reason, &message, now);
    } else if let Some((reason, message)) = success_of(spec, &plan.status, &account, &crew) {
        set(&mut plan.status, "SuccessCriteriaMet", "True", reason, &message, now);
    }
    match target(&plan.status) {
        Some(("FailureTarget", ..)) => plan.delete = crew.active.clone(),
        Some(_) => plan.drop = crew.active.clone(),
        None if spec.suspend == Some(true) => plan.drop = crew.active.clone(),
        None if job.metadata.deletion_timestamp.is_none() => {
            man(job, spec, pods, &crew, &account, &mut plan, now)
        }
        None => {}
    }
    count(&mut plan, &crew);
    finish(&mut plan, &account, &crew, pods, now);
    plan
}

/// Start time and suspension.
fn start(job: &Job, plan: &mut Plan, now: Timestamp) {
    let spec = job.spec.as_ref();
    let suspended = spec.and_then(|s| s.suspend) == Some(true);
    let was = condition(&plan.status, "Suspended").is_some();
    match (suspended, was) {
        (true, false) => {
            set(&mut plan.status, "Suspended", "True", "JobSuspended", "Job suspended", now);
            plan.words.push((false, "Suspended", "Job suspended".to_owned()));
            plan.status.start_time = None;
        }
        (false, true) => {
            set(&mut plan.status, "Suspended", "False", "JobResumed", "Job resumed", now);
            plan.words.push((false, "Resumed", "Job resumed".to_owned()));
            plan.status.start_time = Some(Time(now));
        }
        (false, false) if plan.status.start_time.is_none() => plan.status.start_time = Some(Time(now)),
        _ => {}
    }
    let deadline = spec.and_then(|s| s.active_deadline_seconds).zip(plan.status.start_time.as_ref());
    if let Some((seconds, started)) = deadline {
        let left = started.0.as_second().saturating_add(seconds) - now.as_second();
        plan.again = u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_secs);
    }
}

fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let next = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    let all = status.conditions.get_or_insert_default();
    match all.iter_mut().find(|c| c.type_ == kind) {
        Some(present) if present.status == next.status && present.reason == next.reason => {}
        Some(present) => *present = next,
        None => all.push(next),
    }
}

fn failure_of(
    spec: &JobSpec,
    status: &JobStatus,
    account: &Account,
    crew: &Crew,
    now: Timestamp,
) -> Option<(&'static str, String)> {
    if target(status).is_some() {
        return None;
    }
    if let Some(why) = &account.fatal {
        return Some(("PodFailurePolicy", why.clone()));
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if account.failed > limit || restarts_exceed(spec, crew, limit) {
        return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
    }
    if is_late(spec, status, now) {
        return Some(("DeadlineExceeded", "Job was active longer than specified deadline".to_owned()));
    }
    indexes_failed(spec, account)
}

fn is_late(spec: &JobSpec, status: &JobStatus, now: Timestamp) -> bool {
    let started = status.start_time.as_ref().filter(|_| spec.suspend != Some(true));
    let deadline = started.zip(spec.active_deadline_seconds);
    deadline.is_some_and(|(started, seconds)| now.as_second() - started.0.as_second() >= seconds)
}

/// Too many indexes have failed, or some have and nothing is left to try.
fn indexes_failed(spec: &JobSpec, account: &Account) -> Option<(&'static str, String)> {
    let failed = number(account.per_index.as_ref()?.failed.len());
    if spec.max_failed_indexes.is_some_and(|most| failed > most) {
        let text = "Job has exceeded the specified maximal number of failed indexes";
        return Some(("MaxFailedIndexesExceeded", text.to_owned()));
    }
    let all = failed + number(account.completed.len()) >= spec.completions.unwrap_or(i32::MAX);
    (failed > 0 && all).then(|| ("FailedIndexes", "Job has failed indexes".to_owned()))
}

/// Containers that the kubelet restarts count as failures, too.
fn restarts_exceed(spec: &JobSpec, crew: &Crew, limit: i32) -> bool {
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    let statuses = crew.active.iter().filter_map(|p| p.status.as_ref());
    let all = statuses.flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten());
    let restarts: i32 = all.map(|c| c.restart_count).fold(0, i32::saturating_add);
    policy == Some("OnFailure") && restarts > 0 && restarts >= limit
}

fn success_of(
    spec: &JobSpec,
    status: &JobStatus,
    account: &Account,
    crew: &Crew,
) -> Option<(&'static str, String)> {
    if target(status).is_some() {
        return None;
    }
    let mut rules = spec.success_policy.iter().flat_map(|p| &p.rules);
    if let Some(index) = rules.position(|rule| is_enough(rule, &account.completed)) {
        return Some(("SuccessPolicy", format!("Matched rules at index {index}")));
    }
    let done = match spec.completions {
        Some(wanted) => account.succeeded >= wanted,
        // A work queue: one that ended well says that there is nothing left.
        None => account.succeeded > 0 && crew.active.is_empty(),
    };
    done.then(|| ("CompletionsReached", "Reached expected number of succeeded pods".to_owned()))
}

fn is_enough(rule: &SuccessPolicyRule, completed: &BTreeSet<i32>) -> bool {
    let counted: BTreeSet<i32> = match rule.succeeded_indexes.as_deref() {
        Some(list) => indexes::parse(list, i32::MAX).intersection(completed).copied().collect(),
        None => completed.clone(),
    };
    let wanted = match (rule.succeeded_count, rule.succeeded_indexes.as_deref()) {
        (Some(count), _) => count,
        (None, Some(list)) => number(indexes::parse(list, i32::MAX).len()),
        (None, None) => return false,
    };
    number(counted.len()) >= wanted
}

/// Makes up the difference between the pods that should be active and those that are.
fn man(
    job: &Job,
    spec: &JobSpec,
    pods: &[Arc<Pod>],
    crew: &Crew,
    account: &Account,
    plan: &mut Plan,
    now: Timestamp,
) {
    let parallelism = spec.parallelism.unwrap_or(1);
    let active = number(crew.active.len());
    let wanted = match spec.completions {
        Some(completions) => parallelism.min(completions - account.succeeded),
        None if account.succeeded > 0 => active.min(parallelism),
        None => parallelism,
    };
    let wanted = usize::try_from(wanted).unwrap_or_default();
    if crew.active.len() > wanted {
        plan.drop = surplus(job, crew, wanted);
        return;
    }
    let waits = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let ending = if waits { usize::try_from(crew.terminating).unwrap_or_default() } else { 0 };
    let lacking = wanted.saturating_sub(crew.active.len() + ending).min(BURST);
    if lacking == 0 {
        return;
    }
    let pause = match account.per_index {
        Some(_) => Duration::ZERO,
        None => failure::pause(job, pods, now),
    };
    let create = match is_indexed(job) {
        _ if !pause.is_zero() => Err(pause),
        true => free_indexes(spec, pods, waits, account, lacking, now),
        false => Ok(vec![None; lacking]),
    };
    match create {
        Ok(create) => plan.create = create,
        Err(pause) => plan.again = Some(plan.again.map_or(pause, |again| again.min(pause))),
    }
    if let Some(per_index) = &account.per_index {
        let indexes = plan.create.iter().flatten();
        plan.failures = indexes.map(|index| (*index, per_index.failures(job, *index))).collect();
    }
}

/// Those beyond the wanted number: doubles of an index, then the least missed.
fn surplus(job: &Job, crew: &Crew, wanted: usize) -> Vec<Arc<Pod>> {
    let mut rest = crew.active.clone();
    pods::sort_for_deletion(&mut rest);
    if is_indexed(job) {
        rest.sort_by_key(|pod| std::cmp::Reverse(indexes::of_pod(pod)));
    }
    rest.truncate((crew.active.len() - wanted).min(BURST));
    rest
}

/// The first indexes that need a pod, or how long none of them may have one.
fn free_indexes(
    spec: &JobSpec,
    pods: &[Arc<Pod>],
    waits: bool,
    account: &Account,
    lacking: usize,
    now: Timestamp,
) -> Result<Vec<Option<i32>>, Duration> {
    // Where the job waits for the end of what is being deleted, so does each index.
    let counts = |pod: &Pod| pods::is_active(pod) || (waits && !is_over(pod));
    let mut busy: BTreeSet<i32> =
        pods.iter().filter(|pod| counts(pod)).filter_map(|pod| indexes::of_pod(pod)).collect();
    busy.extend(account.per_index.iter().flat_map(|all| &all.failed));
    let all = 0..spec.completions.unwrap_or_default();
    let free = all.filter(|index| !busy.contains(index) && !account.completed.contains(index));
    let free: Vec<i32> = free.take(lacking).collect();
    let ready = match &account.per_index {
        Some(per_index) => per_index.ready(free, now)?,
        None => free,
    };
    Ok(ready.into_iter().map(Some).collect())
}

fn count(plan: &mut Plan, crew: &Crew) {
    let going = plan.delete.len() + plan.drop.len();
    let ready = crew.active.iter().filter(|pod| pods::is_ready(pod)).count();
    let active = (crew.active.len() - going.min(crew.active.len())) + plan.create.len();
    plan.status.active = Some(number(active)).filter(|n| *n > 0);
    plan.status.ready = Some(number(if going > 0 { ready.min(active) } else { ready }));
    plan.status.terminating = Some(crew.terminating + number(going));
}

/// A job ends when it has nothing running and nothing uncounted any more.
fn finish(plan: &mut Plan, account: &Account, crew: &Crew, pods: &[Arc<Pod>], now: Timestamp) {
    let Some((kind, reason, message)) = target(&plan.status) else { return };
    let tracked = pods.iter().any(|p| is_tracked(p) && !plan.untrack.iter().any(|u| Arc::ptr_eq(u, p)));
    if !crew.active.is_empty() || crew.terminating > 0 || account.uncounted || tracked {
        return;
    }
    if kind == "FailureTarget" {
        set(&mut plan.status, "Failed", "True", &reason, &message, now);
        let reasons = ["PodFailurePolicy", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
        let reason = reasons.into_iter().find(|r| *r == reason);
        plan.words.push((true, reason.unwrap_or("BackoffLimitExceeded"), message));
    } else {
        set(&mut plan.status, "Complete", "True", &reason, &message, now);
        plan.status.completion_time = Some(Time(now));
        plan.words.push((false, "Completed", "Job completed".to_owned()));
    }
    plan.status.active = None;
    plan.status.ready = Some(0);
    plan.status.terminating = Some(0);
}

#[cfg(test)]
mod tests {
    use super::super::failure::tests::{job, pod};
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    /// Looks until nothing changes, as if all writes happened at once; pods that are deleted are gone.
    fn settle(job: &mut Job, pods: &mut Vec<Arc<Pod>>, now: Timestamp) -> Plan {
        for _ in 0..10 {
            let plan = plan(job, pods, now);
            let quiet = plan.untrack.is_empty() && plan.delete.is_empty() && plan.drop.is_empty();
            if quiet && job.status.as_ref() == Some(&plan.status) {
                return plan;
            }
            job.status = Some(plan.status.clone());
            for pod in pods.iter_mut() {
                if plan.untrack.iter().any(|u| u.metadata.uid == pod.metadata.uid) {
                    let mut freed = (**pod).clone();
                    freed.metadata.finalizers = None;
                    *pod = Arc::new(freed);
                }
            }
            let gone =
                |p: &Arc<Pod>| plan.delete.iter().chain(&plan.drop).any(|d| d.metadata.uid == p.metadata.uid);
            pods.retain(|p| !gone(p));
            if !plan.create.is_empty() {
                return plan;
            }
        }
        panic!("never settles");
    }

    fn holds(job: &Job, kind: &str) -> Option<String> {
        condition(job.status.as_ref().unwrap(), kind).map(|c| c.reason.clone().unwrap())
    }

    #[test]
    fn pods_are_made_up_to_parallelism_and_completions() {
        let table = [
            (1, Some(1), 0, 0, 1),
            (3, Some(5), 0, 1, 2),
            (3, Some(5), 4, 0, 1),
            (3, None, 0, 0, 3),
            (3, None, 1, 1, 0),
        ];
        for (parallelism, completions, succeeded, active, create) in table {
            let job = job(json!({ "parallelism": parallelism, "completions": completions }));
            let mut pods: Vec<_> = (0..succeeded).map(|n| pod(&format!("s{n}"), "Succeeded", 0)).collect();
            pods.extend((0..active).map(|n| pod(&format!("a{n}"), "Running", 0)));
            let plan = plan(&job, &pods, at(90));
            assert_eq!(plan.create.len(), create, "{parallelism} {completions:?} {succeeded} {active}");
        }
    }

    #[test]
    fn a_job_completes_when_all_is_counted() {
        let (mut job, mut pods) = (job(json!({})), vec![pod("a", "Succeeded", 0)]);
        settle(&mut job, &mut pods, at(90));
        let status = job.status.clone().unwrap();
        assert_eq!(
            (status.succeeded, status.active, status.completion_time),
            (Some(1), None, Some(Time(at(90))))
        );
        assert_eq!(holds(&job, "Complete").as_deref(), Some("CompletionsReached"));
        assert!(!account::is_tracked(&pods[0]));
    }

    #[test]
    fn a_job_fails_beyond_its_limit_its_deadline_or_by_its_policy() {
        let rule = json!({ "action": "FailJob", "onExitCodes": { "operator": "In", "values": [3] } });
        let table = [
            (json!({ "backoffLimit": 0 }), "BackoffLimitExceeded"),
            (json!({ "activeDeadlineSeconds": 60 }), "DeadlineExceeded"),
            (json!({ "podFailurePolicy": { "rules": [rule] } }), "PodFailurePolicy"),
        ];
        for (spec, reason) in table {
            let (mut job, mut pods) = (job(spec), vec![pod("a", "Failed", 3), pod("b", "Running", 0)]);
            settle(&mut job, &mut pods, at(90));
            assert_eq!(holds(&job, "Failed").as_deref(), Some(reason));
            assert_eq!(pods.len(), 1, "the running one is deleted");
        }
    }

    #[test]
    fn failures_below_the_limit_make_a_pause() {
        let (mut job, mut pods) = (job(json!({})), vec![pod("a", "Failed", 1)]);
        assert_eq!(settle(&mut job, &mut pods, at(62)).again, Some(Duration::from_secs(8)));
        assert_eq!(settle(&mut job, &mut pods, at(70)).create, [None]);
    }

    #[test]
    fn indexes_get_pods_of_their_own() {
        let job = job(json!({ "completionMode": "Indexed", "completions": 4, "parallelism": 3 }));
        let mut done = (*pod("a", "Succeeded", 0)).clone();
        done.metadata.annotations = Some([(super::super::INDEX.to_owned(), "1".to_owned())].into());
        assert_eq!(plan(&job, &[Arc::new(done)], at(90)).create, [Some(0), Some(2), Some(3)]);
    }

    #[test]
    fn indexes_that_fail_on_their_own_let_the_others_end() {
        let spec = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimit": i32::MAX,
            "backoffLimitPerIndex": 0 });
        let of_index = |name: &str, phase: &str, index: i32| {
            let mut pod = (*pod(name, phase, 1)).clone();
            pod.metadata.annotations = Some([(super::super::INDEX.to_owned(), index.to_string())].into());
            Arc::new(pod)
        };
        let (mut whole, mut pods) = (job(spec.clone()), vec![of_index("a", "Failed", 0)]);
        let others = settle(&mut whole, &mut pods, at(62));
        assert_eq!(others.create, [Some(1), Some(2)], "without a pause");
        assert_eq!(others.failures, [(1, Failures::default()), (2, Failures::default())].into());
        pods.extend([of_index("b", "Failed", 1), of_index("c", "Succeeded", 2)]);
        settle(&mut whole, &mut pods, at(90));
        assert_eq!(holds(&whole, "Failed").as_deref(), Some("FailedIndexes"));
        let status = whole.status.unwrap();
        assert_eq!(status.failed_indexes.as_deref(), Some("0,1"));
        assert_eq!((status.completed_indexes.as_deref(), status.failed), (Some("2"), Some(2)));
        let mut spec = spec;
        spec["maxFailedIndexes"] = json!(1);
        spec["completions"] = json!(9);
        let (mut whole, mut pods) = (job(spec), vec![of_index("a", "Failed", 0), of_index("b", "Failed", 1)]);
        pods.push(of_index("d", "Running", 2));
        settle(&mut whole, &mut pods, at(90));
        assert_eq!(holds(&whole, "Failed").as_deref(), Some("MaxFailedIndexesExceeded"));
    }

    #[test]
    fn a_failed_pod_stays_until_the_next_one_counts_on() {
        let spec = json!({ "completionMode": "Indexed", "completions": 1, "backoffLimit": i32::MAX,
            "backoffLimitPerIndex": 1 });
        let of_index = |name: &str, phase: &str| {
            let mut pod = (*pod(name, phase, 1)).clone();
            pod.metadata.annotations = Some([(super::super::INDEX.to_owned(), "0".to_owned())].into());
            Arc::new(pod)
        };
        let (mut whole, mut pods) = (job(spec), vec![of_index("a", "Failed")]);
        assert_eq!(settle(&mut whole, &mut pods, at(62)).again, Some(Duration::from_secs(8)));
        assert!(account::is_tracked(&pods[0]));
        let next = settle(&mut whole, &mut pods, at(70));
        assert_eq!(next.failures, [(0, Failures { counted: 1, ignored: 0 })].into());
        pods.push(of_index("b", "Running"));
        settle(&mut whole, &mut pods, at(71));
        assert!(!account::is_tracked(&pods[0]));
        assert_eq!(whole.status.unwrap().failed, Some(1));
    }

    #[test]
    fn a_suspended_job_has_no_pods_and_no_start() {
        let (mut job, mut pods) = (job(json!({ "suspend": true })), vec![pod("a", "Running", 0)]);
        settle(&mut job, &mut pods, at(90));
        assert!(pods.is_empty() && job.status.as_ref().unwrap().start_time.is_none());
        assert_eq!(holds(&job, "Suspended").as_deref(), Some("JobSuspended"));
        job.spec.as_mut().unwrap().suspend = Some(false);
        let resumed = settle(&mut job, &mut pods, at(95));
        assert_eq!((resumed.create.len(), job.status.unwrap().start_time), (1, Some(Time(at(95)))));
    }
}
