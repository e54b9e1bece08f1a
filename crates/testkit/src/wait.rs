//! Waiting for what will be so soon.

use std::time::{Duration, Instant};

/// How long anything may take before its test fails. Only failures ever use it up: debug builds on small machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at something that cannot be watched.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Looks until there is an answer; `what` names it when there never is.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// Like [`eventually`] with a deadline of one's own.
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
