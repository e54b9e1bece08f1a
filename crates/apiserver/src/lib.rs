//! The API server as a library: one request pipeline, entered over TLS or from a component in the same process.
//!
//! `server.rs` accepts connections, `pipeline.rs` takes a request from the door to its verb, `read.rs` and `watch.rs`
//! answer from stored bytes, `write.rs` is the one way in which an object changes. Kinds are rows of `corten_api`; nothing
//! here is written per kind except what a subresource does.

mod admission;
mod allocate;
mod audit;
pub mod authn;
pub mod authz;
pub mod body;
mod bootstrap;
mod call;
mod candidate;
mod config;
mod connect;
mod connection;
#[cfg(test)]
mod coverage;
mod debug;
mod decode;
mod delete;
mod encode;
mod flow;
mod frames;
#[cfg(test)]
mod golden;
mod health;
mod in_process;
mod kubernetes_service;
mod media;
mod meta;
mod metrics;
#[cfg(test)]
mod net_tests;
mod openapi;
mod patching;
mod peek;
mod pipeline;
mod query;
mod read;
mod request;
mod reviews;
mod select;
mod server;
mod stored;
mod subresources;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod traffic;
pub mod user;
mod watch;
mod write;

pub use admission::{ADMISSION_PLUGINS, nodes_may_label};
pub use audit::AuditConfig;
pub use authn::Peer;
pub use authn::token::ServiceAccountKeys;
pub use authz::Mode as AuthorizationMode;
pub use body::Body;
pub use config::{Config, KubeletClient, Limits, Shutdown, VERSION, Verbosity};
pub use in_process::InProcess;
pub use pipeline::ApiServer;
pub use server::ServingCert;
pub use traffic::Patience;
pub use user::User;
