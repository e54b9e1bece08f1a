//! Leader election by a Lease: of several copies of a component only the holder works.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::PostParams;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Api;

/// Times of an election; upstream's defaults.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How long a silent holder keeps the lease.
    pub lease: Duration,
    /// How long a holder tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a look at the lease says to do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nobody holds it, or we do: write our name and time.
    Take,
    /// Someone else holds it and still speaks.
    Wait,
}

/// When the record last changed, by our own clock: the clocks of holders are not compared.
struct Observed {
    record: Option<LeaseSpec>,
    changed: Instant,
}

fn step(observed: &Observed, identity: &str, timing: &Timing, now: Instant) -> Step {
    let Some(record) = &observed.record else { return Step::Take };
    let holder = record.holder_identity.as_deref().unwrap_or_default();
    let silent = now.duration_since(observed.changed) >= timing.lease;
    if holder.is_empty() || holder == identity || silent { Step::Take } else { Step::Wait }
}

/// One candidate for one lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    namespace: String,
    identity: String,
    timing: Timing,
}

impl Candidate {
    /// `identity` must be unique among the candidates.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        Candidate {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity: identity.to_owned(),
            timing,
        }
    }

    /// Waits until this candidate holds the lease. The token that is returned is cancelled when it is lost.
    pub fn lead(self, stop: CancellationToken) -> BoxFuture<'static, Option<CancellationToken>> {
        Box::pin(async move {
            let mut observed = Observed { record: None, changed: Instant::now() };
            loop {
                let held =
                    tokio::time::timeout(self.timing.renew_deadline, self.try_hold(&mut observed)).await;
                if held == Ok(true) {
                    break;
                }
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(self.timing.retry) => {}
                }
            }
            let leading = stop.child_token();
            tokio::spawn(self.keep(observed, stop, leading.clone()));
            Some(leading)
        })
    }

    async fn keep(self, mut observed: Observed, stop: CancellationToken, leading: CancellationToken) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.timing.renew_deadline {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.timing.retry) => {}
            }
            let left = self.timing.renew_deadline.saturating_sub(renewed.elapsed());
            // A server that does not answer must not keep us leading while another one takes the lease.
            if tokio::time::timeout(left, self.try_hold(&mut observed)).await == Ok(true) {
                renewed = Instant::now();
            }
        }
        leading.cancel();
    }

    async fn try_hold(&self, observed: &mut Observed) -> bool {
        match self.look_and_write(observed).await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(%error, lease = self.name, "lease was not written");
                false
            }
        }
    }

    async fn look_and_write(&self, observed: &mut Observed) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let record = found.as_ref().and_then(|lease| lease.spec.clone());
        if record != observed.record {
            *observed = Observed { record: record.clone(), changed: Instant::now() };
        }
        if step(observed, &self.identity, &self.timing, Instant::now()) == Step::Wait {
            return Ok(false);
        }
        let next = self.record(record.as_ref());
        let written = match found {
            Some(mut lease) => {
                lease.spec = Some(next);
                self.api.replace(&self.name, &PostParams::default(), &lease).await?
            }
            None => self.api.create(&PostParams::default(), &self.fresh(next)).await?,
        };
        *observed = Observed { record: written.spec, changed: Instant::now() };
        Ok(true)
    }

    fn fresh(&self, spec: LeaseSpec) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        };
        Lease { metadata, spec: Some(spec) }
    }

    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.filter(|b| b.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before
            .map_or(0, |b| b.lease_transitions.unwrap_or_default().saturating_add(ours.is_none().into()));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease.as_secs()).ok(),
            acquire_time: ours.and_then(|b| b.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_when_free_ours_or_silent() {
        let timing = Timing::default();
        let held_by =
            |holder: &str| Some(LeaseSpec { holder_identity: Some(holder.into()), ..LeaseSpec::default() });
        let start = Instant::now();
        let table = [
            (None, 0, Step::Take),
            (held_by(""), 0, Step::Take),
            (held_by("me"), 0, Step::Take),
            (held_by("other"), 14, Step::Wait),
            (held_by("other"), 15, Step::Take),
        ];
        for (record, seconds, expected) in table {
            let observed = Observed { record: record.clone(), changed: start };
            let now = start + Duration::from_secs(seconds);
            assert_eq!(step(&observed, "me", &timing, now), expected, "{record:?} after {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_ends_the_lead() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, tower::BoxError>>()
        });
        let client = crate::in_process(silent);
        let candidate = Candidate::new(client, "kube-system", "x", "me", Timing::default());
        let leading = CancellationToken::new();
        let observed = Observed { record: None, changed: Instant::now() };
        candidate.keep(observed, CancellationToken::new(), leading.clone()).await;
        assert!(leading.is_cancelled());
    }
}
