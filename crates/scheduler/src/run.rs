//! The shell: watches pods, nodes, namespaces and budgets, decides for one pod after the other, and binds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_client::Api;
use corten_client::{Change, Informer, Informers, Key, Recorder};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cycle::{Cycle, Misfit};
use crate::pod::{PodInfo, is_finished, node_of};
use crate::preempt;
use crate::queue::{Event, Queue};
use crate::snapshot::Snapshot;

/// Bindings on their way at once.
const BINDINGS: usize = 100;

/// Settings of a scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` are ours.
    pub name: String,
}

impl Default for Config {
    fn default() -> Self {
        Config { name: "default-scheduler".to_owned() }
    }
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    queue: Queue,
}

struct Scheduler {
    client: Client,
    config: Config,
    recorder: Recorder,
    state: Mutex<State>,
    work: Notify,
    budgets: Informer<PodDisruptionBudget>,
    bindings: Arc<Semaphore>,
}

/// Schedules until `stop`. Writes go through `client`, what is seen comes from the process's informers.
pub fn run(
    client: Client,
    informers: Informers,
    config: Config,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let pods = informers.get::<Pod>();
        let nodes = informers.get::<Node>();
        let namespaces = informers.get::<Namespace>();
        let budgets = informers.get::<PodDisruptionBudget>();
        let scheduler = Arc::new(Scheduler {
            recorder: Recorder::new(client.clone(), &config.name, ""),
            client,
            config,
            state: Mutex::default(),
            work: Notify::new(),
            budgets,
            bindings: Arc::new(Semaphore::new(BINDINGS)),
        });
        scheduler.listen(&pods, &nodes, &namespaces);
        tokio::select! {
            () = stop.cancelled() => {}
            () = async {
                // A decision made before everything is known could be a wrong one.
                if let (true, true, true) = tokio::join!(pods.synced(), nodes.synced(), namespaces.synced()) {
                    scheduler.decide_forever().await;
                }
            } => {}
        }
    })
}

impl Scheduler {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(
        self: &Arc<Self>,
        pods: &Informer<Pod>,
        nodes: &Informer<Node>,
        namespaces: &Informer<Namespace>,
    ) {
        let me = self.clone();
        pods.on_change(move |change| me.pod_changed(change));
        let me = self.clone();
        nodes.on_change(move |change| me.node_changed(change));
        let me = self.clone();
        namespaces.on_change(move |change| me.namespace_changed(change));
    }

    fn namespace_changed(&self, change: &Change<Namespace>) {
        let object = change.object();
        let name = object.metadata.name.clone().unwrap_or_default();
        let mut state = self.state();
        if matches!(change, Change::Deleted(_)) {
            state.snapshot.namespaces.remove(&name);
            return;
        }
        let labels = object.metadata.labels.clone().unwrap_or_default();
        if state.snapshot.namespaces.get(&name) != Some(&labels) {
            state.snapshot.namespaces.insert(name, labels);
            state.queue.happened(Event::NamespaceChanged, Instant::now());
            drop(state);
            self.work.notify_one();
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let key = Key::of(&**pod);
        let gone = matches!(change, Change::Deleted(_)) || is_finished(pod);
        let now = Instant::now();
        let mut state = self.state();
        // One of this name that went unseen counts no more; the new one may be without a node for long.
        if state.snapshot.placed_pod(&key).is_some_and(|placed| placed.pod.metadata.uid != pod.metadata.uid) {
            state.snapshot.remove_pod(&key);
            state.queue.happened(Event::PodGone, now);
        }
        if gone {
            state.queue.remove(&key);
            state.snapshot.remove_pod(&key);
            if node_of(pod).is_some() {
                state.queue.happened(Event::PodGone, now);
            }
        } else if node_of(pod).is_some() {
            state.queue.remove(&key);
            let before = state.snapshot.placed_pod(&key).cloned();
            state.snapshot.set_pod(pod);
            let after = state.snapshot.placed_pod(&key);
            let gives_back =
                before.zip(after).is_some_and(|(b, a)| a.requests.is_less_somewhere(&b.requests));
            // One that was made smaller leaves room like one that went.
            state.queue.happened(if gives_back { Event::PodGone } else { Event::PodPlaced }, now);
        } else if self.is_ours(pod) {
            state.queue.push(Arc::new(PodInfo::new(pod.clone())), now);
        } else {
            // It ends, or is another scheduler's.
            state.queue.remove(&key);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Ours to place, now: right name, no gates, not being deleted.
    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == self.config.name
            && spec.scheduling_gates.as_deref().unwrap_or_default().is_empty()
            && pod.metadata.deletion_timestamp.is_none()
    }

    fn node_changed(&self, change: &Change<Node>) {
        let node = change.object();
        let matters = match change {
            Change::Updated { old, new } => what_matters(old) != what_matters(new),
            _ => true,
        };
        let mut state = self.state();
        match change {
            Change::Deleted(_) => {
                state.snapshot.remove_node(node.metadata.name.as_deref().unwrap_or_default())
            }
            _ => state.snapshot.set_node(node.clone()),
        }
        if matters {
            state.queue.happened(Event::NodeChanged, Instant::now());
            drop(state);
            self.work.notify_one();
        }
    }

    async fn decide_forever(self: &Arc<Self>) {
        loop {
            let (pod, timer) = {
                let mut state = self.state();
                (state.queue.pop(Instant::now()), state.queue.next_timer())
            };
            match pod {
                Some(pod) => self.place(pod).await,
                None => self.wait(timer).await,
            }
        }
    }

    async fn wait(&self, timer: Option<Instant>) {
        let timer = async {
            match timer {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => {}
            () = self.work.notified() => {}
        }
    }

    /// Decides for one pod; binding goes on beside the next decision.
    async fn place(self: &Arc<Self>, pod: Arc<PodInfo>) {
        let decision = {
            let mut state = self.state();
            let decision = Cycle::new(&pod, &state.snapshot)
                .decide(|n| rand::rng().random_range(0..n))
                .map(|node| node.name.clone());
            if let Ok(node) = &decision {
                state.snapshot.place(pod.clone(), node);
            }
            decision
        };
        match decision {
            Err(misfit) => self.turn_away(&pod, misfit).await,
            Ok(node) => {
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                let me = self.clone();
                tokio::spawn(async move {
                    me.bind(&pod, &node).await;
                    drop(permit);
                });
            }
        }
    }

    async fn bind(&self, pod: &PodInfo, node: &str) {
        let Key { namespace, name } = &pod.key;
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                uid: pod.pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match api.create_subresource("binding", name, &PostParams::default(), &binding).await {
            Ok(_) => {
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.normal(&*pod.pod, "Scheduled", message);
            }
            Err(error) => self.binding_failed(pod, &error),
        }
    }

    fn binding_failed(&self, pod: &PodInfo, error: &kube::Error) {
        tracing::info!(pod = %pod.key, %error, "binding failed");
        let mut state = self.state();
        state.snapshot.forget_assumed(pod);
        if matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409) {
            // Deleted or bound by someone else: the watch tells.
            state.queue.give_up(pod);
        } else {
            state.queue.failed(pod, Instant::now());
        }
        drop(state);
        self.work.notify_one();
    }

    async fn turn_away(&self, pod: &PodInfo, misfit: Misfit) {
        let mut message = misfit.message();
        let mut nominated = None;
        if misfit.nodes > 0 {
            let plan = {
                let state = self.state();
                preempt::plan(pod, &state.snapshot, &misfit, &self.budgets.list())
            };
            match plan {
                Ok(plan) => nominated = Some(self.evict(pod, plan).await),
                Err(why) => message = format!("{message} preemption: {why}"),
            }
        }
        self.recorder.warning(&*pod.pod, "FailedScheduling", message.clone());
        self.write_condition(pod, &message, nominated.as_deref()).await;
        self.state().queue.turned_away(pod, misfit.plugins, Instant::now());
    }

    async fn evict(&self, pod: &PodInfo, plan: preempt::Plan) -> String {
        for victim in plan.victims.iter().filter(|v| !v.is_terminating()) {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.key.namespace);
            let reason = format!("{}: preempting to accommodate a higher priority pod", self.config.name);
            let condition = condition("DisruptionTarget", "True", "PreemptionByScheduler", &reason, pod);
            let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
            let _ = api.patch_status(&victim.key.name, &PatchParams::default(), &patch).await;
            let exactly = Preconditions { uid: victim.pod.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
            match api.delete(&victim.key.name, &params).await {
                Ok(_) => {
                    let by = pod.pod.metadata.uid.as_deref().unwrap_or_default();
                    let message = format!("Preempted by pod {by} on node {}", plan.node);
                    self.recorder.normal(&*victim.pod, "Preempted", message);
                }
                Err(error) => tracing::info!(victim = %victim.key, %error, "victim was not deleted"),
            }
        }
        plan.node
    }

    async fn write_condition(&self, pod: &PodInfo, message: &str, nominated: Option<&str>) {
        let mut status =
            json!({ "conditions": [condition("PodScheduled", "False", "Unschedulable", message, pod)] });
        if let Some(node) = nominated {
            status["nominatedNodeName"] = json!(node);
        }
        if says_already(&pod.pod, message) && nominated.is_none() {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        let patch = Patch::Strategic(json!({ "status": status }));
        if let Err(error) = api.patch_status(&pod.key.name, &PatchParams::default(), &patch).await {
            tracing::debug!(pod = %pod.key, %error, "condition was not written");
        }
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, pod: &PodInfo) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "observedGeneration": pod.pod.metadata.generation,
    })
}

fn says_already(pod: &Pod, message: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions
        .iter()
        .any(|c| c.type_ == "PodScheduled" && c.status == "False" && c.message.as_deref() == Some(message))
}

/// The parts of a node that decide where pods go; heartbeats change none of them.
fn what_matters(node: &Node) -> Value {
    let spec = node.spec.as_ref();
    json!([
        node.metadata.labels,
        spec.and_then(|s| s.unschedulable),
        spec.and_then(|s| s.taints.as_ref()),
        node.status.as_ref().and_then(|s| s.allocatable.as_ref()),
    ])
}
