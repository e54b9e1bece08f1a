//! Replica sets and replication controllers: one controller for both, as many pods as asked for.

pub mod kind;
pub mod plan;
mod run;

pub use kind::Replicas;
pub use run::run;
