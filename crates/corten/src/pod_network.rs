//! The node's pod network, and what feeds it from the API.

use std::net::IpAddr;

use anyhow::{Context, Result};
use corten_client::Api;
use corten_client::watcher;
use corten_client::{Informer, Informers};
use corten_netfeed::{Me, Seen};
use corten_network::{NetworkConfig, PodNetwork, Uplink};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::args::PodNetworkArgs;
use crate::cidrs::Cidrs;
use crate::layout::Layout;
use crate::parts::Parts;

/// Opens the network of a node at `node_ips`. With an IPv6 address only, the node stays alone.
pub fn open(
    cluster: &str,
    layout: &Layout,
    cluster_cidr: &Cidrs,
    node_ips: &[IpAddr],
    args: &PodNetworkArgs,
) -> Result<PodNetwork> {
    let network = PodNetwork::new(NetworkConfig {
        cluster_name: cluster.to_owned(),
        pod_cidr: None,
        cluster_cidr: cluster_cidr.v4().context("--cluster-cidr: want an IPv4 range, too")?,
        cluster_cidr_v6: cluster_cidr.v6(),
        prefers_v6: cluster_cidr.prefers_v6(),
        state_dir: layout.network(),
        mtu: None,
    })
    .context("pod network")?;
    let v4 = node_ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    if let Some(node_ip) = v4 {
        network.join(Uplink { node_ip, transport: args.pod_network, vni: args.vxlan_id });
    }
    Ok(network)
}

/// Tells the network of other nodes and of network policies. What the control plane in the same process sees anyway (`shared`) is not
/// kept twice; otherwise `client` watches, pods and namespaces only from the first policy on.
pub fn feed(
    network: PodNetwork,
    client: Client,
    shared: Option<Informers>,
    me: Me,
    stop: &CancellationToken,
    parts: &mut Parts,
) {
    let all = watcher::Config::default;
    let seen = match shared {
        Some(shared) => Seen {
            nodes: shared.get(),
            policies: shared.get(),
            selected: Box::new(move || (shared.get(), shared.get())),
        },
        None => {
            let (later, ends) = (client.clone(), stop.clone());
            Seen {
                nodes: Informer::start(Api::all(client.clone()), all(), stop.clone()),
                policies: Informer::start(Api::all(client), all(), stop.clone()),
                selected: Box::new(move || {
                    let pods = Informer::start(Api::all(later.clone()), all(), ends.clone());
                    (pods, Informer::start(Api::all(later), all(), ends))
                }),
            }
        }
    };
    let stop = stop.clone();
    parts.start("pod network", async move {
        corten_netfeed::run(network, seen, me, stop).await;
        Ok(())
    });
}
