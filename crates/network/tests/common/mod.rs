//! What tests of the pod network share: nodes and pods as network namespaces.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![allow(dead_code, reason = "not every test program needs everything")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use corten_network::{Attachment, NetworkConfig, PodName, PortMapping, Protocol};
use nix::sched::{CloneFlags, setns, unshare};

/// Only failures ever use it up.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `test` on its own "node".
pub fn on_fresh_node<F: AsyncFnOnce(&Path) + Send + 'static>(test: F) {
    let node = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of the pod network need root");
        run(&["ip", "link", "set", "lo", "up"]);
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(dir.path()));
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace held open by a file.
pub struct Pod {
    pub netns: File,
}

impl Pod {
    pub fn new() -> Self {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self { netns: netns.join().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.netns.as_raw_fd()).into()
    }

    /// Runs `f` inside, on a thread of its own.
    pub fn inside<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let netns = self.netns.try_clone().unwrap();
        std::thread::spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        })
    }

    /// Answers one TCP connection on `port` with the peer's address.
    pub fn serve_peer_address(&self, port: u16) -> std::thread::JoinHandle<()> {
        let (ready, listening) = std::sync::mpsc::channel();
        let server = self.inside(move || {
            // A program that another test is just starting holds a copy of the last listener until its exec.
            let listener = loop {
                match TcpListener::bind((everywhere(), port)) {
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => std::thread::yield_now(),
                    bound => break bound.unwrap(),
                }
            };
            ready.send(()).unwrap();
            let (mut connection, peer) = listener.accept().unwrap();
            connection.write_all(peer.ip().to_canonical().to_string().as_bytes()).unwrap();
        });
        listening.recv_timeout(TIMEOUT).unwrap();
        server
    }
}

/// Whether this kernel has IPv6; tests of two families have nothing to test without.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// All addresses of both families, where there are two.
fn everywhere() -> IpAddr {
    if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

pub fn ask(address: impl Into<SocketAddr>) -> String {
    let mut connection = TcpStream::connect_timeout(&address.into(), TIMEOUT).unwrap();
    connection.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

pub fn config(dir: &Path) -> NetworkConfig {
    NetworkConfig {
        cluster_name: "nt".into(),
        pod_cidr: Some("10.99.1.0/24".parse().unwrap()),
        cluster_cidr: "10.99.0.0/16".parse().unwrap(),
        cluster_cidr_v6: None,
        prefers_v6: false,
        state_dir: dir.join("network"),
        mtu: None,
    }
}

/// Of a node of a dual-stack cluster; its IPv6 range is told later.
pub fn dual_config(dir: &Path) -> NetworkConfig {
    NetworkConfig { cluster_cidr_v6: Some("fd00:99::/48".parse().unwrap()), ..config(dir) }
}

pub fn attachment(id: &str, pod: &Pod, port_mappings: Vec<PortMapping>) -> Attachment {
    Attachment { sandbox_id: id.into(), pod: PodName::default(), netns: pod.path(), port_mappings }
}

pub fn tcp(host_port: u16, container_port: u16, host_ip: Option<Ipv4Addr>) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, host_port, container_port, host_ip: host_ip.map(Into::into) }
}

/// Connects the network namespace of the calling thread and `other` by a cable.
pub fn cable(here: &str, other: &Pod, there: &str) {
    let netns = format!("/proc/{}/fd/{}", std::process::id(), other.netns.as_raw_fd());
    run(&["ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", &netns]);
    run(&["ip", "link", "set", here, "up"]);
}

/// Runs `work` inside, with a runtime of its own, and waits for it.
pub fn block_inside<T: Send + 'static, F: AsyncFnOnce() -> T + Send + 'static>(node: &Pod, work: F) -> T {
    let inside = node.inside(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    });
    inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
