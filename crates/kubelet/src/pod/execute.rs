//! Carrying out the steps of a plan that are not the start of a container.

use std::fs;
use std::time::Duration;

use jiff::Timestamp;
use k8s_cri::v1::PodSandboxConfig;

use super::configs::{self, HOSTS_FILE};
use super::memory::Volumes;
use super::observed::Observed;
use super::plan::Step;
use super::resize;
use super::spec;
use super::worker::{Flow, Worker};
use crate::backoff::add;
use crate::dns;
use crate::logs::rotate;
use crate::resources;
use crate::volume::pod_volumes::PodVolumes;

/// First pause before volumes are tried again; it doubles.
const VOLUME_RETRY: Duration = Duration::from_millis(500);
/// Doublings of that pause (upstream ends at about two minutes).
const VOLUME_DOUBLINGS: u32 = 8;
/// First pause before a sandbox is tried again; it doubles.
const SANDBOX_RETRY: Duration = Duration::from_secs(1);
/// Doublings of that pause.
const SANDBOX_DOUBLINGS: u32 = 4;
/// Pause before resources that could not be changed are tried again.
const RESIZE_RETRY: Duration = Duration::from_secs(10);
/// Pause before a failed clean-up is tried again.
const CLEANUP_RETRY: Duration = Duration::from_secs(1);

impl Worker {
    /// Carries out one step.
    pub(super) async fn execute(&mut self, step: Step, observed: &Observed) -> Flow {
        match step {
            Step::Prepare { volumes, sandbox } => self.prepare(volumes, sandbox, observed).await,
            Step::Start { name, restart_count, after } => {
                self.start(&name, restart_count, after, observed).await
            }
            Step::Kill { id, name, why, grace } => self.kill(id, name, &why, grace),
            Step::Resize { id, name } => self.resize(&id, &name).await,
            Step::Remove { id } => self.remove(&id, observed).await,
            Step::StopSandbox { id } => {
                if let Err(error) = self.host.cri.stop_sandbox(&id).await {
                    tracing::warn!(pod = spec::describe(&self.pod), %error, "sandbox does not stop");
                    return Flow::Sleep(Some(add(Timestamp::now(), CLEANUP_RETRY)));
                }
                Flow::Again
            }
            Step::RemoveSandbox { id } => {
                if let Err(error) = self.host.cri.remove_sandbox(&id).await {
                    tracing::warn!(pod = spec::describe(&self.pod), %error, "old sandbox is not removed");
                    return Flow::Sleep(Some(add(Timestamp::now(), CLEANUP_RETRY)));
                }
                Flow::Again
            }
            Step::TakeDown => self.take_down(),
            Step::Cleanup => self.cleanup(observed).await,
        }
    }

    async fn prepare(&mut self, volumes: bool, sandbox: Option<u32>, observed: &Observed) -> Flow {
        let now = Timestamp::now();
        let around = self.host.surroundings(Vec::new());
        let set_up =
            async { if volumes { self.volumes.setup(&self.pod, &around, now).await } else { Ok(()) } };
        let make = async {
            match sandbox {
                Some(attempt) => self.make_sandbox(attempt, observed).await.map(drop),
                None => Ok(()),
            }
        };
        let (set_up, made) = tokio::join!(set_up, make);
        let mut memory = self.memory.lock();
        match set_up {
            Ok(()) => (memory.volumes, memory.volume_failures) = (Volumes::Ready, 0),
            Err(error) => {
                self.host.pod_event(&self.pod, "Warning", "FailedMount", error.to_string());
                let pause = VOLUME_RETRY * (1 << memory.volume_failures.min(VOLUME_DOUBLINGS));
                memory.volume_failures = memory.volume_failures.saturating_add(1);
                // what runs keeps the volumes that it has
                let runs = !observed.containers.is_empty();
                memory.volumes = if runs { Volumes::Ready } else { Volumes::Failed(add(now, pause)) };
            }
        }
        match made {
            Ok(()) => (memory.sandbox_retry, memory.sandbox_failures) = (None, 0),
            Err(why) => {
                let message = format!("Failed to create pod sandbox: {why}");
                self.host.pod_event(&self.pod, "Warning", "FailedCreatePodSandBox", message);
                let pause = SANDBOX_RETRY * (1 << memory.sandbox_failures.min(SANDBOX_DOUBLINGS));
                memory.sandbox_failures = memory.sandbox_failures.saturating_add(1);
                memory.sandbox_retry = Some(add(Timestamp::now(), pause));
            }
        }
        Flow::Again
    }

    /// The pod's group must never be smaller than a container's: it is written before and after.
    async fn resize(&self, id: &str, name: &str) -> Flow {
        let Some((kind, container)) = spec::container(&self.pod, name) else { return Flow::Again };
        self.fit_group();
        let shall = resources::container_resources(&self.pod, &container, self.host.machine.memory_bytes);
        let told = self.host.cri.update_resources(id, shall).await;
        self.fit_group();
        let failed = told.err().map(|error| {
            let message = format!("Error resizing container {name}: {error}");
            self.host.container_event(&self.pod, kind, name, ("Warning", "ResizeError"), message);
            (add(Timestamp::now(), RESIZE_RETRY), error.to_string())
        });
        let target = (id.to_owned(), resize::target(&self.pod, &container));
        let mut memory = self.memory.lock();
        let memory = memory.of(name);
        memory.resize_told = failed.is_none().then_some(target);
        memory.resize_failed = failed;
        Flow::Again
    }

    /// Gives the pod's group what its containers have been given by now; it cannot shrink below what one of
    /// them still has.
    pub(super) fn fit_group(&self) {
        if let Err(error) = self.host.cgroups.ensure(&self.pod) {
            tracing::debug!(pod = spec::describe(&self.pod), %error, "the pod's group waits for other containers");
        }
    }

    async fn make_sandbox(&self, attempt: u32, observed: &Observed) -> Result<String, String> {
        if !observed.sandboxes.is_empty() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.host.pod_event(&self.pod, "Normal", "SandboxChanged", message);
        }
        let config = self.sandbox_config(attempt)?;
        fs::create_dir_all(self.host.config.pod_dir(&self.uid)).map_err(|error| error.to_string())?;
        fs::create_dir_all(&config.log_directory).map_err(|error| error.to_string())?;
        self.host.cgroups.ensure(&self.pod).map_err(|error| error.to_string())?;
        let handler =
            self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone()).unwrap_or_default();
        if !handler.is_empty() {
            return Err(format!("RuntimeClass \"{handler}\": this kubelet has only the default runtime"));
        }
        self.host.cri.run_sandbox(config, handler).await.map_err(|error| error.to_string())
    }

    /// The sandbox' configuration, which CRI also wants with every container.
    pub(super) fn sandbox_config(&self, attempt: u32) -> Result<PodSandboxConfig, String> {
        let config = &self.host.config;
        let cgroup = config.cgroup_root.is_some().then(|| self.host.cgroups.path(&self.pod));
        configs::sandbox_config(config, &self.pod, attempt, &self.host.resolver, cgroup)
    }

    /// Writes the pod's hosts file where it is missing.
    pub(super) fn write_hosts(&self, ips: &[String]) -> std::io::Result<()> {
        let file = self.host.config.pod_dir(&self.uid).join(HOSTS_FILE);
        let node_hosts = match spec::host_network(&self.pod) {
            true => Some(fs::read_to_string("/etc/hosts")?),
            false => None,
        };
        let text = dns::hosts_file(&self.pod, ips, &self.host.config.cluster_domain, node_hosts.as_deref());
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(file, text)
    }

    async fn remove(&self, id: &str, observed: &Observed) -> Flow {
        if let Err(error) = self.host.cri.remove_container(id).await {
            tracing::warn!(container = id, %error, "dead container cannot be removed");
            return Flow::Again;
        }
        if let Some(container) = observed.containers.iter().find(|c| c.id == id) {
            rotate::remove_all(container.log_path.as_ref());
            if let Some(termination) = container.termination.as_ref().filter(|t| !t.file.is_empty()) {
                let _ = fs::remove_file(&termination.file);
            }
        }
        Flow::Again
    }

    fn take_down(&self) -> Flow {
        self.memory.lock().volumes = Volumes::Gone;
        let volumes = PodVolumes::take_down(&self.host, &self.uid).map_err(|error| error.to_string());
        let cgroup = self.host.cgroups.remove(&self.pod).map_err(|error| error.to_string());
        if let Err(error) = volumes.and(cgroup) {
            tracing::warn!(
                pod = spec::describe(&self.pod),
                error,
                "volumes of an ended pod stay until it is deleted"
            );
        }
        Flow::Again
    }

    async fn cleanup(&mut self, observed: &Observed) -> Flow {
        match self.clean(observed).await {
            Ok(()) => {
                let gone = self.desired.borrow().gone;
                match self.publisher.take() {
                    Some(publisher) if self.from_file => publisher.finish_later(),
                    Some(publisher) if !gone => publisher.finish().await,
                    _ => {}
                }
                Flow::End
            }
            Err(error) => {
                tracing::warn!(pod = spec::describe(&self.pod), error, "clean-up failed, trying again");
                Flow::Sleep(Some(add(Timestamp::now(), CLEANUP_RETRY)))
            }
        }
    }

    async fn clean(&mut self, observed: &Observed) -> Result<(), String> {
        self.probes.stop_all();
        for sandbox in &observed.sandboxes {
            self.host.cri.remove_sandbox(&sandbox.id).await.map_err(|error| error.to_string())?;
        }
        for container in &observed.containers {
            self.host.cri.remove_container(&container.id).await.map_err(|error| error.to_string())?;
        }
        PodVolumes::remove_all(&self.host, &self.uid).map_err(|error| error.to_string())?;
        self.host.cgroups.remove(&self.pod).map_err(|error| error.to_string())?;
        let logs = self.host.config.log_dir(spec::namespace(&self.pod), spec::name(&self.pod), &self.uid);
        match fs::remove_dir_all(logs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    }
}
