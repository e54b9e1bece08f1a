//! The kernel, as safe functions: namespaces, mounts, cgroups, processes, file descriptors, terminals.
//!
//! The only crate that may contain `unsafe`; it knows nothing of Kubernetes. What callers want to test
//! without root stands behind a small trait ([`mounts::Mounts`], [`cgroups::Cgroups`]) with a recording
//! fake beside the real thing; the rest is thin functions over one or two system calls.
#![allow(unsafe_code)]

pub mod cgroups;
pub mod datagrams;
mod error;
pub mod fds;
pub mod ipvs;
pub mod mounts;
pub mod namespaces;
pub mod netfilter;
pub mod process;
pub mod seccomp;
pub mod signals;
pub mod sockets;
pub mod tty;

pub use error::{Error, Result};
