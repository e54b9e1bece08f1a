//! Stopping one container in the background, within one grace period for hook and process together.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::memory::Killing;
use super::plan::KillWhy;
use super::spec;
use super::worker::Worker;
use crate::backoff::add;
use crate::hooks;

/// Grace period that is left for the process in any case, in seconds.
const LEAST_GRACE: i64 = 1;
/// Pause before a stop that failed is planned again.
const RETRY: Duration = Duration::from_secs(1);

/// Starts the task that stops container `id`.
pub(super) fn start(worker: &Worker, id: String, name: String, why: &KillWhy, grace: i64) {
    let (host, pod, memory, waker) =
        (worker.host.clone(), worker.pod.clone(), worker.memory.clone(), worker.waker.clone());
    let period = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    let known = spec::container(&pod, &name).map(|(kind, container)| (kind, container.into_owned()));
    let repeated = {
        let mut memory = memory.lock();
        let killing = Killing { id: id.clone(), deadline: add(Timestamp::now(), period) };
        memory.of(&name).killing.replace(killing).is_some_and(|before| before.id == id)
    };
    if let Some((kind, _)) = known.as_ref().filter(|_| !repeated) {
        host.container_event(&pod, *kind, &name, ("Normal", "Killing"), why.message(&name));
    }
    tokio::spawn(async move {
        let began = Instant::now();
        let hook = known.as_ref().and_then(|(_, c)| c.lifecycle.as_ref()?.pre_stop.clone());
        if let (Some(hook), Some((kind, container)), false) = (hook, &known, repeated) {
            match tokio::time::timeout(period, hooks::run(&host, &pod, container, &id, &hook)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => {
                    let message = format!("PreStopHook failed: {why}");
                    host.container_event(&pod, *kind, &name, ("Warning", "FailedPreStopHook"), message);
                }
                Err(_) => {
                    tracing::info!(container = name, "preStop hook did not end within the grace period")
                }
            }
        }
        let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
        let left = grace.saturating_sub(spent).max(LEAST_GRACE.min(grace));
        if let Err(error) = host.cri.stop_container(&id, left).await {
            tracing::warn!(container = id, %error, "container does not stop");
            tokio::time::sleep(RETRY).await;
        }
        let mut memory = memory.lock();
        let memory = memory.of(&name);
        if memory.killing.as_ref().is_some_and(|killing| killing.id == id) {
            memory.killing = None;
        }
        waker.wake();
    });
}
