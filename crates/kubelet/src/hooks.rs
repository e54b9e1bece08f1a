//! Lifecycle hooks: exec, httpGet, tcpSocket and sleep, at the start and before the end of a container.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::host::Host;
use crate::pod::observed::Observed;
use crate::pod::spec;
use crate::probe::check;

/// How long an HTTP or TCP hook may take.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a hook of the container with this id. Errors are the words of the event.
pub async fn run(
    host: &Host,
    pod: &Pod,
    container: &Container,
    id: &str,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let answer = host.cri.exec_sync(id, command.clone(), Duration::ZERO).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let output = String::from_utf8_lossy(&answer.stdout) + String::from_utf8_lossy(&answer.stderr);
        return match answer.exit_code {
            0 => Ok(()),
            code => Err(format!("command '{}' exited with {code}: {output}", command.join(" "))),
        };
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    if let Some(get) = &handler.http_get {
        let target = check::http_target(get, container, &pod_ip(host, pod).await?)?;
        return check::http(&target, "kube-lifecycle/1.37", NETWORK_TIMEOUT).await.map(drop);
    }
    if let Some(socket) = &handler.tcp_socket {
        let ip = pod_ip(host, pod).await?;
        let target = socket.host.clone().filter(|host| !host.is_empty()).unwrap_or(ip);
        return check::tcp(&target, check::port_number(&socket.port, container)?, NETWORK_TIMEOUT).await;
    }
    Err("invalid handler: none of exec, httpGet, tcpSocket and sleep".to_owned())
}

async fn pod_ip(host: &Host, pod: &Pod) -> Result<String, String> {
    if spec::host_network(pod) {
        return host.node_ips.first().cloned().ok_or_else(|| "the node has no address".to_owned());
    }
    let observed = Observed::load(&host.cri, spec::uid(pod)).await.map_err(|error| error.to_string())?;
    let ip = observed.ready_sandbox().and_then(|sandbox| sandbox.ips.first().cloned());
    ip.ok_or_else(|| "the pod has no address".to_owned())
}
