//! The shell of the cron job controller.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Key, Recorder, events};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;
use kube::api::{DeleteParams, PostParams};

use super::plan::{self, Plan};
use super::schedule::Schedule;
use crate::answer::{self, changed_is_fine, gone_is_fine};
use crate::claim::{self, controller_of};
use crate::cluster::Cluster;
use crate::expect::Written;
use crate::index::Index;
use crate::job;
use crate::shell::Shell;

/// Where the host keeps what it knows of time zones.
const ZONES: &str = "/usr/share/zoneinfo";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    jobs: Index<Job>,
    written: Written,
}

fn owner(job: &Job) -> Option<Key> {
    let reference = controller_of(&job.metadata).filter(|r| r.kind == "CronJob")?;
    Some(Key::new(job.metadata.namespace.clone().unwrap_or_default(), &*reference.name))
}

/// Starts jobs until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("cronjob-controller"),
        jobs: Index::of(&cluster.jobs, owner),
        written: Written::default(),
    };
    Shell::open(cluster, controller)
        .each(&cluster.cron_jobs)
        .wakes(&cluster.jobs, |_, change| owner(change.object()))
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

/// The zone of that name; none is UTC.
fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name.filter(|name| !matches!(*name, "" | "UTC" | "Etc/UTC")) else {
        return Ok(TimeZone::UTC);
    };
    let plain = name.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    let unknown = || format!("invalid timeZone: {name:?}: unknown time zone {name}");
    if !plain {
        return Err(unknown());
    }
    let data = std::fs::read(Path::new(ZONES).join(name)).map_err(|_| unknown())?;
    TimeZone::tzif(name, &data).map_err(|_| unknown())
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(cron) = self.cluster.cron_jobs.get(&key) else {
            self.written.forget(&key);
            return Ok(None);
        };
        let mut jobs = self.jobs.get(&key);
        let shown = jobs.iter().map(|job| &job.metadata).chain([&cron.metadata]);
        if let Some(delay) = self.written.missing(&key, shown) {
            return Ok(Some(delay));
        }
        jobs.retain(|job| {
            controller_of(&job.metadata).is_some_and(|r| Some(&r.uid) == cron.metadata.uid.as_ref())
        });
        let spec = &cron.spec;
        let read = Schedule::parse(&spec.schedule)
            .map_err(|error| {
                ("UnparseableSchedule", format!("unparseable schedule: {:?} : {error}", spec.schedule))
            })
            .and_then(|s| {
                Ok((s, zone(spec.time_zone.as_deref()).map_err(|error| ("UnknownTimeZone", error))?))
            });
        let (schedule, zone) = match read {
            Ok(read) => read,
            Err((reason, message)) => {
                self.recorder.warning(&*cron, reason, message);
                return Ok(None);
            }
        };
        let plan = plan::plan(&cron, &jobs, &schedule, &zone, Timestamp::now());
        let again = plan.again;
        self.carry_out(&key, &cron, jobs, plan, &zone).await?;
        Ok(again)
    }

    async fn carry_out(
        &self,
        key: &Key,
        cron: &CronJob,
        mut jobs: Vec<Arc<Job>>,
        plan: Plan,
        zone: &TimeZone,
    ) -> Result<(), kube::Error> {
        for (warning, reason, message) in plan.words {
            match warning {
                true => self.recorder.warning(cron, reason, message),
                false => self.recorder.normal(cron, reason, message),
            }
        }
        for job in plan.replace.iter().chain(&plan.forget) {
            self.delete(key, cron, job).await?;
            jobs.retain(|j| j.metadata.uid != job.metadata.uid);
        }
        if let Some(time) = plan.start {
            jobs.extend(self.start(key, cron, time, zone).await?);
        }
        self.write_status(key, cron, &jobs, plan.start).await
    }

    async fn start(
        &self,
        key: &Key,
        cron: &CronJob,
        time: Timestamp,
        zone: &TimeZone,
    ) -> Result<Option<Arc<Job>>, kube::Error> {
        let template = cron.spec.job_template.clone();
        let meta = template.metadata.unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        let local = time.to_zoned(zone.clone());
        annotations.insert(SCHEDULED.to_owned(), local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string());
        let name = plan::job_name(cron, time);
        let job = Job {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(key.namespace.clone()),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![claim::reference(cron)]),
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        };
        let api: Api<Job> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), &job).await {
            Ok(made) => {
                self.written.wrote(key, &made.metadata);
                self.recorder.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                Ok(Some(Arc::new(made)))
            }
            Err(error) if answer::is_conflict(&error) || answer::is_namespace_ending(&error) => Ok(None),
            Err(error) => {
                let message = format!("Error creating job: {}", answer::words(&error));
                self.recorder.warning(cron, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &Key, cron: &CronJob, job: &Job) -> Result<(), kube::Error> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        gone_is_fine(api.delete(name, &DeleteParams::background()).await)?;
        self.written.deleted(key, &job.metadata);
        self.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {name}"));
        Ok(())
    }

    /// The running jobs, and the last start and success.
    async fn write_status(
        &self,
        key: &Key,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        started: Option<Timestamp>,
    ) -> Result<(), kube::Error> {
        let before = cron.status.clone().unwrap_or_default();
        self.tell_ends(cron, jobs, &before);
        let active: Vec<_> =
            jobs.iter().filter(|job| !plan::is_over(job)).map(|job| events::reference(&**job)).collect();
        let ended_well = jobs.iter().filter(|job| job::is_complete(job));
        let last = ended_well.filter_map(|job| job.status.as_ref()?.completion_time.clone()).max();
        let status = CronJobStatus {
            active: Some(active).filter(|a| !a.is_empty()),
            last_schedule_time: started.map(Time).or(before.last_schedule_time.clone()),
            last_successful_time: last.max(before.last_successful_time.clone()),
        };
        let uids = |s: &CronJobStatus| {
            s.active.iter().flatten().map(|reference| reference.uid.clone()).collect::<Vec<_>>()
        };
        let same = uids(&status) == uids(&before)
            && status.last_schedule_time == before.last_schedule_time
            && status.last_successful_time == before.last_successful_time;
        if same {
            return Ok(());
        }
        let updated = CronJob { status: Some(status), ..cron.clone() };
        let api: Api<CronJob> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        let answer = api.replace_status(&key.name, &PostParams::default(), &updated).await;
        if let Ok(made) = &answer {
            self.written.wrote(key, &made.metadata);
        }
        changed_is_fine(answer)
    }

    fn tell_ends(&self, cron: &CronJob, jobs: &[Arc<Job>], before: &CronJobStatus) {
        for reference in before.active.iter().flatten() {
            let name = reference.name.as_deref().unwrap_or_default();
            match jobs.iter().find(|job| job.metadata.uid == reference.uid) {
                Some(job) if plan::is_over(job) => {
                    let end = if job::is_complete(job) { "Complete" } else { "Failed" };
                    let message = format!("Saw completed job: {name}, condition: {end}");
                    self.recorder.normal(cron, "SawCompletedJob", message);
                }
                Some(_) => {}
                None => {
                    let message = format!("Active job went missing: {name}");
                    self.recorder.normal(cron, "MissingJob", message);
                }
            }
        }
    }
}
