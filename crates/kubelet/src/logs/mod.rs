//! Container logs in CRI's format: reading, following, rotating.

pub mod parse;
pub mod read;
pub mod rotate;
