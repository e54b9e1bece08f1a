//! The event recorder: tells people what happened to an object, without ever holding up the one who tells.
//!
//! The same event again raises the count of the one that is there (upstream's event correlator); a full queue and an API that
//! is away lose events, never memory or time.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;

use crate::Api;

/// Events waiting to be written.
const QUEUE: usize = 1000;
/// Different events whose counts are remembered.
const REMEMBERED: usize = 4096;
/// Longest message that is kept, in bytes.
const LONGEST_MESSAGE: usize = 1024;

/// Records events in the name of one component. Clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    source: Arc<EventSource>,
    queue: mpsc::Sender<Event>,
}

impl Recorder {
    /// A recorder for `component` (`kubelet`, `default-scheduler` …) on `host` (a node's name, or empty).
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(write_events(client, waiting));
        let host = (!host.is_empty()).then(|| host.to_owned());
        Recorder { source: Arc::new(EventSource { component: Some(component.to_owned()), host }), queue }
    }

    /// Type `Normal`.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: impl Into<String>) {
        self.record(reference(about), "Normal", reason, message.into());
    }

    /// Type `Warning`.
    pub fn warning<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(reference(about), "Warning", reason, message.into());
    }

    /// About a reference: parts of an object (`fieldPath`), or one that is only known by name.
    pub fn record(&self, about: ObjectReference, kind: &str, reason: &str, mut message: String) {
        if message.len() > LONGEST_MESSAGE {
            let end =
                (0..=LONGEST_MESSAGE - 3).rev().find(|i| message.is_char_boundary(*i)).unwrap_or_default();
            message.truncate(end);
            message.push_str("...");
        }
        let event = self.event(about, kind, reason, message);
        if self.queue.try_send(event).is_err() {
            tracing::debug!(reason, "event dropped: queue is full");
        }
    }

    fn event(&self, about: ObjectReference, kind: &str, reason: &str, message: String) -> Event {
        let now = Timestamp::now();
        let nanos = u64::try_from(now.as_nanosecond()).unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{nanos:x}", about.name.as_deref().unwrap_or_default())),
                namespace: Some(about.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(reason.to_owned()),
            message: Some(message),
            type_: Some(kind.to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            reporting_component: self.source.component.clone(),
            reporting_instance: Some(self.source.host.clone().unwrap_or_default()),
            source: Some((*self.source).clone()),
            ..Event::default()
        }
    }
}

/// The reference to an object that events carry.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// What makes two events the same.
#[derive(PartialEq, Eq, Hash)]
struct Sameness {
    uid: String,
    name: String,
    field_path: String,
    kind: String,
    reason: String,
    message: String,
}

impl Sameness {
    fn of(event: &Event) -> Self {
        let about = &event.involved_object;
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        Sameness {
            uid: text(&about.uid),
            name: format!("{}/{}", text(&about.namespace), text(&about.name)),
            field_path: text(&about.field_path),
            kind: text(&event.type_),
            reason: text(&event.reason),
            message: text(&event.message),
        }
    }
}

struct Written {
    name: String,
    count: i32,
}

async fn write_events(client: Client, mut waiting: mpsc::Receiver<Event>) {
    let mut written: HashMap<Sameness, Written> = HashMap::new();
    while let Some(event) = waiting.recv().await {
        let same = Sameness::of(&event);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        if let Some(before) = written.get_mut(&same)
            && repeat(&api, before, &event).await
        {
            continue;
        }
        if written.len() >= REMEMBERED {
            written.clear();
        }
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                written.insert(same, Written { name: event.name_any(), count: 1 });
            }
            Err(error) => tracing::debug!(%error, reason = event.reason, "event was not written"),
        }
    }
}

/// Raises the count of an event that is there; false where it is gone by now.
async fn repeat(api: &Api<Event>, before: &mut Written, event: &Event) -> bool {
    before.count = before.count.saturating_add(1);
    let patch = serde_json::json!({ "count": before.count, "lastTimestamp": event.last_timestamp, "message": event.message });
    match api.patch(&before.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 404 => false,
        Err(error) => {
            tracing::debug!(%error, "event was not counted");
            true
        }
    }
}
