//! Which addresses stand behind a service: endpoint slices, the older Endpoints, and slices that mirror Endpoints made by hand.

mod facts;
mod legacy;
mod legacy_run;
mod mirror;
mod mirror_run;
mod packing;
mod ports;
mod run;
mod slices;
mod trigger;
mod write;

pub use legacy_run::run as run_legacy;
pub use mirror_run::run as run_mirror;
pub use run::run;

/// Label of slices: the service that they are of.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of slices: who keeps them.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of endpoints and slices of services without an address.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// When the oldest change happened that an object tells of (upstream measures programming latency by it).
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
