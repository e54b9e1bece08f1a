//! The informers of one process: one a kind, whoever asks. What the scheduler, the controllers and a kubelet in the same process
//! know of the pods is one set of typed objects in memory, not three.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{Api, Informer, Object, watcher};

/// Opens an informer over all objects of a kind at the first question for it, and hands out the same one from then on.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    stop: CancellationToken,
    open: Arc<Mutex<HashMap<(TypeId, &'static str), Box<dyn Any + Send + Sync>>>>,
}

impl Informers {
    /// Reads in the name of `client`, which must be allowed to list and watch what is asked for, until `stop`.
    pub fn new(client: Client, stop: CancellationToken) -> Self {
        Informers { client, stop, open: Arc::default() }
    }

    /// The informer over all objects of the kind, in all namespaces. Must be called inside a tokio runtime.
    pub fn get<K: Object>(&self) -> Informer<K> {
        self.only("")
    }

    /// The informer over the objects that a field selector chooses; the empty one chooses all.
    pub fn only<K: Object>(&self, fields: &'static str) -> Informer<K> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (TypeId::of::<K>(), fields);
        let known = open.get(&key).and_then(|informer| informer.downcast_ref::<Informer<K>>());
        known.cloned().unwrap_or_else(|| {
            let config = watcher::Config { field_selector: chosen(fields), ..watcher::Config::default() };
            let informer = Informer::start(Api::all(self.client.clone()), config, self.stop.clone());
            open.insert(key, Box::new(informer.clone()));
            informer
        })
    }
}

fn chosen(fields: &str) -> Option<String> {
    (!fields.is_empty()).then(|| fields.to_owned())
}
