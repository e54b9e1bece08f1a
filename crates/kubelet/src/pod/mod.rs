//! Pods: what should run, what runs, the pure plan between the two, and the worker that carries it out.

pub mod admission;
pub mod configs;
pub mod execute;
pub mod kill;
pub mod manager;
pub mod memory;
pub mod mirror;
pub mod observed;
pub mod plan;
pub mod publish;
pub mod resize;
pub mod security;
pub mod spec;
pub mod start;
pub mod starts;
pub mod status;
pub mod worker;
