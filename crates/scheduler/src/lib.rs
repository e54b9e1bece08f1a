//! The scheduler: finds a node for each pod that has none.
//!
//! Pure parts: [`snapshot`] (what is known of nodes and the pods on them), [`plugins`] (one row a rule: filter and score),
//! [`cycle`] (the decision for one pod), [`preempt`] (whom to evict) and [`queue`] (which pod is next). The shell in [`run`]
//! watches, decides and binds.

pub mod cycle;
pub mod plugins;
pub mod pod;
pub mod preempt;
pub mod queue;
pub mod resources;
pub mod run;
pub mod selector;
pub mod snapshot;

pub use run::{Config, run};
