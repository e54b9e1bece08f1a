//! The life of a process that runs parts: start them, watch over them, end them in bounded time.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::signals::Signals;

/// Parts have so long to end after they were asked to; each bounds its own end to less.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// The parts that run, by name.
pub struct Parts {
    running: JoinSet<Result<()>>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
    patience: Duration,
}

impl Default for Parts {
    fn default() -> Self {
        Parts {
            running: JoinSet::new(),
            names: HashMap::new(),
            stop: CancellationToken::new(),
            patience: END_PATIENCE,
        }
    }
}

/// Runs `start` and then what it started, until a signal comes or a part ends by itself; then ends all parts.
///
/// Errors: the start failed, or a part did, or a second signal came before the end.
pub async fn live(signals: &mut Signals, start: impl AsyncFnOnce(&mut Parts) -> Result<()>) -> Result<()> {
    let mut parts = Parts::default();
    let life = async {
        start(&mut parts).await?;
        parts.first_end().await
    };
    let outcome = tokio::select! {
        biased;
        () = signals.next() => Ok(()),
        outcome = life => outcome,
    };
    if parts.end(signals).await { Err(anyhow!("ended at once by a second signal")) } else { outcome }
}

impl Parts {
    /// Asks all parts to end when it is cancelled.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// A part's orderly end may take so long.
    pub fn allow(&mut self, time: Duration) {
        self.patience = self.patience.max(END_PATIENCE + time);
    }

    /// Starts a part. It should end soon after [`Parts::stop`] and not before.
    pub fn start(&mut self, name: &'static str, part: impl Future<Output = Result<()>> + Send + 'static) {
        let handle = self.running.spawn(part);
        self.names.insert(handle.id(), name);
    }

    /// Waits for a part that ends before it is asked to, which is always an error.
    async fn first_end(&mut self) -> Result<()> {
        match self.next_end().await {
            Some((name, outcome)) => {
                outcome.context(name).and_then(|()| Err(anyhow!("{name} ended by itself")))
            }
            None => std::future::pending().await,
        }
    }

    async fn next_end(&mut self) -> Option<(&'static str, Result<()>)> {
        let (id, outcome) = match self.running.join_next_with_id().await? {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(error.into())),
        };
        Some((self.names.remove(&id).unwrap_or("a part"), outcome))
    }

    /// Ends all parts. A second signal (then it says `true`), or the end of the patience, ends the waiting.
    async fn end(mut self, signals: &mut Signals) -> bool {
        tracing::info!("stopping; containers go on");
        self.stop.cancel();
        let patience = self.patience;
        let all = async {
            while let Some((part, outcome)) = self.next_end().await {
                if let Err(error) = outcome {
                    tracing::warn!(part, "stopped with an error: {error:#}");
                }
            }
        };
        let second = tokio::select! {
            () = all => return false,
            () = signals.next() => true,
            () = tokio::time::sleep(patience) => false,
        };
        let parts: Vec<_> = self.names.values().collect();
        tracing::warn!(?parts, "these parts did not end in time and are cut off");
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_by_itself_ends_the_others() {
        let mut signals = Signals::catch().unwrap();
        let outcome = live(&mut signals, async |parts| {
            let stop = parts.stop();
            parts.start("patient", async move {
                stop.cancelled().await;
                Ok(())
            });
            parts.start("hasty", async { Ok(()) });
            Ok(())
        });
        assert_eq!(outcome.await.unwrap_err().to_string(), "hasty ended by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_end_is_cut_off() {
        let mut signals = Signals::catch().unwrap();
        let before = tokio::time::Instant::now();
        let outcome = live(&mut signals, async |parts| {
            parts.start("deaf", std::future::pending());
            Err(anyhow!("no luck"))
        });
        assert_eq!(outcome.await.unwrap_err().to_string(), "no luck");
        assert_eq!(before.elapsed(), END_PATIENCE);
    }
}
