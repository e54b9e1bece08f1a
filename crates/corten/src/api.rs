//! The API server's part of the wiring: its configuration, certificates, listeners and kubeconfigs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use corten_apiserver::{ApiServer, KubeletClient, ServiceAccountKeys, ServingCert, User};
use corten_client::Api;
use corten_client::Informer;
use corten_client::watcher;
use corten_store::{Embedded, Options};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{Patch, PatchParams};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;

use crate::cidrs::Cidrs;
use crate::parts::Parts;
use crate::pki::{Identity, Pair};
use crate::token::Token;
use crate::up::{Cluster, client};
use crate::{join, kubeconfig, verbosity};

/// Pause before listening is tried again at an address that something else holds.
const LISTEN_RETRY: Duration = Duration::from_secs(1);
/// Group of those who join with the token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Where pods reach the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advertised {
    /// At an address where it listens already.
    At(IpAddr),
    /// At an address where it must listen, too.
    Door(IpAddr),
    /// At the gateway of this node's pods, known when the node has its pod CIDR.
    Gateway {
        /// It must listen there, too.
        door: bool,
    },
}

/// Pods cannot reach loopback. What the administrator wants goes first, then the address that was given to listen on, then
/// that of the host; a server on loopback alone opens a door that only pods can see.
fn advertised(listen: IpAddr, wanted: Option<IpAddr>, host: IpAddr, has_node: bool) -> Advertised {
    let everywhere = listen.is_unspecified();
    match wanted {
        Some(address) if everywhere || listen == address => Advertised::At(address),
        Some(address) => Advertised::Door(address),
        None if everywhere && !host.is_loopback() => Advertised::At(host),
        None if (everywhere || listen.is_loopback()) && has_node => Advertised::Gateway { door: !everywhere },
        None if everywhere => Advertised::At(IpAddr::from([127, 0, 0, 1])),
        None => Advertised::At(listen),
    }
}

impl Cluster {
    fn advertised(&self) -> Advertised {
        let family = |ip: &&IpAddr| ip.is_ipv6() == self.args.ranges.service_cidr.prefers_v6();
        let host = self.node_ips.iter().find(family).copied().unwrap_or(self.node_ip());
        advertised(self.args.listen.ip(), self.args.advertise_address, host, self.has_node)
    }

    /// The server over its store, not yet listening.
    pub(crate) fn api_server(&self, address: SocketAddr) -> Result<ApiServer> {
        let store = Embedded::open(Options::new(self.layout.store())).context("cannot open the store")?;
        let keys = self.pki.service_account_key()?;
        let (public, private) = keys.read()?;
        let issuer = format!("https://kubernetes.default.svc.{}", self.args.ranges.cluster_domain);
        let kubelet_client = self.pki.client(&Identity {
            file: "apiserver-kubelet-client",
            user: "kube-apiserver-kubelet-client",
            group: "system:masters",
        })?;
        let (cert, key) = kubelet_client.read()?;
        let ca = self.pki.ca_pem().as_bytes().to_vec();
        let mut config = corten_apiserver::Config::new(Arc::new(store));
        config.client_ca_pem = Some(ca.clone());
        config.service_account = ServiceAccountKeys {
            issuer: issuer.clone(),
            audiences: vec![issuer],
            signing_key_pem: private.into_bytes(),
            verifying_keys_pem: vec![public.into_bytes()],
            ..ServiceAccountKeys::default()
        };
        config.kubelet_client =
            Some(KubeletClient { cert_pem: cert.into_bytes(), key_pem: key.into_bytes(), ca_pem: Some(ca) });
        let token = Token::of_server(&self.layout.token(), &self.pki.ca_der()?)?;
        config.static_tokens.push((token.bearer(), User::new(token.user(), [BOOTSTRAPPERS])));
        config.service_cidrs = self.args.ranges.service_cidr.all().collect();
        config.advertise_port = address.port();
        config.cluster_domain.clone_from(&self.args.ranges.cluster_domain);
        if let Advertised::At(address) = self.advertised() {
            config.advertise_address = Some(address);
        }
        self.args.access.apply(&mut config)?;
        self.kube.apply(&mut config)?;
        config.verbosity = verbosity::verbosity();
        if self.alone {
            // As upstream. A cluster in one process ends sooner: all who would still have work for the server end with it.
            config.shutdown.drain = config.limits.request_timeout;
        }
        ApiServer::new(config).map_err(|why| anyhow!("API server: {why}"))
    }

    /// Starts serving at the address that was asked for.
    pub(crate) fn serve(&self, api: &ApiServer, listener: TcpListener, parts: &mut Parts) -> Result<()> {
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), self.args.listen.ip()];
        addresses.extend(&self.node_ips);
        addresses.extend(self.args.advertise_address);
        let cert = match self.kube.serving_cert()? {
            Some(cert) => cert,
            None => self.serving_cert("apiserver", addresses)?,
        };
        let (api, stop) = (api.clone(), self.stop.clone());
        parts.allow(api.config().shutdown.delay + api.config().shutdown.drain);
        parts.start("API server", async move { Ok(api.serve_tls(listener, &cert, stop).await?) });
        Ok(())
    }

    /// The certificate of one listener: the names of the `kubernetes` Service and these addresses. It shows the CA behind it,
    /// so that a node that knows no more than the CA's hash can check it.
    fn serving_cert(&self, file: &str, mut addresses: Vec<IpAddr>) -> Result<ServingCert> {
        let domain = format!("kubernetes.default.svc.{}", self.args.ranges.cluster_domain);
        let fixed = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let mut names: Vec<String> = fixed.map(str::to_owned).into();
        names.extend([domain, self.node_name.clone()]);
        addresses.extend(self.args.ranges.service_cidr.nth(1));
        for san in &self.args.tls_san {
            match san.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(san.clone()),
            }
        }
        addresses.sort();
        addresses.dedup();
        let (cert, key) = self.pki.server(file, "kube-apiserver", &names, &addresses)?.read()?;
        let chain = format!("{cert}{}", self.pki.ca_pem());
        Ok(ServingCert { cert_pem: chain.into_bytes(), key_pem: key.into_bytes() })
    }

    /// Writes the admin's kubeconfig.
    pub(crate) fn write_kubeconfigs(&self, address: SocketAddr) -> Result<()> {
        let server = format!("https://{}", SocketAddr::new(self.reachable(address.ip()), address.port()));
        let admin = self.admin()?;
        let name = &self.args.cluster.name;
        for path in [Some(self.layout.kubeconfig()), self.args.write_kubeconfig.clone()].into_iter().flatten()
        {
            kubeconfig::write(&path, name, &server, self.pki.ca_pem(), "kubernetes-admin", &admin)?;
        }
        Ok(())
    }

    /// For a server that listens everywhere: the address at which other machines find it, where there is one.
    fn reachable(&self, listen: IpAddr) -> IpAddr {
        match (listen.is_unspecified(), self.args.advertise_address) {
            (false, _) => listen,
            (true, Some(advertised)) => advertised,
            (true, None) => self.node_ip(),
        }
    }

    fn admin(&self) -> Result<Pair> {
        self.pki.client(&Identity { file: "admin", user: "kubernetes-admin", group: "system:masters" })
    }

    /// Tells nodes that join how the cluster is laid out.
    pub(crate) async fn publish_layout(&self, api: &ApiServer) -> Result<()> {
        let (namespace, name) = join::PUBLISHED;
        let maps: Api<ConfigMap> =
            Api::namespaced(client(api, "kubernetes-admin", &["system:masters"]), namespace);
        let patch = Patch::Apply(join::published(&self.args.ranges));
        maps.patch(name, &PatchParams::apply("corten").force(), &patch)
            .await
            .context("publish the layout")?;
        Ok(())
    }

    /// Keeps the `kubernetes` Service true, and opens the door through which pods reach the server.
    pub(crate) fn keep_service(&self, api: &ApiServer, port: u16, parts: &mut Parts) {
        let (keeper, stop) = (api.clone(), self.stop.clone());
        parts.start("kubernetes Service", async move {
            keeper.keep_kubernetes_service(stop).await;
            Ok(())
        });
        let (me, api) = (self.clone(), api.clone());
        match self.advertised() {
            Advertised::At(_) => {}
            Advertised::Door(address) => parts.start("API server for pods", async move {
                me.open_door(&api, SocketAddr::new(address, port)).await
            }),
            Advertised::Gateway { door } => {
                parts.start("API server for pods", async move { me.follow_gateway(&api, port, door).await })
            }
        }
    }

    /// Waits for the node's pod CIDR: pods reach the host at its gateway.
    async fn follow_gateway(&self, api: &ApiServer, port: u16, door: bool) -> Result<()> {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.node_name));
        let admin = client(api, "kubernetes-admin", &["system:masters"]);
        let nodes = Informer::<Node>::start(Api::all(admin), only, self.stop.child_token());
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        nodes.on_change(move |_| wake.notify_one());
        let v6 = self.args.ranges.service_cidr.prefers_v6();
        let gateway = loop {
            if let Some(gateway) = nodes.list().iter().find_map(|node| gateway(node, v6)) {
                break SocketAddr::new(gateway, port);
            }
            tokio::select! {
                () = changed.notified() => {}
                () = self.stop.cancelled() => return Ok(()),
            }
        };
        drop(nodes);
        if door {
            return self.open_door(api, gateway).await;
        }
        api.advertise(gateway);
        self.stop.cancelled().await;
        Ok(())
    }

    /// Listens at `address`, too, even before the bridge that will have it is there, and advertises it.
    async fn open_door(&self, api: &ApiServer, address: SocketAddr) -> Result<()> {
        let cert = self.serving_cert("apiserver-pods", vec![address.ip()])?;
        let listener = loop {
            match listen_freely(address) {
                Ok(listener) => break listener,
                Err(error) => tracing::warn!(%address, %error, "pods cannot reach the API server here yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(LISTEN_RETRY) => {}
                () = self.stop.cancelled() => return Ok(()),
            }
        };
        api.advertise(address);
        Ok(api.serve_tls(listener, &cert, self.stop.clone()).await?)
    }
}

/// The first address of the node's pod CIDR of a family, behind the network's own.
fn gateway(node: &Node, v6: bool) -> Option<IpAddr> {
    let spec = node.spec.as_ref()?;
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    let cidrs = all.filter_map(|text| text.parse::<Cidrs>().ok());
    cidrs.flat_map(|cidr| cidr.nth(1).collect::<Vec<_>>()).find(|ip| ip.is_ipv6() == v6)
}

/// Listens at an address that the host may not have yet.
fn listen_freely(address: SocketAddr) -> std::io::Result<TcpListener> {
    use nix::sys::socket::{setsockopt, sockopt};
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_pods_find_the_server() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let cases = [
            ("127.0.0.1", None, "192.0.2.1", true, Advertised::Gateway { door: true }),
            ("127.0.0.1", None, "192.0.2.1", false, Advertised::At(ip("127.0.0.1"))),
            ("127.0.0.1", Some("192.0.2.9"), "192.0.2.1", true, Advertised::Door(ip("192.0.2.9"))),
            ("0.0.0.0", None, "192.0.2.1", true, Advertised::At(ip("192.0.2.1"))),
            ("0.0.0.0", None, "127.0.0.1", true, Advertised::Gateway { door: false }),
            ("0.0.0.0", None, "127.0.0.1", false, Advertised::At(ip("127.0.0.1"))),
            ("0.0.0.0", Some("192.0.2.9"), "192.0.2.1", true, Advertised::At(ip("192.0.2.9"))),
            ("192.0.2.1", None, "192.0.2.1", true, Advertised::At(ip("192.0.2.1"))),
            ("192.0.2.1", Some("192.0.2.1"), "192.0.2.1", true, Advertised::At(ip("192.0.2.1"))),
        ];
        for (listen, wanted, host, has_node, expected) in cases {
            let found = advertised(ip(listen), wanted.map(ip), ip(host), has_node);
            assert_eq!(found, expected, "{listen} {wanted:?} {host} {has_node}");
        }
    }

    #[tokio::test]
    async fn listening_needs_no_bridge() {
        // Nobody here has an address of the block for documentation.
        let listener = listen_freely("192.0.2.77:0".parse().unwrap()).unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), IpAddr::from([192, 0, 2, 77]));
    }
}
