//! Flows to host ports over UDP. A client that keeps its port goes on being led where its first packet went, be that a pod that is gone
//! or nowhere at all, for as long as it sends; such flows are taken out when the port gets its pod, and the next packet is led anew.
//! TCP ends by itself.

use std::net::IpAddr;

use corten_sys::netfilter::conntrack::{self, Flow};
use corten_sys::netfilter::{Family, Socket};

use crate::addresses::Record;
use crate::types::{NetworkError, Protocol};

/// IANA's number of UDP.
const UDP: u8 = 17;
/// `IPS_DST_NAT`
const TRANSLATED: u32 = 32;

/// Takes out the flows to `record`'s host ports that lead elsewhere; `node` are the addresses of this node.
pub(crate) async fn forget_stale(record: &Record, node: Vec<IpAddr>) -> Result<(), NetworkError> {
    if !has_udp(record) {
        return Ok(());
    }
    // Opened here: the socket belongs to this thread's network namespace.
    let socket = Socket::open().map_err(refused)?;
    let record = record.clone();
    // The table of flows may be long.
    let removed = tokio::task::spawn_blocking(move || remove(&socket, &record, &node)).await;
    removed
        .map_err(|error| NetworkError::io("remove stale flows")(std::io::Error::other(error)))?
        .map_err(refused)
}

fn refused(error: corten_sys::Error) -> NetworkError {
    NetworkError::Nft(error.to_string())
}

/// Has the pod host ports over UDP?
pub(crate) fn has_udp(record: &Record) -> bool {
    record.ports.iter().any(|port| port.protocol == Protocol::Udp)
}

fn remove(socket: &Socket, record: &Record, node: &[IpAddr]) -> corten_sys::Result<()> {
    for address in record.addresses() {
        let family = if address.is_ipv4() { Family::Ip } else { Family::Ip6 };
        let mut stale = Vec::new();
        conntrack::list(socket, family, |flow| {
            if is_stale(&flow, record, address, node) {
                stale.push(flow);
            }
        })?;
        stale.iter().try_for_each(|flow| conntrack::delete(socket, family, flow))?;
    }
    Ok(())
}

/// The number of a host port may be that of any port of a strange host, too: only what was led somewhere, or ended at this node, is
/// looked at.
fn is_stale(flow: &Flow, record: &Record, pod: IpAddr, node: &[IpAddr]) -> bool {
    let to = flow.original.destination;
    let is_ours = flow.status & TRANSLATED != 0 || node.contains(&to);
    let mut ports = record.ports.iter().filter(|port| port.protocol == Protocol::Udp);
    is_ours
        && flow.original.protocol == UDP
        && flow.reply.source != pod
        && ports.any(|port| {
            port.host_port == flow.original.destination_port && port.host_ip.is_none_or(|ip| ip == to)
        })
}
