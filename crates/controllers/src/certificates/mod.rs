//! Certificate signing requests: those of nodes that join are approved, and whatever is approved for one of our signers is
//! signed with the cluster's CA. `plan.rs` has the rules, `run.rs` watches and writes.

mod plan;
mod run;

pub use plan::Authority;
pub use run::run;
