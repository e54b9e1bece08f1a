//! How many pods to make or which to delete, and what the status says. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;

use super::kind::Counts;
use crate::pods::{self, BURST};
use corten_client::selector;

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods to make.
    pub create: usize,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
}

/// Makes up the difference between the wanted pods and the active ones of those owned.
pub fn plan(wanted: i32, owned: &[Arc<Pod>]) -> Plan {
    let mut active: Vec<Arc<Pod>> = owned.iter().filter(|p| pods::is_active(p)).cloned().collect();
    let wanted = usize::try_from(wanted).unwrap_or_default();
    if active.len() <= wanted {
        return Plan { create: (wanted - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = (active.len() - wanted).min(BURST);
    pods::sort_for_deletion(&mut active);
    active.truncate(surplus);
    Plan { create: 0, delete: active }
}

/// Counts pods for the status.
pub fn counts(
    owned: &[Arc<Pod>],
    template: Option<&LabelSelector>,
    min_ready_seconds: i32,
    generation: i64,
    now: Timestamp,
) -> Counts {
    let active: Vec<&Arc<Pod>> = owned.iter().filter(|p| pods::is_active(p)).collect();
    let count = |holds: &dyn Fn(&Pod) -> bool| active.iter().filter(|p| holds(p)).count() as i32;
    let terminating = owned.iter().filter(|p| p.metadata.deletion_timestamp.is_some());
    Counts {
        replicas: active.len() as i32,
        fully_labeled: count(&|p| template.is_none_or(|t| selector::matches(t, p.metadata.labels.as_ref()))),
        ready: count(&pods::is_ready),
        available: count(&|p| pods::is_available(p, min_ready_seconds, now)),
        terminating: terminating.filter(|p| !matches!(pods::phase(p), "Succeeded" | "Failed")).count() as i32,
        observed_generation: generation,
        failure: None,
    }
}

/// When the next ready pod becomes available.
pub fn next_available(owned: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let waits = owned.iter().filter(|p| pods::is_active(p));
    waits.filter_map(|p| pods::until_available(p, min_ready_seconds, now)).filter(|d| !d.is_zero()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;

    #[test]
    fn the_difference_is_made_up() {
        let two = [pod("a", true, "n"), pod("b", false, "n")];
        let table = [(0, 0, 2), (1, 0, 1), (2, 0, 0), (5, 3, 0), (-1, 0, 2)];
        for (wanted, create, delete) in table {
            let plan = plan(wanted, &two);
            assert_eq!((plan.create, plan.delete.len()), (create, delete), "{wanted} wanted");
        }
        assert_eq!(plan(1, &two).delete[0].metadata.name.as_deref(), Some("b"));
    }

    #[test]
    fn pods_that_end_are_replaced_but_counted_as_terminating() {
        let mut ending = (*pod("a", true, "n")).clone();
        ending.metadata.deletion_timestamp = ending.metadata.creation_timestamp.clone();
        let owned = [Arc::new(ending), pod("b", true, "n")];
        assert_eq!(plan(2, &owned).create, 1);
        let counts = counts(&owned, None, 0, 7, Timestamp::now());
        assert_eq!((counts.replicas, counts.ready, counts.terminating), (1, 1, 1));
    }
}
