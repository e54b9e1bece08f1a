//! The dummy interface that has the services' addresses: what is sent to one of the node's own addresses comes to where IPVS
//! looks at it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkDummy, LinkUnspec};

use crate::backend::Error;

/// The interface of one cluster. Opens a netlink socket for each piece of work: changes of addresses are rare.
#[derive(Debug)]
pub(super) struct Link {
    name: String,
}

impl Link {
    pub(super) fn new(cluster: &str) -> Self {
        // Names of interfaces have at most 15 characters, of clusters 11.
        Self { name: format!("{cluster}-vs0") }
    }

    /// Makes sure that it is there, and returns the addresses that it has.
    pub(super) async fn ensure(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let handle = connect()?;
        if self.find(&handle).await?.is_none() {
            let made = handle.link().add(LinkDummy::new(&self.name).up().build()).execute().await;
            made.map_err(failed(format!("make the interface {}", self.name)))?;
        }
        Ok(self.addresses(&handle).await?.into_iter().map(|(address, _)| address).collect())
    }

    /// Whether it is there, and its addresses.
    pub(super) async fn look(&self) -> Result<Option<BTreeSet<IpAddr>>, Error> {
        let handle = connect()?;
        if self.find(&handle).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.addresses(&handle).await?.into_iter().map(|(address, _)| address).collect()))
    }

    /// Adds addresses; those that it has already are fine.
    pub(super) async fn add(&self, addresses: impl Iterator<Item = IpAddr>) -> Result<(), Error> {
        let mut addresses = addresses.peekable();
        if addresses.peek().is_none() {
            return Ok(());
        }
        let handle = connect()?;
        let Some(link) = self.find(&handle).await? else {
            let source = io::ErrorKind::NotFound.into();
            return Err(Error::Io { what: format!("look up the interface {}", self.name), source });
        };
        for address in addresses {
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            let request = handle.address().add(link.header.index, address, prefix).replace();
            request.execute().await.map_err(failed(format!("add address {address}")))?;
        }
        Ok(())
    }

    /// Takes addresses away; those that it has not are fine.
    pub(super) async fn remove(&self, gone: &BTreeSet<IpAddr>) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        let handle = connect()?;
        for (address, message) in self.addresses(&handle).await? {
            if gone.contains(&address) {
                let removed = handle.address().del(message).execute().await;
                removed.map_err(failed(format!("remove address {address}")))?;
            }
        }
        Ok(())
    }

    /// Removes the interface; a missing one is fine.
    pub(super) async fn delete(&self) -> Result<(), Error> {
        let handle = connect()?;
        match self.find(&handle).await? {
            None => Ok(()),
            Some(_) => {
                let message = LinkUnspec::new_with_name(&self.name).build();
                let deleted = handle.link().del_with_message(message).execute().await;
                deleted.map_err(failed(format!("delete the interface {}", self.name)))
            }
        }
    }

    async fn find(&self, handle: &Handle) -> Result<Option<LinkMessage>, Error> {
        match handle.link().get().match_name(self.name.clone()).execute().try_next().await {
            Ok(link) => Ok(link),
            Err(rtnetlink::Error::NetlinkError(message))
                if message.to_io().raw_os_error() == Some(corten_sys::ipvs::NO_SUCH_DEVICE) =>
            {
                Ok(None)
            }
            Err(error) => Err(failed(format!("look up the interface {}", self.name))(error)),
        }
    }

    async fn addresses(&self, handle: &Handle) -> Result<Vec<(IpAddr, AddressMessage)>, Error> {
        let Some(link) = self.find(handle).await? else { return Ok(Vec::new()) };
        let listed = handle.address().get().set_link_index_filter(link.header.index).execute();
        let messages: Vec<AddressMessage> =
            listed.try_collect().await.map_err(failed(format!("list addresses of {}", self.name)))?;
        let address = |message: AddressMessage| {
            let found = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) if !is_link_local(address) => Some(*address),
                _ => None,
            });
            found.map(|address| (address, message))
        };
        Ok(messages.into_iter().filter_map(address).collect())
    }
}

/// The kernel gives every interface an IPv6 address of this kind by itself.
fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn connect() -> Result<Handle, Error> {
    let opened = rtnetlink::new_connection();
    let (connection, handle, _) =
        opened.map_err(|source| Error::Io { what: "open netlink socket".into(), source })?;
    tokio::spawn(connection);
    Ok(handle)
}

fn failed(what: String) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| Error::Io { what, source: io::Error::other(error) }
}
