use serde_json::json;

use super::*;
use crate::backend::{Call, Recorder};
use crate::ruleset::Ruleset;
use crate::testing::{service, slice};
use async_trait::async_trait;
use tokio::sync::watch;

/// A recorder that others can look at and wait for.
struct Shown {
    recorder: Recorder,
    show: watch::Sender<(Ruleset, Vec<Call>)>,
    /// Tells when somebody else changes something; none: nobody does.
    others: Option<Arc<Notify>>,
}

#[async_trait]
impl Backend for Shown {
    async fn sync_all(&mut self, rules: &Ruleset) -> Result<(), Error> {
        let outcome = self.recorder.sync_all(rules).await;
        self.show.send_replace((self.recorder.rules.clone(), self.recorder.calls.clone()));
        outcome
    }

    async fn apply(&mut self, change: &Change, rules: &Ruleset) -> Result<(), Error> {
        let outcome = self.recorder.apply(change, rules).await;
        self.show.send_replace((self.recorder.rules.clone(), self.recorder.calls.clone()));
        outcome
    }

    async fn cleanup(&mut self) -> Result<(), Error> {
        self.recorder.cleanup().await
    }

    async fn disturbed(&mut self) {
        match &self.others {
            Some(others) => others.notified().await,
            None => std::future::pending().await,
        }
    }

    fn hears_all(&self) -> bool {
        self.others.is_some()
    }
}

fn inputs() -> Inputs {
    let inputs =
        Inputs { services: Informer::detached(), slices: Informer::detached(), nodes: Informer::detached() };
    inputs.services.mark_synced();
    inputs.slices.mark_synced();
    inputs.nodes.mark_synced();
    inputs
}

type Told = (watch::Receiver<(Ruleset, Vec<Call>)>, CancellationToken);

fn start(inputs: &Inputs, failures: usize) -> Told {
    start_with(inputs, failures, None)
}

fn start_with(inputs: &Inputs, failures: usize, others: Option<Arc<Notify>>) -> Told {
    let (show, shown) = watch::channel((Ruleset::default(), Vec::new()));
    let recorder = Recorder { failures, ..Recorder::default() };
    let stop = CancellationToken::new();
    let run = run_with(
        Box::new(Shown { recorder, show, others }),
        inputs.clone(),
        Config::new("t", "here"),
        stop.clone(),
    );
    tokio::spawn(run);
    (shown, stop)
}

fn web(ip: &str) -> Service {
    service("web", json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]}))
}

fn endpoints(name: &str, addresses: &[&str]) -> EndpointSlice {
    let all: Vec<_> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
    slice("web", name, json!({"name": "", "port": 8080}), json!(all))
}

fn addresses(rules: &Ruleset) -> Vec<String> {
    rules.ports.values().flat_map(|port| port.cluster.iter().map(|e| e.address.to_string())).collect()
}

#[tokio::test(start_paused = true)]
async fn changes_reach_the_back_end_as_differences() {
    let inputs = inputs();
    inputs.services.apply(web("10.96.0.7"));
    inputs.slices.apply(endpoints("a", &["10.9.0.1"]));
    let (mut shown, stop) = start(&inputs, 0);
    shown.wait_for(|(rules, _)| addresses(rules) == ["10.9.0.1"]).await.unwrap();
    inputs.slices.apply(endpoints("b", &["10.9.0.2"]));
    shown.wait_for(|(rules, _)| addresses(rules) == ["10.9.0.1", "10.9.0.2"]).await.unwrap();
    inputs.slices.delete(&Key::new("ns", "a"));
    shown.wait_for(|(rules, _)| addresses(rules) == ["10.9.0.2"]).await.unwrap();
    inputs.services.delete(&Key::new("ns", "web"));
    shown.wait_for(|(rules, _)| rules.ports.is_empty()).await.unwrap();
    let calls = shown.borrow().1.clone();
    assert_eq!(calls[0], Call::SyncAll);
    assert!(
        calls[1..].iter().all(|call| matches!(call, Call::Apply(change) if change.ports.len() == 1)),
        "{calls:?}"
    );
    assert_eq!(calls.len(), 4);
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_followed_by_a_full_sync() {
    let inputs = inputs();
    inputs.services.apply(web("10.96.0.7"));
    inputs.slices.apply(endpoints("a", &["10.9.0.1"]));
    let (mut shown, stop) = start(&inputs, 3);
    shown.wait_for(|(_, calls)| !calls.is_empty()).await.unwrap();
    assert_eq!(shown.borrow().1, [Call::SyncAll]);
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn what_others_change_is_written_anew() {
    let inputs = inputs();
    inputs.services.apply(web("10.96.0.7"));
    let others = Arc::new(Notify::new());
    let (mut shown, stop) = start_with(&inputs, 0, Some(others.clone()));
    shown.wait_for(|(_, calls)| calls.len() == 1).await.unwrap();
    let begin = Clock::now();
    others.notify_one();
    shown.wait_for(|(_, calls)| calls.len() == 2).await.unwrap();
    assert!(begin.elapsed() < REPAIR_PAUSE, "the first time at once");
    others.notify_one();
    shown.wait_for(|(_, calls)| calls.len() == 3).await.unwrap();
    assert!(begin.elapsed() >= REPAIR_PAUSE, "then not all the time");
    assert_eq!(shown.borrow().1, [Call::SyncAll, Call::SyncAll, Call::SyncAll]);
    tokio::time::sleep(crate::DEFAULT_SYNC_PERIOD * 3).await;
    assert_eq!(shown.borrow().1.len(), 3, "who hears everything needs no regular sync");
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn who_hears_nothing_syncs_from_time_to_time() {
    let inputs = inputs();
    inputs.services.apply(web("10.96.0.7"));
    let (mut shown, stop) = start(&inputs, 0);
    let begin = Clock::now();
    shown.wait_for(|(_, calls)| calls.len() == 3).await.unwrap();
    assert!(begin.elapsed() >= crate::DEFAULT_SYNC_PERIOD * 2);
    assert_eq!(shown.borrow().1, [Call::SyncAll, Call::SyncAll, Call::SyncAll]);
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn another_zone_plans_everything_anew() {
    let inputs = inputs();
    inputs.services.apply(web("10.96.0.7"));
    let hinted = |ip: &str, zone: &str| json!({"addresses": [ip], "hints": {"forZones": [{"name": zone}]}});
    let all = json!([hinted("10.9.0.1", "z1"), hinted("10.9.0.2", "z2")]);
    inputs.slices.apply(slice("web", "a", json!({"name": "", "port": 8080}), all));
    let (mut shown, stop) = start(&inputs, 0);
    shown.wait_for(|(rules, _)| addresses(rules).len() == 2).await.unwrap();
    let node = |zone: &str| {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        serde_json::from_value(json!({"metadata": {"name": "here", "labels": labels}})).unwrap()
    };
    inputs.nodes.apply(node("z2"));
    shown.wait_for(|(rules, _)| addresses(rules) == ["10.9.0.2"]).await.unwrap();
    stop.cancel();
}

#[test]
fn retries_come_later_and_later() {
    let waits = [1, 2, 3, 9, 10, 40].map(|n| retry_after(n).as_millis());
    assert_eq!(waits, [100, 200, 400, 25_600, 30_000, 30_000]);
}
