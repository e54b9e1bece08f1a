//! Certificates of a node are renewed while it runs: somewhere between 70 and 90 percent of their life (upstream's span), so that many
//! nodes that joined together do not all ask in one instant. The key stays.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::join::Certified;

/// Where in a certificate's life it is renewed.
const SPAN: (f64, f64) = (0.7, 0.9);
/// The clock is looked at this often: a machine that slept wakes up later than its timers believe.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);
/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(10);

/// A certificate, and who is told of a new one.
pub struct Renewal {
    certified: Certified,
    taken: Box<dyn Fn(&Certified) -> Result<()> + Send + Sync>,
}

impl Renewal {
    /// Of this certificate; `taken` puts a new one to use.
    pub fn new(
        certified: Certified,
        taken: impl Fn(&Certified) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Renewal { certified, taken: Box::new(taken) }
    }

    /// Renews until `stop`, asked for by `client`.
    pub async fn run(self, client: Client, stop: CancellationToken) {
        let mut failed = false;
        loop {
            let pause = if failed { RETRY } else { self.pause() };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if !failed && !self.pause().is_zero() {
                continue;
            }
            let file = self.certified.file();
            let renewed = tokio::select! {
                () = stop.cancelled() => return,
                renewed = self.renew(&client) => renewed,
            };
            failed = renewed.is_err();
            match renewed {
                Ok(()) => tracing::info!(file, "certificate renewed"),
                Err(error) => tracing::warn!(file, "certificate not renewed: {error:#}"),
            }
        }
    }

    async fn renew(&self, client: &Client) -> Result<()> {
        self.certified.ask(client).await?;
        (self.taken)(&self.certified)
    }

    /// How long to sleep now; zero when it is time.
    fn pause(&self) -> Duration {
        match self.certified.keys().life() {
            Ok((from, until)) => {
                let due = due(from, until, self.certified.chance());
                due.duration_since(SystemTime::now()).unwrap_or_default().min(LONGEST_SLEEP)
            }
            Err(error) => {
                tracing::warn!(file = self.certified.file(), "certificate cannot be read: {error:#}");
                RETRY
            }
        }
    }
}

/// When a certificate with this life is renewed; `chance` is from 0 to 1.
fn due(from: SystemTime, until: SystemTime, chance: f64) -> SystemTime {
    let life = until.duration_since(from).unwrap_or_default();
    let (first, last) = SPAN;
    from + life.mul_f64(first + (last - first) * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_certificate_is_renewed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (from, until, chance, expected) in [
            (1000, 2000, 0.0, 1700),
            (1000, 2000, 0.5, 1800),
            (1000, 2000, 1.0, 1900),
            (1000, 2000, 7.0, 1900),
            (2000, 1000, 0.5, 2000),
        ] {
            let found = due(at(from), at(until), chance);
            let off = found.duration_since(at(expected)).unwrap_or_else(|error| error.duration());
            assert!(off < Duration::from_millis(1), "{from} {until} {chance}");
        }
    }
}
