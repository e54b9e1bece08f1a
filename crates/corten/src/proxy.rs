//! The service proxy: of a node in this process, and alone against any API server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use corten_proxy::{Config, File, Inputs, Mode};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::alone;
use crate::args::{AloneArgs, ProxyAloneArgs, ProxyArgs};
use crate::host;
use crate::node::{Node, Role};
use crate::parts::{Parts, live};
use crate::signals::Signals;

/// Which proxy a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// The built-in one in this mode.
    BuiltIn(Mode),
    /// None: another proxy takes care of services.
    None,
}

impl std::str::FromStr for ProxyMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "none" { Ok(ProxyMode::None) } else { name.parse().map(ProxyMode::BuiltIn) }
    }
}

/// Starts the proxy of a node.
pub fn start(node: &Node, parts: &mut Parts) {
    let ProxyMode::BuiltIn(mode) = node.args.proxy.proxy_mode else { return };
    let mut config = config(&node.args.proxy, &node.cluster, &node.name);
    config.mode = mode;
    config.node_ips.clone_from(&node.ips);
    config.cluster_cidrs = node.ranges.cluster_cidr.all().collect();
    config.service_cidrs = node.ranges.service_cidr.all().collect();
    // What the control plane in the same process sees anyway is not kept twice.
    let inputs = match &node.informers {
        Some(all) => Inputs { services: all.get(), slices: all.get(), nodes: all.get() },
        None => Inputs::watch(&(node.clients)(Role::Proxy), &node.name, &node.stop),
    };
    part(inputs, config, node.stop.clone(), parts);
}

fn part(inputs: Inputs, config: Config, stop: CancellationToken, parts: &mut Parts) {
    parts.start("service proxy", async move { Ok(corten_proxy::run(inputs, config, stop).await?) });
}

fn config(args: &ProxyArgs, cluster: &str, node_name: &str) -> Config {
    let mut config = Config::new(cluster, node_name);
    config.masquerade_all = args.masquerade_all;
    config.node_port_addresses.clone_from(&args.node_port_addresses);
    config
}

/// `corten proxy`
pub async fn alone(args: ProxyAloneArgs) -> Result<()> {
    if args.cleanup {
        return corten_proxy::cleanup(&args.cluster.name).await.context("clean up");
    }
    let file = args.config.as_deref().map(read).transpose()?;
    let ProxyMode::BuiltIn(mode) = args.proxy.proxy_mode else { return Ok(()) };
    let mut signals = Signals::catch()?;
    let kubeconfig =
        file.as_ref().and_then(|file| file.kubeconfig.clone()).or_else(|| args.kubeconfig.clone());
    let kubeconfig =
        kubeconfig.context("neither --kubeconfig nor clientConnection.kubeconfig of --config")?;
    let client = alone::client(&AloneArgs { kubeconfig }).await?;
    let name = args.node_name.clone().or_else(|| file.as_ref()?.node_name.clone());
    let name = name.map_or_else(host::name, Ok)?;
    let mut config = config(&args.proxy, &args.cluster.name, &name);
    config.mode = mode;
    config.node_ips.clone_from(&args.node_ip);
    if config.node_ips.is_empty() {
        let told = file.as_ref().and_then(|file| file.node_ip);
        config.node_ips.push(told.unwrap_or_else(host::address_of_default_route));
    }
    let all = |ranges: &[IpNet]| ranges.to_vec();
    config.cluster_cidrs = all(&args.cluster_cidr);
    config.service_cidrs = all(&args.service_cidr);
    config.healthz = args.healthz_bind_address;
    config.metrics = args.metrics_bind_address;
    config.sync_period = Duration::from_secs(args.sync_period);
    if let Some(file) = &file {
        file.apply(&mut config);
        file.set_conntrack();
    }
    live(&mut signals, async |parts| {
        let stop = parts.stop();
        let inputs = Inputs::watch(&client, &name, &stop);
        part(inputs, config, stop, parts);
        Ok(())
    })
    .await
}

fn read(path: &Path) -> Result<File> {
    let context = || format!("--config {}", path.display());
    let file = File::read(&std::fs::read(path).with_context(context)?).with_context(context)?;
    if !file.passed.is_empty() {
        tracing::warn!(fields = file.passed.join(", "), "these fields of the configuration do nothing here");
    }
    Ok(file)
}
