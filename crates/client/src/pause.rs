//! How long a watch that broke waits before it is opened again.

use std::time::Duration;

use kube::runtime::utils::{Backoff, ResetTimerBackoff};

/// The first pause, about.
const SHORTEST: Duration = Duration::from_millis(400);
/// No pause is longer. Upstream's reflectors go up to 30 s; then a node that was cut off for a minute would be deaf for half a
/// minute more.
const LONGEST: Duration = Duration::from_secs(5);
/// A watch that lived this long since the last pause starts with the shortest one again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Pauses that double from half a second to five seconds, each up to a half shorter by chance, so that many nodes that were cut off
/// together do not come back in one instant.
pub fn watch_pause() -> impl Backoff {
    ResetTimerBackoff::new(Pauses { next: SHORTEST }, FORGOTTEN_AFTER)
}

struct Pauses {
    next: Duration,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        Some(pause.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.next = SHORTEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_anew() {
        let mut pauses = Pauses { next: SHORTEST };
        let first: Vec<Duration> = pauses.by_ref().take(10).collect();
        assert!(first[0] >= SHORTEST / 2 && first[0] <= SHORTEST);
        assert!(first.iter().all(|pause| *pause <= LONGEST));
        assert!(first[9] >= LONGEST / 2);
        pauses.reset();
        assert!(pauses.next().unwrap() <= SHORTEST);
    }
}
