//! The one place that knows all modes: which back end a configuration asks for, and what the others may have left.

use crate::backend::{Backend, Error, Mode};
use crate::config::Config;
use crate::iptables::Iptables;
use crate::ipvs::Ipvs;
use crate::nftables::Nftables;
use crate::userspace::Userspace;
use futures::future::BoxFuture;

/// The back end of the configured mode, for the network namespace of the calling thread.
///
/// # Errors
/// `Unsupported` where this kernel does not have what the mode needs.
pub fn backend_of(config: &Config) -> Result<Box<dyn Backend>, Error> {
    of_mode(config, config.mode)
}

fn of_mode(config: &Config, mode: Mode) -> Result<Box<dyn Backend>, Error> {
    match mode {
        Mode::Iptables => Ok(Box::new(Iptables::new(config))),
        Mode::Userspace => Ok(Box::new(Userspace::new(config))),
        Mode::Nftables => Ok(Box::new(Nftables::new(config.clone())?)),
        Mode::Ipvs => Ok(Box::new(Ipvs::new(config))),
    }
}

/// Removes what this cluster's other modes left on the host: call it once the configured mode's first `sync_all` is done, so
/// that services are reached all the time. Returns the last error after all have been tried.
pub async fn cleanup_others(config: &Config) -> Result<(), Error> {
    cleanup_modes(config, |mode| mode != config.mode).await
}

/// Removes everything that any mode put on this host for the cluster of that name; fine when nothing is there.
pub fn cleanup(cluster_name: &str) -> BoxFuture<'_, Result<(), Error>> {
    Box::pin(async move { cleanup_modes(&Config::new(cluster_name, ""), |_| true).await })
}

async fn cleanup_modes(config: &Config, which: impl Fn(Mode) -> bool) -> Result<(), Error> {
    let mut result = Ok(());
    for mode in Mode::ALL.into_iter().filter(|mode| which(*mode)) {
        let cleaned = match of_mode(config, mode) {
            // What this kernel cannot do has left nothing.
            Err(Error::Unsupported(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(mut backend) => backend.cleanup().await,
        };
        if let Err(error) = cleaned {
            tracing::warn!(mode = mode.name(), %error, "rules of a proxy mode could not be removed");
            result = Err(error);
        }
    }
    result
}
