//! Starting a container: image, configuration, create, start, postStart hook; and how each of them fails.

use std::collections::BTreeMap;
use std::time::Duration;

use corten_client::Api;
use jiff::Timestamp;
use k8s_cri::v1::{AuthConfig, Image};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use super::configs::{ContainerInputs, container_config};
use super::memory::{Problem, Waiting};
use super::observed::Observed;
use super::plan::KillWhy;
use super::security::ImageUser;
use super::spec::{self, Kind};
use super::worker::{Flow, Worker};
use crate::backoff::{add, go_millis};
use crate::env::{self, Objects};
use crate::env_file;
use crate::hooks;
use crate::host::Host;
use crate::image::auth;
use crate::image::pull::{Need, Pulled};
use crate::volume::pod_volumes;

/// Pause before a failed start is tried again (upstream's back-off of the pod worker).
const RETRY: Duration = Duration::from_secs(10);

/// Why a container did not start: the status' reason, and words for people.
struct Failure {
    reason: &'static str,
    message: String,
}

fn failure(reason: &'static str) -> impl FnOnce(String) -> Failure {
    move |message| Failure { reason, message }
}

impl Worker {
    /// Starts a container, or the pull of its image.
    pub(super) async fn start(
        &mut self,
        name: &str,
        restart_count: i32,
        after: Option<Timestamp>,
        observed: &Observed,
    ) -> Flow {
        let pod = self.pod.clone();
        let Some((kind, container)) = spec::container(&pod, name) else { return Flow::Again };
        let images = match self.volume_images_for(kind, &container).await {
            Ok(false) => Ok(None),
            Ok(true) => self.image_for(kind, &container).await,
            Err(failure) => Err(failure),
        };
        let image = match images {
            Ok(Some(image)) => image,
            Ok(None) => return Flow::Again,
            Err(failure) => {
                self.remember_failure(kind, &container, failure);
                return Flow::Again;
            }
        };
        match self.create_and_start(kind, &container, restart_count, image, observed).await {
            Ok(id) => self.started(kind, &container, id),
            Err(failure) => self.remember_failure(kind, &container, failure),
        }
        let mut memory = self.memory.lock();
        let memory = memory.of(name);
        memory.pulled = None;
        memory.volume_images.clear();
        if observed.latest(name).is_some_and(|c| spec::is_redefined(&container, &c.hash)) {
            memory.backoff.reset();
        }
        if let Some(ended) = after {
            memory.backoff.advance(ended, Timestamp::now());
        }
        Flow::Again
    }

    fn remember_failure(&self, kind: Kind, container: &Container, failure: Failure) {
        let event = ("Warning", "Failed");
        let inspect =
            matches!(failure.reason, "InvalidImageName" | "ImageInspectError" | "ErrImageNeverPull");
        let about = if failure.reason == "ErrImageNeverPull" { ("Warning", failure.reason) } else { event };
        if inspect {
            let reason =
                if failure.reason == "ErrImageNeverPull" { about } else { ("Warning", failure.reason) };
            self.host.container_event(&self.pod, kind, &container.name, reason, failure.message.clone());
            let short = format!("Error: {}", failure.reason);
            self.host.container_event(&self.pod, kind, &container.name, event, short);
        } else {
            let message = format!("Error: {}", failure.message);
            self.host.container_event(&self.pod, kind, &container.name, event, message);
        }
        let now = Timestamp::now();
        let waiting = Waiting::new(failure.reason, failure.message);
        let problem = Problem { waiting, retry_at: add(now, RETRY), since: now, pull: false };
        self.memory.lock().of(&container.name).problem = Some(problem);
    }

    // ---- image ----

    /// The image, when it is there; `None` while it is being pulled.
    async fn image_for(&self, kind: Kind, container: &Container) -> Result<Option<Image>, Failure> {
        let pulled = self.memory.lock().of(&container.name).pulled.clone();
        if let Some(image_ref) = pulled {
            let found = self.host.cri.image(&image_ref).await;
            return match found {
                Ok(Some(image)) => Ok(Some(image)),
                Ok(None) => Ok(Some(Image { id: image_ref, ..Default::default() })),
                Err(error) => Err(failure("ImageInspectError")(error.to_string())),
            };
        }
        match self.host.puller.need(container).await {
            Need::Present(image) => {
                let shown = container.image.as_deref().unwrap_or_default();
                let message = format!(
                    "Container image \"{shown}\" already present on machine and can be accessed by the pod"
                );
                self.host.container_event(&self.pod, kind, &container.name, ("Normal", "Pulled"), message);
                Ok(Some(*image))
            }
            Need::Impossible(reason, message) => Err(Failure { reason, message }),
            Need::Pull(image) => {
                self.pull(kind, container, image, None);
                Ok(None)
            }
        }
    }

    /// Whether the images of the container's image volumes are there; the first that is not is being pulled.
    async fn volume_images_for(&self, kind: Kind, container: &Container) -> Result<bool, Failure> {
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mounted = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
        for volume in volumes.filter(|volume| mounted(&volume.name)) {
            let Some(source) = &volume.image else { continue };
            if self.memory.lock().of(&container.name).volume_images.contains_key(&volume.name) {
                continue;
            }
            let wanted = Container {
                name: container.name.clone(),
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..Container::default()
            };
            match self.host.puller.need(&wanted).await {
                Need::Present(image) => {
                    self.memory
                        .lock()
                        .of(&container.name)
                        .volume_images
                        .insert(volume.name.clone(), image.id);
                }
                Need::Impossible(reason, message) => return Err(Failure { reason, message }),
                Need::Pull(image) => {
                    self.pull(kind, &wanted, image, Some(volume.name.clone()));
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Pulls the container's image, or the one of a volume of its.
    fn pull(&self, kind: Kind, container: &Container, image: String, volume: Option<String>) {
        let (host, pod, memory, waker) =
            (self.host.clone(), self.pod.clone(), self.memory.clone(), self.waker.clone());
        let (name, shown) = (container.name.clone(), container.image.clone().unwrap_or_default());
        memory.lock().of(&name).pulling = true;
        let sandbox = self.sandbox_config(0).unwrap_or_default();
        tokio::spawn(async move {
            let tell = |type_, reason, message: String| {
                host.container_event(&pod, kind, &name, (type_, reason), message);
            };
            tell("Normal", "Pulling", format!("Pulling image \"{shown}\""));
            let auths = credentials(&host, &pod, &image).await;
            let pulled = host.puller.pull(&image, auths, sandbox).await;
            host.node_changed.notify_one();
            {
                let mut memory = memory.lock();
                let memory = memory.of(&name);
                memory.pulling = false;
                match pulled {
                    Ok(pulled) => {
                        tell("Normal", "Pulled", pulled_message(&shown, &pulled));
                        match volume {
                            Some(volume) => drop(memory.volume_images.insert(volume, pulled.image_ref)),
                            None => memory.pulled = Some(pulled.image_ref),
                        }
                        memory.problem = None;
                        memory.pull_backoff.reset();
                    }
                    Err(error) => {
                        tell("Warning", "Failed", format!("Failed to pull image \"{shown}\": {error}"));
                        tell("Warning", "Failed", "Error: ErrImagePull".to_owned());
                        let now = Timestamp::now();
                        memory.pull_backoff.advance(now, now);
                        memory.told = None;
                        let waiting = Waiting::new("ErrImagePull", error.to_string());
                        memory.problem = Some(Problem { waiting, retry_at: now, since: now, pull: true });
                    }
                }
            }
            waker.wake();
        });
    }

    // ---- container ----

    async fn create_and_start(
        &self,
        kind: Kind,
        container: &Container,
        restart_count: i32,
        image: Image,
        observed: &Observed,
    ) -> Result<String, Failure> {
        let sandbox = observed
            .ready_sandbox()
            .ok_or_else(|| failure("CreateContainerError")("the pod's sandbox is gone".to_owned()))?;
        let config_error = || failure("CreateContainerConfigError");
        let ips = if spec::host_network(&self.pod) { &self.host.node_ips } else { &sandbox.ips };
        self.write_hosts(ips).map_err(|error| config_error()(error.to_string()))?;
        let env = self.environment(container, ips.clone()).await.map_err(config_error())?;
        let target = spec::target_container(&self.pod, &container.name)
            .and_then(|target| observed.current(target))
            .map(|target| target.id.as_str());
        let inputs = ContainerInputs {
            config: &self.host.config,
            pod: &self.pod,
            container,
            restart_count,
            image_ref: &image.id,
            image_user: ImageUser { uid: image.uid.map(|uid| uid.value), username: image.username.clone() },
            env,
            volume_images: self.memory.lock().of(&container.name).volume_images.clone(),
            memory_bytes: self.host.machine.memory_bytes,
            target,
        };
        let config = container_config(&inputs).map_err(config_error())?;
        let sandbox_config = self.sandbox_config(sandbox.attempt).map_err(config_error())?;
        self.make_log_dir(&sandbox_config.log_directory, &container.name).map_err(config_error())?;
        // A container that restarts for more (resizePolicy) needs the room before it is there.
        self.fit_group();
        let cri = &self.host.cri;
        let id = Box::pin(cri.create_container(&sandbox.id, config, sandbox_config)).await;
        let id = id.map_err(|error| failure("CreateContainerError")(error.message))?;
        self.host.container_event(
            &self.pod,
            kind,
            &container.name,
            ("Normal", "Created"),
            "Container created",
        );
        cri.start_container(&id).await.map_err(|error| failure("RunContainerError")(error.message))?;
        self.host.container_event(
            &self.pod,
            kind,
            &container.name,
            ("Normal", "Started"),
            "Container started",
        );
        Ok(id)
    }

    fn make_log_dir(&self, pod_logs: &str, container: &str) -> Result<(), String> {
        std::fs::create_dir_all(std::path::Path::new(pod_logs).join(container))
            .map_err(|error| error.to_string())
    }

    async fn environment(
        &self,
        container: &Container,
        ips: Vec<String>,
    ) -> Result<Vec<(String, String)>, String> {
        let objects = self.env_objects(container).await?;
        // A static pod may be what the API needs to run at all.
        if !self.from_file && !self.host.services.synced().await {
            return Err("the kubelet is stopping".to_owned());
        }
        let links = self.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let services = env::service_variables(&self.host.services.list(), spec::namespace(&self.pod), links);
        env::environment(&self.pod, container, services, &objects, &self.host.surroundings(ips))
    }

    async fn env_objects(&self, container: &Container) -> Result<Objects, String> {
        let (maps, secrets) = env::references(container);
        let namespace = spec::namespace(&self.pod);
        let mut objects = Objects { files: self.env_files(container), ..Objects::default() };
        for name in maps {
            let found = self.host.objects.config_maps.get(&self.uid, namespace, &name).await?;
            objects.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = self.host.objects.secrets.get(&self.uid, namespace, &name).await?;
            objects.secrets.insert(name, found);
        }
        Ok(objects)
    }

    fn env_files(&self, container: &Container) -> BTreeMap<(String, String), Result<String, String>> {
        let dir = self.host.config.pod_dir(&self.uid);
        let volumes = || self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let read = |(name, path): (String, String)| {
            let root =
                volumes().find(|volume| volume.name == name).and_then(|v| pod_volumes::path(&dir, v))?;
            let text = env_file::read(&root, &path);
            Some(((name, path), text))
        };
        env::file_references(container).into_iter().filter_map(read).collect()
    }

    fn started(&self, kind: Kind, container: &Container, id: String) {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        {
            let mut memory = self.memory.lock();
            let memory = memory.of(&container.name);
            (memory.problem, memory.told) = (None, None);
            memory.post_start = hook.is_some().then(|| id.clone());
        }
        let Some(hook) = hook else { return };
        let (host, pod, memory, waker) =
            (self.host.clone(), self.pod.clone(), self.memory.clone(), self.waker.clone());
        let container = container.clone();
        tokio::spawn(async move {
            let ran = hooks::run(&host, &pod, &container, &id, &hook).await;
            if let Err(why) = ran {
                let message = format!("PostStartHook failed: {why}");
                host.container_event(
                    &pod,
                    kind,
                    &container.name,
                    ("Warning", "FailedPostStartHook"),
                    message,
                );
                let words =
                    format!("FailedPostStartHook: Container {} failed post start hook", container.name);
                host.container_event(&pod, kind, &container.name, ("Normal", "Killing"), words);
                if let Err(error) = host.cri.stop_container(&id, spec::grace_period(&pod)).await {
                    tracing::warn!(container = id, %error, "container does not stop after its postStart hook failed");
                }
            }
            memory.lock().of(&container.name).post_start = None;
            waker.wake();
        });
    }

    /// Stops a container in the background: preStop hook, SIGTERM, grace, SIGKILL.
    pub(super) fn kill(&self, id: String, name: String, why: &KillWhy, grace: i64) -> Flow {
        super::kill::start(self, id, name, why, grace);
        Flow::Again
    }
}

fn pulled_message(image: &str, pulled: &Pulled) -> String {
    format!(
        "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
        go_millis(pulled.pulling),
        go_millis(pulled.waiting),
        pulled.size
    )
}

/// Credentials of the pod's pull secrets that fit the image; secrets that cannot be had are told and passed
/// over.
async fn credentials(host: &Host, pod: &Pod, image: &str) -> Vec<AuthConfig> {
    let api: Api<Secret> = Api::namespaced(host.config.client.clone(), spec::namespace(pod));
    let names = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let (mut entries, mut missing) = (Vec::new(), Vec::new());
    for reference in names {
        match api.get(&reference.name).await {
            Ok(secret) => entries.extend(auth::entries(&secret)),
            Err(_) => missing.push(reference.name.as_str()),
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        host.pod_event(pod, "Warning", "FailedToRetrieveImagePullSecret", message);
    }
    auth::matching(&entries, image)
}
