//! Links and addresses over rtnetlink, on the host and inside pods.
//!
//! A pod's veth pair is a point-to-point link: the pod has its address alone (/32) and one route, to the node; the
//! node has a route for the address. Every packet of a pod is therefore routed by the node and seen by its
//! rules, whether the kernel has bridge netfilter or not. Both ends know each other's hardware address, so
//! nobody asks for it.
//!
//! IPv6 is the same once more, where the cluster has it; elsewhere pods' links know none of it on the host. The host's end has no
//! address of its own, not even a link-local one: neighbours are permanent, and nothing needs to be probed or waited for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::routes::{self, Route, Way};
use crate::types::NetworkError;

/// The pod's end of its veth pair.
const POD_LINK: &str = "eth0";
/// Loopback is the first link of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// What a veth pair is made with.
pub(crate) struct Veth<'a> {
    /// Name on the host.
    pub name: &'a str,
    /// Says on the host whose it is.
    pub alias: &'a str,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The node's address among its pods.
    pub gateway: Ipv4Addr,
    /// The pod's IPv6 address and the node's, in a dual-stack cluster.
    pub v6: Option<(Ipv6Addr, Ipv6Addr)>,
    /// Metric of the cluster's routes.
    pub metric: u32,
    /// The pod has host ports, which are also reached from the node's loopback.
    pub from_loopback: bool,
    /// MTU of both ends.
    pub mtu: Option<u32>,
}

/// A netlink connection to the network namespace of the calling thread.
pub(crate) fn connect() -> Result<Handle, NetworkError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(NetworkError::io("open netlink socket"))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// A netlink connection to the network namespace bound at `netns`. The socket is made on a thread of its
/// own, which alone enters the namespace; a socket stays where it was made.
async fn connect_in(netns: std::fs::File, has_v6: bool) -> Result<Handle, NetworkError> {
    let runtime = tokio::runtime::Handle::current();
    let (reply, answer) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let entered = nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NetworkError::io("enter network namespace")(errno.into()));
            if entered.is_ok() {
                // The node is the only way out; a pod never needs to hear of a better one.
                for link in ["all", POD_LINK] {
                    set_sysctl(link, "accept_redirects", "0");
                }
                if has_v6 {
                    for (name, value) in
                        [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_redirects", "0")]
                    {
                        set_sysctl_v6(POD_LINK, name, value);
                    }
                }
            }
            let _guard = runtime.enter();
            let _ = reply.send(entered.and_then(|()| connect()));
        })
        .map_err(NetworkError::io("start thread"))?;
    answer.await.map_err(|_| NetworkError::io("enter network namespace")(std::io::ErrorKind::Other.into()))?
}

/// The kernel's error number in a netlink answer.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().raw_os_error(),
        _ => None,
    }
}

/// Whether the kernel answered with this error.
pub(crate) fn is(error: &rtnetlink::Error, wanted: nix::errno::Errno) -> bool {
    errno(error) == Some(wanted as i32)
}

/// The link called `name`, or `None`.
pub(crate) async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NetworkError> {
    let mut links = handle.link().get().match_name(name).execute();
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(error) if is(&error, nix::errno::Errno::ENODEV) => Ok(None),
        Err(error) => Err(NetworkError::netlink(format!("look up link {name}"))(error)),
    }
}

/// Index of the link called `name`.
pub(crate) async fn index_of(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let link = find(handle, name).await?;
    link.map(|link| link.header.index).ok_or_else(|| NetworkError::Io {
        action: format!("look up link {name}"),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Deletes the link called `name`; succeeds when there is none.
pub(crate) async fn delete(handle: &Handle, name: &str) -> Result<(), NetworkError> {
    let message = LinkUnspec::new_with_name(name).build();
    match handle.link().del_with_message(message).execute().await {
        Err(error) if !is(&error, nix::errno::Errno::ENODEV) => {
            Err(NetworkError::netlink(format!("delete link {name}"))(error))
        }
        _ => Ok(()),
    }
}

/// Names and indices of all pods' links of `cluster`: by their alias, or because they are ports of the link `bridge`, as
/// they were in earlier versions.
pub(crate) async fn pod_links(
    handle: &Handle,
    cluster: &str,
    bridge: Option<u32>,
) -> Result<BTreeMap<String, u32>, NetworkError> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(NetworkError::netlink("list links"))?;
    let prefix = format!("{cluster}/");
    let ours = |link: &LinkMessage| {
        link.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::IfAlias(alias) => alias.starts_with(&prefix),
            LinkAttribute::Controller(index) => Some(*index) == bridge,
            _ => false,
        })
    };
    let named = |link: LinkMessage| {
        let index = link.header.index;
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some((name, index)),
            _ => None,
        })
    };
    Ok(links.into_iter().filter(ours).filter_map(named).collect())
}

/// Makes sure that a bridge of that name exists, is up and has `addresses`, each alone in its network.
pub(crate) async fn ensure_local(
    handle: &Handle,
    name: &str,
    addresses: &[IpAddr],
) -> Result<(), NetworkError> {
    match handle.link().add(LinkBridge::new(name).build()).execute().await {
        Err(error) if !is(&error, nix::errno::Errno::EEXIST) => {
            return Err(NetworkError::netlink(format!("make bridge {name}"))(error));
        }
        _ => {}
    }
    let index = index_of(handle, name).await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(NetworkError::netlink(format!("set {name} up")))?;
    for address in addresses {
        add_address(handle, index, (*address).into()).await?;
    }
    Ok(())
}

/// Makes sure that the bridge exists, is up and has `gateway` (/32) as its only IPv4 address, and `gateway_v6` (/128) as its only
/// IPv6 address beside a link-local one; returns its index.
pub(crate) async fn ensure_bridge(
    handle: &Handle,
    name: &str,
    gateway: Ipv4Addr,
    gateway_v6: Option<Ipv6Addr>,
    mtu: Option<u32>,
) -> Result<u32, NetworkError> {
    // A bridge without an address of its own takes its lowest port's and changes it as pods come and go.
    let mut message = LinkBridge::new(name).address(mac(gateway));
    if let Some(mtu) = mtu {
        message = message.mtu(mtu);
    }
    match handle.link().add(message.build()).execute().await {
        Err(error) if !is(&error, nix::errno::Errno::EEXIST) => {
            return Err(NetworkError::netlink(format!("make bridge {name}"))(error));
        }
        _ => {}
    }
    let index = index_of(handle, name).await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(NetworkError::netlink(format!("set {name} up")))?;
    set_only_address(handle, index, IpAddr::from(gateway).into()).await?;
    if let Some(gateway) = gateway_v6 {
        set_sysctl_v6(name, "disable_ipv6", "0");
        set_only_address(handle, index, IpAddr::from(gateway).into()).await?;
    }
    Ok(index)
}

/// The addresses of all links of this network namespace, as the kernel tells them.
pub(crate) async fn addresses(handle: &Handle) -> Result<Vec<AddressMessage>, NetworkError> {
    let all = handle.address().get().execute().try_collect().await;
    all.map_err(NetworkError::netlink("list addresses"))
}

/// All addresses of this network namespace.
pub(crate) async fn node_addresses(handle: &Handle) -> Result<Vec<IpAddr>, NetworkError> {
    let all = addresses(handle).await?;
    let own = all.iter().flat_map(|message| &message.attributes).filter_map(|attribute| match attribute {
        AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    Ok(own.collect())
}

/// Gives the link `wanted` as its only address of that family; link-local ones stay.
pub(crate) async fn set_only_address(handle: &Handle, index: u32, wanted: IpNet) -> Result<(), NetworkError> {
    let family = if wanted.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let present: Vec<_> = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await
        .map_err(NetworkError::netlink("list addresses"))?;
    let mut found = false;
    for message in present {
        let passing = family == AddressFamily::Inet6 && message.header.scope == AddressScope::Link;
        if message.header.family != family || passing {
            continue;
        }
        let address = |a: &AddressAttribute| matches!(a, AddressAttribute::Local(ip) | AddressAttribute::Address(ip) if *ip == wanted.addr());
        let same = message.header.prefix_len == wanted.prefix_len() && message.attributes.iter().any(address);
        found |= same;
        if !same {
            let removed = handle.address().del(message).execute().await;
            removed.map_err(NetworkError::netlink("remove stale bridge address"))?;
        }
    }
    if found { Ok(()) } else { add_address(handle, index, wanted).await }
}

/// Addresses are ours alone: nobody is asked whether one is in use, which would take a second.
async fn add_address(handle: &Handle, index: u32, address: IpNet) -> Result<(), NetworkError> {
    let mut request = handle.address().add(index, address.addr(), address.prefix_len()).replace();
    if address.addr().is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await.map_err(NetworkError::netlink(format!("add address {address}")))
}

/// Makes the veth pair with its far end in `netns`, configures both ends, and leads the pod's address to it.
pub(crate) async fn connect_pod(handle: &Handle, netns: &Path, veth: &Veth<'_>) -> Result<(), NetworkError> {
    let netns_file = std::fs::File::open(netns)
        .map_err(NetworkError::io(format!("open network namespace {}", netns.display())))?;
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_LINK)
        .address(mac(veth.address))
        .setns_by_fd(netns_file.as_raw_fd());
    let mut near = LinkMessageBuilder::<LinkVeth>::new(veth.name, POD_LINK).address(mac(veth.gateway)).up();
    if let Some(mtu) = veth.mtu {
        peer = peer.mtu(mtu);
        near = near.mtu(mtu);
    }
    let near = near.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
    add_link(handle, veth.name, near).await?;
    configure_host_end(handle, veth).await?;
    configure_pod(&connect_in(netns_file, veth.v6.is_some()).await?, veth).await
}

/// Source addresses that are not the pod's are dropped (rp_filter; a rule does the same for IPv6).
async fn configure_host_end(handle: &Handle, veth: &Veth<'_>) -> Result<(), NetworkError> {
    let index = index_of(handle, veth.name).await?;
    let alias = LinkUnspec::new_with_index(index).alias(veth.alias).build();
    handle.link().set(alias).execute().await.map_err(NetworkError::netlink("set alias"))?;
    set_sysctl(veth.name, "rp_filter", "1");
    if veth.from_loopback {
        set_sysctl(veth.name, "route_localnet", "1");
    }
    set_ipv6_without_address(veth.name, veth.v6.is_some());
    let mut ways = vec![(IpAddr::from(veth.address), IpAddr::from(veth.gateway))];
    ways.extend(veth.v6.map(|(address, gateway)| (address.into(), gateway.into())));
    for (address, source) in ways {
        let way = Way::Link { link: index, source };
        routes::add(handle, veth.metric, &Route { to: address.into(), way }).await?;
        routes::add_neighbour(handle, index, address, &mac(veth.address)).await?;
    }
    Ok(())
}

/// Lets a link of the node carry IPv6, without an address of its own; or not.
pub(crate) fn set_ipv6_without_address(link: &str, is_on: bool) {
    if is_on {
        set_sysctl_v6(link, "addr_gen_mode", "1");
        set_sysctl_v6(link, "accept_ra", "0");
        set_sysctl_v6(link, "disable_ipv6", "0");
    } else {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1");
    }
}

/// The same as [`set_sysctl`] for IPv6.
pub(crate) fn set_sysctl_v6(link: &str, name: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/{name}");
    if let Err(error) = std::fs::write(&path, value) {
        tracing::debug!(path, %error, "sysctl not set");
    }
}

/// Sets one IPv4 sysctl of a link in the calling thread's network namespace. The network works without these
/// on common kernels, so a refusal is only told.
pub(crate) fn set_sysctl(link: &str, name: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv4/conf/{link}/{name}");
    if let Err(error) = std::fs::write(&path, value) {
        tracing::debug!(path, %error, "sysctl not set");
    }
}

/// A link of that name can only be the rest of an attach that was cut short: it is replaced.
async fn add_link(handle: &Handle, name: &str, message: LinkMessage) -> Result<(), NetworkError> {
    match handle.link().add(message.clone()).execute().await {
        Err(error) if is(&error, nix::errno::Errno::EEXIST) => {
            delete(handle, name).await?;
            handle.link().add(message).execute().await
        }
        other => other,
    }
    .map_err(NetworkError::netlink(format!("make veth pair {name}")))
}

async fn configure_pod(pod: &Handle, veth: &Veth<'_>) -> Result<(), NetworkError> {
    let loopback = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    pod.link().set(loopback).execute().await.map_err(NetworkError::netlink("set lo up"))?;
    let index = index_of(pod, POD_LINK).await?;
    add_address(pod, index, IpAddr::from(veth.address).into()).await?;
    if let Some((address, _)) = veth.v6 {
        add_address(pod, index, IpAddr::from(address).into()).await?;
    }
    let up = LinkUnspec::new_with_index(index).up().build();
    pod.link().set(up).execute().await.map_err(NetworkError::netlink("set eth0 up"))?;
    let mut gateways = vec![(RouteMessageBuilder::<Ipv4Addr>::new().build(), IpAddr::from(veth.gateway))];
    gateways.extend(
        veth.v6.map(|(_, gateway)| (RouteMessageBuilder::<Ipv6Addr>::new().build(), IpAddr::from(gateway))),
    );
    for (mut route, gateway) in gateways {
        routes::add_neighbour(pod, index, gateway, &mac(veth.gateway)).await?;
        routes::via(&mut route, index, gateway);
        let added = pod.route().add(route).replace().execute().await;
        added.map_err(NetworkError::netlink("add default route"))?;
    }
    Ok(())
}

/// A locally administered MAC that belongs to the address: when an address is used again, neighbours'
/// caches are still right.
pub(crate) fn mac(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x0a, 0x58, a, b, c, d]
}
