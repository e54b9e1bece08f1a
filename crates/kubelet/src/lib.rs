//! The kubelet: makes the containers of this machine follow the pods that the API has for it.
//!
//! It speaks to containers through CRI and to the cluster through the API, and through nothing else. The
//! decisions are pure ([`pod::plan`], [`pod::status`], [`env`], …); around them stand thin shells.

mod backoff;
mod config;
mod cri;
mod dns;
mod env;
mod env_file;
mod eviction;
mod expand;
mod fields;
mod hooks;
mod host;
mod image;
mod kubelet;
mod labels;
mod logs;
mod manifests;
mod node;
mod objects;
mod pod;
mod probe;
mod quantity;
mod resources;
mod server;
mod termination;
mod volume;

pub use config::{Config, KUBELET_VERSION, Renewed};
pub use kubelet::{Error, Kubelet};
