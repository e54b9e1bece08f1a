//! What to do for a cron job now. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;

use super::schedule::Schedule;
use crate::job;

/// Missed times that are counted; with more, people are told.
const MOST_MISSED: usize = 100;

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// The time that a job is to be started for.
    pub start: Option<Timestamp>,
    /// Jobs that run and shall be replaced.
    pub replace: Vec<Arc<Job>>,
    /// Finished jobs beyond the limits of the history.
    pub forget: Vec<Arc<Job>>,
    /// Events: is it a warning, reason, message.
    pub words: Vec<(bool, &'static str, String)>,
    /// When the next time comes.
    pub again: Option<Duration>,
}

/// Is the job over?
pub fn is_over(job: &Job) -> bool {
    job::finished_at(job).is_some()
}

/// Plans a cron job; `jobs` are those that it owns.
pub fn plan(cron: &CronJob, jobs: &[Arc<Job>], schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Plan {
    let mut plan = Plan { forget: surplus(cron, jobs), ..Plan::default() };
    let spec = &cron.spec;
    if spec.suspend == Some(true) || cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let next = schedule.next(now, zone);
    plan.again = next.map(|next| wait(now, next));
    let Some(time) = latest(cron, schedule, zone, now, &mut plan) else { return plan };
    let late =
        spec.starting_deadline_seconds.is_some_and(|s| time.as_second().saturating_add(s) < now.as_second());
    if late {
        plan.words.push((true, "MissSchedule", format!("Missed scheduled time to start a job: {time}")));
        return plan;
    }
    let name = job_name(cron, time);
    if jobs.iter().any(|job| job.metadata.name.as_ref() == Some(&name)) {
        return plan;
    }
    let running: Vec<_> = jobs.iter().filter(|job| !is_over(job)).cloned().collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let words =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.words.push((false, "JobAlreadyActive", words.to_owned()));
            return plan;
        }
        Some("Replace") => plan.replace = running,
        _ => {}
    }
    plan.start = Some(time);
    plan
}

/// The name of the job of a time: the same time never makes two.
pub fn job_name(cron: &CronJob, time: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), time.as_second().div_euclid(60))
}

fn wait(now: Timestamp, until: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(until.as_millisecond() - now.as_millisecond()).unwrap_or_default())
}

/// The last time of the schedule that has come since the last start.
fn latest(
    cron: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Timestamp> {
    let started = cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref());
    let mut since = started.or(cron.metadata.creation_timestamp.as_ref())?.0;
    if let Some(seconds) = cron.spec.starting_deadline_seconds
        // A deadline longer than time itself bounds nothing.
        && let Ok(earliest) = Timestamp::from_second(now.as_second().saturating_sub(seconds))
    {
        since = since.max(earliest);
    }
    let (mut last, mut missed) = (None, 0);
    while let Some(time) = schedule.next(since, zone).filter(|time| *time <= now) {
        (last, since) = (Some(time), time);
        missed += 1;
        if missed > MOST_MISSED {
            let words = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            plan.words.push((true, "TooManyMissedTimes", words.to_owned()));
            return before(schedule, zone, now).or(last);
        }
    }
    last
}

/// The last time before `now`, looked for in growing steps back.
fn before(schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    for minutes in [1i64, 60, 24 * 60, 31 * 24 * 60, 366 * 24 * 60] {
        let mut from = Timestamp::from_second(now.as_second().saturating_sub(minutes * 60 + 1)).ok()?;
        let mut last = None;
        while let Some(time) = schedule.next(from, zone).filter(|time| *time <= now) {
            (last, from) = (Some(time), time);
        }
        if last.is_some() {
            return last;
        }
    }
    None
}

fn surplus(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = &cron.spec;
    let limits = [(true, spec.successful_jobs_history_limit), (false, spec.failed_jobs_history_limit)];
    let mut out = Vec::new();
    for (well, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut ended: Vec<_> =
            jobs.iter().filter(|job| is_over(job) && job::is_complete(job) == well).cloned().collect();
        ended.sort_by_key(|job| {
            (job.status.as_ref().and_then(|s| s.start_time.clone()), job.metadata.name.clone())
        });
        ended.truncate(ended.len().saturating_sub(limit));
        out.extend(ended);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn cron(spec: Value, last: Option<&str>) -> CronJob {
        let mut whole = json!({ "schedule": "*/10 * * * *", "jobTemplate": {} });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let meta = json!({ "name": "c", "creationTimestamp": "2026-01-01T00:00:30Z" });
        from_value(json!({ "metadata": meta, "spec": whole, "status": { "lastScheduleTime": last } }))
            .unwrap()
    }

    fn job(name: &str, end: Option<&str>) -> Arc<Job> {
        let conditions: Vec<_> = end.iter().map(|kind| json!({ "type": kind, "status": "True" })).collect();
        Arc::new(
            from_value(json!({ "metadata": { "name": name }, "status": { "conditions": conditions } }))
                .unwrap(),
        )
    }

    fn planned(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
        let schedule = Schedule::parse("*/10 * * * *").unwrap();
        plan(cron, jobs, &schedule, &TimeZone::UTC, now.parse().unwrap())
    }

    #[test]
    fn jobs_start_when_their_time_has_come() {
        let early = planned(&cron(json!({}), None), &[], "2026-01-01T00:09:00Z");
        assert_eq!((early.start, early.again), (None, Some(Duration::from_secs(60))));
        let time = "2026-01-01T00:10:00Z".parse().unwrap();
        let now = planned(&cron(json!({}), None), &[], "2026-01-01T00:10:01Z");
        assert_eq!(now.start, Some(time));
        let again = planned(&cron(json!({}), Some("2026-01-01T00:10:00Z")), &[], "2026-01-01T00:10:01Z");
        assert_eq!(again.start, None);
        let name = job_name(&cron(json!({}), None), time);
        let made = planned(&cron(json!({}), None), &[job(&name, None)], "2026-01-01T00:10:01Z");
        assert_eq!(made.start, None, "made already, the status was not written");
        let missed = planned(&cron(json!({}), None), &[], "2026-01-01T00:45:00Z");
        assert_eq!(missed.start, Some("2026-01-01T00:40:00Z".parse().unwrap()), "only the last one");
        let many = planned(&cron(json!({}), None), &[], "2026-01-03T00:45:00Z");
        assert_eq!(
            (many.start, many.words[0].1),
            (Some("2026-01-03T00:40:00Z".parse().unwrap()), "TooManyMissedTimes")
        );
    }

    #[test]
    fn a_deadline_may_be_as_long_as_numbers_go() {
        for seconds in [600, 1_000_000_000_000_000, i64::MAX] {
            let cron = cron(json!({ "startingDeadlineSeconds": seconds }), None);
            let plan = planned(&cron, &[], "2026-01-01T00:10:01Z");
            assert!(plan.start.is_some(), "{seconds}");
        }
    }

    #[test]
    fn suspension_and_concurrency() {
        let at = "2026-01-01T00:10:01Z";
        let running = [job("c-1", None)];
        assert_eq!(planned(&cron(json!({ "suspend": true }), None), &[], at).start, None);
        let forbid = planned(&cron(json!({ "concurrencyPolicy": "Forbid" }), None), &running, at);
        assert_eq!((forbid.start, forbid.words[0].1), (None, "JobAlreadyActive"));
        let replace = planned(&cron(json!({ "concurrencyPolicy": "Replace" }), None), &running, at);
        assert_eq!((replace.start.is_some(), replace.replace.len()), (true, 1));
    }

    #[test]
    fn the_history_has_limits() {
        let spec = json!({ "suspend": true, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0 });
        let jobs = [
            job("a", Some("Complete")),
            job("b", Some("Complete")),
            job("x", Some("Failed")),
            job("r", None),
        ];
        let plan = planned(&cron(spec, None), &jobs, "2026-01-01T00:10:01Z");
        let names: Vec<_> = plan.forget.iter().map(|job| job.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["a", "x"]);
    }
}
