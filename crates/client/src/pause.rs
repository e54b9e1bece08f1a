//! How long a watch that broke waits before it is opened again.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause, about.
const SHORTEST: Duration = Duration::from_millis(400);
/// No pause is longer. Upstream's reflectors go up to 30 s; then a node that was cut off for a minute would be deaf for half a
/// minute more.
const LONGEST: Duration = Duration::from_secs(5);
/// A watch that lived this long since the last pause starts with the shortest one again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Pauses that double from half a second to five seconds, each up to a half shorter by chance, so that many nodes that were cut off
/// together do not come back in one instant.
#[derive(Default)]
pub struct Pauses {
    next: Option<Duration>,
    over_at: Option<Instant>,
}

impl Pauses {
    /// The pause after a failure at `now`.
    pub fn after_failure(&mut self, now: Instant) -> Duration {
        let forgotten = self.over_at.is_none_or(|over| now.duration_since(over) >= FORGOTTEN_AFTER);
        let longest = self.next.filter(|_| !forgotten).unwrap_or(SHORTEST);
        self.next = Some((longest * 2).min(LONGEST));
        let pause = longest.mul_f64(rand::random_range(0.5..=1.0));
        self.over_at = Some(now + pause);
        pause
    }
}

/// The same for a watch of `kube`'s.
pub fn watch_pause() -> impl kube::runtime::utils::Backoff {
    Dynamic(Pauses::default())
}

struct Dynamic(Pauses);

impl Iterator for Dynamic {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.after_failure(Instant::now()))
    }
}

impl kube::runtime::utils::Backoff for Dynamic {
    /// After each good event; what counts is how long it went well.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_anew() {
        let (mut pauses, mut now) = (Pauses::default(), Instant::now());
        let mut first = Vec::new();
        for _ in 0..10 {
            let pause = pauses.after_failure(now);
            first.push(pause);
            now += pause;
        }
        assert!(first[0] >= SHORTEST / 2 && first[0] <= SHORTEST);
        assert!(first.iter().all(|pause| *pause <= LONGEST));
        assert!(first[9] >= LONGEST / 2);
        assert!(pauses.after_failure(now + FORGOTTEN_AFTER) <= SHORTEST);
    }
}
