//! Which pod is next: ready ones by priority and age, failed ones after a pause, hopeless ones when something changed.
//!
//! A pod is in exactly one of three places. *Active* pods wait for their turn. *Backing-off* pods become active at a time
//! (1 s after the first failure, doubled up to 10 s). *Unschedulable* pods wait for an event that may help the rule which
//! turned them away, and at most [`STALE`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use corten_client::Key;
use tokio::time::Instant;

use crate::plugins::may_help;
use crate::pod::PodInfo;

/// First pause after a failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// Unschedulable pods are tried again after this time whatever happens.
const STALE: Duration = Duration::from_secs(5 * 60);

/// Something in the cluster that may let a pod through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node came, or its labels, taints, resources or cordon changed.
    NodeChanged,
    /// A placed pod ended or was deleted.
    PodGone,
    /// A pod was placed, or its labels changed.
    PodPlaced,
    /// A namespace came, or its labels changed.
    NamespaceChanged,
}

#[derive(Clone, Debug)]
enum Place {
    Active(Order),
    BackingOff(Instant),
    Unschedulable {
        plugins: Vec<&'static str>,
        since: Instant,
    },
    /// Handed out by [`Queue::pop`]; `true` when an event came meanwhile that might have helped.
    InFlight(bool),
}

/// Highest priority first, then the one that waits longest.
type Order = (Reverse<i32>, Instant, Key);

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    tried: Instant,
    added: Instant,
}

impl Waiting {
    fn backoff_ends(&self) -> Instant {
        let doubled = FIRST_BACKOFF.saturating_mul(1 << self.attempts.saturating_sub(1).min(16));
        self.tried + if self.attempts == 0 { Duration::ZERO } else { doubled.min(LAST_BACKOFF) }
    }
}

/// The pods that need a node. Its size is bounded by the pods of the cluster.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Key, Waiting>,
    active: BTreeSet<Order>,
    timers: BTreeMap<(Instant, Key), ()>,
}

impl Queue {
    /// A pod that needs a node came or changed. A change makes an unschedulable pod active again.
    pub fn push(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let key = pod.key.clone();
        if let Some(waiting) = self.pods.get_mut(&key)
            && waiting.pod.pod.metadata.uid == pod.pod.metadata.uid
        {
            let spec_is_same = waiting.pod.pod.spec == pod.pod.spec
                && waiting.pod.pod.metadata.labels == pod.pod.metadata.labels;
            waiting.pod = pod;
            match &mut waiting.place {
                Place::Unschedulable { .. } if !spec_is_same => self.requeue(&key, now),
                Place::InFlight(missed) => *missed |= !spec_is_same,
                _ => {}
            }
            return;
        }
        self.remove(&key);
        let order = (Reverse(pod.priority), now, key.clone());
        self.active.insert(order.clone());
        self.pods
            .insert(key, Waiting { pod, place: Place::Active(order), attempts: 0, tried: now, added: now });
    }

    /// The pod needs no node any more.
    pub fn remove(&mut self, key: &Key) {
        if let Some(waiting) = self.pods.remove(key) {
            self.leave(key, &waiting.place);
        }
    }

    fn leave(&mut self, key: &Key, place: &Place) {
        match place {
            Place::Active(order) => {
                self.active.remove(order);
            }
            Place::BackingOff(until) => {
                self.timers.remove(&(*until, key.clone()));
            }
            Place::Unschedulable { since, .. } => {
                self.timers.remove(&(*since + STALE, key.clone()));
            }
            Place::InFlight(_) => {}
        }
    }

    fn put(&mut self, key: &Key, place: Place) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let place_now = place.clone();
        // First out, then in: both may be the same place.
        let before = std::mem::replace(&mut waiting.place, place);
        self.leave(key, &before);
        match &place_now {
            Place::Active(order) => {
                self.active.insert(order.clone());
            }
            Place::BackingOff(until) => {
                self.timers.insert((*until, key.clone()), ());
            }
            Place::Unschedulable { since, .. } => {
                self.timers.insert((*since + STALE, key.clone()), ());
            }
            Place::InFlight(_) => {}
        }
    }

    /// Active now, or when its pause is over.
    fn requeue(&mut self, key: &Key, now: Instant) {
        let Some(waiting) = self.pods.get(key) else { return };
        let until = waiting.backoff_ends();
        let order = (Reverse(waiting.pod.priority), waiting.added, key.clone());
        self.put(key, if until > now { Place::BackingOff(until) } else { Place::Active(order) });
    }

    /// Takes the next pod. It stays known until [`Queue::remove`], [`Queue::turned_away`] or [`Queue::failed`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.wake(now);
        let (_, _, key) = self.active.first().cloned()?;
        self.put(&key, Place::InFlight(false));
        let waiting = self.pods.get_mut(&key)?;
        waiting.attempts += 1;
        waiting.tried = now;
        Some(waiting.pod.clone())
    }

    fn wake(&mut self, now: Instant) {
        while let Some(((due, key), ())) = self.timers.first_key_value()
            && *due <= now
        {
            let key = key.clone();
            self.timers.pop_first();
            self.requeue(&key, now);
        }
    }

    /// When [`Queue::pop`] may have something to give again.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((due, _), ())| *due)
    }

    /// Was exactly this pod handed out, and is it still? Another of its name may have come meanwhile.
    fn is_in_flight(&self, pod: &PodInfo) -> bool {
        self.pods
            .get(&pod.key)
            .is_some_and(|waiting| waiting.pod.is_same(pod) && matches!(waiting.place, Place::InFlight(_)))
    }

    /// No node fits the pod that was handed out: these rules said no.
    pub fn turned_away(&mut self, pod: &PodInfo, plugins: Vec<&'static str>, now: Instant) {
        match self.pods.get(&pod.key).map(|w| &w.place) {
            _ if !self.is_in_flight(pod) => {}
            Some(Place::InFlight(true)) => self.requeue(&pod.key, now),
            _ => self.put(&pod.key, Place::Unschedulable { plugins, since: now }),
        }
    }

    /// Something else went wrong with the pod that was handed out: try again after a pause.
    pub fn failed(&mut self, pod: &PodInfo, now: Instant) {
        if self.is_in_flight(pod) {
            self.requeue(&pod.key, now);
        }
    }

    /// The pod that was handed out is gone, or placed by someone else.
    pub fn give_up(&mut self, pod: &PodInfo) {
        if self.is_in_flight(pod) {
            self.remove(&pod.key);
        }
    }

    /// Something changed: pods that it may help are tried again.
    pub fn happened(&mut self, event: Event, now: Instant) {
        let mut helped = Vec::new();
        for (key, waiting) in &mut self.pods {
            match &mut waiting.place {
                Place::Unschedulable { plugins, .. } if may_help(event, plugins) => helped.push(key.clone()),
                Place::InFlight(missed) => *missed = true,
                _ => {}
            }
        }
        for key in helped {
            self.requeue(&key, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::pod;
    use serde_json::json;

    fn info(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(pod(name, json!({ "priority": priority }))))
    }

    fn next(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|p| p.key.name.clone())
    }

    #[test]
    fn priority_first_then_age() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for (i, (name, priority)) in [("old", 0), ("high", 9), ("young", 0)].into_iter().enumerate() {
            queue.push(info(name, priority), now + Duration::from_millis(i as u64));
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue, now)).collect();
        assert_eq!(order, ["high", "old", "young"]);
    }

    #[test]
    fn a_pod_turned_away_waits_for_what_may_help_and_for_its_pause() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.push(info("a", 0), start);
        let pod = queue.pop(start).unwrap();
        queue.turned_away(&pod, vec!["NodeAffinity"], start);
        queue.happened(Event::PodGone, start);
        assert_eq!(next(&mut queue, start + Duration::from_secs(2)), None);
        queue.happened(Event::NodeChanged, start);
        assert_eq!(queue.next_timer(), Some(start + FIRST_BACKOFF));
        assert_eq!(next(&mut queue, start), None);
        assert_eq!(next(&mut queue, start + FIRST_BACKOFF), Some("a".into()));
    }

    #[test]
    fn an_event_during_the_decision_is_not_lost() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.push(info("a", 0), start);
        let pod = queue.pop(start).unwrap();
        queue.happened(Event::NodeChanged, start);
        queue.turned_away(&pod, vec!["NodeAffinity"], start);
        assert_eq!(next(&mut queue, start + FIRST_BACKOFF), Some("a".into()));
    }

    #[test]
    fn what_comes_of_an_earlier_pod_of_the_name_does_not_touch_the_next() {
        type Outcome = fn(&mut Queue, &PodInfo, Instant);
        let outcomes: [Outcome; 3] = [
            |queue, pod, now| queue.failed(pod, now),
            |queue, pod, _| queue.give_up(pod),
            |queue, pod, now| queue.turned_away(pod, vec!["NodeAffinity"], now),
        ];
        for outcome in outcomes {
            let start = Instant::now();
            let mut queue = Queue::default();
            queue.push(info("a", 0), start);
            let first = queue.pop(start).unwrap();
            queue.remove(&first.key);
            let mut next_one = (*first.pod).clone();
            next_one.metadata.uid = Some("another".into());
            queue.push(Arc::new(PodInfo::new(Arc::new(next_one))), start);
            outcome(&mut queue, &first, start);
            assert_eq!(next(&mut queue, start), Some("a".into()));
        }
    }

    #[test]
    fn a_change_of_the_pod_during_the_decision_is_not_lost() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.push(info("a", 0), start);
        let pod = queue.pop(start).unwrap();
        let mut tolerant = (*pod.pod).clone();
        tolerant.spec.get_or_insert_default().tolerations = Some(vec![]);
        queue.push(Arc::new(PodInfo::new(Arc::new(tolerant))), start);
        queue.turned_away(&pod, vec!["TaintToleration"], start);
        assert_eq!(next(&mut queue, start + FIRST_BACKOFF), Some("a".into()));
    }

    #[test]
    fn a_removed_pod_is_nowhere() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.push(info("a", 0), start);
        queue.remove(&Key::new("default", "a"));
        assert_eq!(next(&mut queue, start + STALE), None);
        assert_eq!(queue.next_timer(), None);
    }
}
