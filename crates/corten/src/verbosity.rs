//! How much the log says, changed while the process runs.

use std::sync::OnceLock;

use corten_apiserver::Verbosity;

/// Set when the log is.
static VERBOSITY: OnceLock<Verbosity> = OnceLock::new();

/// Whoever asks later changes the log by this.
pub fn keep(set: Verbosity) {
    // The log is made once in a process.
    let _ = VERBOSITY.set(set);
}

/// Changes the log; `None` where there is none yet.
pub fn verbosity() -> Option<Verbosity> {
    VERBOSITY.get().cloned()
}

/// What upstream's numbers mean here: from 4 on they speak of debugging, from 6 on of single requests.
pub fn level(number: u32) -> &'static str {
    match number {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    }
}
