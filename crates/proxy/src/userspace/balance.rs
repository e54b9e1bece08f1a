//! Who gets the next connection: in turn, or by affinity. Pure; the time is passed in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ruleset::{Endpoint, ServicePort};

/// Clients that one service port remembers; a further one is balanced without memory.
const REMEMBERED_CLIENTS: usize = 16_384;

/// From which endpoints may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// All of the cluster's.
    Cluster,
    /// This node's.
    Local,
}

/// One service port's endpoints, and whose turn it is.
#[derive(Debug)]
pub(super) struct Balancer {
    port: Arc<ServicePort>,
    turn: usize,
    remembered: HashMap<IpAddr, (Endpoint, Instant)>,
}

impl Balancer {
    pub(super) fn new(port: Arc<ServicePort>) -> Self {
        Self { port, turn: 0, remembered: HashMap::new() }
    }

    /// Takes new endpoints; clients of those that stay are still remembered.
    pub(super) fn update(&mut self, port: Arc<ServicePort>) {
        if port.affinity_s.is_none() {
            self.remembered.clear();
        }
        self.port = port;
    }

    /// Whether flows to this address may live on.
    pub(super) fn serves(&self, address: IpAddr) -> bool {
        self.port.serving.binary_search(&address).is_ok()
            || self.port.cluster.iter().chain(&self.port.local).any(|e| e.address == address)
    }

    /// The endpoint of a new connection, and those to try when it does not answer.
    pub(super) fn pick(&mut self, client: IpAddr, pool: Pool, now: Instant) -> Vec<Endpoint> {
        let all = match pool {
            Pool::Cluster => &self.port.cluster,
            Pool::Local => &self.port.local,
        };
        if all.is_empty() {
            return Vec::new();
        }
        let start = self.turn % all.len();
        let mut order: Vec<Endpoint> = all[start..].iter().chain(&all[..start]).copied().collect();
        match self.recall(client, now).filter(|one| order.contains(one)) {
            Some(same) => order.sort_by_key(|one| *one != same),
            None => self.turn = self.turn.wrapping_add(1),
        }
        order
    }

    /// A connection was made: the client stays there when the service asks for it.
    pub(super) fn remember(&mut self, client: IpAddr, endpoint: Endpoint, now: Instant) {
        let Some(timeout) = self.timeout() else { return };
        if self.remembered.len() >= REMEMBERED_CLIENTS && !self.remembered.contains_key(&client) {
            self.remembered.retain(|_, (_, last)| now.duration_since(*last) < timeout);
            if self.remembered.len() >= REMEMBERED_CLIENTS {
                return;
            }
        }
        self.remembered.insert(client, (endpoint, now));
    }

    fn recall(&self, client: IpAddr, now: Instant) -> Option<Endpoint> {
        let (endpoint, last) = self.remembered.get(&client)?;
        (now.duration_since(*last) < self.timeout()?).then_some(*endpoint)
    }

    fn timeout(&self) -> Option<Duration> {
        self.port.affinity_s.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::Protocol;

    fn endpoint(last: u8) -> Endpoint {
        Endpoint { address: IpAddr::from([10, 0, 0, last]), port: 80, is_local: last == 1 }
    }

    fn port(cluster: &[u8], affinity_s: Option<u32>) -> Arc<ServicePort> {
        Arc::new(ServicePort {
            protocol: Protocol::Tcp,
            frontends: vec![],
            cluster: cluster.iter().map(|last| endpoint(*last)).collect(),
            local: cluster.iter().filter(|last| **last == 1).map(|last| endpoint(*last)).collect(),
            serving: vec![],
            affinity_s,
            source_ranges: vec![],
        })
    }

    fn first(balancer: &mut Balancer, client: u8, now: Instant) -> Endpoint {
        let client = IpAddr::from([192, 0, 2, client]);
        let one = balancer.pick(client, Pool::Cluster, now)[0];
        balancer.remember(client, one, now);
        one
    }

    #[test]
    fn connections_go_round() {
        let (mut balancer, now) = (Balancer::new(port(&[1, 2, 3], None)), Instant::now());
        let got: Vec<_> = (0..6).map(|_| first(&mut balancer, 9, now)).collect();
        assert_eq!(got, [1, 2, 3, 1, 2, 3].map(endpoint));
        let order = balancer.pick(IpAddr::from([192, 0, 2, 9]), Pool::Cluster, now);
        assert_eq!(order, [1, 2, 3].map(endpoint), "the others stand behind");
        assert_eq!(balancer.pick(IpAddr::from([192, 0, 2, 9]), Pool::Local, now), [endpoint(1)]);
        balancer.update(port(&[], None));
        assert!(balancer.pick(IpAddr::from([192, 0, 2, 9]), Pool::Cluster, now).is_empty());
    }

    #[test]
    fn a_client_stays_until_its_time_is_over_or_its_endpoint_gone() {
        let (mut balancer, start) = (Balancer::new(port(&[1, 2], Some(10))), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(first(&mut balancer, 1, start), endpoint(1));
        assert_eq!(first(&mut balancer, 2, start), endpoint(2));
        assert_eq!(first(&mut balancer, 1, after(9)), endpoint(1));
        assert_eq!(first(&mut balancer, 1, after(18)), endpoint(1), "each connection counts anew");
        assert_eq!(first(&mut balancer, 2, after(18)), endpoint(1), "ten seconds are over");
        balancer.update(port(&[2, 3], Some(10)));
        assert_ne!(first(&mut balancer, 1, after(19)), endpoint(1), "gone");
    }

    #[test]
    fn memory_is_bounded() {
        let (mut balancer, now) = (Balancer::new(port(&[1, 2], Some(10))), Instant::now());
        for client in 0..u32::try_from(REMEMBERED_CLIENTS).unwrap() + 10 {
            balancer.remember(IpAddr::from(client.to_be_bytes()), endpoint(1), now);
        }
        assert_eq!(balancer.remembered.len(), REMEMBERED_CLIENTS);
        balancer.remember(IpAddr::from([255; 4]), endpoint(2), now + Duration::from_secs(11));
        assert_eq!(balancer.remembered.len(), 1);
    }
}
