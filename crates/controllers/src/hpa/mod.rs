//! Horizontal pod autoscalers: as many replicas as the use of CPU and memory asks for.

mod behavior;
mod metrics;
mod plan;
mod run;

pub use run::run;
