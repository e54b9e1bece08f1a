//! The service proxy of one node: services and endpoint slices become one [`Ruleset`] (pure, shared by all modes), and a
//! [`Backend`] carries out the *difference* between two rulesets as one change of the host.
//!
//! Knows the API (through its client) and the kernel (through `corten-sys`), nothing of the pod network.

pub mod backend;
mod config;
mod file;
mod flows;
mod guard;
pub mod health;
mod iptables;
mod ipvs;
mod metrics;
mod modes;
pub mod nftables;
mod plan;
mod program;
pub mod ruleset;
mod run;
#[cfg(test)]
mod testing;
mod userspace;
mod watch;

pub use backend::{Backend, Error, Mode, Recorder};
pub use config::{Config, DEFAULT_MIN_SYNC, DEFAULT_SYNC_PERIOD, MASQUERADE_MARK};
pub use file::{File, FileError};
pub use iptables::Iptables;
pub use ipvs::Ipvs;
pub use modes::{backend_of, cleanup, cleanup_others};
pub use plan::{Node, Planner, plan};
pub use ruleset::{
    At, Change, Endpoint, Family, Frontend, FrontendKind, HealthCheck, Masquerade, PortChange, PortName,
    Protocol, Route, Ruleset, ServicePort,
};
pub use run::{Inputs, run, run_with};
pub use userspace::Userspace;
