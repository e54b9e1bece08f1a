//! Cron jobs: a job at each time of a schedule.

mod plan;
mod run;
mod schedule;

pub use run::run;
