//! `corten agent`: a node that joins the cluster of a server elsewhere.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use corten_client::Link;
use futures::future::join_all;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use crate::args::AgentArgs;
use crate::join::{self, Certified, Part, Server};
use crate::layout::Layout;
use crate::node::{Node, Role, Serving};
use crate::parts::{Parts, live};
use crate::pid_file::PidFile;
use crate::renewal::Renewal;
use crate::signals::Signals;
use crate::token::Token;
use crate::{host, ready};

/// Runs a node until SIGTERM or SIGINT. Progress goes to standard output, one line a step; logs go to standard error.
pub async fn agent(args: AgentArgs) -> Result<()> {
    let (started, started_at, mut signals) = (Instant::now(), Timestamp::now(), Signals::catch()?);
    let layout = Layout::new(&args.cluster.data_dir())?;
    let _running = PidFile::take(&layout.pid_file())?;
    let token = token(&args)?;
    let name = args.node.node_name.clone().map_or_else(host::name, Ok)?;
    let ip = match args.node.node_ip.first() {
        Some(ip) => *ip,
        None => towards(&args.server).await,
    };
    let agent = Agent { args, layout, token, name, ip, started };
    live(&mut signals, async |parts| agent.start(parts, started_at).await).await
}

struct Agent {
    args: AgentArgs,
    layout: Layout,
    token: Option<Token>,
    name: String,
    ip: IpAddr,
    started: Instant,
}

impl Agent {
    async fn start(&self, parts: &mut Parts, started_at: Timestamp) -> Result<()> {
        let server = Server::find(&self.args.server, self.token.as_ref(), &self.layout).await?;
        let server = Arc::new(server);
        let (node, renewals) = self.join(&server, parts).await?;
        self.say(format_args!("joined {} as node {}", server.url(), self.name));
        let (client, stop, name) = ((node.clients)(Role::Kubelet), parts.stop(), self.name.clone());
        node.prepare().await?.start(parts)?;
        let (asks, end) = (client.clone(), stop.clone());
        parts.start("certificates", async move {
            join_all(renewals.into_iter().map(|renewal| renewal.run(asks.clone(), end.clone()))).await;
            Ok(())
        });
        let started = self.started;
        parts.start("progress", async move {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = ready::node_says_ready(client, &name, started_at, &stop) => {}
            }
            say(started, format_args!("node {name} is Ready"));
            stop.cancelled().await;
            Ok(())
        });
        Ok(())
    }

    /// Gets what the node's parts need to be believed, and how the cluster is laid out.
    async fn join(&self, server: &Arc<Server>, parts: &Parts) -> Result<(Node, Vec<Renewal>)> {
        let (mut clients, mut renewals) = (HashMap::new(), Vec::new());
        for role in Role::ALL {
            let (user, group) = role.identity(&self.name);
            let part = Part { file: role.file(), user: &user, group };
            let certified =
                join::client_certificate(server, self.token.as_ref(), &self.layout, &part).await?;
            let link = Link::open(server.by_certificate(certified.keys())?)?;
            clients.insert(role, link.client());
            let server = server.clone();
            let taken = move |new: &Certified| Ok(link.renew(&server.by_certificate(new.keys())?)?);
            renewals.push(Renewal::new(certified, taken));
        }
        let kubelet = clients[&Role::Kubelet].clone();
        let (user, _) = Role::Kubelet.identity(&self.name);
        let ranges = join::ranges(&kubelet, &self.layout).await?.usable(host::has_ipv6())?;
        let ips = host::addresses(self.args.node.node_ip.clone(), &ranges.cluster_cidr, || self.ip);
        let serving = join::serving_certificate(&kubelet, &self.layout, &user, &self.name, &ips).await?;
        let (cert, key) = serving.keys().pair().read()?;
        let (renewed, renewals_seen) = watch::channel((Vec::new(), Vec::new()));
        renewals.push(Renewal::new(serving, move |new: &Certified| {
            let (cert, key) = new.keys().pair().read()?;
            renewed.send_replace((cert.into_bytes(), key.into_bytes()));
            Ok(())
        }));
        let node = Node {
            cluster: self.args.cluster.name.clone(),
            layout: self.layout.clone(),
            args: self.args.node.clone(),
            name: self.name.clone(),
            ips,
            ranges,
            informers: None,
            serving: Serving { cert, key, ca: server.ca_pem().to_owned(), renewed: Some(renewals_seen) },
            clients: Arc::new(move |role| clients[&role].clone()),
            stop: parts.stop(),
        };
        Ok((node, renewals))
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        say(self.started, what);
    }
}

/// One line of progress; a reader that is gone is no error.
fn say(started: Instant, what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "[{:>5} ms] {what}", started.elapsed().as_millis());
}

fn token(args: &AgentArgs) -> Result<Option<Token>> {
    let text = match (&args.token, &args.token_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        (None, None) => return Ok(None),
    };
    Token::parse(text.trim()).map(Some)
}

/// This machine's address on the way to the server.
async fn towards(server: &str) -> IpAddr {
    let uri: Option<http::Uri> = server.parse().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default().trim_matches(['[', ']']);
    let resolved = tokio::net::lookup_host((host, 0)).await.ok().and_then(|mut found| found.next());
    resolved.map_or_else(host::address_of_default_route, |to: SocketAddr| host::address_towards(to.ip()))
}
