//! Several machines: network namespaces joined by cables to a switch or a router, which is one more network namespace.
//!
//! Everything is done with `ip`; a watchdog removes the namespaces when nothing runs in them any more, however the test program ended.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::kubectl::Output;

/// Waits for the end of its input, then for that of everything in the namespaces.
const SCRIPT: &str = r#"
cat >/dev/null
sleep 2
for ns in $NAMESPACES; do
    for _ in $(seq 120); do [ -z "$(ip netns pids "$ns")" ] && break; sleep 1; done
    ip netns delete "$ns"
done
"#;

/// What stands in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// All machines are neighbours.
    Switch,
    /// Each machine has a network of its own.
    Router,
}

/// One machine. Programs on it see its interfaces only; files and processes are the host's.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The network namespace's name, as `ip netns` knows it.
    pub netns: String,
    /// Its address on `eth0`.
    pub address: Ipv4Addr,
}

impl Machine {
    /// A program on this machine.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        command
    }

    /// Runs a program to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        let (program, rest) = words.split_first().expect("a program");
        Output::of(self.command(Path::new(program)).args(rest).stdin(Stdio::null()), None)
    }
}

/// Some machines and what joins them.
#[derive(Debug)]
pub struct Lan {
    /// The machines.
    pub machines: Vec<Machine>,
    middle: String,
    _line: ChildStdin,
    _shell: Child,
}

impl Lan {
    /// Makes `number` machines, all with a default route to the middle.
    pub fn new(number: u8, kind: Middle) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("corten-t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let middle = format!("{name}-middle");
        let machines: Vec<Machine> = (1..=number)
            .map(|n| Machine {
                netns: format!("{name}-m{n}"),
                address: match kind {
                    Middle::Switch => Ipv4Addr::new(192, 168, 77, n),
                    Middle::Router => Ipv4Addr::new(192, 168, 100 + n, 1),
                },
            })
            .collect();
        let all: Vec<&str> =
            [middle.as_str()].into_iter().chain(machines.iter().map(|m| m.netns.as_str())).collect();
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT]).env("NAMESPACES", all.join(" ")).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = shell.spawn().expect("sh can be run");
        let line = shell.stdin.take().expect("its input is a pipe");
        let lan = Self { machines, middle, _line: line, _shell: shell };
        lan.build(kind);
        lan
    }

    fn build(&self, kind: Middle) {
        let middle = self.middle.as_str();
        ip(&["netns", "add", middle]);
        ip(&["-n", middle, "link", "set", "lo", "up"]);
        if kind == Middle::Switch {
            ip(&["-n", middle, "link", "add", "switch", "type", "bridge"]);
            ip(&["-n", middle, "link", "set", "switch", "up"]);
            ip(&["-n", middle, "addr", "add", "192.168.77.254/24", "dev", "switch"]);
        }
        let forward =
            ["nsenter", &format!("--net=/run/netns/{middle}"), "sysctl", "-qw", "net.ipv4.ip_forward=1"];
        Output::of(Command::new(forward[0]).args(&forward[1..]), None).ok();
        for (machine, port) in self.machines.iter().zip(1..) {
            self.plug(machine, &format!("p{port}"), kind);
        }
    }

    fn plug(&self, machine: &Machine, port: &str, kind: Middle) {
        let (middle, netns) = (self.middle.as_str(), machine.netns.as_str());
        let [a, b, c, _] = machine.address.octets();
        let gateway = Ipv4Addr::new(a, b, c, 254).to_string();
        ip(&["netns", "add", netns]);
        ip(&["-n", middle, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", netns]);
        ip(&["-n", middle, "link", "set", port, "up"]);
        match kind {
            Middle::Switch => ip(&["-n", middle, "link", "set", port, "master", "switch"]),
            Middle::Router => ip(&["-n", middle, "addr", "add", &format!("{gateway}/24"), "dev", port]),
        }
        ip(&["-n", netns, "link", "set", "lo", "up"]);
        ip(&["-n", netns, "addr", "add", &format!("{}/24", machine.address), "dev", "eth0"]);
        ip(&["-n", netns, "link", "set", "eth0", "up"]);
        ip(&["-n", netns, "route", "add", "default", "via", &gateway]);
    }

    /// Pulls (`down`) or plugs in (`up`) the cable of the machine with this number, from 1.
    pub fn cable(&self, machine: usize, state: &str) {
        ip(&["-n", &self.middle, "link", "set", &format!("p{machine}"), state]);
    }
}

fn ip(words: &[&str]) {
    Output::of(Command::new("ip").args(words).stdin(Stdio::null()), None).ok();
}
