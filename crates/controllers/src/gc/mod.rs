//! The garbage collector: objects whose owners are gone go, too; owners that wait for their dependents are let go when
//! these are gone; dependents of owners that leave them behind are cut loose.

pub mod graph;
mod run;

pub use run::run;
