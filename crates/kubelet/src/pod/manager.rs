//! All pods of the node: a worker for each, fed from the API's watch and the runtime's events; and whatever
//! an earlier kubelet left behind.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::Change;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::publish::ready;
use super::spec;
use super::status::Verdict;
use super::worker::{Desired, Worker};
use crate::cri;
use crate::host::Host;
use crate::labels;
use crate::volume::pod_volumes::PodVolumes;

/// Pause before the runtime's event stream is opened again.
const STREAM_RETRY: Duration = Duration::from_millis(500);
/// How often a runtime without events is asked what runs (upstream's relist period).
const RELIST: Duration = Duration::from_secs(1);

struct Entry {
    desired: watch::Sender<Desired>,
    task: JoinHandle<()>,
}

/// All workers of a node.
#[derive(Clone)]
pub struct Manager {
    host: Arc<Host>,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    /// Cancelled when the first list of pods has its workers.
    listed: CancellationToken,
    ended: Arc<Notify>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Manager {
    /// No pods yet.
    pub fn new(host: Arc<Host>) -> Self {
        Self { host, entries: Arc::default(), listed: CancellationToken::new(), ended: Arc::default() }
    }

    /// Pods that an earlier kubelet admitted keep their place; call it with the first list.
    pub fn account(&self, pods: &[Arc<Pod>]) {
        let mut admission = self.host.admission();
        let admitted = |pod: &&Arc<Pod>| {
            let started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
            started && !spec::is_terminal(pod)
        };
        pods.iter().filter(admitted).for_each(|pod| admission.account(pod));
    }

    /// All pods of the first list have their workers.
    pub fn has_listed(&self) {
        self.listed.cancel();
    }

    /// Waits for [`Manager::has_listed`].
    pub async fn listed(&self) {
        self.listed.cancelled().await;
    }

    /// A change of the API's pods.
    pub fn changed(&self, change: &Change<Pod>) {
        if let Some(hash) = spec::annotation(change.object(), labels::CONFIG_MIRROR) {
            self.host.mirrors.wake(hash);
        }
        match change {
            Change::Added(pod) => self.apply(pod),
            Change::Updated { old, new } => {
                if spec::uid(old) != spec::uid(new) {
                    self.gone(old);
                }
                self.apply(new);
            }
            Change::Deleted(pod) => self.gone(pod),
        }
    }

    fn apply(&self, pod: &Arc<Pod>) {
        if spec::is_mirror(pod) {
            return;
        }
        let uid = spec::uid(pod);
        if spec::is_terminal(pod) {
            self.host.release(uid);
        }
        let mut entries = lock(&self.entries);
        match entries.get(uid) {
            Some(entry) => {
                entry.desired.send_if_modified(|desired| {
                    let matters = matters(&desired.pod, pod);
                    desired.pod = pod.clone();
                    matters
                });
            }
            None => {
                let verdict = self.admit(pod);
                let desired = Desired { pod: pod.clone(), gone: false, from_file: false, verdict };
                entries.insert(uid.to_owned(), self.spawn(desired));
            }
        }
    }

    fn gone(&self, pod: &Pod) {
        if let Some(entry) = lock(&self.entries).get(spec::uid(pod)) {
            entry.desired.send_modify(|desired| desired.gone = true);
        }
    }

    // ---- static pods ----

    /// Runs a static pod, unless it runs already.
    pub fn place(&self, pod: Arc<Pod>) {
        let mut entries = lock(&self.entries);
        let uid = spec::uid(&pod).to_owned();
        if let hash_map::Entry::Vacant(free) = entries.entry(uid) {
            let verdict = self.admit(&pod);
            free.insert(self.spawn(Desired { pod, gone: false, from_file: true, verdict }));
        }
    }

    /// Ends a static pod.
    pub fn displace(&self, uid: &str) {
        if let Some(entry) = lock(&self.entries).get(uid) {
            entry.desired.send_if_modified(|desired| !std::mem::replace(&mut desired.gone, true));
        }
    }

    /// Whether anything is left of the pod with this uid.
    pub fn has(&self, uid: &str) -> bool {
        lock(&self.entries).contains_key(uid)
    }

    /// Waits until some pod has gone for good; one that went before the call counts. For one listener.
    pub async fn some_ended(&self) {
        self.ended.notified().await;
    }

    fn admit(&self, pod: &Pod) -> Option<Verdict> {
        if spec::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let node = self.host.node.list().first().cloned();
        let mut admission = self.host.admission();
        let refused = admission.admit(pod, node.as_deref(), &self.host.allocatable()).err();
        if let Err(error) = self.host.cgroups.weigh_burstable(admission.burstable_cpu_milli()) {
            tracing::debug!(%error, "weight of burstable pods");
        }
        let refused = refused?;
        let message = refused.message.trim_start_matches("Pod was rejected: ").to_owned();
        self.host.pod_event(pod, "Warning", &refused.reason, message);
        Some(refused)
    }

    /// Ends a pod for the kubelet's own reasons.
    pub fn evict(&self, uid: &str, verdict: Verdict) {
        if let Some(entry) = lock(&self.entries).get(uid) {
            entry.desired.send_modify(|desired| desired.verdict = Some(verdict));
        }
    }

    fn spawn(&self, desired: Desired) -> Entry {
        let uid = spec::uid(&desired.pod).to_owned();
        let (sender, receiver) = watch::channel(desired);
        let worker = Worker::new(self.host.clone(), receiver);
        let manager = self.clone();
        let task = tokio::spawn(async move {
            worker.run().await;
            lock(&manager.entries).remove(&uid);
            manager.host.release(&uid);
            manager.ended.notify_one();
        });
        Entry { desired: sender, task }
    }

    /// Newest objects of all pods that have workers.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        lock(&self.entries).values().map(|entry| entry.desired.borrow().pod.clone()).collect()
    }

    /// The pod of that name; a running one wins over one that ends.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let named = |pod: &Arc<Pod>| spec::namespace(pod) == namespace && spec::name(pod) == name;
        let mut found: Vec<Arc<Pod>> = self.pods().into_iter().filter(named).collect();
        found.sort_by_key(|pod| pod.metadata.deletion_timestamp.is_some());
        found.into_iter().next()
    }

    /// Waits until every worker has stopped; call it after the kubelet's stop signal.
    pub async fn stopped(&self) {
        let tasks: Vec<JoinHandle<()>> = lock(&self.entries).drain().map(|(_, entry)| entry.task).collect();
        for task in tasks {
            let _ = task.await;
        }
    }

    // ---- leftovers ----

    /// Ends what runs of pods that the API does not know, and removes their files and cgroups.
    pub async fn adopt_orphans(&self, known: &[Arc<Pod>]) -> cri::Result<()> {
        let mut known: BTreeSet<String> = known.iter().map(|pod| spec::uid(pod).to_owned()).collect();
        known.extend(lock(&self.entries).keys().cloned());
        let mut orphans: BTreeMap<String, (String, String)> = BTreeMap::new();
        let sandboxes = self.host.cri.sandboxes(HashMap::new()).await?.into_iter().map(|s| s.labels);
        let containers = self.host.cri.containers(HashMap::new()).await?.into_iter().map(|c| c.labels);
        for of in sandboxes.chain(containers) {
            let label = |name: &str| of.get(name).cloned().unwrap_or_default();
            let uid = label(labels::POD_UID);
            if !uid.is_empty() && !known.contains(&uid) {
                orphans.insert(uid, (label(labels::POD_NAMESPACE), label(labels::POD_NAME)));
            }
        }
        self.remove_files(&known, &orphans);
        for (uid, (namespace, name)) in orphans {
            tracing::info!(namespace, name, uid, "ending a pod that the API does not know");
            let pod = Arc::new(stub(&uid, namespace, name));
            lock(&self.entries)
                .entry(uid)
                .or_insert_with(|| self.spawn(Desired { pod, gone: true, from_file: false, verdict: None }));
        }
        Ok(())
    }

    fn remove_files(&self, known: &BTreeSet<String>, orphans: &BTreeMap<String, (String, String)>) {
        let stale = |uid: &String| !known.contains(uid) && !orphans.contains_key(uid);
        let names = |dir: &str| {
            let entries =
                std::fs::read_dir(self.host.config.data_dir.join(dir)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        for uid in names("pods").into_iter().filter(stale) {
            if let Err(error) = PodVolumes::remove_all(&self.host, &uid) {
                tracing::warn!(uid, %error, "files of an old pod cannot be removed");
            }
        }
        for uid in self.host.cgroups.known_uids().iter().filter(|uid| stale(uid)) {
            if let Err(error) = self.host.cgroups.remove_uid(uid) {
                tracing::warn!(uid, %error, "cgroup of an old pod cannot be removed");
            }
        }
        for name in names("logs") {
            let uid = name.rsplit('_').next().unwrap_or_default().to_owned();
            if stale(&uid) {
                let _ = std::fs::remove_dir_all(self.host.config.data_dir.join("logs").join(&name));
            }
        }
    }

    // ---- runtime events ----

    /// Wakes workers when their containers start or end, until the kubelet stops.
    pub async fn follow_runtime(self) {
        loop {
            tokio::select! {
                () = self.events_or_relist() => {}
                () = self.host.stop.cancelled() => return,
            }
        }
    }

    async fn events_or_relist(&self) {
        match self.host.cri.events().await {
            Ok(mut events) => {
                // what happened before the stream was there
                self.host.wakers.wake_all();
                while let Ok(Some(event)) = events.message().await {
                    self.host.runtime_events.send_modify(|count| *count = count.wrapping_add(1));
                    match event.pod_sandbox_status.and_then(|status| status.metadata) {
                        Some(metadata) => self.host.wakers.wake(&metadata.uid),
                        None => self.host.wakers.wake_all(),
                    }
                }
                tokio::time::sleep(STREAM_RETRY).await;
            }
            Err(error) if error.code == tonic::Code::Unimplemented => self.relist().await,
            Err(_) => tokio::time::sleep(STREAM_RETRY).await,
        }
    }

    /// For runtimes that have no event stream.
    async fn relist(&self) {
        let mut before: BTreeMap<String, (i32, String)> = BTreeMap::new();
        loop {
            tokio::time::sleep(RELIST).await;
            let Ok(listed) = self.host.cri.containers(HashMap::new()).await else { return };
            let now: BTreeMap<String, (i32, String)> = listed
                .into_iter()
                .map(|c| (c.id, (c.state, c.labels.get(labels::POD_UID).cloned().unwrap_or_default())))
                .collect();
            let changed =
                now.iter().filter(|(id, seen)| before.get(*id) != Some(*seen)).map(|(_, seen)| &seen.1);
            let vanished = before.iter().filter(|(id, _)| !now.contains_key(*id)).map(|(_, seen)| &seen.1);
            changed.chain(vanished).for_each(|uid| self.host.wakers.wake(uid));
            if before != now {
                self.host.runtime_events.send_modify(|count| *count = count.wrapping_add(1));
            }
            before = now;
        }
    }
}

/// Whether a worker has to look at the new object: its own status patches come back as changes too. A readiness that is gone may
/// have been taken by somebody else.
fn matters(old: &Pod, new: &Pod) -> bool {
    let is_ready = |pod: &Pod| pod.status.as_ref().and_then(ready) == Some("True");
    let gates = |pod: &Pod| {
        let gated = pod.spec.as_ref().is_some_and(|spec| spec.readiness_gates.is_some());
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone());
        if gated { conditions } else { None }
    };
    let meta = |pod: &Pod| {
        let meta = &pod.metadata;
        let ending = (meta.deletion_timestamp.clone(), meta.deletion_grace_period_seconds);
        (meta.labels.clone(), meta.annotations.clone(), ending)
    };
    old.spec != new.spec
        || meta(old) != meta(new)
        || spec::is_terminal(old) != spec::is_terminal(new)
        || gates(old) != gates(new)
        || (is_ready(old) && !is_ready(new))
}

/// What is known of a pod that only the runtime knows.
fn stub(uid: &str, namespace: String, name: String) -> Pod {
    Pod {
        metadata: ObjectMeta {
            uid: Some(uid.to_owned()),
            namespace: Some(namespace),
            name: Some(name),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec::default()),
        status: None,
    }
}
