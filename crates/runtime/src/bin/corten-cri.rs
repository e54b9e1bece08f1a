//! The runtime alone, for tests and measurements: `corten-cri serve DIR NAME POD-CIDR` until SIGTERM, and
//! the shims it starts. Users get the same runtime inside `corten`.

use std::path::PathBuf;
use std::process::ExitCode;

use corten_network::{NetworkConfig, PodNetwork};
use corten_runtime::image::{ImageStore, StoreConfig};
use corten_runtime::{RuntimeConfig, remove_all, serve, shim_main};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match words.get(1).map(String::as_str) {
        Some("shim") => shim_main(&words[2..]),
        Some("serve") if words.len() == 5 => match run(&words[2], &words[3], &words[4]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("corten-cri: {error:#}");
                ExitCode::FAILURE
            }
        },
        Some("clean") if words.len() == 5 => match clean(&words[2], &words[3], &words[4]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("corten-cri: {error:#}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: corten-cri serve|clean DIR NAME POD-CIDR");
            ExitCode::FAILURE
        }
    }
}

fn network(dir: &str, name: &str, cidr: &str) -> anyhow::Result<PodNetwork> {
    let cidr: ipnet::Ipv4Net = cidr.parse()?;
    Ok(PodNetwork::new(NetworkConfig {
        cluster_name: name.to_owned(),
        pod_cidr: Some(cidr),
        cluster_cidr: cidr,
        cluster_cidr_v6: None,
        prefers_v6: false,
        state_dir: PathBuf::from(dir).join("network"),
        mtu: None,
    })?)
}

fn config(dir: &str, name: &str, cidr: &str) -> anyhow::Result<RuntimeConfig> {
    let node_dir = PathBuf::from(dir);
    Ok(RuntimeConfig {
        cluster_name: name.to_owned(),
        socket: node_dir.join("cri.sock"),
        cgroup_root: format!("/{name}"),
        shim_command: vec!["/proc/self/exe".into(), "shim".into()],
        network: network(dir, name, cidr)?,
        images: ImageStore::open(StoreConfig {
            dir: node_dir.join("images"),
            insecure_registries: Vec::new(),
        })?,
        node_dir,
    })
}

fn run(dir: &str, name: &str, cidr: &str) -> anyhow::Result<()> {
    let config = config(dir, name, cidr)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        serve(config, async move {
            terminate.recv().await;
        })
        .await?;
        Ok(())
    })
}

/// Removes what the runtime has left on the host under `name`.
fn clean(dir: &str, name: &str, cidr: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(remove_all(config(dir, name, cidr)?))?)
}
