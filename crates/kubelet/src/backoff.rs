//! Exponential back-off as upstream counts it: a delay that doubles with every use, is measured from the
//! event that caused it, and is forgotten after a quiet time of twice its ceiling.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// First delay after a container's crash or an image's failed pull.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest delay.
pub const CEILING: Duration = Duration::from_secs(300);

/// The back-off of one thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

impl Backoff {
    /// When the wait caused by `event` is over; `None` when there is nothing to wait for.
    pub fn until(&self, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = self.entry.filter(|entry| !expired(entry, event))?;
        let end = add(event, entry.delay);
        (end > now).then_some(end)
    }

    /// Like [`Backoff::until`], measured from the last use instead of from an event.
    pub fn until_since_update(&self, now: Timestamp) -> Option<Timestamp> {
        let entry = self.entry.filter(|entry| !expired(entry, now))?;
        let end = add(entry.updated, entry.delay);
        (end > now).then_some(end)
    }

    /// Counts one more use because of `event`.
    pub fn advance(&mut self, event: Timestamp, now: Timestamp) {
        let delay = match self.entry {
            Some(entry) if !expired(&entry, event) => (entry.delay * 2).min(CEILING),
            _ => INITIAL,
        };
        self.entry = Some(Entry { delay, updated: now });
    }

    /// The delay in force; zero before the first use.
    pub fn delay(&self) -> Duration {
        self.entry.map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.entry = None;
    }
}

fn expired(entry: &Entry, event: Timestamp) -> bool {
    event.duration_since(entry.updated) > SignedDuration::try_from(CEILING * 2).unwrap_or(SignedDuration::MAX)
}

/// `at + delay`, stopping at the end of time.
pub fn add(at: Timestamp, delay: Duration) -> Timestamp {
    at.checked_add(delay).unwrap_or(Timestamp::MAX)
}

/// A duration as Go prints it (`10s`, `1m20s`, `5m0s`), for delays of whole seconds.
pub fn go_duration(delay: Duration) -> String {
    let seconds = delay.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// A duration as Go prints it with milliseconds (`735ms`, `2.104s`).
pub fn go_millis(delay: Duration) -> String {
    let millis = delay.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let whole = go_duration(delay);
    let rest = millis % 1000;
    if rest == 0 {
        return whole;
    }
    let fraction = format!("{rest:03}");
    format!("{}.{}s", whole.trim_end_matches('s'), fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn crash_loop_doubles_to_the_ceiling_and_is_forgotten() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(at(0), at(0)), None, "the first restart is at once");
        backoff.advance(at(0), at(0));
        assert_eq!(backoff.until(at(1), at(2)), Some(at(11)));
        assert_eq!(backoff.until(at(1), at(11)), None);
        for expected in [20, 40, 80, 160, 300, 300] {
            backoff.advance(at(12), at(12));
            assert_eq!(backoff.delay().as_secs(), expected);
        }
        assert_eq!(backoff.until(at(12 + 601), at(12 + 602)), None, "quiet for ten minutes");
        backoff.advance(at(12 + 601), at(12 + 602));
        assert_eq!(backoff.delay(), INITIAL);
    }

    #[test]
    fn pull_back_off_is_measured_from_the_last_pull() {
        let mut backoff = Backoff::default();
        backoff.advance(at(5), at(5));
        assert_eq!(backoff.until_since_update(at(6)), Some(at(15)));
        assert_eq!(backoff.until_since_update(at(15)), None);
    }

    #[test]
    fn durations_read_like_go() {
        for (seconds, text) in [(10, "10s"), (20, "20s"), (80, "1m20s"), (300, "5m0s"), (3661, "1h1m1s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
        for (millis, text) in [(735, "735ms"), (2104, "2.104s"), (2000, "2s"), (61_500, "1m1.5s")] {
            assert_eq!(go_millis(Duration::from_millis(millis)), text);
        }
    }
}
