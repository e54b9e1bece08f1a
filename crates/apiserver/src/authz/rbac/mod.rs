//! Role-based access: what roles allow whom, by bindings. The policy is an index in memory, kept true by the store's events.

pub(crate) mod bootstrap;
pub(crate) mod escalation;
mod feed;
mod policy;
mod rule;

pub(crate) use feed::Rbac;
pub(crate) use policy::{Policy, Table};
pub use rule::Rule;

/// The API group.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
