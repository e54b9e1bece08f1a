//! The built-in container runtime: a CRI v1 server on a unix socket, and the shims that hold containers.
//!
//! Containers belong to their shims, not to this process: it may be killed at any moment and finds
//! everything again from the files below the node directory when it is started next.
//!
//! ```text
//! node/cri.sock                  CRI
//! node/sandboxes/<id>/           sandbox.json, ns/{net,ipc,uts,pid}, shm/, hosts, hostname, resolv.conf
//! node/containers/<id>/          container.json, config.json (OCI), rootfs/, and the shim's files
//! ```
//!
//! Start reading at [`service`] (one thin method a CRI call), then `sandbox` and `container`.

mod config;
mod container;
mod error;
mod events;
mod exec;
mod files;
pub mod image;
mod image_volumes;
mod lifecycle;
mod node;
mod registry;
mod sandbox;
mod seccomp;
mod service;
mod shim;
mod shim_client;
mod spec;
mod stats;
mod status;
mod stream;
mod terminal;

pub use config::RuntimeConfig;
pub use error::RuntimeError;
pub use service::{remove_all, serve};
pub use shim::shim_main;
