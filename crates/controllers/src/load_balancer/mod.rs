//! Services of type LoadBalancer, by a provider of our own: they get the nodes' addresses, or addresses of a configured pool.
//!
//! Somebody outside must bring packets for the pool's addresses to a node; for the nodes' own addresses nothing is needed. The
//! proxy does the rest, as for every service.

mod plan;
mod pool;
mod run;

pub use pool::{Pool, Span};
pub use run::run;
