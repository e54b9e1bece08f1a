//! Stateful sets: pods with names, made one after the other, each with volume claims of its own.

mod plan;
mod pod;
mod run;

pub use run::run;

/// Label of a pod: the name of the revision that it is of.
const REVISION: &str = "controller-revision-hash";
