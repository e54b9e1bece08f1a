//! Addresses that this node answers at besides its own: the cluster's DNS, say. They stand on a bridge without ports, which
//! every kernel that runs pods has, and which comes and goes with nothing else.

use std::net::IpAddr;

use crate::links;
use crate::types::NetworkError;

/// What stands after the cluster's name.
const SUFFIX: &str = "-dns";

/// The link that holds the addresses.
pub(crate) fn link(cluster: &str) -> String {
    format!("{cluster}{SUFFIX}")
}

/// Puts `addresses` on the link `CLUSTER-dns`, which is made where it is missing. They stay until the cluster's network is torn
/// down; addresses that are there already are left alone.
pub async fn hold_addresses(cluster: &str, addresses: &[IpAddr]) -> Result<(), NetworkError> {
    let handle = links::connect()?;
    links::ensure_local(&handle, &link(cluster), addresses).await
}
