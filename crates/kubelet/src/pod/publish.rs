//! Status on its way to the API: one sender a pod, which sends the newest status only, only what changed,
//! and keeps trying; at the end it removes the pod from the API.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Error};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::mirror::Mirror;
use super::spec;
use super::status::RESIZE_CONDITIONS;
use crate::host::Host;

/// First pause after a failed patch.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause after failed patches.
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// What a worker wants the API to know.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// Newest status.
    pub status: Option<PodStatus>,
    /// Nothing is left on the node: delete the object.
    pub finish: bool,
    /// The object as the API showed it last.
    pub seen: Option<Arc<Pod>>,
}

/// Handle of a sender; dropping it ends the task after what was last put in has been sent.
pub struct Publisher {
    outbox: watch::Sender<Outbox>,
    done: watch::Receiver<bool>,
}

impl Publisher {
    /// Starts the sender of `pod`.
    pub fn start(client: Client, pod: &Pod, stop: CancellationToken) -> Self {
        let (outbox, waiting) = watch::channel(Outbox::default());
        let (finished, done) = watch::channel(false);
        let sender = Sender {
            api: Api::namespaced(client, spec::namespace(pod)),
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            sent: pod.status.clone().unwrap_or_default(),
            version: version_of(pod),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = sender.run(waiting) => {}
                () = stop.cancelled() => {}
            }
            let _ = finished.send(true);
        });
        Self { outbox, done }
    }

    /// Starts the keeper of a static pod's mirror, which also takes its status.
    pub fn mirror(host: Arc<Host>, pod: Arc<Pod>) -> Self {
        let (outbox, waiting) = watch::channel(Outbox::default());
        let (finished, done) = watch::channel(false);
        let stop = host.stop.clone();
        let mirror = Mirror::new(host, pod);
        tokio::spawn(async move {
            tokio::select! {
                () = mirror.run(waiting) => {}
                () = stop.cancelled() => {}
            }
            let _ = finished.send(true);
        });
        Self { outbox, done }
    }

    /// Asks for the object's deletion and does not wait: a static pod ends without the API.
    pub fn finish_later(self) {
        self.outbox.send_modify(|outbox| outbox.finish = true);
    }

    /// Puts a status in; an older one that was not sent is forgotten. Equal ones are not sent again.
    pub fn put(&self, status: PodStatus) {
        self.outbox.send_if_modified(|outbox| {
            let changed = outbox.status.as_ref() != Some(&status);
            outbox.status = Some(status);
            changed
        });
    }

    /// Takes in what the API shows. What somebody else wrote over our word about readiness is written again.
    pub fn saw(&self, pod: &Arc<Pod>) {
        self.outbox.send_if_modified(|outbox| {
            let differs = outbox
                .status
                .as_ref()
                .is_some_and(|status| ready(status) != pod.status.as_ref().and_then(ready));
            outbox.seen = Some(pod.clone());
            differs
        });
    }

    /// Asks for the object's deletion and waits until it is gone (or the kubelet stops).
    pub async fn finish(mut self) {
        self.outbox.send_modify(|outbox| outbox.finish = true);
        let _ = self.done.wait_for(|done| *done).await;
    }
}

struct Sender {
    api: Api<Pod>,
    name: String,
    uid: String,
    sent: PodStatus,
    /// Resource version of the object after the last write of ours.
    version: u64,
}

enum Outcome {
    Done,
    Gone,
    Again,
}

impl Sender {
    async fn run(mut self, mut outbox: watch::Receiver<Outbox>) {
        while outbox.changed().await.is_ok() {
            let mut pause = RETRY_FIRST;
            loop {
                let wanted = outbox.borrow_and_update().clone();
                match self.deliver(&wanted).await {
                    Outcome::Done if wanted.finish => return,
                    Outcome::Done => break,
                    Outcome::Gone => return,
                    Outcome::Again => {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY_LONGEST);
                    }
                }
            }
        }
    }

    async fn deliver(&mut self, wanted: &Outbox) -> Outcome {
        if let Some(theirs) =
            wanted.seen.as_ref().and_then(|seen| overwritten(&self.sent, self.version, seen))
        {
            self.sent.conditions.clone_from(&theirs.conditions);
        }
        if let Some(status) = &wanted.status
            && let Some(patch) = status_patch(&self.uid, &self.sent, status)
        {
            let sent =
                self.api.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            match sent {
                Ok(written) => {
                    self.sent = status.clone();
                    self.version = version_of(&written);
                }
                Err(error) => return self.failed("patch", &error),
            }
        }
        if !wanted.finish {
            return Outcome::Done;
        }
        let preconditions = Preconditions { uid: Some(self.uid.clone()), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..Default::default()
        };
        match self.api.delete(&self.name, &params).await {
            Ok(_) => Outcome::Done,
            Err(error) => self.failed("delete", &error),
        }
    }

    fn failed(&self, what: &str, error: &Error) -> Outcome {
        match error {
            Error::Api(status) if status.code == 404 || is_another(status.code, &status.message) => {
                Outcome::Gone
            }
            error => {
                tracing::warn!(pod = self.name, %error, "{what} of pod status failed");
                Outcome::Again
            }
        }
    }
}

/// The status in `seen`, when somebody wrote over the readiness that we sent: the node controller takes it from the pods of a
/// silent node. What is not newer than our last write (`version`) tells nothing.
fn overwritten<'a>(sent: &PodStatus, version: u64, seen: &'a Pod) -> Option<&'a PodStatus> {
    seen.status.as_ref().filter(|status| version_of(seen) > version && ready(status) != ready(sent))
}

/// What a status says about readiness.
pub(super) fn ready(status: &PodStatus) -> Option<&str> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}

/// Resource versions of one kind are ordered; an object without one is older than any.
fn version_of(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Whether an answer says that the object of that name has another uid, so that ours is gone. Every other
/// conflict is one with somebody who wrote at the same time, and passes.
fn is_another(code: u16, message: &str) -> bool {
    code == 409 && message.contains("UID in precondition")
}

/// The strategic merge patch from `old` to `new`; `None` when they are the same to the API.
pub fn status_patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut changes = Map::new();
    for (name, value) in &new {
        if old.get(name) != Some(value) {
            let value = match name.as_str() {
                "conditions" => conditions(old.get(name), value),
                "podIPs" | "hostIPs" => addresses(old.get(name), value),
                _ => value.clone(),
            };
            changes.insert(name.clone(), value);
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.insert(name.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// Conditions merge by type: only changed ones are sent, with nulls for what went away.
fn conditions(old: Option<&Value>, new: &Value) -> Value {
    let old: Vec<&Value> = old.and_then(Value::as_array).into_iter().flatten().collect();
    let changed = new.as_array().into_iter().flatten().filter(|condition| !old.contains(condition));
    let explicit = changed.map(|condition| {
        let mut condition = condition.clone();
        if let Value::Object(fields) = &mut condition {
            for name in ["reason", "message"] {
                fields.entry(name).or_insert(Value::Null);
            }
        }
        condition
    });
    let gone = old.iter().filter_map(|condition| condition["type"].as_str()).filter(|type_| {
        let still = new.as_array().into_iter().flatten().any(|condition| condition["type"] == **type_);
        RESIZE_CONDITIONS.contains(type_) && !still
    });
    let gone = gone.map(|type_| json!({"$patch": "delete", "type": type_}));
    Value::Array(explicit.chain(gone).collect())
}

/// Addresses merge by value: a list that loses one has to replace the old list.
fn addresses(old: Option<&Value>, new: &Value) -> Value {
    let old: Vec<&Value> = old.and_then(Value::as_array).into_iter().flatten().collect();
    let mut list: Vec<Value> = new.as_array().cloned().unwrap_or_default();
    if old.iter().any(|address| !list.contains(address)) {
        list.push(json!({"$patch": "replace"}));
    }
    Value::Array(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_changes_are_sent() {
        let old = status(json!({"phase": "Pending", "message": "m", "podIPs": [{"ip": "1"}],
            "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False", "reason": "r"}]}));
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "2"}],
            "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}));
        let patch = status_patch("u", &old, &new).unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running",
                "message": null,
                "podIPs": [{"ip": "2"}, {"$patch": "replace"}],
                "conditions": [{"type": "B", "status": "True", "reason": null, "message": null}]}})
        );
        assert_eq!(status_patch("u", &new, &new), None);
    }

    #[test]
    fn conditions_of_a_resize_go() {
        let ready = json!({"type": "Ready", "status": "True"});
        let old = status(json!({"conditions": [ready, {"type": "PodResizeInProgress", "status": "True"}]}));
        let patch = status_patch("u", &old, &status(json!({"conditions": [ready]}))).unwrap();
        assert_eq!(
            patch["status"]["conditions"],
            json!([{"$patch": "delete", "type": "PodResizeInProgress"}])
        );
    }

    #[test]
    fn readiness_that_somebody_else_took_is_noticed() {
        let pod = |version: &str, ready: &str| Pod {
            metadata: serde_json::from_value(json!({"resourceVersion": version})).unwrap(),
            status: Some(status(json!({"conditions": [{"type": "Ready", "status": ready}]}))),
            ..Pod::default()
        };
        let sent = pod("5", "True").status.unwrap();
        for (seen, is) in [(pod("4", "False"), false), (pod("6", "True"), false), (pod("7", "False"), true)] {
            assert_eq!(overwritten(&sent, 5, &seen).is_some(), is, "{seen:?}");
        }
    }

    #[test]
    fn only_a_conflict_of_uids_means_that_the_pod_is_gone() {
        let uid = "Operation cannot be fulfilled on pods \"p\": Precondition failed: UID in precondition: a, UID in object meta: b";
        let race = "Operation cannot be fulfilled on pods \"uid\": the object has been modified; please apply your changes to the latest version and try again";
        assert!(is_another(409, uid));
        assert!(!is_another(409, race) && !is_another(500, uid));
    }

    #[test]
    fn first_addresses_are_plain() {
        let new = status(json!({"podIPs": [{"ip": "2"}]}));
        let patch = status_patch("u", &PodStatus::default(), &new).unwrap();
        assert_eq!(patch["status"]["podIPs"], json!([{"ip": "2"}]));
    }
}
