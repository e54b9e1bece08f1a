//! From addresses to names: what PTR records are made of.

use std::collections::HashMap;
use std::net::IpAddr;

use super::facts::{Endpoint, ServiceKey, Slice};

/// An endpoint's name below its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointName {
    /// Host, lower case.
    pub host: Box<[u8]>,
    /// The Service.
    pub service: ServiceKey,
    /// How many slices say so.
    count: u32,
}

/// The names of one address.
#[derive(Debug, Default)]
pub struct Pointers {
    /// The Service whose cluster IP it is; it hides the endpoints (CoreDNS' rule).
    pub service: Option<ServiceKey>,
    /// Endpoints at this address.
    pub endpoints: Vec<EndpointName>,
}

/// All addresses.
#[derive(Debug, Default)]
pub(super) struct Reverse {
    addresses: HashMap<IpAddr, Pointers>,
}

impl Reverse {
    pub fn get(&self, address: IpAddr) -> Option<&Pointers> {
        self.addresses.get(&address)
    }

    pub fn put_service(&mut self, address: IpAddr, key: &ServiceKey) {
        self.addresses.entry(address).or_default().service = Some(key.clone());
    }

    /// Forgets it, unless another Service has the address meanwhile.
    pub fn remove_service(&mut self, address: IpAddr, key: &ServiceKey) {
        let Some(pointers) = self.addresses.get_mut(&address) else { return };
        if pointers.service.as_ref() == Some(key) {
            pointers.service = None;
        }
        self.drop_empty(address);
    }

    /// Changes only what differs between the two states of a slice.
    pub fn change_slice(&mut self, old: Option<&Slice>, new: Option<&Slice>) {
        let same_service = old.map(|slice| &slice.service) == new.map(|slice| &slice.service);
        let has = |slice: Option<&Slice>, endpoint: &Endpoint| {
            same_service && slice.is_some_and(|slice| slice.endpoints.binary_search(endpoint).is_ok())
        };
        if let Some(slice) = old {
            slice.endpoints.iter().filter(|e| !has(new, e)).for_each(|e| self.remove(e, &slice.service));
        }
        if let Some(slice) = new {
            slice.endpoints.iter().filter(|e| !has(old, e)).for_each(|e| self.put(e, &slice.service));
        }
    }

    fn put(&mut self, endpoint: &Endpoint, service: &ServiceKey) {
        let names = &mut self.addresses.entry(endpoint.address).or_default().endpoints;
        match names.iter_mut().find(|name| name.host == endpoint.host && name.service == *service) {
            Some(name) => name.count += 1,
            None => {
                names.push(EndpointName { host: endpoint.host.clone(), service: service.clone(), count: 1 })
            }
        }
    }

    fn remove(&mut self, endpoint: &Endpoint, service: &ServiceKey) {
        let Some(pointers) = self.addresses.get_mut(&endpoint.address) else { return };
        for name in &mut pointers.endpoints {
            if name.host == endpoint.host && name.service == *service {
                name.count -= 1;
            }
        }
        pointers.endpoints.retain(|name| name.count > 0);
        self.drop_empty(endpoint.address);
    }

    fn drop_empty(&mut self, address: IpAddr) {
        if self.addresses.get(&address).is_some_and(|p| p.service.is_none() && p.endpoints.is_empty()) {
            self.addresses.remove(&address);
        }
    }
}
