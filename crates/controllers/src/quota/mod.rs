//! How much of its quotas a namespace uses. Refusing what goes beyond is admission's, not ours.

mod plan;
mod run;

pub use run::run;
