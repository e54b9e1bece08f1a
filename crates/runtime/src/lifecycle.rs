//! A container's way from started to ended: watching its shim, stopping it, waiting for it.

use std::sync::Arc;
use std::time::Duration;

use corten_sys::cgroups::Cgroups;
use k8s_cri::v1::ContainerEventType;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use crate::error::{Result, RuntimeError};
use crate::files;
use crate::node::{Node, blocking};
use crate::registry::{Container, Phase};
use crate::shim::wire::{self, Kind};
use crate::shim::{EXIT_FILE, Exited, STARTED_FILE};
use crate::shim_client;

/// How long the kernel may take to end killed processes.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// Watches the container's shim until the end; `child` when it is our child and must be reaped.
pub(crate) fn supervise(
    node: &Arc<Node>,
    container: &Arc<Container>,
    stream: std::os::unix::net::UnixStream,
    child: Option<Child>,
) {
    let (node, container) = (node.clone(), container.clone());
    tokio::spawn(async move {
        let exited = watch(&container, stream).await;
        settle(&node, &container, exited).await;
        if let Some(mut child) = child {
            let _ = child.wait().await;
        }
    });
}

/// Notes an end: `None` when nobody has seen it. What an ended container no longer needs goes before anyone
/// is told: the kubelet then removes the pod's control group, which must be empty.
async fn settle(node: &Arc<Node>, container: &Arc<Container>, exited: Option<Exited>) {
    let (node2, container2) = (node.clone(), container.clone());
    let settled = blocking(move || {
        let exited = exited.unwrap_or_else(|| node2.lost(&container2));
        if let Err(error) = node2.release(&container2) {
            tracing::warn!(container = container2.id, %error, "ended container not released");
        }
        container2.set_exited(exited);
        Ok(())
    });
    if let Err(error) = settled.await {
        tracing::warn!(container = container.id, %error, "end not noted");
    }
    node.announce(ContainerEventType::ContainerStoppedEvent, container);
}

/// Listens for the end; `None` when the shim went away without telling.
async fn watch(container: &Container, stream: std::os::unix::net::UnixStream) -> Option<Exited> {
    let mut stream = shim_client::adopt(stream).ok()?;
    stream.write_all(&wire::frame(Kind::Watch, b"")).await.ok()?;
    loop {
        match shim_client::read_frame(&mut stream).await {
            Ok(Some((Kind::Watch, body))) => {
                // A shim that was still starting when the agent died has told nobody yet.
                if let (Phase::Created, Ok(started)) = (container.phase(), serde_json::from_slice(&body)) {
                    container.set_started(started);
                }
            }
            Ok(Some((Kind::Done, body))) => return serde_json::from_slice(&body).ok(),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Starts a created container's program.
pub(crate) async fn start(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    let _busy = container.busy.lock().await;
    if container.phase() != Phase::Created {
        let phase = container.phase();
        return Err(RuntimeError::Precondition(format!(
            "container {:?} is in {phase:?} state",
            container.id
        )));
    }
    let sandbox = node.registry.sandbox(&container.sandbox_id)?;
    if !sandbox.with(|r| r.ready) {
        return Err(RuntimeError::Precondition(format!("sandbox container {:?} is not running", sandbox.id)));
    }
    match shim_client::start(&node.config.shim_command, &container.dir).await {
        Ok((started, child)) => {
            container.set_started(started);
            node.announce(ContainerEventType::ContainerStartedEvent, container);
            match corten_sys::sockets::connect(&container.dir.join(crate::shim::SOCKET_FILE)) {
                Ok(stream) => supervise(node, container, stream, Some(child)),
                // Already over: the record is written before the socket goes away.
                Err(_) => over_already(node, container, child).await,
            }
            Ok(())
        }
        Err(error) => {
            start_failed(node, container, &error.to_string()).await;
            Err(match error {
                RuntimeError::Start(why) => RuntimeError::Start(format!(
                    "failed to create task: OCI runtime create failed: unable to start container process: {why}"
                )),
                other => other,
            })
        }
    }
}

async fn over_already(node: &Arc<Node>, container: &Arc<Container>, mut child: Child) {
    let _ = child.wait().await;
    settle(node, container, None).await;
}

async fn start_failed(node: &Arc<Node>, container: &Arc<Container>, why: &str) {
    let path = container.dir.join(EXIT_FILE);
    let exited = files::read_json::<Exited>(&path).unwrap_or_else(|_| Exited {
        code: 128,
        signal: 0,
        at_ns: crate::shim::now_ns(),
        oom: false,
        reason: Some("StartError".into()),
        message: why.to_owned(),
    });
    if let Err(error) = files::write_json(&path, &exited) {
        tracing::warn!(container = container.id, %error, "exit not recorded");
    }
    let _ = std::fs::remove_file(container.dir.join(STARTED_FILE));
    settle(node, container, Some(exited)).await;
}

/// Asks the program to stop, and kills it when `grace` is over. A container that does not run is fine.
pub(crate) async fn stop(node: &Arc<Node>, container: &Arc<Container>, grace: Duration) -> Result<()> {
    if container.phase() != Phase::Running {
        return Ok(());
    }
    if !grace.is_zero() {
        let signal = container.with(|r| r.stop_signal);
        match shim_client::ask(&container.dir, Kind::Signal, &signal.to_be_bytes()).await {
            Ok(()) => {
                if tokio::time::timeout(grace, container.ended()).await.is_ok() {
                    return Ok(());
                }
            }
            Err(error) => tracing::debug!(container = container.id, %error, "stop signal not delivered"),
        }
    }
    kill(node, container).await
}

/// Kills all processes of a container and waits for its end.
pub(crate) async fn kill(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    if container.phase() != Phase::Running {
        return Ok(());
    }
    let signal = nix::libc::SIGKILL.to_be_bytes();
    // The group is killed in any case: with a shared pid namespace others outlive the main process.
    let _ = shim_client::ask(&container.dir, Kind::Signal, &signal).await;
    if tokio::time::timeout(Duration::from_millis(100), container.ended()).await.is_ok() {
        return Ok(());
    }
    let (node2, cgroup) = (node.clone(), container.with(|r| r.cgroup.clone()));
    blocking(move || Ok(node2.cgroups.kill_all(&cgroup)?)).await?;
    let ended = tokio::time::timeout(KILL_PATIENCE, container.ended()).await;
    ended.map_err(|_| {
        RuntimeError::Timeout(format!("container {:?} does not end after SIGKILL", container.id))
    })
}
