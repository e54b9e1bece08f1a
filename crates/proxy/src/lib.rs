//! The service proxy of one node: services and endpoint slices become one [`Ruleset`] (pure, shared by all modes), and a
//! [`Backend`] carries out the *difference* between two rulesets as one change of the host.
//!
//! Knows the API (through its client) and the kernel (through `corten-sys`), nothing of the pod network.

pub mod backend;
mod config;
mod guard;
mod iptables;
mod modes;
pub mod nftables;
mod plan;
mod program;
pub mod ruleset;
#[cfg(test)]
mod testing;
mod userspace;

pub use backend::{Backend, Error, Mode, Recorder};
pub use config::{Config, DEFAULT_MIN_SYNC, MASQUERADE_MARK};
pub use iptables::Iptables;
pub use modes::{backend_of, cleanup_others};
pub use plan::{Node, Planner, plan};
pub use ruleset::{
    At, Change, Endpoint, Family, Frontend, FrontendKind, HealthCheck, Masquerade, PortChange, PortName,
    Protocol, Route, Ruleset, ServicePort,
};
pub use userspace::Userspace;
