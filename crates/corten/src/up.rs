//! `corten up` and `corten server`: the cluster, or its control plane, in this process. Wiring only: each part is a crate of its own.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use corten_apiserver::{ApiServer, User};
use corten_client::{Informers, in_process};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args::{ApiserverArgs, NodeArgs, ServerArgs};
use crate::host;
use crate::kube_flags::KubeArgs;
use crate::layout::Layout;
use crate::node::{Node, Role, Serving};
use crate::parts::{Parts, live};
use crate::pid_file::PidFile;
use crate::pki::Pki;
use crate::ready;
use crate::signals::Signals;
use crate::{dns, etcd};

/// What runs beside the API server.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one value in a process")]
pub enum With {
    /// Nothing: the other parts run elsewhere.
    Nothing,
    /// Scheduler and controllers.
    ControlPlane,
    /// The same and a node.
    Node(Box<NodeArgs>),
}

/// Everything that starting a part needs.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) args: ServerArgs,
    pub(crate) kube: KubeArgs,
    pub(crate) layout: Layout,
    pub(crate) pki: Arc<Pki>,
    pub(crate) node_name: String,
    /// The node's addresses, at least one.
    pub(crate) node_ips: Vec<IpAddr>,
    /// A node runs in this process.
    pub(crate) has_node: bool,
    /// Nothing but the API server runs in this process.
    pub(crate) alone: bool,
    pub(crate) stop: CancellationToken,
    started: Instant,
    /// The same moment, as others tell the time.
    started_at: Timestamp,
}

/// Runs a cluster until SIGTERM or SIGINT. Progress goes to standard output, one line a step; logs go to standard error.
pub async fn up(mut args: ServerArgs, kube: KubeArgs, with: With) -> Result<()> {
    args.ranges = args.ranges.usable(host::has_ipv6())?;
    let (started, started_at, mut signals) = (Instant::now(), Timestamp::now(), Signals::catch()?);
    let layout = Layout::new(&args.cluster.data_dir())?;
    let _running = PidFile::take(&layout.pid_file())?;
    let pki = Arc::new(Pki::open(&layout.pki())?);
    let node = if let With::Node(node) = &with { Some(node) } else { None };
    let node_name = node.and_then(|n| n.node_name.clone()).map_or_else(host::name, Ok)?;
    let given = node.map(|n| n.node_ip.clone()).unwrap_or_default();
    let node_ips = host::addresses(given, &args.ranges.cluster_cidr, host::address_of_default_route);
    let (has_node, alone) = (node.is_some(), matches!(with, With::Nothing));
    live(&mut signals, async |parts| {
        let stop = parts.stop();
        let cluster = Cluster {
            args,
            kube,
            layout,
            pki,
            node_name,
            node_ips,
            has_node,
            alone,
            stop,
            started,
            started_at,
        };
        cluster.start(&with, parts).await
    })
    .await
}

/// Runs an API server alone, with kube-apiserver's flags.
pub async fn apiserver(args: ApiserverArgs) -> Result<()> {
    let ApiserverArgs { mut server, kube } = args;
    if !kube.etcd_servers.is_empty() {
        let dir = etcd::lent(&kube.etcd_servers).await?;
        server.cluster.data_dir.get_or_insert_with(|| dir.join("corten"));
    }
    let address = kube.bind_address.unwrap_or(server.listen.ip());
    server.listen = SocketAddr::new(address, kube.secure_port.unwrap_or(server.listen.port()));
    up(server, kube, With::Nothing).await
}

impl Cluster {
    async fn start(&self, with: &With, parts: &mut Parts) -> Result<()> {
        let listener = TcpListener::bind(self.args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.args.listen))?;
        let address = listener.local_addr()?;
        let api = self.api_server(address)?;
        // Before anybody watches: who has no role yet is refused, and pauses before the next try.
        api.bootstrap().await.map_err(|status| anyhow!("bootstrap: {}", status.message))?;
        // The kubelet has its port before anybody can ask the API server for a log.
        let informers = self.informers(&api);
        let node = match with {
            With::Node(args) => Some(self.node(args, &api, &informers)?.prepare().await?),
            _ => None,
        };
        self.write_kubeconfigs(address)?;
        self.serve(&api, listener, parts)?;
        self.keep_service(&api, address.port(), parts);
        self.say(format_args!("API server ready at https://{address}"));
        self.publish_layout(&api).await?;
        if !matches!(with, With::Nothing) {
            self.start_control_plane(&api, &informers, parts)?;
            self.publish_dns(with, &api, parts);
        }
        match node {
            Some(node) => {
                node.start(parts)?;
                self.tell_when_ready(&api, parts);
            }
            None => self.tell_kubeconfig(),
        }
        Ok(())
    }

    /// One line of progress. A reader that is gone (a detached start that has seen enough) is no error.
    fn say(&self, what: std::fmt::Arguments<'_>) {
        let _ = writeln!(std::io::stdout(), "[{:>5} ms] {what}", self.started.elapsed().as_millis());
    }

    /// The node's first address.
    pub(crate) fn node_ip(&self) -> IpAddr {
        self.node_ips.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }

    /// What all parts in this process see of the cluster. The controllers may see everything that the others may, so it is theirs;
    /// each part writes in its own name.
    fn informers(&self, api: &ApiServer) -> Informers {
        Informers::new(client(api, "system:kube-controller-manager", &[]), self.stop.clone())
    }

    fn start_control_plane(&self, api: &ApiServer, informers: &Informers, parts: &mut Parts) -> Result<()> {
        let (scheduler, stop) = (client(api, "system:kube-scheduler", &[]), self.stop.clone());
        let seen = informers.clone();
        parts.start("scheduler", async move {
            corten_scheduler::run(scheduler, seen, corten_scheduler::Config::default(), stop).await;
            Ok(())
        });
        let (controllers, stop) = (client(api, "system:kube-controller-manager", &[]), self.stop.clone());
        let config = corten_controllers::Config {
            cluster_cidr: self.args.ranges.cluster_cidr.to_string(),
            root_ca: self.pki.ca_pem().to_owned(),
            load_balancer_pool: self.args.load_balancer_pool.clone(),
            signing_ca: Some(self.pki.ca()?),
            ..self.args.controllers.config()
        };
        let seen = informers.clone();
        parts.start("controllers", async move {
            corten_controllers::run(controllers, seen, config, stop).await;
            Ok(())
        });
        Ok(())
    }

    /// The Service that says where DNS is.
    fn publish_dns(&self, with: &With, api: &ApiServer, parts: &mut Parts) {
        let elsewhere = matches!(with, With::Node(node) if node.dns.disable_dns);
        let addresses = self.args.ranges.dns();
        if !elsewhere && !addresses.is_empty() {
            dns::create_service(client(api, dns::USER, &[]), addresses, parts);
        }
    }

    fn node(&self, args: &NodeArgs, api: &ApiServer, informers: &Informers) -> Result<Node> {
        let (user, _) = Role::Kubelet.identity(&self.node_name);
        let names = [self.node_name.clone(), "localhost".to_owned()];
        let addresses: Vec<IpAddr> =
            std::iter::once(IpAddr::from([127, 0, 0, 1])).chain(self.node_ips.iter().copied()).collect();
        let (cert, key) = self.pki.server("kubelet", &user, &names, &addresses)?.read()?;
        let (api, name) = (api.clone(), self.node_name.clone());
        Ok(Node {
            cluster: self.args.cluster.name.clone(),
            layout: self.layout.clone(),
            args: args.clone(),
            name: self.node_name.clone(),
            ips: self.node_ips.clone(),
            ranges: self.args.ranges.clone(),
            informers: Some(informers.clone()),
            serving: Serving { cert, key, ca: self.pki.ca_pem().to_owned(), renewed: None },
            clients: Arc::new(move |role| {
                let (user, group) = role.identity(&name);
                client(&api, &user, Some(group).filter(|group| !group.is_empty()).as_slice())
            }),
            stop: self.stop.clone(),
        })
    }

    /// Says so when the node is Ready for the first time in this life.
    fn tell_when_ready(&self, api: &ApiServer, parts: &mut Parts) {
        let client = client(api, "kubernetes-admin", &["system:masters"]);
        let (me, stop) = (self.clone(), self.stop.clone());
        parts.start("progress", async move {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = ready::node_is_ready(client, &me.node_name, me.started_at, &stop) => {}
            }
            me.say(format_args!("node {} is Ready", me.node_name));
            me.tell_kubeconfig();
            stop.cancelled().await;
            Ok(())
        });
    }

    fn tell_kubeconfig(&self) {
        let path = self.args.write_kubeconfig.clone().unwrap_or_else(|| self.layout.kubeconfig());
        let _ = writeln!(std::io::stdout(), "export KUBECONFIG={}", path.display());
    }
}

/// A client of the API server in this process, in the name of one component.
pub fn client(api: &ApiServer, user: &str, groups: &[&str]) -> Client {
    in_process(api.in_process(User::new(user, groups.iter().copied())))
}
