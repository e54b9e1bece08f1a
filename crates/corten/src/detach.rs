//! `corten up --detach`: starts the cluster as a process of its own, shows its progress, and returns when the node is Ready.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::args::UpArgs;
use crate::layout::Layout;
use crate::pid_file;

/// Starts this program again without `--detach` and relays what it says until the kubeconfig is told.
pub fn detach(args: &UpArgs) -> Result<()> {
    let layout = Layout::new(&args.server.cluster.data_dir())?;
    if let Some(pid) = pid_file::stays(&layout.pid_file())? {
        println!("cluster {} is running already (process {pid})", args.server.cluster.name);
        println!("export KUBECONFIG={}", layout.kubeconfig().display());
        return Ok(());
    }
    let log_path = layout.log();
    if let Some(dir) = log_path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(&log_path);
    let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
    let words = std::env::args_os().skip(1).filter(|word| word != "--detach" && word != "-d");
    let mut child = Command::new(std::env::current_exe()?)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the cluster's process")?;
    let Some(progress) = child.stdout.take() else { bail!("the cluster's process has no output") };
    for line in BufReader::new(progress).lines() {
        let line = line?;
        writeln!(std::io::stdout(), "{line}")?;
        if line.starts_with("export ") {
            return Ok(());
        }
    }
    let status = child.wait()?;
    bail!("the cluster ended before its node was Ready ({status}); its log is {}", log_path.display())
}
