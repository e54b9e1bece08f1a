//! A daemon's pod that fails as soon as it is there (a node under pressure refuses it) is not made again as fast as the API can: each
//! node waits longer with each failure.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::Key;
use tokio::time::Instant;

/// After the first failure; doubled with each one (upstream's).
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Daemon set and node.
type Place = (Key, String);

/// When failed pods were last replaced, and how long the next ones wait from then on.
#[derive(Debug, Default)]
pub struct Backoff {
    replaced: Mutex<HashMap<Place, (Instant, Duration)>>,
}

impl Backoff {
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, (Instant, Duration)>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// May failed pods of this set on this node be replaced now? Otherwise in how long. Without a failure for twice the longest wait a
    /// node is forgotten.
    pub fn take(&self, set: &Key, node: &str, now: Instant) -> Result<(), Duration> {
        let mut all = self.lock();
        all.retain(|_, (at, _)| now.saturating_duration_since(*at) < 2 * LONGEST);
        let place = (set.clone(), node.to_owned());
        let wait = match all.get(&place) {
            None => FIRST,
            Some((at, wait)) => match (*at + *wait).checked_duration_since(now) {
                Some(left) if !left.is_zero() => return Err(left),
                _ => (*wait * 2).min(LONGEST),
            },
        };
        all.insert(place, (now, wait));
        Ok(())
    }

    /// The set is gone.
    pub fn forget(&self, set: &Key) {
        self.lock().retain(|(of, _), _| of != set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_on_a_node_makes_the_next_wait_longer() {
        let (backoff, set, mut now) = (Backoff::default(), Key::new("ns", "d"), Instant::now());
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            assert_eq!(backoff.take(&set, "n", now), Ok(()));
            let wait = Duration::from_secs(seconds);
            assert_eq!(backoff.take(&set, "n", now), Err(wait));
            now += wait;
        }
        assert_eq!(backoff.take(&set, "other", now), Ok(()));
        now += 2 * LONGEST;
        assert_eq!(backoff.take(&set, "n", now), Ok(()));
        assert_eq!(backoff.take(&set, "n", now), Err(FIRST));
        backoff.forget(&set);
        assert!(backoff.lock().is_empty());
    }
}
