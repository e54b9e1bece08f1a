//! Names that are not ours: asked at the host's resolvers or at those of a stub domain, and kept for a while.

pub mod cache;
mod resolv;
pub mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::wire::Name;
use cache::{Cache, Kept, Question};
use resolv::Servers;
use upstream::Upstream;

/// Questions in flight (CoreDNS' `max_concurrent` of kubeadm); more are refused.
const MAX_IN_FLIGHT: usize = 1000;
/// Answers that are kept (CoreDNS' default).
const MAX_KEPT: usize = 10_000;
/// Servers that one question is put to.
const MAX_ATTEMPTS: usize = 3;
/// How long all of them together may take: clients give up after five seconds.
const DEADLINE: Duration = Duration::from_millis(4500);

/// Who is asked about other names.
#[derive(Clone, Debug)]
pub enum Upstreams {
    /// The name servers in this file, which is read again when it changes.
    ResolvConf(PathBuf),
    /// These, in this order. None: other names are refused.
    Fixed(Vec<SocketAddr>),
}

/// A domain with servers of its own.
#[derive(Clone, Debug)]
pub struct StubDomain {
    /// `consul.local`
    pub domain: String,
    /// In the order in which they are asked.
    pub servers: Vec<SocketAddr>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody to ask, or too many questions.
    Refused,
    /// Nobody answered.
    Failed,
}

#[derive(Debug)]
struct Group {
    domain: Name,
    servers: Servers,
}

/// Asks others, within bounds.
#[derive(Debug)]
pub struct Forwarder {
    /// Stub domains, the longest first; then the one for everything.
    groups: Vec<Group>,
    permits: Arc<Semaphore>,
    cache: Cache,
    stop: CancellationToken,
}

impl Forwarder {
    /// A forwarder. `ours` are addresses that we answer at: they are never asked.
    pub fn new(
        upstreams: Upstreams,
        stubs: &[StubDomain],
        ours: &[SocketAddr],
        stop: CancellationToken,
    ) -> Result<Forwarder, String> {
        let mut groups = Vec::new();
        for stub in stubs {
            let domain = Name::from_text(&stub.domain).ok_or_else(|| stub.domain.clone())?;
            let servers = Servers::new(Upstreams::Fixed(stub.servers.clone()), ours);
            groups.push(Group { domain, servers });
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.domain.labels()));
        groups.push(Group { domain: Name::default(), servers: Servers::new(upstreams, ours) });
        let permits = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        Ok(Forwarder { groups, permits, cache: Cache::new(MAX_KEPT), stop })
    }

    /// A known answer.
    pub fn known(&self, question: &Question, now: Instant) -> Option<Arc<Kept>> {
        self.cache.get(question, now)
    }

    /// The right to ask; `None` when too many do already.
    pub fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// How many questions are in flight.
    pub fn in_flight(&self) -> usize {
        MAX_IN_FLIGHT - self.permits.available_permits()
    }

    /// How many answers are kept.
    pub fn kept(&self) -> usize {
        self.cache.kept()
    }

    /// Is there anybody to ask about this name?
    pub fn has_servers(&self, name: &Name) -> bool {
        self.group(name).servers.any()
    }

    /// A question of ours that came back: whoever was asked it is not asked again.
    pub fn came_back(&self, token: u64) -> bool {
        let all = self.groups.iter().flat_map(|group| group.servers.all());
        all.into_iter().any(|server| server.came_back(token))
    }

    fn group(&self, name: &Name) -> &Group {
        let found = self.groups.iter().find(|group| name.labels_before(&group.domain).is_some());
        found.expect("the last group is for every name")
    }

    /// Asks one server after the other: those that are well first, in their order.
    pub async fn resolve(&self, question: &Question) -> Result<Arc<Kept>, Failure> {
        if let Some(kept) = self.cache.get(question, Instant::now()) {
            return Ok(kept);
        }
        let servers = self.group(&question.name).servers.current();
        let (mut order, ill): (Vec<_>, Vec<_>) = servers.into_iter().partition(|server| server.is_well());
        order.extend(ill);
        if order.is_empty() {
            return Err(Failure::Refused);
        }
        match timeout(DEADLINE, self.ask_all(&order, question)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Failed),
        }
    }

    async fn ask_all(&self, servers: &[Arc<Upstream>], question: &Question) -> Result<Arc<Kept>, Failure> {
        let mut last = Err(Failure::Failed);
        for server in servers.iter().cycle().take(MAX_ATTEMPTS) {
            let Ok(answer) = server.ask(question, &self.stop).await else { continue };
            let now = Instant::now();
            let kept = Arc::new(Kept::new(answer, now));
            self.cache.put(question, &kept, now);
            if !kept.is_failure() {
                return Ok(kept);
            }
            last = Ok(kept);
            // Asking the only server again would bring the same.
            if servers.len() == 1 {
                break;
            }
        }
        last
    }
}
