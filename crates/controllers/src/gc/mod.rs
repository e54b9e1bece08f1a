//! The garbage collector: objects whose owners are gone go, too; owners that wait for their dependents are let go when
//! these are gone; dependents of owners that leave them behind are cut loose.

pub mod census;
mod graph;
mod kinds;
mod run;

pub use census::Census;
pub use run::run;
