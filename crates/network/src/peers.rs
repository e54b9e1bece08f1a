//! Ways to the pods of other nodes: a route where the other node is a neighbour, a VXLAN tunnel elsewhere.
//!
//! Nodes tell each other nothing: a tunnel end's hardware address is made from its node's pod CIDR. What should be in the kernel is a
//! set of entries (pure), what is there is read back, and only the difference is changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteType};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use crate::links::{self, is, mac};
use crate::routes::{self, Route, Way};
use crate::types::NetworkError;

/// Outer Ethernet, IPv4, UDP and VXLAN headers.
pub(crate) const VXLAN_OVERHEAD: u32 = 50;
/// Linux's own port for VXLAN, which flannel uses, too.
const VXLAN_PORT: u16 = 8472;
/// The VXLAN network that nodes of a cluster share unless told otherwise.
pub const DEFAULT_VNI: u32 = 1;
/// What Ethernet carries; for nodes whose own link is not known.
const DEFAULT_MTU: u32 = 1500;

/// How packets travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// A route to neighbours, VXLAN to others.
    #[default]
    Auto,
    /// Routes only: whatever lies between nodes that are not neighbours must know the pods' addresses.
    Routes,
    /// VXLAN to every node.
    Vxlan,
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "routes" => Ok(Self::Routes),
            "vxlan" => Ok(Self::Vxlan),
            other => Err(format!("{other:?} is none of auto, routes, vxlan")),
        }
    }
}

/// How this node is part of the network between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// This node's address, which the others send to.
    pub node_ip: Ipv4Addr,
    /// How packets travel.
    pub transport: Transport,
    /// VXLAN network identifier, 24 bits, the same on all nodes.
    pub vni: u32,
}

/// Another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its address.
    pub node_ip: Ipv4Addr,
    /// The addresses of its pods.
    pub pod_cidr: Ipv4Net,
    /// Its IPv6 address, where it has one: without, its pods' IPv6 packets go through the tunnel.
    pub node_ip_v6: Option<Ipv6Addr>,
    /// The IPv6 addresses of its pods, in a dual-stack cluster.
    pub pod_cidr_v6: Option<Ipv6Net>,
}

/// This node's own ranges of pods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub v4: Ipv4Net,
    pub v6: Option<Ipv6Net>,
}

impl Own {
    fn contains(&self, net: &IpNet) -> bool {
        match net {
            IpNet::V4(net) => self.v4.contains(net),
            IpNet::V6(net) => self.v6.is_some_and(|own| own.contains(net)),
        }
    }
}

/// Something in the kernel that leads to other nodes' pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    /// Packets to this hardware address go through the tunnel to that node.
    Forward { mac: Vec<u8>, node: Ipv4Addr },
    /// The tunnel end with this address has that hardware address.
    Neighbour { address: IpAddr, mac: Vec<u8> },
    /// Addresses of pods.
    Route(Route),
}

/// A peer and the links on which its IPv4 and its IPv6 address are neighbours, if they are.
type Found = (Peer, [Option<u32>; 2]);

/// Whether what lies behind a neighbour on `link` is reached through the tunnel.
fn tunnelled(transport: Transport, link: Option<u32>) -> bool {
    match transport {
        Transport::Auto => link.is_none(),
        Transport::Routes => false,
        Transport::Vxlan => true,
    }
}

/// The ranges of a peer, each with the peer's address of that family and its link.
fn ranges((peer, links): &Found) -> impl Iterator<Item = (IpNet, Option<IpAddr>, Option<u32>)> {
    let v4 = (IpNet::from(peer.pod_cidr.trunc()), Some(IpAddr::from(peer.node_ip)), links[0]);
    let v6 = peer.pod_cidr_v6.map(|cidr| (cidr.trunc().into(), peer.node_ip_v6.map(IpAddr::from), links[1]));
    [Some(v4), v6].into_iter().flatten()
}

/// What should be there; `tunnel` is the index of the VXLAN link. The tunnel itself is always IPv4, whatever it carries.
fn plan(transport: Transport, peers: &[Found], tunnel: Option<u32>) -> BTreeSet<Entry> {
    let mut entries = BTreeSet::new();
    for found in peers {
        let mac = mac(found.0.pod_cidr.network());
        for (to, node, link) in ranges(found) {
            let way = match (tunnelled(transport, link), link.zip(node), tunnel) {
                (true, _, Some(tunnel)) => {
                    entries.insert(Entry::Forward { mac: mac.clone(), node: found.0.node_ip });
                    entries.insert(Entry::Neighbour { address: to.network(), mac: mac.clone() });
                    Way::Via { link: tunnel, gateway: to.network() }
                }
                (false, Some((link, gateway)), _) => Way::Via { link, gateway },
                // Somebody else's routes must do.
                _ => continue,
            };
            entries.insert(Entry::Route(Route { to, way }));
        }
    }
    entries
}

/// Tells when a link of the node comes up: the kernel drops routes over a link that goes down and does not bring them back.
pub struct LinkChanges {
    messages: futures::channel::mpsc::UnboundedReceiver<(
        rtnetlink::packet_core::NetlinkMessage<rtnetlink::packet_route::RouteNetlinkMessage>,
        rtnetlink::sys::SocketAddr,
    )>,
    pods: String,
}

impl LinkChanges {
    pub(crate) fn open(cluster: &str) -> Result<Self, NetworkError> {
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&[rtnetlink::MulticastGroup::Link])
                .map_err(NetworkError::io("open netlink socket"))?;
        tokio::spawn(connection);
        Ok(Self { messages, pods: format!("{cluster}/") })
    }

    /// Waits for the next link that comes up and is not a pod's. `None` when the kernel's messages have ended.
    pub async fn next(&mut self) -> Option<()> {
        use futures::StreamExt;
        use rtnetlink::packet_core::NetlinkPayload;
        use rtnetlink::packet_route::RouteNetlinkMessage;
        use rtnetlink::packet_route::link::LinkFlags;
        loop {
            let (message, _) = self.messages.next().await?;
            let link = match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => link,
                // The kernel had more to tell than there was room for: one may have come up among it.
                NetlinkPayload::Overrun(_) => return Some(()),
                _ => continue,
            };
            let of_pod = |a: &LinkAttribute| matches!(a, LinkAttribute::IfAlias(alias) if alias.starts_with(&self.pods));
            if link.header.flags.contains(LinkFlags::Up | LinkFlags::Running)
                && !link.attributes.iter().any(of_pod)
            {
                return Some(());
            }
        }
    }
}

/// The name of the cluster's VXLAN link.
pub(crate) fn tunnel_name(cluster: &str) -> String {
    format!("{cluster}-vx")
}

/// MTU of pods' links: what the uplink carries, less the tunnel's headers where there may be a tunnel.
pub(crate) async fn pod_mtu(handle: &Handle, uplink: &Uplink) -> Result<u32, NetworkError> {
    let outer = match link_of(handle, uplink.node_ip).await? {
        Some(link) => mtu_of(handle, link).await?,
        None => DEFAULT_MTU,
    };
    Ok(if uplink.transport == Transport::Routes { outer } else { outer - VXLAN_OVERHEAD.min(outer) })
}

/// Brings the kernel from what is there to what `peers` need.
pub(crate) async fn apply(
    handle: &Handle,
    cluster: &str,
    own: Own,
    uplink: &Uplink,
    peers: &BTreeSet<Peer>,
) -> Result<(), NetworkError> {
    let mut found = Vec::with_capacity(peers.len());
    for peer in peers.iter().filter(|peer| peer.pod_cidr.trunc() != own.v4 && peer.node_ip != uplink.node_ip)
    {
        let mut peer = *peer;
        peer.pod_cidr_v6.take_if(|_| own.v6.is_none());
        let v4 = neighbour_link(handle, peer.node_ip.into()).await?;
        let v6 = match peer.node_ip_v6.filter(|_| peer.pod_cidr_v6.is_some()) {
            Some(address) => neighbour_link(handle, address.into()).await?,
            None => None,
        };
        found.push((peer, [v4, v6]));
    }
    let name = tunnel_name(cluster);
    let through_tunnel =
        |(_, _, link): (IpNet, Option<IpAddr>, Option<u32>)| tunnelled(uplink.transport, link);
    let tunnel = if found.iter().flat_map(ranges).any(through_tunnel) {
        Some(ensure_tunnel(handle, &name, own, uplink).await?)
    } else {
        links::delete(handle, &name).await?;
        None
    };
    let metric = routes::metric(cluster);
    let (present, wanted) =
        (observe(handle, metric, own, tunnel).await?, plan(uplink.transport, &found, tunnel));
    for entry in present.difference(&wanted) {
        remove(handle, metric, tunnel, entry).await?;
    }
    for entry in wanted.difference(&present) {
        add(handle, metric, tunnel, entry).await?;
    }
    Ok(())
}

/// The link on which `node` is a neighbour: the kernel's way to it needs no gateway.
async fn neighbour_link(handle: &Handle, node: IpAddr) -> Result<Option<u32>, NetworkError> {
    let question = match node {
        IpAddr::V4(node) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(node, 32).build(),
        IpAddr::V6(node) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(node, 128).build(),
    };
    let answer = match handle.route().get(question).execute().try_next().await {
        Ok(answer) => answer,
        // Unreachable now: the next change of nodes asks again.
        Err(rtnetlink::Error::NetlinkError(_)) => None,
        Err(error) => return Err(NetworkError::netlink(format!("ask for the route to {node}"))(error)),
    };
    let Some(route) = answer else { return Ok(None) };
    let gateway = |a: &RouteAttribute| matches!(a, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    if route.header.kind != RouteType::Unicast || route.attributes.iter().any(gateway) {
        return Ok(None);
    }
    Ok(route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    }))
}

async fn link_of(handle: &Handle, address: Ipv4Addr) -> Result<Option<u32>, NetworkError> {
    let all = links::addresses(handle).await?;
    let wanted = AddressAttribute::Local(IpAddr::V4(address));
    Ok(all.iter().find(|message| message.attributes.contains(&wanted)).map(|m| m.header.index))
}

async fn mtu_of(handle: &Handle, link: u32) -> Result<u32, NetworkError> {
    let mut links = handle.link().get().match_index(link).execute();
    let message = links.try_next().await.map_err(NetworkError::netlink("look up uplink"))?;
    let mtu = message.iter().flat_map(|m| &m.attributes).find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    // Loopback says 65536: a node that is reached there has no other nodes.
    Ok(mtu.filter(|mtu| *mtu < 65_536).unwrap_or(DEFAULT_MTU))
}

/// Makes the tunnel's link unless it is there as it should be, so that a restart interrupts nothing.
async fn ensure_tunnel(handle: &Handle, name: &str, own: Own, uplink: &Uplink) -> Result<u32, NetworkError> {
    let same = links::find(handle, name).await?.is_some_and(|link| is_tunnel(&link, uplink));
    if !same {
        links::delete(handle, name).await?;
        let message = LinkVxlan::new(name, uplink.vni)
            .local(uplink.node_ip)
            .port(VXLAN_PORT)
            .learning(false)
            .address(mac(own.v4.network()))
            .mtu(pod_mtu(handle, uplink).await?);
        let made = handle.link().add(message.build()).execute().await;
        made.map_err(NetworkError::netlink(format!("make tunnel {name}")))?;
    }
    let index = links::index_of(handle, name).await?;
    links::set_ipv6_without_address(name, own.v6.is_some());
    let ends = [Some(IpAddr::from(own.v4.network())), own.v6.map(|cidr| cidr.network().into())];
    for end in ends.into_iter().flatten() {
        links::set_only_address(handle, index, end.into()).await?;
    }
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(NetworkError::netlink(format!("set {name} up")))?;
    Ok(index)
}

fn is_tunnel(link: &LinkMessage, uplink: &Uplink) -> bool {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let vxlan = infos.flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    vxlan.is_some_and(|data| {
        [InfoVxlan::Id(uplink.vni), InfoVxlan::Local(uplink.node_ip), InfoVxlan::Port(VXLAN_PORT)]
            .iter()
            .all(|wanted| data.contains(wanted))
    })
}

/// What is there now: routes of ours outside this node's own range, and everything on the tunnel.
async fn observe(
    handle: &Handle,
    metric: u32,
    own: Own,
    tunnel: Option<u32>,
) -> Result<BTreeSet<Entry>, NetworkError> {
    let routes = routes::list(handle, metric).await?;
    let foreign = routes.into_iter().filter(|route| !own.contains(&route.to));
    let mut entries: BTreeSet<Entry> = foreign.map(Entry::Route).collect();
    let Some(tunnel) = tunnel else { return Ok(entries) };
    for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
        let all: Vec<NeighbourMessage> = handle
            .neighbours()
            .get()
            .set_address_family(family)
            .execute()
            .try_collect()
            .await
            .map_err(NetworkError::netlink("list neighbours"))?;
        let here = all.iter().filter(|m| m.header.family == family && m.header.ifindex == tunnel);
        entries.extend(here.filter(|m| m.header.state == NeighbourState::Permanent).filter_map(entry));
    }
    Ok(entries)
}

fn entry(message: &NeighbourMessage) -> Option<Entry> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
        _ => None,
    })?;
    Some(match message.header.family {
        AddressFamily::Bridge => match address {
            IpAddr::V4(node) => Entry::Forward { mac, node },
            IpAddr::V6(_) => return None,
        },
        _ => Entry::Neighbour { address, mac },
    })
}

async fn add(handle: &Handle, metric: u32, tunnel: Option<u32>, entry: &Entry) -> Result<(), NetworkError> {
    match (entry, tunnel) {
        (Entry::Route(route), _) => routes::add(handle, metric, route).await,
        (Entry::Neighbour { address, mac }, Some(link)) => {
            routes::add_neighbour(handle, link, *address, mac).await
        }
        (Entry::Forward { mac, node }, Some(link)) => {
            let request = handle.neighbours().add_bridge(link, mac).destination(IpAddr::V4(*node));
            let added = request.flags(NeighbourFlags::Own).replace().execute().await;
            added.map_err(NetworkError::netlink(format!("add way through the tunnel to {node}")))
        }
        (_, None) => Ok(()),
    }
}

async fn remove(
    handle: &Handle,
    metric: u32,
    tunnel: Option<u32>,
    entry: &Entry,
) -> Result<(), NetworkError> {
    let message = match (entry, tunnel) {
        (Entry::Route(route), _) => return routes::delete(handle, metric, route.to).await,
        (_, None) => return Ok(()),
        (Entry::Neighbour { address, .. }, Some(link)) => {
            handle.neighbours().add(link, *address).message_mut().clone()
        }
        (Entry::Forward { mac, node }, Some(link)) => {
            let request = handle.neighbours().add_bridge(link, mac).destination(IpAddr::V4(*node));
            request.flags(NeighbourFlags::Own).message_mut().clone()
        }
    };
    match handle.neighbours().del(message).execute().await {
        Err(error) if !is(&error, nix::errno::Errno::ENOENT) => {
            Err(NetworkError::netlink("delete neighbour")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: u8) -> Peer {
        Peer {
            node_ip: Ipv4Addr::new(192, 0, 2, node),
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 1, node, 0), 24),
            node_ip_v6: None,
            pod_cidr_v6: None,
        }
    }

    fn dual(node: u8, address: Option<&str>) -> Peer {
        let (node_ip_v6, pod_cidr_v6) =
            (address.map(|ip| ip.parse().unwrap()), Some(format!("fd00:0:0:{node}::/64").parse().unwrap()));
        Peer { node_ip_v6, pod_cidr_v6, ..peer(node) }
    }

    fn routes_of(entries: &BTreeSet<Entry>) -> Vec<String> {
        let routes = entries.iter().filter_map(|entry| match entry {
            Entry::Route(Route { to, way: Way::Via { link, gateway } }) => {
                Some(format!("{to} via {gateway} on {link}"))
            }
            _ => None,
        });
        routes.collect()
    }

    #[tokio::test]
    async fn what_the_kernel_had_to_drop_may_have_been_a_link_that_came_up() {
        use rtnetlink::packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
        let (kernel, messages) = futures::channel::mpsc::unbounded();
        let mut changes = LinkChanges { messages, pods: "nt/".into() };
        for payload in [NetlinkPayload::Noop, NetlinkPayload::Overrun(Vec::new())] {
            let message = NetlinkMessage::new(NetlinkHeader::default(), payload);
            kernel.unbounded_send((message, rtnetlink::sys::SocketAddr::new(0, 0))).unwrap();
        }
        assert_eq!(changes.next().await, Some(()));
        drop(kernel);
        assert_eq!(changes.next().await, None);
    }

    #[test]
    fn neighbours_are_routed_and_others_tunnelled() {
        let peers = [(peer(2), [Some(7), None]), (peer(3), [None, None])];
        let table = [
            (Transport::Auto, vec!["10.1.2.0/24 via 192.0.2.2 on 7", "10.1.3.0/24 via 10.1.3.0 on 9"], 2),
            (Transport::Routes, vec!["10.1.2.0/24 via 192.0.2.2 on 7"], 0),
            (Transport::Vxlan, vec!["10.1.2.0/24 via 10.1.2.0 on 9", "10.1.3.0/24 via 10.1.3.0 on 9"], 4),
        ];
        for (transport, routes, others) in table {
            let entries = plan(transport, &peers, Some(9));
            assert_eq!(routes_of(&entries), routes, "{transport:?}");
            assert_eq!(entries.len() - routes.len(), others, "{transport:?}");
        }
        assert!(plan(Transport::Vxlan, &peers, None).is_empty());
    }

    #[test]
    fn each_family_goes_its_own_way() {
        let peers = [(dual(2, Some("fd01::2")), [Some(7), Some(8)]), (dual(3, None), [Some(7), None])];
        let routes = |transport| routes_of(&plan(transport, &peers, Some(9)));
        let v4 = ["10.1.2.0/24 via 192.0.2.2 on 7", "10.1.3.0/24 via 192.0.2.3 on 7"];
        let near = "fd00:0:0:2::/64 via fd01::2 on 8";
        assert_eq!(routes(Transport::Auto), [v4[0], v4[1], near, "fd00:0:0:3::/64 via fd00:0:0:3:: on 9"]);
        assert_eq!(routes(Transport::Routes), [v4[0], v4[1], near]);
        assert_eq!(routes(Transport::Vxlan).len(), 4);
        // One way through the tunnel to each node, whatever it carries, and an end of each family.
        assert_eq!(plan(Transport::Vxlan, &peers, Some(9)).len(), 4 + 2 + 4);
    }

    #[test]
    fn a_change_of_one_peer_touches_nothing_else() {
        let nowhere = [None, None];
        let before = plan(Transport::Vxlan, &[(peer(2), nowhere), (peer(3), nowhere)], Some(9));
        let moved = Peer { node_ip: Ipv4Addr::new(192, 0, 2, 33), ..peer(3) };
        let after = plan(Transport::Vxlan, &[(peer(2), nowhere), (moved, nowhere)], Some(9));
        assert_eq!(after.difference(&before).count(), 1, "only where the tunnel leads");
        assert_eq!(before.difference(&after).count(), 1);
    }

    #[test]
    fn transports_by_name() {
        assert_eq!("vxlan".parse(), Ok(Transport::Vxlan));
        assert!("ipip".parse::<Transport>().is_err());
    }
}
