//! Hears when somebody takes tables of ours away (`nft flush ruleset` of a firewall that starts, say).

use corten_sys::netfilter::{Changes, Socket, nft};
use tokio::io::unix::AsyncFd;

use crate::policies;
use crate::types::NetworkError;

/// `NFPROTO_IPV4`: every cluster has pods of this family, and who removes tables removes those of both.
const IP: u8 = 2;

/// Tells of tables that somebody removed.
#[derive(Debug)]
pub struct TableChanges {
    changes: AsyncFd<Changes>,
    cluster: String,
}

impl TableChanges {
    /// In the network namespace of the calling thread.
    pub(crate) fn open(cluster: &str) -> Result<Self, NetworkError> {
        let changes = Changes::open(None).map_err(|error| NetworkError::Nft(error.to_string()))?;
        // `register` is unsafe for descriptors that may be closed behind its back; one of `Changes` cannot be.
        #[allow(deprecated)]
        let changes = AsyncFd::new(changes).map_err(NetworkError::io("listen to changes of nftables"))?;
        Ok(Self { changes, cluster: cluster.to_owned() })
    }

    /// Waits until a table of ours may be gone. A table that is written anew goes, too: [`are_missing`] tells.
    pub async fn next(&mut self) -> Result<(), NetworkError> {
        let tables = [self.cluster.clone(), policies::table_name(&self.cluster)];
        loop {
            let mut ready = self.changes.readable().await.map_err(NetworkError::io("changes of nftables"))?;
            let taken = self.changes.get_ref().take(|changed| {
                changed.is_gone && changed.chain.is_none() && tables.contains(&changed.table)
            });
            ready.clear_ready();
            if taken.map_err(|error| NetworkError::Nft(error.to_string()))?.any() {
                return Ok(());
            }
        }
    }
}

/// Is one of our tables not there? That of policies counts where there are policies.
pub(crate) fn are_missing(cluster: &str, has_policies: bool) -> Result<bool, NetworkError> {
    let look = || -> corten_sys::Result<bool> {
        let socket = Socket::open()?;
        let is_missing = !nft::has_table(&socket, IP, cluster)?;
        Ok(is_missing || (has_policies && !nft::has_table(&socket, IP, &policies::table_name(cluster))?))
    };
    look().map_err(|error| NetworkError::Nft(error.to_string()))
}
