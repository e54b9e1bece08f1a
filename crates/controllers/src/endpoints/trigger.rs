//! When the change happened that an endpoint object is written for: the oldest that the object does not tell of yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use corten_client::Key;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::Timestamp;

/// What was known of a service at the last look.
#[derive(Debug, Default)]
struct Seen {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

/// Remembers what was seen, by service.
#[derive(Debug, Default)]
pub struct Triggers {
    seen: Mutex<HashMap<Key, Seen>>,
}

/// When a pod last became ready or not ready.
fn of_pod(pod: &Pod) -> Option<Timestamp> {
    let ready = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")?;
    ready.last_transition_time.as_ref().map(|t| t.0)
}

impl Triggers {
    /// The oldest change since the last look; a service that was not seen before counts from its creation.
    pub fn look(&self, key: &Key, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let named = |pod: &Arc<Pod>| Some((pod.metadata.name.clone()?, of_pod(pod)?));
        let made = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let now = Seen { service: made, pods: pods.iter().filter_map(named).collect() };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = seen.get(key) else {
            seen.insert(key.clone(), now);
            return made;
        };
        let new_pods = now.pods.iter().filter(|(name, at)| before.pods.get(*name).is_none_or(|b| b < *at));
        let new_service = now.service.filter(|at| before.service.is_none_or(|b| b < *at));
        let oldest = new_pods.map(|(_, at)| *at).chain(new_service).min();
        seen.insert(key.clone(), now);
        oldest
    }

    /// The service is gone.
    pub fn forget(&self, key: &Key) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{pod, service};
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_change_since_the_last_look() {
        let (triggers, key, service) = (Triggers::default(), Key::new("ns", "s"), service(json!({})));
        let (a, b) = (Arc::new(pod("a", "10.0.0.1", true)), Arc::new(pod("b", "10.0.0.2", true)));
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let alone = [a.clone()];
        assert_eq!(triggers.look(&key, &service, &alone), at("2026-01-01T00:00:00Z"));
        assert_eq!(triggers.look(&key, &service, &alone), None);
        assert_eq!(triggers.look(&key, &service, &[a.clone(), b]), at("2026-01-01T00:00:10Z"));
        triggers.forget(&key);
        assert_eq!(triggers.look(&key, &service, &[a]), at("2026-01-01T00:00:00Z"));
    }
}
