//! Registration and the status loop: what the node is, told at once when it changes and every five minutes
//! when it does not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use corten_client::Api;
use jiff::Timestamp;
use k8s_cri::v1::Image;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::machine;
use super::report::{self, Health, Identity};
use crate::host::Host;

/// How often pressure and the runtime's health are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// The same while the node is not ready.
const LOOK_UNREADY: Duration = Duration::from_millis(250);
/// Pause after the API did not answer; doubled with every further failure.
const RETRY: Duration = Duration::from_millis(250);
/// Doublings at most: 8 s.
const RETRY_DOUBLINGS: u32 = 5;
/// Percent of process ids in use from which there is pressure.
const PIDS_FULL_PERCENT: u64 = 90;

/// Loop that keeps the Node object true.
pub struct Reporter {
    host: Arc<Host>,
    api: Api<Node>,
    port: u16,
    changed: Arc<Notify>,
    pod_cidr: Option<String>,
    sent: Option<(NodeStatus, Instant)>,
    health: Option<Health>,
}

impl Reporter {
    /// A reporter; `port` is the one that the kubelet's API listens on.
    pub fn new(host: Arc<Host>, port: u16) -> Self {
        let changed = host.node_changed.clone();
        let wake = changed.clone();
        host.node.on_change(move |_| wake.notify_one());
        Self {
            api: Api::all(host.config.client.clone()),
            host,
            port,
            changed,
            pod_cidr: None,
            sent: None,
            health: None,
        }
    }

    /// Makes the Node object, or brings an old one up to date; tries until it works.
    pub async fn register(&mut self) -> Node {
        let event = "Starting kubelet.".to_owned();
        self.host.events.record(self.host.node_reference(), "Normal", "Starting", event);
        loop {
            match self.try_register().await {
                Ok(node) => return node,
                Err(error) => {
                    tracing::info!(%error, "node cannot be registered yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_register(&mut self) -> Result<Node, kube::Error> {
        self.take_pod_cidr(self.host.config.pod_cidr.clone()).await;
        let health = self.look().await;
        let images = self.host.cri.images().await.unwrap_or_default();
        let name = self.host.config.node_name.clone();
        match self.api.get_opt(&name).await? {
            None => {
                let status = report::status(&self.identity(), &health, &images, &[], Timestamp::now());
                let node = report::new_node(&self.identity(), status.clone());
                let made = self.api.create(&PostParams::default(), &node).await?;
                // the API drops the status of a new object: send it
                let kept = made.status.as_ref().is_some_and(|kept| kept.conditions.is_some());
                if kept {
                    self.sent = Some((status, Instant::now()));
                    self.tell(&health);
                } else {
                    self.send(health, &images, &[]).await?;
                }
                self.follow(&made).await;
                Ok(made)
            }
            Some(old) => {
                let labels = json!({"metadata": {"labels": report::labels(&self.identity())}});
                self.api.patch(&name, &PatchParams::default(), &Patch::Merge(labels)).await?;
                self.follow(&old).await;
                let health = self.look().await;
                let known =
                    old.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
                self.send(health, &images, &known).await?;
                Ok(old)
            }
        }
    }

    /// Runs until the kubelet stops.
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            let ready = self.health.as_ref().is_some_and(|health| health.not_ready.is_empty());
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(if ready { LOOK } else { LOOK_UNREADY }) => {}
                () = self.host.stop.cancelled() => return,
            }
            let Err(error) = self.update().await else {
                failures = 0;
                continue;
            };
            tracing::warn!(%error, "node status was not sent");
            tokio::time::sleep(RETRY * (1 << failures)).await;
            failures = RETRY_DOUBLINGS.min(failures + 1);
            self.changed.notify_one();
        }
    }

    async fn update(&mut self) -> Result<(), kube::Error> {
        let node = self.host.node.list().first().cloned();
        if let Some(node) = &node {
            self.follow(node).await;
        } else if self.host.node.has_synced() {
            // somebody deleted the object: come back as a new one
            return self.try_register().await.map(drop);
        }
        let health = self.look().await;
        let images = self.host.cri.images().await.unwrap_or_default();
        let shown = node.as_ref().and_then(|node| node.status.as_ref());
        let sent = self.sent.as_ref().map(|(status, _)| status);
        let taken = contradicts(shown, sent);
        // Times of change count from what the API shows.
        let old = if taken { shown } else { sent };
        let old = old.and_then(|status| status.conditions.clone()).unwrap_or_default();
        let new = report::status(&self.identity(), &health, &images, &old, Timestamp::now());
        let late = self.sent.as_ref().is_none_or(|(_, at)| at.elapsed() >= self.host.config.status_report);
        let overdue = late || taken || self.host.status_due.load(Ordering::Relaxed);
        let same =
            self.sent.as_ref().is_some_and(|(sent, _)| without_heartbeats(sent) == without_heartbeats(&new));
        if same && !overdue {
            return Ok(());
        }
        self.send(health, &images, &old).await
    }

    async fn send(
        &mut self,
        health: Health,
        images: &[Image],
        old: &[NodeCondition],
    ) -> Result<(), kube::Error> {
        let status = report::status(&self.identity(), &health, images, old, Timestamp::now());
        let patch = patch(&status);
        self.api
            .patch_status(&self.host.config.node_name, &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
        self.host.status_due.store(false, Ordering::Relaxed);
        self.sent = Some((status, Instant::now()));
        self.tell(&health);
        Ok(())
    }

    fn identity(&self) -> Identity<'_> {
        Identity {
            config: &self.host.config,
            machine: &self.host.machine,
            ips: &self.host.node_ips,
            runtime_version: self.host.runtime_version(),
            port: self.port,
        }
    }

    /// Hands a (new) pod CIDR to the runtime.
    async fn follow(&mut self, node: &Node) {
        let spec = node.spec.as_ref();
        let all = spec.and_then(|spec| spec.pod_cidrs.as_ref()).map(|all| all.join(","));
        let cidr = all.filter(|all| !all.is_empty()).or_else(|| spec.and_then(|spec| spec.pod_cidr.clone()));
        self.take_pod_cidr(cidr.or_else(|| self.host.config.pod_cidr.clone())).await;
    }

    async fn take_pod_cidr(&mut self, cidr: Option<String>) {
        let Some(cidr) = cidr.filter(|cidr| self.pod_cidr.as_ref() != Some(cidr)) else { return };
        match self.host.cri.update_pod_cidr(&cidr).await {
            Ok(()) => self.pod_cidr = Some(cidr),
            Err(error) => tracing::warn!(cidr, %error, "runtime does not take the pod CIDR"),
        }
    }

    async fn look(&self) -> Health {
        let mut health = Health { not_ready: self.runtime_problems().await, ..Health::default() };
        let config = &self.host.config;
        if let Some(free) = machine::memory_available() {
            health.memory_pressure = u64::try_from(free).unwrap_or(0) < config.memory_pressure_below;
        }
        if let Ok(disk) = machine::disk(&config.data_dir) {
            health.disk_pressure = 100 - disk.used_percent().min(100) < config.disk_pressure_below_percent
                || (disk.inodes > 0 && disk.inodes_free.saturating_mul(20) < disk.inodes);
        }
        if let Some((used, most)) = machine::processes() {
            health.pid_pressure = used.saturating_mul(100) > most.saturating_mul(PIDS_FULL_PERCENT);
        }
        health
    }

    async fn runtime_problems(&self) -> Vec<String> {
        let status = match self.host.cri.status().await {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(error) => return vec![format!("container runtime is down: {error}")],
        };
        let mut problems = Vec::new();
        for (type_, words) in [
            ("RuntimeReady", "container runtime not ready"),
            ("NetworkReady", "container runtime network not ready"),
        ] {
            match status.conditions.iter().find(|condition| condition.r#type == type_) {
                Some(condition) if condition.status => {}
                Some(condition) => problems.push(format!(
                    "{words}: {type_}=false reason:{} message:{}",
                    condition.reason, condition.message
                )),
                None => problems.push(format!("{words}: {type_} is not reported")),
            }
        }
        problems
    }

    /// Events about changed conditions, in upstream's words.
    fn tell(&mut self, health: &Health) {
        let before = self.health.replace(health.clone());
        let name = &self.host.config.node_name;
        let say = |reason: &str| {
            let message = format!("Node {name} status is now: {reason}");
            self.host.events.record(self.host.node_reference(), "Normal", reason, message);
        };
        let changed = |of: fn(&Health) -> bool| before.as_ref().is_none_or(|before| of(before) != of(health));
        if changed(|h| h.memory_pressure) {
            say(if health.memory_pressure { "NodeHasInsufficientMemory" } else { "NodeHasSufficientMemory" });
        }
        if changed(|h| h.disk_pressure) {
            say(if health.disk_pressure { "NodeHasDiskPressure" } else { "NodeHasNoDiskPressure" });
        }
        if changed(|h| h.pid_pressure) {
            say(if health.pid_pressure { "NodeHasInsufficientPID" } else { "NodeHasSufficientPID" });
        }
        let ready = health.not_ready.is_empty();
        if changed(|h| h.not_ready.is_empty()) && (ready || before.is_some()) {
            say(if ready { "NodeReady" } else { "NodeNotReady" });
        }
    }
}

/// Does the API show another readiness than the one that was sent? The node controller takes it from a node of which it hears
/// nothing.
fn contradicts(shown: Option<&NodeStatus>, sent: Option<&NodeStatus>) -> bool {
    let ready = |status: &NodeStatus| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == "Ready").map(|condition| condition.status.clone())
    };
    let (shown, sent) = (shown.and_then(ready), sent.and_then(ready));
    shown.is_some() && sent.is_some() && shown != sent
}

fn without_heartbeats(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

/// The patch that makes the API's status this one; addresses replace the old list.
fn patch(status: &NodeStatus) -> Value {
    let mut status = json!(status);
    if let Some(Value::Array(addresses)) = status.get_mut("addresses") {
        addresses.push(json!({"$patch": "replace"}));
    }
    json!({"status": status})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_that_was_taken_is_noticed() {
        let status = |ready: &str| -> NodeStatus {
            serde_json::from_value(json!({"conditions": [{"type": "MemoryPressure", "status": "Unknown"},
                {"type": "Ready", "status": ready}]}))
            .unwrap()
        };
        let (ready, unknown, none) = (status("True"), status("Unknown"), NodeStatus::default());
        for (shown, sent, taken) in [
            (Some(&ready), Some(&ready), false),
            (Some(&unknown), Some(&ready), true),
            (Some(&none), Some(&ready), false),
            (None, Some(&ready), false),
            (Some(&unknown), None, false),
        ] {
            assert_eq!(contradicts(shown, sent), taken, "{shown:?} {sent:?}");
        }
    }
}
