//! How components talk to the API: a `kube::Client` over HTTPS or over the in-process pipeline, shared informers, work
//! queues, an event recorder and leader election, and label selectors matched on typed objects. Knows neither the API server nor the store.

pub mod api;
pub mod connect;
pub mod election;
pub mod events;
pub mod informer;
pub mod informers;
pub mod kubeconfig;
pub mod link;
pub mod object;
mod pause;
pub mod queue;
mod request;
pub mod selector;
mod spans;
pub mod watcher;

pub use api::Api;
pub use connect::{in_process, over_https};
pub use events::Recorder;
pub use informer::{Change, Informer, Key};
pub use informers::Informers;
pub use link::Link;
pub use object::Object;
pub use pause::watch_pause;
pub use queue::WorkQueue;

/// The typed objects and the client that every component uses, re-exported so that one version is in the house.
pub use {k8s_openapi, kube};
