//! What all parts of one kubelet share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use corten_client::{Informer, Recorder};
use corten_sys::mounts::Mounts;
use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::cri::Cri;
use crate::fields::Surroundings;
use crate::image::pull::Puller;
use crate::node::machine::Machine;
use crate::objects::ObjectCache;
use crate::pod::admission::{Admission, Allocatable};
use crate::pod::resize::Pending;
use crate::pod::spec::{self, Kind};
use crate::pod::starts::Starts;
use crate::resources::PodCgroups;

/// Shared by workers, node and API.
pub struct Host {
    /// Settings.
    pub config: Config,
    /// Runtime.
    pub cri: Cri,
    /// Event recorder.
    pub events: Recorder,
    /// ConfigMaps and Secrets.
    pub objects: ObjectCache,
    /// All services, for environment variables.
    pub services: Informer<Service>,
    /// This node's object.
    pub node: Informer<Node>,
    /// cgroups of pods.
    pub cgroups: PodCgroups,
    /// Mounts of volumes.
    pub mounts: Arc<dyn Mounts>,
    /// Image pulls.
    pub puller: Puller,
    /// Capacity of the machine.
    pub machine: Machine,
    /// The node's addresses.
    pub node_ips: Vec<String>,
    /// The node's own resolver settings.
    pub resolver: DnsConfig,
    /// Name and version of the runtime, as container ids and the node's status show them.
    pub runtime: OnceLock<(String, String)>,
    /// Counts the runtime's events, for those who wait for any.
    pub runtime_events: tokio::sync::watch::Sender<u64>,
    /// Something that the node's status shows has changed.
    pub node_changed: Arc<Notify>,
    /// The node's status is to be sent even if it has not changed: the API may have heard nothing for a while.
    pub status_due: AtomicBool,
    /// Workers to wake.
    pub wakers: Arc<Wakers>,
    /// Keepers of mirror pods to wake, by the hash that mirror and static pod share.
    pub mirrors: Arc<Wakers>,
    /// What the pods of this node take.
    pub admission: Mutex<Admission>,
    /// Places for pods that start.
    pub starts: Starts,
    /// Ends everything.
    pub stop: CancellationToken,
}

impl Host {
    /// The runtime's name, once it has been asked.
    pub fn runtime_name(&self) -> &str {
        self.runtime.get().map_or("unknown", |(name, _)| name.as_str())
    }

    /// `name://version` of the runtime.
    pub fn runtime_version(&self) -> String {
        self.runtime.get().map_or_else(String::new, |(name, version)| format!("{name}://{version}"))
    }

    /// What a pod with these addresses finds around it.
    pub fn surroundings(&self, pod_ips: Vec<String>) -> Surroundings {
        Surroundings {
            pod_ips,
            host_ips: self.node_ips.clone(),
            node_name: self.config.node_name.clone(),
            node_cpu_milli: self.machine.cpu_milli - self.config.reserved_cpu_milli,
            node_memory: self.machine.memory_bytes - self.config.reserved_memory,
            node_storage: self.machine.storage_bytes,
        }
    }

    /// What pods can have of this node.
    pub fn allocatable(&self) -> Allocatable {
        let (config, machine) = (&self.config, &self.machine);
        [
            ("cpu", machine.cpu_milli - config.reserved_cpu_milli),
            ("memory", machine.memory_bytes - config.reserved_memory),
            ("ephemeral-storage", machine.storage_bytes),
            ("pods", i64::from(config.max_pods)),
        ]
        .map(|(name, amount)| (name.to_owned(), amount))
        .into()
    }

    /// The books of what pods take.
    pub fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod has ended: its share is free for those who wait for room to grow.
    pub fn release(&self, uid: &str) {
        let waiting = self.admission().release(uid);
        waiting.iter().for_each(|uid| self.wakers.wake(uid));
    }

    /// Counts other resources for a pod that runs here.
    pub fn resize(&self, pod: &Pod) -> Result<(), Pending> {
        let (waiting, burstable) = {
            let mut admission = self.admission();
            let waiting = admission.resize(pod, &self.allocatable())?;
            (waiting, admission.burstable_cpu_milli())
        };
        waiting.iter().for_each(|uid| self.wakers.wake(uid));
        if let Err(error) = self.cgroups.weigh_burstable(burstable) {
            tracing::debug!(%error, "weight of burstable pods");
        }
        Ok(())
    }

    /// An event about a pod.
    pub fn pod_event(&self, pod: &Pod, type_: &str, reason: &str, message: impl Into<String>) {
        self.events.record(spec::reference(pod), type_, reason, message.into());
    }

    /// An event about one container of a pod.
    pub fn container_event(
        &self,
        pod: &Pod,
        kind: Kind,
        name: &str,
        (type_, reason): (&str, &str),
        message: impl Into<String>,
    ) {
        self.events.record(spec::container_reference(pod, kind, name), type_, reason, message.into());
    }

    /// A reference to the node, as the kubelet's node events carry it: the uid is the name.
    pub fn node_reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.config.node_name.clone()),
            uid: Some(self.config.node_name.clone()),
            ..ObjectReference::default()
        }
    }
}

/// How one worker is told to look again.
#[derive(Default)]
pub struct Waker {
    notify: Notify,
    refresh: AtomicBool,
}

impl Waker {
    /// Something about the pod may have changed.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// A ConfigMap or Secret of the pod has changed.
    pub fn refresh(&self) {
        self.refresh.store(true, Ordering::Release);
        self.wake();
    }

    /// Waits for the next wake-up; one that came before is not lost.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Whether objects changed since the last call.
    pub fn take_refresh(&self) -> bool {
        self.refresh.swap(false, Ordering::AcqRel)
    }
}

/// The wakers of all workers, by pod uid.
#[derive(Default)]
pub struct Wakers(Mutex<HashMap<String, Arc<Waker>>>);

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Waker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The waker of a new worker.
    pub fn register(&self, uid: &str) -> Arc<Waker> {
        self.lock().entry(uid.to_owned()).or_default().clone()
    }

    /// The worker has ended.
    pub fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Wakes one worker.
    pub fn wake(&self, uid: &str) {
        if let Some(waker) = self.lock().get(uid) {
            waker.wake();
        }
    }

    /// Tells one worker about changed objects.
    pub fn refresh(&self, uid: &str) {
        if let Some(waker) = self.lock().get(uid) {
            waker.refresh();
        }
    }

    /// Wakes all.
    pub fn wake_all(&self) {
        self.lock().values().for_each(|waker| waker.wake());
    }
}
