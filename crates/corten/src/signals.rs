//! SIGTERM and SIGINT, caught from the first moment of a cluster's process: one that comes during the start must find a
//! process that knows how to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a cluster.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches both from now on; none that comes later is lost, even while nobody waits.
    pub fn catch() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
