//! Addresses and node ports of Services. The objects themselves are the record; what is taken is kept in memory and rebuilt
//! from them at start. What a write takes is given back unless the write goes through.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_api::field::{Error, Path};
use corten_api::{Result, Status, Value};
use ipnet::Ipv4Net;
use rand::Rng;

use crate::call::Call;

/// The lower part of the ranges is left to those who choose for themselves, as upstream does: 1/16, at least 16, at most 256.
fn reserved(size: u32) -> u32 {
    (size / 16).clamp(16, 256).min(size / 2)
}

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<u32>,
    ports: HashSet<u16>,
}

/// What Services hold.
#[derive(Debug)]
pub(crate) struct Allocator {
    range: Ipv4Net,
    ports: RangeInclusive<u16>,
    taken: Arc<Mutex<Taken>>,
}

/// What one write took.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    taken: Option<Arc<Mutex<Taken>>>,
    /// Taken by this write: free again unless it goes through.
    new: Holdings,
    /// Held before and not any more: free when it went through.
    old: Holdings,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holdings {
    address: Option<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Allocation {
    /// Ends the write: it went through, or it did not (then, as on drop, what it took is free again).
    pub fn keep(mut self, done: bool) {
        if done {
            self.new = std::mem::take(&mut self.old);
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Some(taken) = &self.taken {
            free(&mut lock(taken), &self.new);
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free(taken: &mut Taken, holdings: &Holdings) {
    if let Some(address) = holdings.address {
        taken.addresses.remove(&u32::from(address));
    }
    for port in &holdings.ports {
        taken.ports.remove(port);
    }
}

impl Allocator {
    /// Nothing taken yet.
    pub fn new(range: Ipv4Net, ports: RangeInclusive<u16>) -> Self {
        Allocator { range, ports, taken: Arc::default() }
    }

    /// Marks what a stored Service holds.
    pub fn restore(&self, service: &Value) {
        let held = holdings(service);
        let mut taken = lock(&self.taken);
        taken.addresses.extend(held.address.map(u32::from));
        taken.ports.extend(held.ports);
    }

    /// Gives a Service that is written what it needs. Other kinds need nothing.
    ///
    /// Errors: 422 for addresses and ports that are taken or out of range, 500 when a range is used up.
    pub fn allocate(&self, call: &Call, object: &mut Value, old: Option<&Value>) -> Result<Allocation> {
        if !is_services(call) || !call.info.subresource.is_empty() {
            return Ok(Allocation::default());
        }
        let before = old.map(holdings).unwrap_or_default();
        let mut allocation = self.allocation();
        if let Some(old) = old {
            carry_over(object, old);
        }
        self.address(object, &before, &mut allocation).map_err(|e| invalid(object, e))?;
        self.node_ports(object, &before, &mut allocation).map_err(|e| invalid(object, e))?;
        let after = holdings(object);
        allocation.old = Holdings {
            address: before.address.filter(|a| after.address != Some(*a)),
            ports: before.ports.into_iter().filter(|p| !after.ports.contains(p)).collect(),
        };
        Ok(allocation)
    }

    /// Frees what a removed Service held.
    pub fn release(&self, call: &Call, object: &Value) {
        if is_services(call) {
            free(&mut lock(&self.taken), &holdings(object));
        }
    }

    fn allocation(&self) -> Allocation {
        Allocation { taken: Some(self.taken.clone()), new: Holdings::default(), old: Holdings::default() }
    }

    fn address(
        &self,
        object: &mut Value,
        before: &Holdings,
        allocation: &mut Allocation,
    ) -> Result<(), Error> {
        let kind = object.str_at(&["spec", "type"]).to_owned();
        let wanted = object.str_at(&["spec", "clusterIP"]).to_owned();
        let spec = object.object_at_mut(&["spec"]);
        if kind == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
            return Ok(());
        }
        let address = match wanted.as_str() {
            "None" => wanted,
            "" => self.any_address(allocation)?.to_string(),
            text => {
                self.this_address(text, before, allocation)?;
                wanted
            }
        };
        spec.set("clusterIP", address.as_str());
        spec.set("clusterIPs", vec![Value::from(address)]);
        if spec.get("ipFamilies").and_then(Value::as_array).is_none_or(|f| f.is_empty()) {
            spec.set("ipFamilies", vec![Value::str("IPv4")]);
        }
        if spec.get("ipFamilyPolicy").and_then(Value::as_str).is_none_or(str::is_empty) {
            spec.set("ipFamilyPolicy", Value::str("SingleStack"));
        }
        Ok(())
    }

    fn this_address(&self, text: &str, before: &Holdings, allocation: &mut Allocation) -> Result<(), Error> {
        let spec = Path::root("spec");
        let path = spec.child("clusterIPs");
        let refuse = |why: String| {
            let why = format!("failed to allocate IP {text}: {why}");
            Error::invalid(&path, Value::from(vec![Value::from(text)]), why)
        };
        let address: Ipv4Addr = text.parse().map_err(|_| refuse("not a valid IP address".into()))?;
        if before.address == Some(address) {
            return Ok(());
        }
        if !self.range.contains(&address)
            || address == self.range.network()
            || address == self.range.broadcast()
        {
            return Err(refuse(format!(
                "the provided IP ({text}) is not in the valid range. The range of valid IPs is {}",
                self.range
            )));
        }
        if !lock(&self.taken).addresses.insert(address.into()) {
            return Err(refuse("provided IP is already allocated".into()));
        }
        allocation.new.address = Some(address);
        Ok(())
    }

    fn any_address(&self, allocation: &mut Allocation) -> Result<Ipv4Addr, Error> {
        let (first, last) =
            (u32::from(self.range.network()) + 1, u32::from(self.range.broadcast()).saturating_sub(1));
        let size = last.saturating_sub(first) + 1;
        let mut taken = lock(&self.taken);
        let found = pick(size, |at| !taken.addresses.contains(&(first + at)));
        let spec = Path::root("spec");
        let address = found.map(|at| first + at).ok_or_else(|| {
            Error::internal(&spec.child("clusterIPs"), "failed to allocate a serviceIP: range is full")
        })?;
        taken.addresses.insert(address);
        allocation.new.address = Some(address.into());
        Ok(address.into())
    }

    fn node_ports(
        &self,
        object: &mut Value,
        before: &Holdings,
        allocation: &mut Allocation,
    ) -> Result<(), Error> {
        let kind = object.str_at(&["spec", "type"]).to_owned();
        let balancer = kind == "LoadBalancer";
        let unwanted =
            object.at(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) == Some(false);
        let allocates = kind == "NodePort" || (balancer && !unwanted);
        let local = object.str_at(&["spec", "externalTrafficPolicy"]) == "Local";
        let spec = object.object_at_mut(&["spec"]);
        // One number may serve TCP and UDP of the same service.
        let mut own: Vec<(i64, String)> = Vec::new();
        for (i, port) in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate()
        {
            let wanted = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
            let protocol = port.str_at(&["protocol"]).to_owned();
            let fields = port.object_at_mut(&[]);
            if !(allocates || balancer) {
                fields.remove("nodePort");
                continue;
            }
            let shared = own.iter().any(|(n, p)| *n == wanted && *p != protocol);
            let number = match wanted {
                0 if !allocates => continue,
                0 => i64::from(self.any_port(allocation)?),
                n if shared => n,
                n => self.this_port(n, i, before, allocation)?,
            };
            own.push((number, protocol));
            fields.set("nodePort", number);
        }
        if balancer && local {
            let wanted = spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0);
            let number = match wanted {
                0 => i64::from(self.any_port(allocation)?),
                n => self.this_port(n, 0, before, allocation)?,
            };
            spec.set("healthCheckNodePort", number);
        }
        Ok(())
    }

    fn this_port(
        &self,
        number: i64,
        index: usize,
        before: &Holdings,
        allocation: &mut Allocation,
    ) -> Result<i64, Error> {
        let (spec, ports) = (Path::root("spec"), "ports");
        let (list, low, high) = (spec.child(ports), *self.ports.start(), *self.ports.end());
        let item = list.index(index);
        let path = item.child("nodePort");
        let port = u16::try_from(number).ok().filter(|p| self.ports.contains(p)).ok_or_else(|| {
            let why =
                format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
            Error::invalid(&path, number, why)
        })?;
        if before.ports.contains(&port) {
            return Ok(number);
        }
        if !lock(&self.taken).ports.insert(port) {
            return Err(Error::invalid(&path, number, "provided port is already allocated"));
        }
        allocation.new.ports.push(port);
        Ok(number)
    }

    fn any_port(&self, allocation: &mut Allocation) -> Result<u16, Error> {
        let first = u32::from(*self.ports.start());
        let size = u32::from(*self.ports.end()) - first + 1;
        let mut taken = lock(&self.taken);
        let found = pick(size, |at| !taken.ports.contains(&((first + at) as u16)));
        let spec = Path::root("spec");
        let port = found.map(|at| (first + at) as u16).ok_or_else(|| {
            Error::internal(&spec.child("ports"), "failed to allocate a nodePort: range is full")
        })?;
        taken.ports.insert(port);
        allocation.new.ports.push(port);
        Ok(port)
    }
}

/// A free place: random in the upper part, then the next free one after it, then the lower part.
fn pick(size: u32, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let low = reserved(size);
    let upper = size - low;
    if upper > 0 {
        let start = rand::rng().random_range(0..upper);
        if let Some(found) = (0..upper).map(|i| low + (start + i) % upper).find(|at| is_free(*at)) {
            return Some(found);
        }
    }
    (0..low).find(|at| is_free(*at))
}

fn is_services(call: &Call) -> bool {
    call.kind.group.is_empty() && call.kind.plural == "services"
}

fn invalid(object: &Value, error: Error) -> Box<Status> {
    Status::invalid("", "Service", object.str_at(&["metadata", "name"]), &[error])
}

/// What a Service holds.
fn holdings(service: &Value) -> Holdings {
    let port = |v: &Value| v.as_i64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    let listed = service.items_at(&["spec", "ports"]).iter().filter_map(|p| p.get("nodePort").and_then(port));
    let health = service.at(&["spec", "healthCheckNodePort"]).and_then(port);
    Holdings {
        address: service.str_at(&["spec", "clusterIP"]).parse().ok(),
        ports: listed.chain(health).collect(),
    }
}

/// A client that leaves allocated values out of an update means to keep them.
fn carry_over(object: &mut Value, old: &Value) {
    let kind = object.str_at(&["spec", "type"]).to_owned();
    let old_ports = old.items_at(&["spec", "ports"]).to_vec();
    let old_address = old.str_at(&["spec", "clusterIP"]).to_owned();
    let spec = object.object_at_mut(&["spec"]);
    if kind != "ExternalName"
        && spec.get("clusterIP").and_then(Value::as_str).is_none_or(str::is_empty)
        && !old_address.is_empty()
    {
        spec.set("clusterIP", old_address);
    }
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        return;
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |o: &&Value| {
            o.str_at(&["name"]) == port.str_at(&["name"])
                && o.get("port") == port.get("port")
                && o.str_at(&["protocol"]) == port.str_at(&["protocol"])
        };
        let Some(number) = old_ports.iter().find(same).and_then(|o| o.get("nodePort")).cloned() else {
            continue;
        };
        if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) == 0 {
            port.object_at_mut(&[]).set("nodePort", number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_all_and_no_more() {
        let mut taken = HashSet::new();
        for _ in 0..254 {
            let at = pick(254, |at| !taken.contains(&at)).unwrap();
            assert!(at < 254 && taken.insert(at));
        }
        assert_eq!(pick(254, |at| !taken.contains(&at)), None);
        assert_eq!(pick(0, |_| true), None);
    }

    #[test]
    fn given_back_unless_kept() {
        let allocator = Allocator::new("10.0.0.0/28".parse().unwrap(), 30000..=30001);
        let mut allocation = allocator.allocation();
        allocator.this_port(30000, 0, &Holdings::default(), &mut allocation).unwrap();
        assert!(allocator.this_port(30000, 0, &Holdings::default(), &mut allocation).is_err());
        assert!(allocator.this_port(80, 0, &Holdings::default(), &mut allocation).is_err());
        drop(allocation);
        let mut allocation = allocator.allocation();
        assert_eq!(allocator.this_port(30000, 0, &Holdings::default(), &mut allocation).unwrap(), 30000);
        allocation.keep(true);
        assert!(lock(&allocator.taken).ports.contains(&30000));
    }
}
