//! CRI's RuntimeService, one thin method a call, and the server around it.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use corten_streaming::{StreamRequest, StreamServer, StreamServerConfig};
use corten_sys::cgroups::Cgroups;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_server::ImageServiceServer;
use k8s_cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::config::RuntimeConfig;
use crate::error::{Result, RuntimeError};
use crate::image::ImageServer;
use crate::node::{Node, blocking};
use crate::registry::{Container, Sandbox};
use crate::shim::wire::Kind;
use crate::stream::Backend;
use crate::{container, exec, lifecycle, sandbox, shim_client, stats, status};

/// The CRI version served.
const API_VERSION: &str = "v1";
/// Streams of one exec session that CRI allows without any other.
const NO_STREAMS: &str = "one of stdin, stdout, or stderr must be set";
/// Longest gRPC message accepted, as CRI clients expect.
const MAX_MESSAGE: usize = 16 << 20;
/// How long calls in progress may take once the server is told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Serves CRI on `config.socket` until `shutdown` resolves. Containers go on without us.
///
/// Returns once the socket is closed; fails when the host or the socket cannot be used.
pub fn serve(
    config: RuntimeConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, Result<()>> {
    Box::pin(serve_until(config, Box::pin(shutdown)))
}

async fn serve_until(config: RuntimeConfig, shutdown: BoxFuture<'static, ()>) -> Result<()> {
    let images = ImageServer::new(config.images.clone());
    let listener = listen(&config)?;
    let node = blocking(move || Node::load(config)).await?;
    node.adopt();
    if let Err(error) = node.reconcile_network().await {
        tracing::warn!(%error, "pod network not reconciled");
    }
    let backend = Arc::new(Backend(Arc::downgrade(&node)));
    let streams = StreamServer::start(backend, StreamServerConfig::default()).await;
    let streams = streams.map_err(|e| RuntimeError::Other(format!("streaming server: {e}")))?;
    let _ = node.streams.set(streams);
    let ending = CancellationToken::new();
    let runtime = RuntimeServiceServer::new(Service { node, ending: ending.clone() })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let server = tonic::transport::Server::builder()
        .add_service(runtime)
        .add_service(ImageServiceServer::new(images))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), ending.clone().cancelled_owned());
    let mut server = std::pin::pin!(server);
    let served = tokio::select! {
        served = &mut server => served,
        () = shutdown => {
            // Event streams end at once, calls get a moment; what is cut off is found again at the next start.
            ending.cancel();
            tokio::time::timeout(SHUTDOWN_GRACE, server).await.unwrap_or(Ok(()))
        }
    };
    served.map_err(|e| RuntimeError::Other(format!("CRI server: {e}")))
}

/// Kills every container and removes all that the runtime has on the host for `config`: sandboxes, network,
/// control groups. Images and the node directory itself stay. Nobody may be serving meanwhile.
pub fn remove_all(config: RuntimeConfig) -> BoxFuture<'static, Result<()>> {
    Box::pin(async move {
        let node = blocking(move || Node::load(config)).await?;
        node.adopt();
        for sandbox in node.registry.sandboxes() {
            sandbox::remove(&node, &sandbox).await?;
        }
        // Containers whose sandbox is gone: only after something removed files by hand.
        for container in node.registry.containers() {
            container::remove(&node, &container).await?;
        }
        node.config.network.teardown().await?;
        blocking(move || {
            let root = node.config.cgroup_root.clone();
            node.cgroups.kill_all(&root)?;
            Ok(node.cgroups.remove(&root)?)
        })
        .await
    })
}

fn listen(config: &RuntimeConfig) -> Result<UnixListener> {
    let failed =
        |e: std::io::Error| RuntimeError::Other(format!("listen on {}: {e}", config.socket.display()));
    std::fs::create_dir_all(&config.node_dir).map_err(failed)?;
    let listener = corten_sys::sockets::listen(&config.socket)?;
    // Whoever may speak here is root on the node.
    std::fs::set_permissions(&config.socket, PermissionsExt::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

struct Service {
    node: Arc<Node>,
    /// Cancelled when the server stops: streams without an end of their own must not hold it up.
    ending: CancellationToken,
}

impl Service {
    fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.node.registry.container(id)
    }

    fn register(&self, request: StreamRequest) -> std::result::Result<String, Status> {
        let streams =
            self.node.streams.get().ok_or_else(|| Status::unavailable("streaming is not up yet"))?;
        streams.register(request).map_err(|e| Status::resource_exhausted(e.to_string()))
    }
}

type Answer<T> = std::result::Result<Response<T>, Status>;

fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

/// Whether all of `wanted` are among `labels`.
fn selected(
    labels: &std::collections::HashMap<String, String>,
    wanted: &std::collections::HashMap<String, String>,
) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn sandbox_matches(item: &cri::PodSandbox, filter: &cri::PodSandboxFilter) -> bool {
    item.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == item.state)
        && selected(&item.labels, &filter.label_selector)
}

fn container_matches(item: &cri::Container, filter: &cri::ContainerFilter) -> bool {
    item.id.starts_with(&filter.id)
        && item.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == item.state)
        && selected(&item.labels, &filter.label_selector)
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> cri::RuntimeCondition {
    cri::RuntimeCondition { r#type: kind.into(), status, reason: reason.into(), message: message.into() }
}

fn wants_streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> std::result::Result<(), Status> {
    if tty && stderr {
        return Err(Status::invalid_argument("tty and stderr cannot both be true"));
    }
    if stdin || stdout || stderr { Ok(()) } else { Err(Status::invalid_argument(NO_STREAMS)) }
}

fn verbose_info(value: serde_json::Value) -> std::collections::HashMap<String, String> {
    [("info".to_owned(), value.to_string())].into()
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _request: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        answer(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "corten".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: API_VERSION.into(),
        })
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no sandbox config"))?;
        if !matches!(request.runtime_handler.as_str(), "" | "corten") {
            let message = format!("no runtime for {:?} is configured", request.runtime_handler);
            return Err(Status::invalid_argument(message));
        }
        // A client that hangs up must not leave half a sandbox behind: the work goes on without it.
        let node = self.node.clone();
        let run = tokio::spawn(async move { sandbox::run(&node, config, request.runtime_handler).await });
        let pod_sandbox_id = run.await.map_err(RuntimeError::from)??;
        answer(cri::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        if let Some(found) = self.node.registry.find_sandbox(&request.into_inner().pod_sandbox_id) {
            let node = self.node.clone();
            tokio::spawn(async move { sandbox::stop(&node, &found).await })
                .await
                .map_err(RuntimeError::from)??;
        }
        answer(cri::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        if let Some(found) = self.node.registry.find_sandbox(&request.into_inner().pod_sandbox_id) {
            let node = self.node.clone();
            tokio::spawn(async move { sandbox::remove(&node, &found).await })
                .await
                .map_err(RuntimeError::from)??;
        }
        answer(cri::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.node.registry.sandbox(&request.pod_sandbox_id)?;
        let containers = self.node.registry.containers_of(&sandbox.id);
        let info = match request.verbose {
            true => verbose_info(serde_json::json!({"config": sandbox.with(|r| r.config.clone())})),
            false => Default::default(),
        };
        answer(cri::PodSandboxStatusResponse {
            status: Some(status::sandbox_status(&sandbox)),
            info,
            containers_statuses: containers.iter().map(|c| status::container_status(c)).collect(),
            timestamp: crate::shim::now_ns(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let all = self.node.registry.sandboxes();
        let items = all.iter().map(|s| status::sandbox_item(s)).filter(|s| sandbox_matches(s, &filter));
        answer(cri::ListPodSandboxResponse { items: items.collect() })
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no container config"))?;
        let sandbox = self.node.registry.sandbox(&request.pod_sandbox_id)?;
        let node = self.node.clone();
        let create = tokio::spawn(async move { container::create(&node, &sandbox, config).await });
        answer(cri::CreateContainerResponse { container_id: create.await.map_err(RuntimeError::from)?? })
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let container = self.container(&request.into_inner().container_id)?;
        let node = self.node.clone();
        tokio::spawn(async move { lifecycle::start(&node, &container).await })
            .await
            .map_err(RuntimeError::from)??;
        answer(cri::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        // CRI wants success for what is not there.
        if let Some(container) = self.node.registry.find_container(&request.container_id) {
            let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
            lifecycle::stop(&self.node, &container, grace).await?;
        }
        answer(cri::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        if let Some(found) = self.node.registry.find_container(&request.into_inner().container_id) {
            let node = self.node.clone();
            tokio::spawn(async move { container::remove(&node, &found).await })
                .await
                .map_err(RuntimeError::from)??;
        }
        answer(cri::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let all = self.node.registry.containers();
        let items = all.iter().map(|c| status::container_item(c)).filter(|c| container_matches(c, &filter));
        answer(cri::ListContainersResponse { containers: items.collect() })
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.container(&request.container_id)?;
        let info = match request.verbose {
            true => verbose_info(serde_json::json!({
                "sandboxID": container.sandbox_id,
                "pid": container.progress().started.map_or(0, |s| s.pid),
                "config": container.with(|r| r.config.clone()),
            })),
            false => Default::default(),
        };
        answer(cri::ContainerStatusResponse { status: Some(status::container_status(&container)), info })
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let container = self.container(&request.container_id)?;
        if let Some(resources) = request.linux {
            container::update(&self.node, &container, resources).await?;
        }
        answer(cri::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let container = self.container(&request.into_inner().container_id)?;
        if !container::has_shim(&container) {
            return Err(Status::failed_precondition("container is not running"));
        }
        shim_client::ask(&container.dir, Kind::Reopen, b"").await?;
        answer(cri::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let container = self.container(&request.container_id)?;
        let limit = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        let output = exec::sync(&self.node, &container, &request.cmd, limit).await?;
        answer(cri::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        })
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let r = request.into_inner();
        let container = self.container(&r.container_id)?;
        wants_streams(r.stdin, r.stdout, r.stderr, r.tty)?;
        let url = self.register(StreamRequest::Exec {
            container_id: container.id.clone(),
            command: r.cmd,
            stdin: r.stdin,
            stdout: r.stdout,
            stderr: r.stderr,
            tty: r.tty,
        })?;
        answer(cri::ExecResponse { url })
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let r = request.into_inner();
        let container = self.container(&r.container_id)?;
        wants_streams(r.stdin, r.stdout, r.stderr, r.tty)?;
        let url = self.register(StreamRequest::Attach {
            container_id: container.id.clone(),
            stdin: r.stdin,
            stdout: r.stdout,
            stderr: r.stderr,
            tty: r.tty,
        })?;
        answer(cri::AttachResponse { url })
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let r = request.into_inner();
        let sandbox: Arc<Sandbox> = self.node.registry.sandbox(&r.pod_sandbox_id)?;
        let ports = r.port.iter().map(|p| u16::try_from(*p)).collect::<std::result::Result<_, _>>();
        let ports = ports.map_err(|_| Status::invalid_argument("port out of range"))?;
        let url = self.register(StreamRequest::PortForward { sandbox_id: sandbox.id.clone(), ports })?;
        answer(cri::PortForwardResponse { url })
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.container(&request.into_inner().container_id)?;
        let node = self.node.clone();
        let stats = blocking(move || stats::container_stats(&node, &container)).await?;
        answer(cri::ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let filter = cri::ContainerFilter {
            id: filter.id,
            state: Some(cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() }),
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        };
        let node = self.node.clone();
        let stats = blocking(move || {
            let all = node.registry.containers();
            let wanted = all.iter().filter(|c| container_matches(&status::container_item(c), &filter));
            wanted.map(|c| stats::container_stats(&node, c)).collect::<Result<Vec<_>>>()
        })
        .await?;
        answer(cri::ListContainerStatsResponse { stats })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.node.registry.sandbox(&request.into_inner().pod_sandbox_id)?;
        let node = self.node.clone();
        let stats = blocking(move || stats::sandbox_stats(&node, &sandbox)).await?;
        answer(cri::PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let filter =
            cri::PodSandboxFilter { id: filter.id, state: None, label_selector: filter.label_selector };
        let node = self.node.clone();
        let stats = blocking(move || {
            let all = node.registry.sandboxes();
            let ready = all.iter().filter(|s| s.with(|r| r.ready));
            let wanted = ready.filter(|s| sandbox_matches(&status::sandbox_item(s), &filter));
            wanted.map(|s| stats::sandbox_stats(&node, s)).collect::<Result<Vec<_>>>()
        })
        .await?;
        answer(cri::ListPodSandboxStatsResponse { stats })
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        let cidrs = config.network_config.unwrap_or_default().pod_cidr;
        // Dual-stack clusters send both families.
        let parts = || cidrs.split(',').map(str::trim);
        let (v4, v6) =
            (parts().find_map(|cidr| cidr.parse().ok()), parts().find_map(|cidr| cidr.parse().ok()));
        let network = &self.node.config.network;
        match v4 {
            Some(v4) => network
                .set_pod_cidr(v4)
                .and_then(|()| network.set_pod_cidr_v6(v6))
                .map_err(RuntimeError::from)?,
            None if cidrs.is_empty() => {}
            None => {
                return Err(Status::invalid_argument(format!("pod CIDR {cidrs:?} is not an IPv4 network")));
            }
        }
        answer(cri::UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let network = match self.node.config.network.pod_cidr() {
            Some(_) => condition("NetworkReady", true, "", ""),
            None => condition("NetworkReady", false, "NetworkPluginNotReady", "node has no pod CIDR yet"),
        };
        let info = match request.into_inner().verbose {
            true => verbose_info(serde_json::json!({"nodeDir": self.node.config.node_dir})),
            false => Default::default(),
        };
        let features =
            cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        let handler = |name: &str| cri::RuntimeHandler { name: name.into(), features: Some(features) };
        answer(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", true, "", ""), network],
            }),
            info,
            runtime_handlers: vec![handler(""), handler("corten")],
            features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true }),
        })
    }

    async fn checkpoint_container(
        &self,
        _request: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        Err(Status::unimplemented("CheckpointContainer is not supported by this runtime"))
    }

    type GetContainerEventsStream =
        BoxStream<'static, std::result::Result<cri::ContainerEventResponse, Status>>;

    async fn get_container_events(
        &self,
        _request: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let stream = BroadcastStream::new(self.node.events.listen())
            .map(|event| event.map_err(|_| Status::out_of_range("events were lost: list and listen again")))
            .take_until(self.ending.clone().cancelled_owned());
        answer(stream.boxed())
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        Err(Status::unimplemented("ListMetricDescriptors is not supported by this runtime"))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        Err(Status::unimplemented("ListPodSandboxMetrics is not supported by this runtime"))
    }

    async fn runtime_config(
        &self,
        _request: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs.into() };
        answer(cri::RuntimeConfigResponse { linux: Some(linux) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_by_id_state_and_labels() {
        let item = cri::Container {
            id: "abcdef".into(),
            pod_sandbox_id: "pod1".into(),
            state: cri::ContainerState::ContainerRunning.into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..Default::default()
        };
        let state = |s: cri::ContainerState| Some(cri::ContainerStateValue { state: s.into() });
        let labels = |v: &str| [("app".to_owned(), v.to_owned())].into();
        for (filter, want) in [
            (cri::ContainerFilter::default(), true),
            (cri::ContainerFilter { id: "abc".into(), ..Default::default() }, true),
            (cri::ContainerFilter { id: "b".into(), ..Default::default() }, false),
            (cri::ContainerFilter { pod_sandbox_id: "pod2".into(), ..Default::default() }, false),
            (
                cri::ContainerFilter {
                    state: state(cri::ContainerState::ContainerExited),
                    ..Default::default()
                },
                false,
            ),
            (cri::ContainerFilter { label_selector: labels("web"), ..Default::default() }, true),
            (cri::ContainerFilter { label_selector: labels("db"), ..Default::default() }, false),
        ] {
            assert_eq!(container_matches(&item, &filter), want, "{filter:?}");
        }
    }

    #[test]
    fn streams_must_make_sense() {
        for (stdin, stdout, stderr, tty, fine) in [
            (true, true, false, true, true),
            (false, true, true, false, true),
            (false, true, true, true, false),
            (false, false, false, false, false),
        ] {
            assert_eq!(wants_streams(stdin, stdout, stderr, tty).is_ok(), fine);
        }
    }
}
