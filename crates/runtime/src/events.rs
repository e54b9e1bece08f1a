//! The stream of container events that the kubelet lives on instead of polling.

use k8s_cri::v1::{ContainerEventResponse, ContainerEventType, ContainerStatus, PodSandboxStatus};
use tokio::sync::broadcast;

/// Events a slow listener may fall behind before its stream is ended; it then lists anew.
const MAX_BEHIND: usize = 1024;

/// Sends events to all listeners.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<ContainerEventResponse>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::channel(MAX_BEHIND).0 }
    }

    /// A stream of what happens from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<ContainerEventResponse> {
        self.sender.subscribe()
    }

    /// Whether anyone would hear an event; making one costs something.
    pub(crate) fn heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Tells all listeners. Sandboxes have events, too, under their own id, as containerd's have.
    pub(crate) fn send(
        &self,
        kind: ContainerEventType,
        id: &str,
        sandbox: Option<PodSandboxStatus>,
        containers: Vec<ContainerStatus>,
    ) {
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: crate::shim::now_ns(),
            pod_sandbox_status: sandbox,
            containers_statuses: containers,
        };
        // An error only says that nobody listens.
        let _ = self.sender.send(event);
    }
}
