//! The plan service by service: one changed endpoint plans one service again, whatever else there is.
//!
//! The one thing that services share are addresses: two may ask for the same external IP and port. Each frontend therefore
//! has claims, and the first claim wins: cluster IPs before others, then the older service, then by name. When it goes, the next
//! takes over in the same change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use corten_client::Key;
use corten_client::k8s_openapi::api::core::v1::Service;
use corten_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use corten_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Node;
use super::service::{ServicePlan, plan_service};
use crate::ruleset::{
    At, Change, Family, Frontend, FrontendKind, HealthCheck, PortChange, PortName, Ruleset, ServicePort,
};

/// Plans by service and gathers what changed.
#[derive(Debug, Default)]
pub struct Planner {
    node: Node,
    services: HashMap<Key, ServicePlan>,
    claims: HashMap<Place, Vec<Claim>>,
    health_claims: HashMap<u16, BTreeMap<Key, HealthCheck>>,
    rules: Ruleset,
    /// What the ports touched since the last [`Planner::take_change`] were then.
    touched: BTreeMap<Arc<PortName>, Option<Arc<ServicePort>>>,
}

/// A node port has no address that would tell its family.
type Place = (Family, At);

/// A frontend that somebody wants; the least one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    kind: FrontendKind,
    created: Option<Time>,
    name: Arc<PortName>,
}

impl Planner {
    /// Without any service.
    pub fn new(node: Node) -> Self {
        Planner { node, ..Planner::default() }
    }

    /// The node that is planned for.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Sets the node; every service must be [`set`](Planner::set) again afterwards.
    pub fn set_node(&mut self, node: Node) {
        self.node = node;
    }

    /// The services that are planned, also those without any port.
    pub fn known(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// The ruleset as it is now.
    pub fn rules(&self) -> &Ruleset {
        &self.rules
    }

    /// The ruleset, when nothing follows.
    pub fn into_rules(self) -> Ruleset {
        self.rules
    }

    /// Plans one service again from its object (none: it is gone) and all of its slices.
    pub fn set(&mut self, key: &Key, service: Option<&Service>, slices: &[&EndpointSlice]) {
        let new = service.map(|service| plan_service(service, slices, &self.node));
        let old = self.services.remove(key);
        if old == new {
            if let Some(old) = old {
                self.services.insert(key.clone(), old);
            }
            return;
        }
        let (before, after) = (old.unwrap_or_default(), new.clone().unwrap_or_default());
        self.set_health(key, &before, &after);
        let mut again = self.claim(&before, &after);
        again.extend(before.ports.iter().chain(&after.ports).map(|(name, _)| name.clone()));
        if let Some(new) = new {
            self.services.insert(key.clone(), new);
        }
        for name in again {
            self.emit(&name);
        }
    }

    /// What changed since the last call.
    pub fn take_change(&mut self) -> Change {
        let touched = std::mem::take(&mut self.touched);
        let ports = touched.into_iter().filter_map(|(name, old)| {
            let new = self.rules.ports.get(&*name).cloned();
            (old != new).then(|| PortChange { name: (*name).clone(), old, new })
        });
        Change { ports: ports.collect() }
    }

    fn set_health(&mut self, key: &Key, before: &ServicePlan, after: &ServicePlan) {
        if let Some((port, _)) = &before.health_check {
            self.health_claims.entry(*port).or_default().remove(key);
        }
        if let Some((port, check)) = &after.health_check {
            self.health_claims.entry(*port).or_default().insert(key.clone(), check.clone());
        }
        for (port, _) in before.health_check.iter().chain(&after.health_check) {
            let first = self.health_claims.get(port).and_then(|claims| claims.values().next());
            match first.cloned() {
                Some(check) => drop(self.rules.health_checks.insert(*port, check)),
                None => {
                    self.rules.health_checks.remove(port);
                    self.health_claims.remove(port);
                }
            }
        }
    }

    /// Takes back the old claims and makes the new ones. Returns the ports of *other* services that won or lost a frontend.
    fn claim(&mut self, before: &ServicePlan, after: &ServicePlan) -> BTreeSet<Arc<PortName>> {
        let (old, new) = (claims_of(before), claims_of(after));
        let mut again = BTreeSet::new();
        let kept: BTreeSet<&(Place, Claim)> = old.iter().filter(|claim| new.contains(claim)).collect();
        for (at, claim) in old.iter().filter(|c| !kept.contains(c)) {
            let Some(claims) = self.claims.get_mut(at) else { continue };
            claims.retain(|c| c != claim);
            again.extend(claims.first().map(|c| c.name.clone()));
            if claims.is_empty() {
                self.claims.remove(at);
            }
        }
        for (at, claim) in new.iter().filter(|c| !kept.contains(c)) {
            let claims = self.claims.entry(*at).or_default();
            again.extend(claims.first().map(|c| c.name.clone()));
            claims.push(claim.clone());
            claims.sort();
        }
        again
    }

    /// Puts one port into the ruleset, without the frontends that another one has won.
    fn emit(&mut self, name: &Arc<PortName>) {
        let new = self.wanted(name).map(|port| self.without_lost(name, &port));
        let old = match new.clone() {
            Some(port) => self.rules.ports.insert((**name).clone(), port),
            None => self.rules.ports.remove(&**name),
        };
        self.touched.entry(name.clone()).or_insert(old);
    }

    fn wanted(&self, name: &PortName) -> Option<Arc<ServicePort>> {
        let service = self.services.get(&Key::new(name.namespace.clone(), name.service.clone()))?;
        let at = service.ports.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        Some(service.ports[at].1.clone())
    }

    fn without_lost(&self, name: &Arc<PortName>, port: &Arc<ServicePort>) -> Arc<ServicePort> {
        let has_won = |frontend: &Frontend| {
            self.claims
                .get(&(name.family, frontend.at))
                .and_then(|c| c.first())
                .is_some_and(|c| c.name == *name)
        };
        if port.frontends.iter().all(has_won) {
            return port.clone();
        }
        let mut port = (**port).clone();
        port.frontends.retain(has_won);
        Arc::new(port)
    }
}

fn claims_of(plan: &ServicePlan) -> Vec<(Place, Claim)> {
    let each = plan.ports.iter().flat_map(|(name, port)| {
        port.frontends.iter().map(move |f| {
            let claim = Claim { kind: f.kind, created: plan.created.clone(), name: name.clone() };
            ((name.family, f.at), claim)
        })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_of_a_service_have_its_node_port() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": "web"},
            "spec": {
                "type": "NodePort", "clusterIPs": ["10.96.0.7", "fd00:96::7"], "clusterIP": "10.96.0.7",
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
            },
        }))
        .unwrap();
        let mut planner = Planner::new(Node::default());
        planner.set(&Key::new("ns", "web"), Some(&service), &[]);
        let frontends: Vec<usize> = planner.rules().ports.values().map(|port| port.frontends.len()).collect();
        assert_eq!(frontends, [2, 2]);
    }
}
