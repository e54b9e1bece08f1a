//! Parts that run alone, against any Kubernetes API server that a kubeconfig leads to.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corten_client::Informers;
use corten_client::election::{Candidate, Timing};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::args::{AloneArgs, ControllerArgs, ElectionArgs, SchedulerArgs};
use crate::host;
use crate::parts::live;
use crate::signals::Signals;

/// Where the leases of components are.
const LEASES: &str = "kube-system";

/// `corten scheduler`
pub async fn scheduler(args: SchedulerArgs) -> Result<()> {
    let mut signals = Signals::catch()?;
    let client = client(&args.alone).await?;
    let config = corten_scheduler::Config { name: args.scheduler_name.clone() };
    live(&mut signals, async |parts| {
        let stop = parts.stop();
        parts.start("scheduler", async move {
            elected(client.clone(), "kube-scheduler", &args.election, stop, |stop| {
                corten_scheduler::run(client.clone(), Informers::new(client, stop.clone()), config, stop)
            })
            .await
        });
        Ok(())
    })
    .await
}

/// `corten controller-manager`
pub async fn controllers(args: ControllerArgs) -> Result<()> {
    let mut signals = Signals::catch()?;
    let client = client(&args.alone).await?;
    let config = corten_controllers::Config {
        cluster_cidr: args.cluster_cidr.as_ref().map(|cidr| cidr.to_string()).unwrap_or_default(),
        node_cidr_mask: args.node_cidr_mask_size,
        node_cidr_mask_v6: args.node_cidr_mask_size_ipv6,
        root_ca: root_ca(&args)?,
        signing_ca: signing_ca(&args)?,
        ..args.flags.config()
    };
    live(&mut signals, async |parts| {
        let stop = parts.stop();
        parts.start("controllers", async move {
            elected(client.clone(), "kube-controller-manager", &args.election, stop, |stop| {
                corten_controllers::run(client.clone(), Informers::new(client, stop.clone()), config, stop)
            })
            .await
        });
        Ok(())
    })
    .await
}

/// A client of the kubeconfig's current context.
pub async fn client(args: &AloneArgs) -> Result<Client> {
    let file = &args.kubeconfig;
    corten_client::over_https(file).await.with_context(|| format!("--kubeconfig {}", file.display()))
}

/// Runs `work` once this copy holds the lease. Like upstream's, it ends when the lease is lost: whoever started it starts it
/// again.
async fn elected<Work: Future<Output = ()>>(
    client: Client,
    lease: &str,
    election: &ElectionArgs,
    stop: CancellationToken,
    work: impl FnOnce(CancellationToken) -> Work,
) -> Result<()> {
    if !election.leader_elect {
        work(stop).await;
        return Ok(());
    }
    let identity = format!("{}_{}", host::name()?, std::process::id());
    let candidate = Candidate::new(client, LEASES, lease, &identity, Timing::default());
    let Some(leading) = candidate.lead(stop.clone()).await else { return Ok(()) };
    tracing::info!(lease, identity, "holds the lease");
    work(leading).await;
    if stop.is_cancelled() { Ok(()) } else { bail!("lost the lease {lease}") }
}

fn signing_ca(args: &ControllerArgs) -> Result<Option<(String, String)>> {
    let (Some(cert), Some(key)) = (&args.cluster_signing_cert_file, &args.cluster_signing_key_file) else {
        return Ok(None);
    };
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(Some((read(cert)?, read(key)?)))
}

fn root_ca(args: &ControllerArgs) -> Result<String> {
    if let Some(path) = &args.root_ca_file {
        return std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    }
    // Relative paths are made absolute by the reader.
    let config = corten_client::kubeconfig::read(&args.alone.kubeconfig)?;
    let Some(cluster) = config.clusters.into_iter().find_map(|named| named.cluster) else {
        return Ok(String::new());
    };
    match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(data), _) => Ok(String::from_utf8(STANDARD.decode(data)?)?),
        (None, Some(file)) => std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}")),
        (None, None) => Ok(String::new()),
    }
}
