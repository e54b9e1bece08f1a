//! The node as the cluster sees it: its object, conditions, heartbeats, and the pod CIDR for the runtime.

pub mod lease;
pub mod machine;
pub mod register;
pub mod report;
