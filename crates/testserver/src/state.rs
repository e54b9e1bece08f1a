//! What the threads of the server share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Health and counters.
pub struct State {
    started: Instant,
    ready_after: Duration,
    failing: AtomicBool,
    requests: AtomicU64,
}

impl State {
    /// Healthy once `ready_after` has passed.
    pub fn new(started: Instant, ready_after: Duration) -> Self {
        Self { started, ready_after, failing: AtomicBool::new(false), requests: AtomicU64::new(0) }
    }

    /// Whether probes are to succeed.
    pub fn healthy(&self, now: Instant) -> bool {
        now.duration_since(self.started) >= self.ready_after && !self.failing.load(Ordering::Relaxed)
    }

    /// Lets probes fail from now on, or succeed again.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// The number of this request, from 1.
    pub fn count(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_comes_late_and_goes_on_demand() {
        let start = Instant::now();
        let state = State::new(start, Duration::from_secs(2));
        assert!(!state.healthy(start + Duration::from_secs(1)));
        assert!(state.healthy(start + Duration::from_secs(2)));
        state.fail(true);
        assert!(!state.healthy(start + Duration::from_secs(3)));
        state.fail(false);
        assert!(state.healthy(start + Duration::from_secs(3)));
    }
}
