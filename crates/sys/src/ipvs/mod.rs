//! The kernel's own load balancer (IPVS), spoken to by generic netlink: virtual services and the
//! destinations behind them. What is said stands in [`message`], byte for byte; here is who says it.

pub mod message;
mod socket;

use std::collections::BTreeMap;

pub use message::{Command, Destination, Protocol, ServiceKey, VirtualService};
pub use socket::Kernel;

use crate::error::{Error, Result};

/// The errno of looking up an interface that is not there.
pub const NO_SUCH_DEVICE: i32 = nix::libc::ENODEV;

/// IPVS of one network namespace.
pub trait Ipvs: Send {
    /// All virtual services that are told apart by address (those by firewall mark are nobody's here).
    fn services(&mut self) -> Result<Vec<VirtualService>>;

    /// What stands behind one of them, with the number of connections that each has.
    fn destinations(&mut self, service: ServiceKey) -> Result<Vec<(Destination, u32)>>;

    /// Runs commands in order; one that changes nothing (there already, gone already) counts as done.
    /// The first that fails otherwise is the error, after all have been tried.
    fn run(&mut self, commands: &[Command]) -> Result<()>;
}

/// IPVS in memory, for tests: keeps what a kernel would keep, and every command it was given.
#[derive(Debug, Default, Clone)]
pub struct Fake {
    /// The virtual services and their destinations with connections.
    pub state: BTreeMap<ServiceKey, (VirtualService, BTreeMap<std::net::SocketAddr, (Destination, u32)>)>,
    /// Everything that was asked.
    pub commands: Vec<Command>,
}

impl Ipvs for Fake {
    fn services(&mut self) -> Result<Vec<VirtualService>> {
        Ok(self.state.values().map(|(service, _)| service.clone()).collect())
    }

    fn destinations(&mut self, service: ServiceKey) -> Result<Vec<(Destination, u32)>> {
        let behind = self.state.get(&service).map(|(_, behind)| behind.values().copied().collect());
        behind.ok_or_else(|| missing(&service))
    }

    fn run(&mut self, commands: &[Command]) -> Result<()> {
        self.commands.extend_from_slice(commands);
        commands.iter().try_for_each(|command| self.keep(command))
    }
}

impl Fake {
    fn keep(&mut self, command: &Command) -> Result<()> {
        match command {
            Command::AddService(service) | Command::SetService(service) => {
                let entry = self.state.entry(service.key).or_insert((service.clone(), BTreeMap::new()));
                entry.0 = service.clone();
            }
            Command::DeleteService(key) => drop(self.state.remove(key)),
            Command::AddDestination(key, one) | Command::SetDestination(key, one) => {
                let (_, behind) = self.state.get_mut(key).ok_or_else(|| missing(key))?;
                behind.entry(one.address).or_insert((*one, 0)).0 = *one;
            }
            Command::DeleteDestination(key, address) => {
                let (_, behind) = self.state.get_mut(key).ok_or_else(|| missing(key))?;
                behind.remove(address);
            }
        }
        Ok(())
    }
}

fn missing(key: &ServiceKey) -> Error {
    Error { what: format!("virtual service {key}"), source: std::io::ErrorKind::NotFound.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fake_keeps_what_a_kernel_keeps() {
        let mut fake = Fake::default();
        let key = ServiceKey { protocol: Protocol::Tcp, address: "10.96.0.1:443".parse().unwrap() };
        let behind = Destination { address: "10.1.1.2:6443".parse().unwrap(), weight: 1 };
        assert!(fake.run(&[Command::AddDestination(key, behind)]).is_err(), "no such service yet");
        let service = VirtualService { key, scheduler: "rr".into(), persistent_s: None };
        fake.run(&[Command::AddService(service.clone()), Command::AddDestination(key, behind)]).unwrap();
        assert_eq!(fake.services().unwrap(), [service]);
        assert_eq!(fake.destinations(key).unwrap(), [(behind, 0)]);
        fake.run(&[Command::DeleteDestination(key, behind.address)]).unwrap();
        assert!(fake.destinations(key).unwrap().is_empty());
        fake.run(&[Command::DeleteService(key)]).unwrap();
        assert!(fake.destinations(key).is_err());
    }
}
