//! One running cluster.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::build;
use crate::kubectl::{Namespace, Output};
use crate::machines::Machine;
use crate::wait::eventually;
use crate::watchdog::Watchdog;

/// The name of the node in every test cluster.
pub const NODE: &str = "node-1";
/// Blocks of 10.0.0.0/8 that test clusters choose from, far from the defaults (10.96 and 10.244).
const PODS: std::ops::Range<u32> = 128..228;
const SERVICES: std::ops::Range<u32> = 20..90;
/// Ports that tests choose from.
const PORTS: std::ops::Range<u32> = 14_000..30_000;
/// How many of them a test program commonly takes.
const PORTS_EACH: u32 = 41;

/// What differs from one test cluster to another.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More words for `corten up`.
    pub flags: Vec<String>,
    /// Put the data directory here instead of in a scratch directory.
    pub data_dir: Option<PathBuf>,
    /// More than one at a time in this program.
    pub beside_others: bool,
    /// Which families pods and services have.
    pub families: Families,
    /// On this machine instead of the host; its API server then listens at the machine's address.
    pub machine: Option<Machine>,
}

/// Families of pods' and services' addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    #[default]
    One,
    /// IPv4, then IPv6.
    FourSix,
    /// IPv6, then IPv4.
    SixFour,
}

/// A cluster of one's own, taken down when the test program ends.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    data_dir: PathBuf,
    flags: Vec<String>,
    corten: PathBuf,
    kubectl: PathBuf,
    machine: Option<Machine>,
    watchdog: Mutex<Option<Watchdog>>,
    alone: Mutex<()>,
}

/// The one cluster of this test program.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(Options::default()))
}

impl Cluster {
    /// Starts a cluster with all test images and waits until its node is Ready.
    pub fn start(options: Options) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "containers need root");
        static NUMBER: Mutex<u32> = Mutex::new(0);
        let mut number = NUMBER.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        let (pid, number) = (std::process::id(), *number);
        let name = format!("t{}{}", base36(pid), base36(number));
        let data_dir =
            options.data_dir.unwrap_or_else(|| std::env::temp_dir().join(format!("corten-{name}")));
        let corten = build::corten();
        let machine = options.machine;
        let watchdog = Watchdog::start(&corten, &name, &data_dir, !options.beside_others, machine.as_ref());
        let (pods, services) = with_v6(options.families, addresses(pid + number * 7), (pid, number));
        let mut flags =
            vec!["--node-name".to_owned(), NODE.to_owned(), "--kubelet-port".to_owned(), "0".to_owned()];
        match &machine {
            None => flags.extend(["--listen".to_owned(), format!("127.0.0.1:{}", free_port())]),
            Some(Machine { address, .. }) => {
                flags.extend(["--listen".to_owned(), format!("{address}:6443")]);
                flags.extend(["--node-ip".to_owned(), address.to_string()]);
            }
        }
        flags.extend(["--cluster-cidr".to_owned(), pods, "--service-cidr".to_owned(), services]);
        flags.extend(options.flags);
        let kubectl = build::kubectl();
        let watchdog = Mutex::new(Some(watchdog));
        let cluster =
            Self { name, data_dir, flags, corten, kubectl, machine, watchdog, alone: Mutex::new(()) };
        let images = build::images();
        let mut import = vec!["import"];
        import.extend(images.iter().map(|path| path.to_str().expect("paths of the build are UTF-8")));
        cluster.image(&import).ok();
        cluster.up();
        cluster
    }

    /// `corten up --detach`; returns when the node is Ready.
    pub fn up(&self) {
        let mut flags = vec!["up", "--detach"];
        flags.extend(self.flags.iter().map(String::as_str));
        self.corten(&flags).ok();
        // Pods cannot be made before the default service account is there.
        eventually("the default service account", || {
            self.kubectl(&["get", "serviceaccount", "default", "-n", "default"]).success().then_some(())
        });
        self.takes_pods(NODE);
    }

    /// Waits until the scheduler may choose the node: who takes the taint away does it after the node is Ready.
    pub(crate) fn takes_pods(&self, node: &str) {
        eventually(&format!("{node} without the taint of one that is not ready"), || {
            let taints = self.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.taints[*].key}"]);
            (taints.success() && !taints.stdout.contains("node.kubernetes.io/not-ready")).then_some(())
        });
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it keeps everything.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The admin kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Runs `corten SUBCOMMAND --name … --data-dir … REST`.
    pub fn corten(&self, words: &[&str]) -> Output {
        let (subcommand, rest) = words.split_first().expect("a subcommand");
        let mut command = self.command(&self.corten);
        command.args([subcommand, "--name", &self.name, "--data-dir"]).arg(&self.data_dir).args(rest);
        Output::of(command.stdin(Stdio::null()), None)
    }

    /// Where its API server is reached from other machines.
    pub fn server(&self) -> String {
        let host = self.machine.as_ref().expect("a cluster on a machine of its own").address;
        format!("https://{host}:6443")
    }

    /// A program where the cluster is.
    pub fn command(&self, program: &Path) -> Command {
        match &self.machine {
            Some(machine) => machine.command(program),
            None => Command::new(program),
        }
    }

    /// `corten image …`
    pub fn image(&self, words: &[&str]) -> Output {
        let mut all = vec!["image"];
        all.extend(words);
        self.corten(&all)
    }

    /// A kubectl that talks to this cluster as its admin.
    pub fn kubectl_command(&self) -> Command {
        let mut command = self.command(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).env_remove("KUBECTL_EXTERNAL_DIFF");
        // Caches of discovery go by server address, and addresses come again in the next run.
        command.env("KUBECACHEDIR", self.data_dir.join("kubecache")).env("LC_ALL", "C");
        command
    }

    /// Runs kubectl.
    pub fn kubectl(&self, words: &[&str]) -> Output {
        Output::of(self.kubectl_command().args(words).stdin(Stdio::null()), None)
    }

    /// Runs kubectl with this on its standard input.
    pub fn kubectl_with(&self, words: &[&str], input: &str) -> Output {
        Output::of(self.kubectl_command().args(words).stdin(Stdio::piped()), Some(input))
    }

    /// A namespace for one test, deleted with the value.
    pub fn namespace(&self, name: &str) -> Namespace<'_> {
        Namespace::create(self, name)
    }

    /// For tests that change what others see (the node's labels, the process itself): they wait for one another.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of the cluster.
    pub fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data_dir.join("run/corten.pid")).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    /// Sends the cluster's process a signal and waits for its end.
    pub fn end(&self, signal: Signal) {
        let pid = self.pid().expect("the cluster runs");
        kill(Pid::from_raw(pid), signal).expect("the cluster's process can be signalled");
        eventually("the end of the cluster's process", || is_gone(pid).then_some(()));
    }

    /// Takes it down now, and checks that this works.
    pub fn down(&self, words: &[&str]) -> Output {
        let mut all = vec!["down"];
        all.extend(words);
        self.corten(&all)
    }

    /// The last lines of the cluster's log, for failures.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.data_dir.join("run/corten.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Gone, or dead and not yet collected by whoever started it.
fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// A port that nothing listens on at this moment, and that nobody gets by chance: it lies below those that the kernel gives out and
/// below node ports, and another test program begins elsewhere.
pub fn free_port() -> u16 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let size = PORTS.end - PORTS.start;
    let begin = std::process::id().wrapping_mul(PORTS_EACH);
    let candidates = (0..size).map(|_| begin.wrapping_add(NUMBER.fetch_add(1, Ordering::Relaxed)) % size);
    let mut ports = candidates.filter_map(|step| u16::try_from(PORTS.start + step).ok());
    ports.find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).expect("one of many ports is free")
}

/// Two /16 blocks that no route of this host leads to, chosen by `seed`: pods, services.
fn addresses(seed: u32) -> (String, String) {
    let taken = taken();
    let choose = |range: std::ops::Range<u32>| {
        let size = range.end - range.start;
        let candidates = (0..size).map(|step| range.start + (seed + step) % size);
        let free = candidates.into_iter().find(|block| !taken.contains(block));
        format!("10.{}.0.0/16", free.expect("one of many blocks is free"))
    };
    (choose(PODS), choose(SERVICES))
}

/// Ranges of IPv6 that only this cluster has, beside those of IPv4.
fn with_v6(families: Families, v4: (String, String), (pid, number): (u32, u32)) -> (String, String) {
    let six = |kind: &str, length: u8| {
        format!("fd{kind}:{:x}:{:x}:{:x}00::/{length}", pid >> 16, pid & 0xffff, number & 0xff)
    };
    let both = |four: String, six: String| match families {
        Families::One => four,
        Families::FourSix => format!("{four},{six}"),
        Families::SixFour => format!("{six},{four}"),
    };
    (both(v4.0, six("c0", 56)), both(v4.1, six("c1", 112)))
}

/// Second bytes of the 10.x destinations in the routing table.
fn taken() -> BTreeSet<u32> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let destinations = routes.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    let numbers = destinations.filter_map(|hex| u32::from_str_radix(hex, 16).ok()).map(u32::to_le_bytes);
    numbers.filter(|bytes| bytes[0] == 10).map(|bytes| bytes[1].into()).collect()
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(number % 36, 36).expect("below 36"));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_interface_names() {
        assert_eq!(base36(35), "z");
        assert_eq!(base36(36), "10");
        // The largest process id that Linux gives out.
        assert!(format!("t{}{}", base36(4_194_304), base36(35)).len() <= 11);
    }

    #[test]
    fn blocks_differ_from_the_defaults() {
        for seed in 0..200 {
            let (pods, services) = addresses(seed);
            assert!(pods != "10.244.0.0/16" && services != "10.96.0.0/16" && pods != services);
        }
    }
}
