//! Images: names, credentials, pulls and their back-off, garbage collection.

pub mod auth;
pub mod gc;
pub mod pull;
pub mod reference;
