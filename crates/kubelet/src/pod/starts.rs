//! Places for pods that start. Thirty pods that come at once and start side by side all run at the end, because each has to
//! share the processors with the others from its first step to its last; started a few at a time, half of them run after half
//! of the time, and the last one no later.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::plan::{Plan, Step};

/// Starting pods for each processor: while one waits for the kernel or the disk, another works.
const PER_PROCESSOR: usize = 2;
/// Longest wait for a place: pods whose start hangs (a policy that does not come, a slow API) must not hold up others for long.
const PATIENCE: Duration = Duration::from_secs(3);

/// The places of one kubelet.
#[derive(Debug)]
pub struct Starts {
    places: Arc<Semaphore>,
    patience: Duration,
}

/// Held while a pod starts. Who has waited for too long starts without a real one.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Starts {
    /// As many places as suit a machine with so many thousandths of processors.
    pub fn for_machine(cpu_milli: i64) -> Self {
        let processors = usize::try_from(cpu_milli / 1000).unwrap_or(1).max(1);
        Self::new(processors * PER_PROCESSOR, PATIENCE)
    }

    fn new(places: usize, patience: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), patience }
    }

    /// A place that is free now and that nobody waits for.
    pub fn free(&self) -> Option<Place> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(Place { _permit: Some(permit) })
    }

    /// Waits for a place: first come, first served, and nobody for ever.
    pub async fn wait(&self) -> Place {
        let permit = tokio::time::timeout(self.patience, self.places.clone().acquire_owned()).await;
        Place { _permit: permit.ok().and_then(Result::ok) }
    }
}

/// Whether carrying out a plan needs a place: what ends, removes or changes something never waits.
pub fn needs_place(plan: &Plan) -> bool {
    let starts = |step: &Step| matches!(step, Step::Prepare { sandbox: Some(_), .. } | Step::Start { .. });
    plan.steps.iter().any(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_given_back_and_nobody_waits_for_ever() {
        let starts = Starts::new(1, Duration::from_millis(1));
        let first = starts.free().unwrap();
        assert!(starts.free().is_none());
        // One that gives up waiting goes on without.
        drop(starts.wait().await);
        assert!(starts.free().is_none());
        drop(first);
        let second = starts.wait().await;
        assert!(starts.free().is_none());
        drop(second);
        assert!(starts.free().is_some());
    }

    #[test]
    fn only_starts_need_a_place() {
        let id = || "c".to_owned();
        let start = Step::Start { name: id(), restart_count: 0, after: None };
        for (steps, needs) in [
            (vec![], false),
            (vec![Step::Remove { id: id() }, Step::Cleanup], false),
            (vec![Step::Prepare { volumes: true, sandbox: None }], false),
            (vec![Step::Prepare { volumes: true, sandbox: Some(0) }], true),
            (vec![Step::Remove { id: id() }, start], true),
        ] {
            let plan = Plan { steps, ..Plan::default() };
            assert_eq!(needs_place(&plan), needs, "{plan:?}");
        }
    }
}
