//! The only door to containers: CRI v1 over a unix socket, with upstream's deadlines and error words.

use std::collections::HashMap;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1 as pb;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Streaming};

/// Deadline of a call that has no own one (upstream's `--runtime-request-timeout`).
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Deadline of RunPodSandbox (upstream: twice the ordinary one).
const SANDBOX_TIMEOUT: Duration = Duration::from_secs(240);
/// Largest answer that is decoded, in bytes (upstream's 16 MiB).
const MAX_MESSAGE: usize = 16 << 20;

/// A failed call; shows itself as gRPC errors read in upstream's events.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct CriError {
    /// gRPC status code.
    pub code: Code,
    /// What the runtime said.
    pub message: String,
}

impl CriError {
    /// Whether the thing asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

impl From<tonic::Status> for CriError {
    fn from(status: tonic::Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, CriError>;

/// A handle on the runtime; clones share the connection.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

fn timed<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn ordinary<T>(message: T) -> Request<T> {
    timed(message, CALL_TIMEOUT)
}

impl Cri {
    /// A handle on `endpoint` (`unix:///run/x.sock` or a path). It connects at the first call and again
    /// whenever the runtime went away.
    pub fn connect(endpoint: &str) -> Result<Self> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint).to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::from_static("http://cri.invalid").connect_with_connector_lazy(connector);
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        })
    }

    /// Name and version of the runtime.
    pub async fn version(&self) -> Result<pb::VersionResponse> {
        let request = ordinary(pb::VersionRequest { version: "0.1.0".to_owned() });
        Ok(self.runtime.clone().version(request).await?.into_inner())
    }

    /// Whether runtime and network are ready, and which handlers there are.
    pub async fn status(&self) -> Result<pb::StatusResponse> {
        Ok(self.runtime.clone().status(ordinary(pb::StatusRequest { verbose: false })).await?.into_inner())
    }

    /// Hands the node's pod CIDR to the runtime.
    pub async fn update_pod_cidr(&self, cidr: &str) -> Result<()> {
        let network_config = Some(pb::NetworkConfig { pod_cidr: cidr.to_owned() });
        let runtime_config = Some(pb::RuntimeConfig { network_config });
        let request = ordinary(pb::UpdateRuntimeConfigRequest { runtime_config });
        self.runtime.clone().update_runtime_config(request).await?;
        Ok(())
    }

    /// Makes and starts a sandbox; answers its id.
    pub async fn run_sandbox(&self, config: pb::PodSandboxConfig, handler: String) -> Result<String> {
        let message = pb::RunPodSandboxRequest { config: Some(config), runtime_handler: handler };
        let request = timed(message, SANDBOX_TIMEOUT);
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Stops a sandbox and everything in it; a missing one is fine.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = ordinary(pb::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() });
        absent_is_fine(self.runtime.clone().stop_pod_sandbox(request).await)
    }

    /// Removes a sandbox and its containers; a missing one is fine.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = ordinary(pb::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() });
        absent_is_fine(self.runtime.clone().remove_pod_sandbox(request).await)
    }

    /// Sandboxes whose labels contain `labels`.
    pub async fn sandboxes(&self, labels: HashMap<String, String>) -> Result<Vec<pb::PodSandbox>> {
        let filter = pb::PodSandboxFilter { label_selector: labels, ..Default::default() };
        let request = ordinary(pb::ListPodSandboxRequest { filter: Some(filter) });
        Ok(self.runtime.clone().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// One sandbox in full; `None` when it is gone.
    pub async fn sandbox_status(&self, id: &str) -> Result<Option<pb::PodSandboxStatus>> {
        let message = pb::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        match self.runtime.clone().pod_sandbox_status(ordinary(message)).await {
            Ok(answer) => Ok(answer.into_inner().status),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Containers whose labels contain `labels`.
    pub async fn containers(&self, labels: HashMap<String, String>) -> Result<Vec<pb::Container>> {
        let filter = pb::ContainerFilter { label_selector: labels, ..Default::default() };
        let request = ordinary(pb::ListContainersRequest { filter: Some(filter) });
        Ok(self.runtime.clone().list_containers(request).await?.into_inner().containers)
    }

    /// One container in full; `None` when it is gone.
    pub async fn container_status(&self, id: &str) -> Result<Option<pb::ContainerStatus>> {
        let message = pb::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        match self.runtime.clone().container_status(ordinary(message)).await {
            Ok(answer) => Ok(answer.into_inner().status),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Makes a container; answers its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: pb::ContainerConfig,
        sandbox_config: pb::PodSandboxConfig,
    ) -> Result<String> {
        let request = ordinary(pb::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        });
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    /// Starts a made container.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let request = ordinary(pb::StartContainerRequest { container_id: id.to_owned() });
        self.runtime.clone().start_container(request).await?;
        Ok(())
    }

    /// SIGTERM, then SIGKILL after `grace` seconds; returns when the container has ended.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let deadline = Duration::from_secs(u64::try_from(grace).unwrap_or(0)).saturating_add(CALL_TIMEOUT);
        let message = pb::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        absent_is_fine(self.runtime.clone().stop_container(timed(message, deadline)).await)
    }

    /// Changes what a container may use.
    pub async fn update_resources(&self, id: &str, linux: pb::LinuxContainerResources) -> Result<()> {
        let request = ordinary(pb::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        });
        Ok(self.runtime.clone().update_container_resources(request).await.map(drop)?)
    }

    /// Removes a container, killing it first if it runs; a missing one is fine.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let request = ordinary(pb::RemoveContainerRequest { container_id: id.to_owned() });
        absent_is_fine(self.runtime.clone().remove_container(request).await)
    }

    /// Runs a command and waits for its end; `timeout` of zero waits for ever (the call's deadline aside).
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<pb::ExecSyncResponse> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let message = pb::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: seconds };
        let deadline = if timeout.is_zero() { CALL_TIMEOUT } else { timeout + CALL_TIMEOUT };
        Ok(self.runtime.clone().exec_sync(timed(message, deadline)).await?.into_inner())
    }

    /// A one-time URL for an interactive command.
    pub async fn exec(&self, request: pb::ExecRequest) -> Result<String> {
        Ok(self.runtime.clone().exec(ordinary(request)).await?.into_inner().url)
    }

    /// A one-time URL for the main process' streams.
    pub async fn attach(&self, request: pb::AttachRequest) -> Result<String> {
        Ok(self.runtime.clone().attach(ordinary(request)).await?.into_inner().url)
    }

    /// A one-time URL for connections to ports of a sandbox.
    pub async fn port_forward(&self, sandbox: &str, port: Vec<i32>) -> Result<String> {
        let message = pb::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port };
        Ok(self.runtime.clone().port_forward(ordinary(message)).await?.into_inner().url)
    }

    /// Tells the runtime that the log file was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = ordinary(pb::ReopenContainerLogRequest { container_id: id.to_owned() });
        self.runtime.clone().reopen_container_log(request).await?;
        Ok(())
    }

    /// Use of CPU, memory and disk by the running containers whose labels contain `labels`.
    pub async fn container_stats(&self, labels: HashMap<String, String>) -> Result<Vec<pb::ContainerStats>> {
        let filter = pb::ContainerStatsFilter { label_selector: labels, ..Default::default() };
        let request = ordinary(pb::ListContainerStatsRequest { filter: Some(filter) });
        Ok(self.runtime.clone().list_container_stats(request).await?.into_inner().stats)
    }

    /// The stream of container starts and ends.
    pub async fn events(&self) -> Result<Streaming<pb::ContainerEventResponse>> {
        Ok(self
            .runtime
            .clone()
            .get_container_events(Request::new(pb::GetEventsRequest {}))
            .await?
            .into_inner())
    }

    /// Images on the node.
    pub async fn images(&self) -> Result<Vec<pb::Image>> {
        let request = ordinary(pb::ListImagesRequest { filter: None });
        Ok(self.images.clone().list_images(request).await?.into_inner().images)
    }

    /// One image; `None` when it is not on the node.
    pub async fn image(&self, image: &str) -> Result<Option<pb::Image>> {
        let request = ordinary(pb::ImageStatusRequest { image: Some(image_spec(image)), verbose: false });
        Ok(self.images.clone().image_status(request).await?.into_inner().image)
    }

    /// Pulls an image (no deadline: registries are slow); answers its reference.
    pub async fn pull(
        &self,
        image: &str,
        auth: Option<pb::AuthConfig>,
        sandbox: pb::PodSandboxConfig,
    ) -> Result<String> {
        let message =
            pb::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config: Some(sandbox) };
        Ok(self.images.clone().pull_image(Request::new(message)).await?.into_inner().image_ref)
    }

    /// Removes an image.
    pub async fn remove_image(&self, image: &str) -> Result<()> {
        let request = ordinary(pb::RemoveImageRequest { image: Some(image_spec(image)) });
        absent_is_fine(self.images.clone().remove_image(request).await)
    }
}

fn image_spec(image: &str) -> pb::ImageSpec {
    pb::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}

fn absent_is_fine<T>(answer: std::result::Result<tonic::Response<T>, tonic::Status>) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status.into()),
    }
}
