//! Cluster DNS: its flags, its place on a node, and `corten dns`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use corten_client::over_https;
use corten_dns::{Config, Inputs, StubDomain, Upstreams};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::parts::{Parts, live};
use crate::signals::Signals;

/// The port of DNS.
const PORT: u16 = 53;
/// Who answers.
pub const USER: &str = "system:kube-dns";
/// Another process may still hold the address.
const RETRY: Duration = Duration::from_secs(1);

/// Who is asked about names outside of the cluster.
#[derive(Clone, Debug, Default, Args)]
pub struct ForwardArgs {
    /// Ask this server about names outside of the cluster; may be repeated [default: those in /etc/resolv.conf].
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = server, help_heading = "DNS")]
    pub dns_upstream: Vec<SocketAddr>,
    /// Ask other servers about a domain.
    #[arg(long, value_name = "DOMAIN=ADDR[:PORT],…", value_parser = stub_domain, help_heading = "DNS")]
    pub dns_stub_domain: Vec<StubDomain>,
}

impl ForwardArgs {
    fn config(&self) -> Config {
        let mut config = Config { stub_domains: self.dns_stub_domain.clone(), ..Config::default() };
        if !self.dns_upstream.is_empty() {
            config.upstreams = Upstreams::Fixed(self.dns_upstream.clone());
        }
        config
    }
}

/// DNS on a node.
#[derive(Clone, Debug, Default, Args)]
pub struct DnsArgs {
    /// Do not answer DNS queries on this node: something else does, or nothing.
    #[arg(long, help_heading = "DNS")]
    pub disable_dns: bool,
    /// Other names.
    #[command(flatten)]
    pub forward: ForwardArgs,
}

/// `corten dns`
#[derive(Clone, Debug, Args)]
pub struct DnsCommand {
    /// How to reach the API server.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Where to answer, over UDP and TCP; may be repeated.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:53")]
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Time to live of answers about the cluster, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = corten_dns::DEFAULT_TTL)]
    pub ttl: u32,
    /// Threads for each address.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
    /// Serve /metrics, /ready and /health here, over plain HTTP.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Other names.
    #[command(flatten)]
    pub forward: ForwardArgs,
}

/// `corten dns`: answers from any Kubernetes API server until SIGTERM or SIGINT.
pub async fn alone(args: DnsCommand) -> Result<()> {
    let mut signals = Signals::catch()?;
    let client = over_https(&args.kubeconfig)
        .await
        .with_context(|| format!("kubeconfig {}", args.kubeconfig.display()))?;
    let config = Config {
        zone: args.cluster_domain,
        listen: args.listen,
        ttl: args.ttl,
        http: args.metrics,
        udp_threads: args.threads.into(),
        ..args.forward.config()
    };
    live(&mut signals, async |parts| {
        let stop = parts.stop();
        let inputs = Inputs::start(&client, &stop);
        parts.start("DNS", async move { corten_dns::run(inputs, config, stop).await.context("DNS") });
        Ok(())
    })
    .await
}

/// The Service `kube-dns`, for clusters whose nodes answer themselves.
pub fn create_service(client: Client, addresses: Vec<IpAddr>, parts: &mut Parts) {
    let stop = parts.stop();
    parts.start("Service kube-dns", async move {
        corten_dns::ensure_service(client, &addresses, stop.clone()).await;
        stop.cancelled().await;
        Ok(())
    });
}

/// Answers at the cluster's DNS addresses, which every node has on a link of its own.
pub fn serve(
    cluster: &str,
    zone: &str,
    addresses: Vec<IpAddr>,
    args: &DnsArgs,
    inputs: Inputs,
    parts: &mut Parts,
) {
    let config = Config {
        zone: zone.to_owned(),
        listen: addresses.iter().map(|address| SocketAddr::new(*address, PORT)).collect(),
        ..args.forward.config()
    };
    let (cluster, stop) = (cluster.to_owned(), parts.stop());
    parts.start("DNS", async move {
        // Not without its address the whole node: pods with other resolvers run all the same.
        while let Err(error) = answer(&cluster, &addresses, &inputs, &config, &stop).await {
            tracing::warn!("DNS: {error:#}; trying again");
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        Ok(())
    });
}

async fn answer(
    cluster: &str,
    addresses: &[IpAddr],
    inputs: &Inputs,
    config: &Config,
    stop: &CancellationToken,
) -> Result<()> {
    corten_network::hold_addresses(cluster, addresses).await?;
    Ok(corten_dns::run(inputs.clone(), config.clone(), stop.child_token()).await?)
}

fn server(text: &str) -> Result<SocketAddr> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
    address.or_else(|_| text.parse()).map_err(|_| anyhow!("want an address, or address and port"))
}

fn stub_domain(text: &str) -> Result<StubDomain> {
    let (domain, servers) = text.split_once('=').context("want DOMAIN=ADDRESS")?;
    let servers = servers.split(',').map(server).collect::<Result<_>>()?;
    Ok(StubDomain { domain: domain.to_owned(), servers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_port() {
        for (text, address) in [
            ("10.0.0.1", Some("10.0.0.1:53")),
            ("10.0.0.1:5353", Some("10.0.0.1:5353")),
            ("::1", Some("[::1]:53")),
            ("[::1]:5353", Some("[::1]:5353")),
            ("localhost", None),
        ] {
            assert_eq!(server(text).ok().map(|found| found.to_string()).as_deref(), address, "{text}");
        }
        let stub = stub_domain("consul.local=10.0.0.1,10.0.0.2:54").unwrap();
        assert_eq!((stub.domain.as_str(), stub.servers.len()), ("consul.local", 2));
        assert!(stub_domain("consul.local").is_err());
    }
}
