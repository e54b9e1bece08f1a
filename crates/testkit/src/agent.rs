//! A node that joins a test cluster from a machine of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::build;
use crate::cluster::Cluster;
use crate::kubectl::Output;
use crate::machines::Machine;
use crate::wait::eventually;
use crate::watchdog::Watchdog;

/// `corten agent` on a machine, with the testserver's image. Its watchdog ends it.
#[derive(Debug)]
pub struct Agent {
    /// The node's name.
    pub node: String,
    /// Where it runs.
    pub machine: Machine,
    name: String,
    data_dir: PathBuf,
    _process: Child,
    _watchdog: Watchdog,
}

impl Agent {
    /// Joins the cluster as `node` and waits until the API says that it is Ready.
    pub fn join(cluster: &Cluster, machine: &Machine, node: &str, flags: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}a{number}", cluster.name());
        let data_dir = std::env::temp_dir().join(format!("corten-{name}"));
        fs::create_dir_all(&data_dir).expect("a scratch directory can be made");
        let watchdog = Watchdog::start(&build::corten(), &name, &data_dir, false, Some(machine));
        let token = cluster.corten(&["token", "create"]).ok().trim().to_owned();
        let log = File::create(data_dir.join("agent.log")).expect("a log can be written");
        let mut command = machine.command(&build::corten());
        command.args(["agent", "--name", &name, "--data-dir"]).arg(&data_dir);
        command.args(["--server", &cluster.server(), "--node-name", node, "--kubelet-port", "0"]);
        command.args(["--node-ip", &machine.address.to_string()]).args(flags).env("CORTEN_TOKEN", token);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor more")).stderr(log);
        let process = command.spawn().expect("the agent can be started");
        let (node, machine) = (node.to_owned(), machine.clone());
        let agent = Self { node, machine, name, data_dir, _process: process, _watchdog: watchdog };
        agent.import("testserver");
        eventually(&format!("node {} is Ready", agent.node), || agent.is_ready(cluster).then_some(()));
        cluster.takes_pods(&agent.node);
        agent
    }

    /// What the API says of the node.
    pub fn is_ready(&self, cluster: &Cluster) -> bool {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        cluster.kubectl(&["get", "node", &self.node, "-o", path]).stdout == "True"
    }

    /// The cluster's name on this machine, which its interfaces carry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A certificate of its own (PEM), by the name of its file without ending.
    pub fn certificate(&self, file: &str) -> String {
        fs::read_to_string(self.data_dir.join(format!("pki/{file}.crt"))).unwrap_or_default()
    }

    /// The last lines of its log, for failures.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.data_dir.join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn import(&self, image: &str) {
        let tars = build::images();
        let tar = tars.iter().find(|tar| tar.file_stem().is_some_and(|stem| stem == image));
        let mut command = self.machine.command(&build::corten());
        command.args(["image", "import", "--name", &self.name, "--data-dir"]).arg(&self.data_dir);
        let tar: &Path = tar.expect("an image of that name");
        Output::of(command.arg(tar).stdin(Stdio::null()), None).ok();
    }
}
