//! How a controller opens: which changes wake which keys, and the workers behind the queue. Every controller says only that.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use corten_client::{Change, Informer, Key, Object, WorkQueue};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// A controller `C` with its queue of keys `Q`, while its watches are being put together.
pub struct Shell<C, Q = Key> {
    controller: Arc<C>,
    queue: WorkQueue<Q>,
    stop: CancellationToken,
}

impl<C, Q> Shell<C, Q>
where
    C: Send + Sync + 'static,
    Q: Clone + Debug + Eq + Hash + Send + Sync + 'static,
{
    /// A controller that watches nothing yet.
    pub fn open(cluster: &Cluster, controller: C) -> Self {
        Shell { controller: Arc::new(controller), queue: WorkQueue::new(), stop: cluster.stop.clone() }
    }

    /// The controller, for what a watch of another kind must know.
    pub fn controller(&self) -> Arc<C> {
        self.controller.clone()
    }

    /// The queue, for keys that come from elsewhere than from a watch.
    pub fn queue(&self) -> WorkQueue<Q> {
        self.queue.clone()
    }

    /// A change wakes the keys that `keys` names. It runs on the informer's task and must not block.
    pub fn wakes<K, I>(
        self,
        informer: &Informer<K>,
        keys: impl Fn(&C, &Change<K>) -> I + Send + Sync + 'static,
    ) -> Self
    where
        K: Object,
        I: IntoIterator<Item = Q>,
    {
        let (controller, queue) = (self.controller.clone(), self.queue.clone());
        informer
            .on_change(move |change| keys(&controller, change).into_iter().for_each(|key| queue.add(key)));
        self
    }

    /// Works on keys, `workers` at once, until the cluster's stop. `Ok(Some(delay))` asks to be called again after that time;
    /// an error comes again later and later.
    pub async fn run<F, Fut, E>(self, workers: usize, reconcile: F)
    where
        F: Fn(Arc<C>, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Duration>, E>> + Send,
        E: Display + Send,
    {
        let controller = self.controller;
        self.queue.run(workers, self.stop, move |key| reconcile(controller.clone(), key)).await;
    }
}

impl<C: Send + Sync + 'static> Shell<C, Key> {
    /// Each object of this kind is a key of its own.
    pub fn each<K>(self, informer: &Informer<K>) -> Self
    where
        K: Object,
    {
        self.wakes(informer, |_, change| Some(Key::of(&**change.object())))
    }
}
