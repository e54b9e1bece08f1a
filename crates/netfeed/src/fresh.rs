//! Pods that have just been given their addresses: nothing runs in them before policies know them.
//!
//! The API learns a pod's addresses when its sandbox is up, so rules made from the API alone would come after the pod's first packets.
//! Network plugins that enforce policies hold the pod's start back instead, and so does this: the network asks [`Fresh`] between
//! address and start, the loop of policies plans with the address, and says when the rules stand.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_network::{Admitted, Guard, PodIps, PodName};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A pod that nobody can tell us about (a static pod while there is no API) starts after so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of more pods than a node can have, those that wait for nothing any more are forgotten.
const MOST: usize = 1024;
/// What a static pod is known by to the runtime, in the annotations of its mirror in the API.
const STATIC: &str = "kubernetes.io/config.hash";

/// Must the pod wait? Asked once policies are enforced; true when in doubt.
pub(crate) type Concerned = Arc<dyn Fn(&PodName) -> bool + Send + Sync>;

/// Addresses by the pod's uid.
pub(crate) type Addresses = BTreeMap<String, Vec<IpAddr>>;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Fresh {
    state: Arc<Mutex<State>>,
    /// Wakes the loop of policies.
    changed: Arc<Notify>,
    /// Tells those who wait that something is settled.
    settled: watch::Sender<()>,
}

struct State {
    phase: Phase,
    pods: BTreeMap<String, Entry>,
}

#[derive(Clone)]
enum Phase {
    /// The API has not told yet what policies and pods there are; nobody waits for that after the time.
    Unknown(Instant),
    /// There are none.
    Free,
    /// There are policies, and a loop that will answer.
    Enforcing(Concerned),
}

struct Entry {
    addresses: Vec<IpAddr>,
    is_settled: bool,
}

impl Fresh {
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        let state = State { phase: Phase::Unknown(Instant::now() + PATIENCE), pods: BTreeMap::new() };
        Fresh { state: Arc::new(Mutex::new(state)), changed, settled: watch::Sender::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are no policies.
    pub(crate) fn let_all_go(&self) {
        self.state().phase = Phase::Free;
        self.settled.send_replace(());
    }

    /// There is a first policy, and nobody enforces it yet.
    pub(crate) fn hold(&self) {
        self.state().phase = Phase::Unknown(Instant::now() + PATIENCE);
    }

    /// From now on somebody calls [`Fresh::settle`].
    pub(crate) fn enforce(&self, concerned: Concerned) {
        self.state().phase = Phase::Enforcing(concerned);
        self.settled.send_replace(());
    }

    /// Does a change of this pod concern one that waits?
    pub(crate) fn concerns(&self, pod: &Pod) -> bool {
        let state = self.state();
        uids(pod).any(|uid| state.pods.get(uid).is_some_and(|entry| !entry.is_settled))
    }

    /// The pod is gone: its addresses may be another's by now.
    pub(crate) fn forget(&self, pod: &Pod) {
        let mut state = self.state();
        uids(pod).for_each(|uid| drop(state.pods.remove(uid)));
        drop(state);
        self.settled.send_replace(());
    }

    /// What the API may not know yet.
    pub(crate) fn addresses(&self) -> Addresses {
        let state = self.state();
        state.pods.iter().map(|(uid, entry)| (uid.clone(), entry.addresses.clone())).collect()
    }

    /// Rules made from these pods and `used` stand: whoever is in both may start. Forgets those whose addresses the API knows.
    pub(crate) fn settle(&self, pods: &[Arc<Pod>], used: &Addresses) {
        if used.is_empty() {
            return;
        }
        let mut state = self.state();
        for pod in pods {
            for uid in uids(pod) {
                let Some(entry) = state.pods.get_mut(uid) else { continue };
                if used.get(uid) == Some(&entry.addresses) {
                    entry.is_settled = true;
                }
                if entry.is_settled && tells(pod, &entry.addresses) {
                    state.pods.remove(uid);
                }
            }
        }
        drop(state);
        self.settled.send_replace(());
    }

    /// Waits until it is known whether there are policies.
    async fn known(&self) {
        let Phase::Unknown(until) = self.state().phase else { return };
        let mut settled = self.settled.subscribe();
        let is_known = |(): &()| !matches!(self.state().phase, Phase::Unknown(_));
        // Too late: as without policies.
        let _ = tokio::time::timeout_at(until, settled.wait_for(is_known)).await;
    }

    /// False where nobody has to wait.
    fn add(&self, pod: &PodName, ips: &PodIps) -> bool {
        let Phase::Enforcing(concerned) = self.state().phase.clone() else { return false };
        if pod.uid.is_empty() || !concerned(pod) {
            return false;
        }
        let mut state = self.state();
        if state.pods.len() >= MOST {
            state.pods.retain(|_, entry| !entry.is_settled);
        }
        if state.pods.len() >= MOST {
            state.pods.pop_first();
        }
        let addresses = [ips.primary].into_iter().chain(ips.additional.iter().copied()).collect();
        state.pods.insert(pod.uid.clone(), Entry { addresses, is_settled: false });
        true
    }

    fn is_settled(&self, uid: &str) -> bool {
        // One that is forgotten was settled before.
        self.state().pods.get(uid).is_none_or(|entry| entry.is_settled)
    }

    async fn wait(&self, uid: &str) {
        self.changed.notify_one();
        let mut settled = self.settled.subscribe();
        let waited = tokio::time::timeout(PATIENCE, settled.wait_for(|()| self.is_settled(uid))).await;
        if waited.is_err() {
            tracing::warn!(
                pod = uid,
                "the pod starts before network policies know it: the API does not tell of it"
            );
            if let Some(entry) = self.state().pods.get_mut(uid) {
                entry.is_settled = true;
            }
        }
    }
}

impl Guard for Fresh {
    fn admit<'a>(&'a self, pod: &'a PodName, ips: &'a PodIps) -> Admitted<'a> {
        Box::pin(async move {
            self.known().await;
            if self.add(pod, ips) {
                self.wait(&pod.uid).await;
            }
        })
    }
}

/// What the runtime may call the pod.
pub(crate) fn uids(pod: &Pod) -> impl Iterator<Item = &str> {
    let of_static = pod.metadata.annotations.as_ref().and_then(|all| all.get(STATIC));
    pod.metadata.uid.iter().chain(of_static).map(String::as_str)
}

/// Does the API know these addresses of the pod, not those of an earlier sandbox?
fn tells(pod: &Pod, addresses: &[IpAddr]) -> bool {
    let Some(status) = &pod.status else { return false };
    let told = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let told: Vec<IpAddr> = told.filter_map(|ip| ip.parse().ok()).collect();
    addresses.iter().all(|ip| told.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, ip: Option<&str>) -> Arc<Pod> {
        let pod = json!({ "metadata": { "name": "p", "uid": uid }, "status": { "podIP": ip } });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn ips() -> PodIps {
        PodIps { primary: "10.1.0.5".parse().unwrap(), additional: vec![] }
    }

    fn name(uid: &str) -> PodName {
        PodName { namespace: "ns".into(), name: "p".into(), uid: uid.into() }
    }

    fn waits(fresh: &Fresh, uid: &str) -> tokio::task::JoinHandle<()> {
        let (fresh, name) = (fresh.clone(), name(uid));
        tokio::spawn(async move { fresh.admit(&name, &ips()).await })
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_waits_for_its_rules() {
        let changed = Arc::new(Notify::new());
        let fresh = Fresh::new(changed.clone());
        fresh.enforce(Arc::new(|pod| pod.uid != "v"));
        // No policy chooses this one.
        fresh.admit(&name("v"), &ips()).await;
        assert!(fresh.addresses().is_empty());
        let waiting = waits(&fresh, "u");
        changed.notified().await;
        assert!(fresh.concerns(&pod("u", None)) && !fresh.concerns(&pod("v", None)));
        let used = fresh.addresses();
        assert_eq!(used["u"], [ips().primary]);
        fresh.settle(&[pod("v", None)], &used);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the API did not tell of it when the rules were made");
        fresh.settle(&[pod("u", None)], &used);
        waiting.await.unwrap();
        assert_eq!(fresh.addresses().len(), 1, "the API does not know its address yet");
        fresh.settle(&[pod("u", Some("10.1.0.4"))], &used);
        assert_eq!(fresh.addresses().len(), 1, "that one is of an earlier sandbox");
        fresh.settle(&[pod("u", Some("10.1.0.5"))], &used);
        assert!(fresh.addresses().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whether_there_are_policies_is_waited_for_once() {
        let fresh = Fresh::new(Arc::new(Notify::new()));
        let begin = Instant::now();
        let waiting = waits(&fresh, "u");
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        fresh.let_all_go();
        waiting.await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        let fresh = Fresh::new(Arc::new(Notify::new()));
        for _ in 0..2 {
            fresh.admit(&name("u"), &ips()).await;
            assert_eq!(begin.elapsed(), PATIENCE, "no API, and only the first one waits");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let fresh = Fresh::new(Arc::new(Notify::new()));
        fresh.enforce(Arc::new(|_| true));
        let begin = Instant::now();
        fresh.admit(&name("u"), &ips()).await;
        assert_eq!(begin.elapsed(), PATIENCE);
    }

    #[test]
    fn a_static_pod_is_known_by_its_mirror() {
        let mirror: Pod =
            serde_json::from_value(json!({ "metadata": { "uid": "m", "annotations": { STATIC: "hash" } } }))
                .unwrap();
        assert_eq!(uids(&mirror).collect::<Vec<_>>(), ["m", "hash"]);
    }
}
