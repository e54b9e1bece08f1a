//! Addresses and node ports of Services. The objects themselves are the record; what is taken is kept in memory and rebuilt
//! from them at start. What a write takes is given back unless the write goes through; where nobody knows whether it did (the
//! client went away while the store was writing), the stored objects are asked later. They are asked as well before anything is
//! refused for being taken.

mod pool;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_api::field::{Error, Path};
use corten_api::kinds::service::{init_families, needs_health_port};
use corten_api::{Result, Status, Value};
use ipnet::IpNet;

use crate::ApiServer;
use crate::call::Call;
use pool::{Addresses, Held, any_port};

/// What a broken-off write may have stored is settled when no write of that time can be under way any more.
const DOUBT_MS: i64 = 120_000;
/// Tries of reading all Services while none is written.
const REPAIR_TRIES: usize = 3;

#[derive(Debug, Default)]
struct Taken {
    held: HashSet<Held>,
    /// Of these, what belongs to writes under way.
    pending: HashSet<Held>,
    /// Taken by writes whose end nobody saw, and when.
    doubtful: Vec<(Vec<Held>, i64)>,
    /// What stored Services give up with writes under way: until those have ended it is nobody else's, though it may not be
    /// among what is stored any more.
    leaving: Vec<Held>,
    /// Counts writes that went through.
    writes: u64,
}

impl Taken {
    /// Takes it for a write, if it is free.
    fn take(&mut self, new: &mut Vec<Held>, held: Held) -> bool {
        let is_new = self.held.insert(held);
        if is_new {
            self.pending.insert(held);
            new.push(held);
        }
        is_new
    }

    fn free(&mut self, holdings: &[Held]) {
        for held in holdings {
            self.held.remove(held);
        }
    }

    fn settled(&mut self, new: &[Held]) {
        for held in new {
            self.pending.remove(held);
        }
    }

    fn left(&mut self, old: &[Held]) {
        for held in old {
            if let Some(at) = self.leaving.iter().position(|leaving| leaving == held) {
                self.leaving.swap_remove(at);
            }
        }
    }
}

/// What Services hold.
#[derive(Debug)]
pub(crate) struct Allocator {
    ranges: Vec<Addresses>,
    ports: RangeInclusive<u16>,
    taken: Arc<Mutex<Taken>>,
}

/// What one write took.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    taken: Option<Arc<Mutex<Taken>>>,
    /// Taken by this write: free again unless it goes through.
    new: Vec<Held>,
    /// Held before and not any more: free when it went through.
    old: Vec<Held>,
    /// Ranges beside the server's own.
    more: Vec<Addresses>,
    now_ms: i64,
}

impl Allocation {
    fn new(taken: &Arc<Mutex<Taken>>, now_ms: i64) -> Self {
        Allocation { taken: Some(taken.clone()), new: Vec::new(), old: Vec::new(), more: Vec::new(), now_ms }
    }

    /// Ends the write: it went through, or it did not and what it took is free again.
    pub fn end(mut self, done: bool) {
        let (new, old) = (std::mem::take(&mut self.new), std::mem::take(&mut self.old));
        let Some(taken) = self.taken.take() else { return };
        let mut taken = lock(&taken);
        taken.settled(&new);
        taken.left(&old);
        taken.free(if done { &old } else { &new });
        taken.writes += u64::from(done);
    }
}

impl Drop for Allocation {
    /// Without an end it is not known whether the write went through.
    fn drop(&mut self) {
        let (new, old) = (std::mem::take(&mut self.new), std::mem::take(&mut self.old));
        let Some(taken) = &self.taken else { return };
        let mut taken = lock(taken);
        taken.settled(&new);
        taken.left(&old);
        if !new.is_empty() {
            taken.doubtful.push((new, self.now_ms));
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Allocator {
    /// Nothing taken yet. The family of the first range is the cluster's default.
    pub fn new(ranges: impl IntoIterator<Item = IpNet>, ports: RangeInclusive<u16>) -> Self {
        let ranges = ranges.into_iter().map(Addresses::new).collect();
        Allocator { ranges, ports, taken: Arc::default() }
    }

    /// Marks what a stored Service holds.
    pub fn restore(&self, service: &Value) {
        let mut taken = lock(&self.taken);
        for held in holdings(service) {
            if !taken.held.insert(held) {
                let name = service.str_at(&["metadata", "name"]);
                tracing::warn!(name, ?held, "two services hold the same; one of them must be made anew");
            }
        }
    }

    /// Gives a Service that is written what it needs. Other kinds need nothing.
    ///
    /// Errors: 422 for addresses and ports that are taken or out of range, 500 when a range is used up.
    pub async fn allocate(
        &self,
        server: &ApiServer,
        call: &Call,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Allocation> {
        if !is_services(call) || !call.info.subresource.is_empty() {
            return Ok(Allocation::default());
        }
        let now_ms = server.now_ms();
        if lock(&self.taken).doubtful.iter().any(|(_, at)| now_ms - at > DOUBT_MS) {
            self.repair(server).await?;
        }
        match self.attempt(now_ms, object, old, Vec::new()) {
            Ok(allocation) => Ok(allocation),
            // What stands in the way may be a leftover, and there may be more ranges than the server's own.
            Err(_) => {
                self.repair(server).await?;
                let more = more_ranges(server).await?;
                self.attempt(now_ms, object, old, more)
            }
        }
    }

    /// Errors leave the object as it was.
    fn attempt(
        &self,
        now_ms: i64,
        object: &mut Value,
        old: Option<&Value>,
        more: Vec<Addresses>,
    ) -> Result<Allocation> {
        let before = old.map(holdings).unwrap_or_default();
        let mut allocation = Allocation::new(&self.taken, now_ms);
        allocation.more = more;
        let mut wanted = object.clone();
        match self.give(&mut wanted, old, &before, &mut allocation) {
            Ok(()) => {
                let after = holdings(&wanted);
                allocation.old = before.into_iter().filter(|held| !after.contains(held)).collect();
                lock(&self.taken).leaving.extend(&allocation.old);
                *object = wanted;
                Ok(allocation)
            }
            Err(refused) => {
                allocation.end(false);
                Err(refused)
            }
        }
    }

    fn give(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        before: &[Held],
        allocation: &mut Allocation,
    ) -> Result<()> {
        let families: Vec<&'static str> = self.ranges.iter().map(Addresses::family).collect();
        init_families(object, old, &families).map_err(|errors| invalid(object, &errors))?;
        self.addresses(object, before, allocation)?;
        self.node_ports(object, old.is_none(), before, allocation)?;
        self.health_port(object, before, allocation)
    }

    /// Before a Service is removed: what it holds is free when [`Allocation::end`] says that it is gone.
    pub fn leave(&self, call: &Call, object: &Value, now_ms: i64) -> Allocation {
        if !is_services(call) {
            return Allocation::default();
        }
        let mut allocation = Allocation::new(&self.taken, now_ms);
        allocation.old = holdings(object);
        lock(&self.taken).leaving.extend(&allocation.old);
        allocation
    }

    /// Takes from the stored Services what is held; only writes under way and doubts of late are remembered beside them.
    async fn repair(&self, server: &ApiServer) -> Result<()> {
        for _ in 0..REPAIR_TRIES {
            let writes = lock(&self.taken).writes;
            let mut held = HashSet::new();
            for entry in server.list_raw("services", "").await? {
                held.extend(holdings(&server.tree(&entry)?));
            }
            let mut taken = lock(&self.taken);
            // A Service written meanwhile may not be among those read.
            if taken.writes == writes {
                taken.doubtful.retain(|(_, at)| server.now_ms() - at <= DOUBT_MS);
                held.extend(taken.doubtful.iter().flat_map(|(list, _)| list));
                held.extend(&taken.pending);
                held.extend(&taken.leaving);
                taken.held = held;
                return Ok(());
            }
        }
        Ok(())
    }

    fn addresses(&self, object: &mut Value, before: &[Held], allocation: &mut Allocation) -> Result<()> {
        let external = object.str_at(&["spec", "type"]) == "ExternalName";
        if external || object.str_at(&["spec", "clusterIP"]) == "None" {
            return Ok(());
        }
        let given = object.items_at(&["spec", "clusterIPs"]).to_vec();
        let mut addresses = Vec::new();
        for (i, family) in object.items_at(&["spec", "ipFamilies"]).iter().enumerate() {
            let family = family.as_str().unwrap_or_default();
            addresses.push(match given.get(i).and_then(Value::as_str).filter(|text| !text.is_empty()) {
                Some(text) => {
                    self.this_address(text, family, before, allocation).map_err(|why| {
                        let (spec, why) =
                            (Path::root("spec"), format!("failed to allocate IP {text}: {why}"));
                        let bad = Value::from(given.clone());
                        invalid(object, &[Error::invalid(&spec.child("clusterIPs"), bad, why)])
                    })?;
                    Value::from(text)
                }
                None => self.any_address(family, allocation)?,
            });
        }
        let spec = object.object_at_mut(&["spec"]);
        if let Some(first) = addresses.first() {
            spec.set("clusterIP", first.clone());
            spec.set("clusterIPs", addresses);
        }
        Ok(())
    }

    /// The ranges of a family, the server's own first.
    fn ranges<'a>(&'a self, family: &'a str, more: &'a [Addresses]) -> impl Iterator<Item = &'a Addresses> {
        self.ranges.iter().chain(more).filter(move |range| range.family() == family)
    }

    fn this_address(
        &self,
        text: &str,
        family: &str,
        before: &[Held],
        allocation: &mut Allocation,
    ) -> Result<(), String> {
        let address = text.parse().map_err(|_| "not a valid IP address")?;
        let held = Held::Address(address);
        if before.contains(&held) {
            return Ok(());
        }
        let mut checked = Err("the provided network does not match the current range".to_owned());
        for range in self.ranges(family, &allocation.more) {
            checked = range.check(address);
            if checked.is_ok() {
                break;
            }
        }
        checked?;
        match lock(&self.taken).take(&mut allocation.new, held) {
            true => Ok(()),
            false => Err("provided IP is already allocated".into()),
        }
    }

    fn any_address(&self, family: &str, allocation: &mut Allocation) -> Result<Value> {
        let full = || Status::internal("failed to allocate a serviceIP: range is full");
        let mut taken = lock(&self.taken);
        let free = self.ranges(family, &allocation.more).find_map(|range| range.any(&taken.held));
        let address = free.ok_or_else(full)?;
        taken.take(&mut allocation.new, Held::Address(address));
        Ok(Value::from(address.to_string()))
    }

    /// Node ports of the types that have them. Ports of one number under several protocols share theirs when a Service is made.
    fn node_ports(
        &self,
        object: &mut Value,
        is_new: bool,
        before: &[Held],
        allocation: &mut Allocation,
    ) -> Result<()> {
        let kind = object.str_at(&["spec", "type"]).to_owned();
        let declined =
            object.at(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) == Some(false);
        if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let allocates = kind == "NodePort" || !declined;
        let mut ports = object.items_at(&["spec", "ports"]).to_vec();
        let number = |port: &Value, field: &str| port.get(field).and_then(Value::as_i64).unwrap_or(0);
        let mut own: Vec<i64> = Vec::new();
        // What the client chose goes first, so that nothing chosen for it stands in the way.
        let mut order: Vec<usize> = (0..ports.len()).collect();
        order.sort_by_key(|i| number(&ports[*i], "nodePort") == 0);
        for i in order {
            let (port, mut wanted) = (number(&ports[i], "port"), number(&ports[i], "nodePort"));
            if wanted == 0 && is_new {
                let siblings = ports.iter().filter(|p| number(p, "port") == port);
                wanted = siblings.map(|p| number(p, "nodePort")).find(|n| *n != 0).unwrap_or(0);
            }
            let node_port = match wanted {
                0 if !allocates => continue,
                0 => i64::from(self.any_port("a nodePort", allocation)?),
                n if own.contains(&n) => n,
                n => self.this_port(n, before, allocation).map_err(|why| {
                    let (spec, ports) = (Path::root("spec"), "ports");
                    let (list, field) = (spec.child(ports), "nodePort");
                    invalid(object, &[Error::invalid(&list.index(i).child(field), n, why)])
                })?,
            };
            own.push(node_port);
            ports[i].object_at_mut(&[]).set("nodePort", node_port);
        }
        if !ports.is_empty() {
            object.object_at_mut(&["spec"]).set("ports", ports);
        }
        Ok(())
    }

    fn health_port(&self, object: &mut Value, before: &[Held], allocation: &mut Allocation) -> Result<()> {
        if !object.get("spec").is_some_and(needs_health_port) {
            return Ok(());
        }
        let wanted = object.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_i64).unwrap_or(0);
        let number = match wanted {
            0 => i64::from(self.any_port("a HealthCheck NodePort 0", allocation)?),
            n => self.this_port(n, before, allocation).map_err(|why| {
                Status::internal(format!("failed to allocate requested HealthCheck NodePort {n}: {why}"))
            })?,
        };
        object.object_at_mut(&["spec"]).set("healthCheckNodePort", number);
        Ok(())
    }

    fn this_port(&self, number: i64, before: &[Held], allocation: &mut Allocation) -> Result<i64, String> {
        let (low, high) = (self.ports.start(), self.ports.end());
        let port = u16::try_from(number).ok().filter(|p| self.ports.contains(p)).ok_or_else(|| {
            format!("provided port is not in the valid range. The range of valid ports is {low}-{high}")
        })?;
        let held = Held::Port(port);
        match before.contains(&held) || lock(&self.taken).take(&mut allocation.new, held) {
            true => Ok(number),
            false => Err("provided port is already allocated".into()),
        }
    }

    fn any_port(&self, what: &str, allocation: &mut Allocation) -> Result<u16> {
        let mut taken = lock(&self.taken);
        let port = any_port(&self.ports, &taken.held)
            .ok_or_else(|| Status::internal(format!("failed to allocate {what}: range is full")))?;
        taken.take(&mut allocation.new, Held::Port(port));
        Ok(port)
    }
}

/// Ranges of ServiceCIDR objects that are Ready and stay. They are read when the server's own ranges do not do.
async fn more_ranges(server: &ApiServer) -> Result<Vec<Addresses>> {
    let mut more = Vec::new();
    for entry in server.list_group("networking.k8s.io", "servicecidrs", "").await? {
        let object = server.tree(&entry)?;
        let is_true = |c: &Value| c.str_at(&["type"]) == "Ready" && c.str_at(&["status"]) == "True";
        let is_ready = object.items_at(&["status", "conditions"]).iter().any(is_true);
        if !is_ready || !object.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
            continue;
        }
        let nets = object.items_at(&["spec", "cidrs"]).iter().filter_map(|c| c.as_str()?.parse().ok());
        more.extend(nets.map(Addresses::new));
    }
    Ok(more)
}

fn is_services(call: &Call) -> bool {
    call.kind.group.is_empty() && call.kind.plural == "services"
}

fn invalid(object: &Value, errors: &[Error]) -> Box<Status> {
    Status::invalid("", "Service", object.str_at(&["metadata", "name"]), errors)
}

/// What a Service holds.
fn holdings(service: &Value) -> Vec<Held> {
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return Vec::new();
    }
    let port = |v: &Value| v.as_i64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).map(Held::Port);
    let listed = service.items_at(&["spec", "ports"]).iter().filter_map(|p| p.get("nodePort").and_then(port));
    let health = service.at(&["spec", "healthCheckNodePort"]).and_then(port);
    let addresses = service.items_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    let addresses = addresses.filter_map(|text| text.parse().ok()).map(Held::Address);
    let mut all: Vec<Held> = Vec::new();
    for held in addresses.chain(listed).chain(health) {
        if !all.contains(&held) {
            all.push(held);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Allocator {
        Allocator::new(["10.0.0.0/28".parse().unwrap(), "fd00::/112".parse().unwrap()], 30000..=30002)
    }

    fn write(allocator: &Allocator) -> Allocation {
        Allocation::new(&allocator.taken, 0)
    }

    fn service(spec: &str) -> Value {
        crate::decode::json(format!("{{\"spec\":{spec}}}").into()).unwrap()
    }

    #[test]
    fn given_back_unless_the_write_went_through() {
        let allocator = allocator();
        let mut first = write(&allocator);
        allocator.this_port(30000, &[], &mut first).unwrap();
        assert!(allocator.this_port(30000, &[], &mut first).is_err());
        assert!(allocator.this_port(80, &[], &mut first).is_err());
        first.end(false);
        let mut second = write(&allocator);
        assert_eq!(allocator.this_port(30000, &[], &mut second).unwrap(), 30000);
        second.end(true);
        assert!(lock(&allocator.taken).held.contains(&Held::Port(30000)));
        let mut third = write(&allocator);
        allocator.this_port(30001, &[], &mut third).unwrap();
        drop(third);
        assert!(lock(&allocator.taken).held.contains(&Held::Port(30001)), "kept while in doubt");
        assert_eq!(lock(&allocator.taken).doubtful.len(), 1);
    }

    #[test]
    fn both_families_and_shared_ports() {
        let allocator = allocator();
        let mut object = service(
            r#"{"type":"NodePort","ipFamilyPolicy":"PreferDualStack","ports":[{"port":53,"protocol":"TCP"},{"port":53,"protocol":"UDP"},{"port":80,"nodePort":30002}]}"#,
        );
        let mut allocation = write(&allocator);
        allocator.give(&mut object, None, &[], &mut allocation).unwrap();
        let held = holdings(&object);
        allocation.end(true);
        assert_eq!(object.items_at(&["spec", "clusterIPs"]).len(), 2);
        assert_eq!(
            object.items_at(&["spec", "clusterIPs"])[0].as_str(),
            Some(object.str_at(&["spec", "clusterIP"]))
        );
        let ports: Vec<_> = object.items_at(&["spec", "ports"]).iter().map(|p| p.get("nodePort")).collect();
        assert_eq!(ports[0], ports[1], "one number for both protocols");
        assert_eq!(held.len(), 4, "{held:?}");
        assert!(held.iter().all(|one| lock(&allocator.taken).held.contains(one)));
    }

    #[test]
    fn more_ranges_are_asked_when_the_own_do_not_do() {
        let allocator = Allocator::new(["10.0.0.0/30".parse().unwrap()], 30000..=30002);
        let more = || vec![Addresses::new("10.1.0.0/30".parse().unwrap())];
        let attempt = |spec: &str, more: Vec<Addresses>| {
            let mut object = service(spec);
            let allocation = allocator.attempt(0, &mut object, None, more)?;
            allocation.end(true);
            Ok::<_, Box<Status>>(object.str_at(&["spec", "clusterIP"]).to_owned())
        };
        assert_eq!(
            attempt(r#"{"clusterIP":"10.1.0.1","clusterIPs":["10.1.0.1"]}"#, vec![]).unwrap_err().code,
            422
        );
        assert_eq!(
            attempt(r#"{"clusterIP":"10.1.0.1","clusterIPs":["10.1.0.1"]}"#, more()).unwrap(),
            "10.1.0.1"
        );
        for _ in 0..2 {
            assert!(attempt("{}", vec![]).unwrap().starts_with("10.0.0."));
        }
        assert_eq!(attempt("{}", vec![]).unwrap_err().code, 500);
        assert_eq!(attempt("{}", more()).unwrap(), "10.1.0.2");
        assert_eq!(attempt("{}", more()).unwrap_err().code, 500);
    }

    #[test]
    fn what_is_refused() {
        let allocator = allocator();
        allocator.restore(&service(r#"{"clusterIPs":["10.0.0.1"],"ports":[{"nodePort":30000}]}"#));
        let cases = [
            (
                r#"{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"]}"#,
                422,
                r#"spec.clusterIPs: Invalid value: ["10.0.0.1"]: failed to allocate IP 10.0.0.1: provided IP is already allocated"#,
            ),
            (
                r#"{"clusterIP":"10.1.0.1","clusterIPs":["10.1.0.1"]}"#,
                422,
                r#"failed to allocate IP 10.1.0.1: the provided network does not match the current range"#,
            ),
            (
                r#"{"type":"NodePort","ports":[{"port":1,"nodePort":30000}]}"#,
                422,
                "spec.ports[0].nodePort: Invalid value: 30000: provided port is already allocated",
            ),
            (
                r#"{"type":"NodePort","ports":[{"port":1,"nodePort":80}]}"#,
                422,
                "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30002",
            ),
            (
                r#"{"type":"NodePort","ports":[{"port":1},{"port":2},{"port":3}]}"#,
                500,
                "failed to allocate a nodePort: range is full",
            ),
            (
                r#"{"type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":30000}"#,
                500,
                "failed to allocate requested HealthCheck NodePort 30000: provided port is already allocated",
            ),
        ];
        for (spec, code, why) in cases {
            let mut allocation = write(&allocator);
            let refused = allocator.give(&mut service(spec), None, &[], &mut allocation).expect_err(spec);
            allocation.end(false);
            assert_eq!(refused.code, code, "{spec}");
            assert!(refused.message.contains(why), "{}", refused.message);
        }
        assert_eq!(lock(&allocator.taken).held.len(), 2, "nothing of all this is left");
    }
}
