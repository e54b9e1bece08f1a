//! The servers of a group: given ones, or those of a resolv.conf that may change under us.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::Upstreams;
use super::upstream::Upstream;

/// How often a question makes us look whether the file has changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Servers beyond this are not asked.
const MAX_SERVERS: usize = 15;
/// The port of DNS.
const PORT: u16 = 53;

/// The servers as they are now.
#[derive(Debug)]
pub struct Servers {
    source: Upstreams,
    ours: Vec<SocketAddr>,
    state: Mutex<State>,
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    servers: Vec<Arc<Upstream>>,
    changed: Option<SystemTime>,
    looked: Option<Instant>,
}

impl Servers {
    /// From a source, without our own addresses.
    pub fn new(source: Upstreams, ours: &[SocketAddr]) -> Servers {
        let servers =
            Servers { source, ours: ours.to_vec(), state: Mutex::default(), any: AtomicBool::new(false) };
        if let Upstreams::Fixed(addresses) = &servers.source {
            let addresses = addresses.clone();
            servers.take(&mut servers.lock(), addresses);
        }
        servers.current();
        servers
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Are there any? Asked for every query, so it takes no lock.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// All, those that loop included; without a look at the file.
    pub fn all(&self) -> Vec<Arc<Upstream>> {
        self.lock().servers.clone()
    }

    /// Those that may be asked, without a look at the file.
    pub fn usable(&self) -> Vec<Arc<Upstream>> {
        self.all().into_iter().filter(|server| !server.is_looped()).collect()
    }

    /// Those that may be asked, after a look whether the file has changed.
    pub fn current(&self) -> Vec<Arc<Upstream>> {
        if let Upstreams::ResolvConf(path) = &self.source {
            self.read_again(path);
        }
        self.usable()
    }

    fn read_again(&self, path: &Path) {
        let mut state = self.lock();
        let now = Instant::now();
        if state.looked.is_some_and(|before| now.duration_since(before) < LOOK_AGAIN) {
            return;
        }
        state.looked = Some(now);
        let changed = std::fs::metadata(path).and_then(|file| file.modified()).ok();
        if changed.is_some() && changed == state.changed {
            return;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => {
                state.changed = changed;
                let addresses = name_servers(&text);
                self.take(&mut state, addresses);
            }
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot read the host's name servers")
            }
        }
    }

    /// Servers that stay keep what is known of them.
    fn take(&self, state: &mut State, addresses: Vec<SocketAddr>) {
        let known = std::mem::take(&mut state.servers);
        let wanted = addresses.into_iter().filter(|address| !self.is_ours(*address)).take(MAX_SERVERS);
        state.servers = wanted
            .map(|address| {
                let old = known.iter().find(|server| server.address == address);
                old.cloned().unwrap_or_else(|| Upstream::new(address))
            })
            .collect();
        self.any.store(!state.servers.is_empty(), Ordering::Relaxed);
    }

    fn is_ours(&self, address: SocketAddr) -> bool {
        let ours = self.ours.contains(&address);
        if ours {
            tracing::warn!(server = %address, "the cluster's DNS does not ask itself");
        }
        ours
    }
}

/// The addresses in a resolv.conf. Addresses with a zone (`fe80::1%eth0`) are left out.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| -> Option<IpAddr> {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())??.parse().ok()
    };
    text.lines().filter_map(address).map(|address| SocketAddr::new(address, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_file() {
        let text = "# c\nnameserver 1.1.1.1\n nameserver\t::1 # x\nsearch a b\nnameserver fe80::1%eth0\nnameserver\n";
        let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["1.1.1.1:53", "[::1]:53"]);
    }

    #[test]
    fn our_own_addresses_are_not_asked() {
        let (a, b): (SocketAddr, SocketAddr) =
            ("10.0.0.1:53".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
        let servers = Servers::new(Upstreams::Fixed(vec![a, b]), &[a]);
        assert_eq!(servers.current().iter().map(|s| s.address).collect::<Vec<_>>(), [b]);
        servers.all()[0].came_back(0);
        assert_eq!(servers.usable().len(), 1);
    }
}
