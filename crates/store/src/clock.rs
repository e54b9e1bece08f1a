//! Time as the store sees it, so that tests decide when leases and history age.

use std::time::{Duration, Instant};

/// A clock that never goes back.
pub trait Clock: Send + Sync + 'static {
    /// Time since an origin of the clock's own choice.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock; its origin is the moment it was made.
#[derive(Debug)]
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    /// A clock that starts at zero now.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
