//! Links, addresses and routes over rtnetlink, on the host and inside pods.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

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
    /// Index of the bridge.
    pub bridge: u32,
    /// The pod's address.
    pub address: Ipv4Addr,
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
async fn connect_in(netns: std::fs::File) -> Result<Handle, NetworkError> {
    let runtime = tokio::runtime::Handle::current();
    let (reply, answer) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let entered = nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NetworkError::io("enter network namespace")(errno.into()));
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

fn is(error: &rtnetlink::Error, wanted: nix::errno::Errno) -> bool {
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

async fn index_of(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
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

/// Names of all links that are ports of the link `bridge`.
pub(crate) async fn ports(handle: &Handle, bridge: u32) -> Result<Vec<String>, NetworkError> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(NetworkError::netlink("list links"))?;
    let on_bridge = |link: &LinkMessage| {
        link.attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::Controller(i) if *i == bridge))
    };
    let name = |link: LinkMessage| {
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    };
    Ok(links.into_iter().filter(on_bridge).filter_map(name).collect())
}

/// Makes sure that the bridge exists, is up and has `gateway` as its only IPv4 address; returns its index.
pub(crate) async fn ensure_bridge(
    handle: &Handle,
    name: &str,
    gateway: Ipv4Net,
    mtu: Option<u32>,
) -> Result<u32, NetworkError> {
    // A bridge without an address of its own takes its lowest port's and changes it as pods come and go.
    let mut message = LinkBridge::new(name).address(mac(gateway.addr()));
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
    set_only_address(handle, index, gateway).await?;
    Ok(index)
}

async fn set_only_address(handle: &Handle, index: u32, wanted: Ipv4Net) -> Result<(), NetworkError> {
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
        if message.header.family != AddressFamily::Inet {
            continue;
        }
        let same = message.header.prefix_len == wanted.prefix_len()
            && message.attributes.contains(&AddressAttribute::Local(IpAddr::V4(wanted.addr())));
        found |= same;
        if !same {
            let removed = handle.address().del(message).execute().await;
            removed.map_err(NetworkError::netlink("remove stale bridge address"))?;
        }
    }
    if found { Ok(()) } else { add_address(handle, index, wanted).await }
}

async fn add_address(handle: &Handle, index: u32, address: Ipv4Net) -> Result<(), NetworkError> {
    handle
        .address()
        .add(index, IpAddr::V4(address.addr()), address.prefix_len())
        .replace()
        .execute()
        .await
        .map_err(NetworkError::netlink(format!("add address {address}")))
}

/// Makes the veth pair with its far end in `netns`, configures both ends; `gateway` carries the prefix.
pub(crate) async fn connect_pod(
    handle: &Handle,
    netns: &Path,
    veth: &Veth<'_>,
    gateway: Ipv4Net,
) -> Result<(), NetworkError> {
    let netns_file = std::fs::File::open(netns)
        .map_err(NetworkError::io(format!("open network namespace {}", netns.display())))?;
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_LINK)
        .address(mac(veth.address))
        .setns_by_fd(netns_file.as_raw_fd());
    let mut near = LinkMessageBuilder::<LinkVeth>::new(veth.name, POD_LINK).controller(veth.bridge).up();
    if let Some(mtu) = veth.mtu {
        peer = peer.mtu(mtu);
        near = near.mtu(mtu);
    }
    let near = near.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
    add_link(handle, veth.name, near).await?;
    let index = index_of(handle, veth.name).await?;
    let port = LinkBridgePort::new(index).hairpin(true).alias(veth.alias).build();
    handle.link().set_port(port).execute().await.map_err(NetworkError::netlink("set hairpin mode"))?;
    configure_pod(
        &connect_in(netns_file).await?,
        Ipv4Net::new_assert(veth.address, gateway.prefix_len()),
        gateway,
    )
    .await
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

async fn configure_pod(pod: &Handle, address: Ipv4Net, gateway: Ipv4Net) -> Result<(), NetworkError> {
    let loopback = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    pod.link().set(loopback).execute().await.map_err(NetworkError::netlink("set lo up"))?;
    let index = index_of(pod, POD_LINK).await?;
    add_address(pod, index, address).await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    pod.link().set(up).execute().await.map_err(NetworkError::netlink("set eth0 up"))?;
    let route =
        RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway.addr()).output_interface(index).build();
    pod.route().add(route).replace().execute().await.map_err(NetworkError::netlink("add default route"))
}

/// A locally administered MAC that belongs to the address: when an address is used again, neighbours'
/// caches are still right.
fn mac(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x0a, 0x58, a, b, c, d]
}
