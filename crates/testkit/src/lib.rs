//! A real cluster for tests: the built `corten`, real containers, real kubectl, everything gone at the end.
//!
//! Each test program has one cluster ([`cluster`]) that its tests share, each in a [`Namespace`] of its own. Clusters have
//! unique names, ports and addresses; a watchdog process takes them down however the test program ends. Failures panic:
//! this crate is for tests only.

mod agent;
mod api;
mod build;
mod cluster;
mod host;
mod kubectl;
mod look;
mod machines;
mod registry;
mod wait;
mod watchdog;

pub use agent::Agent;
pub use api::{Answer, Api};
pub use build::{corten, root, tool};
pub use cluster::{Cluster, Families, NODE, Options, cluster, free_port};
pub use host::HostState;
pub use kubectl::{Namespace, Objects, Output, Running};
pub use look::{http_get, is_ready, phase, restarts, state, waiting_reason};
pub use machines::{Lan, Machine, Middle};
pub use registry::{Registry, image_tar};
pub use wait::{PATIENCE, eventually, within};
