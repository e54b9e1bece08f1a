//! All volumes of one pod: set up before it starts, brought up to date whenever a source changes, torn down
//! at the end.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_sys::mounts::is_mount_point;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, Pod, ProjectedVolumeSource, Volume, VolumeProjection,
};

use super::atomic::{self, File, Payload};
use super::token::Tokens;
use super::{VolumeError, give_to_group, host_path, payload};
use crate::fields::Surroundings;
use crate::host::Host;
use crate::pod::spec;
use crate::quantity;

/// Volumes of one pod.
pub struct PodVolumes {
    host: Arc<Host>,
    tokens: Tokens,
}

/// Where a volume lies on the node; `None` for kinds that lie nowhere: an image, which the runtime mounts, and
/// what this kubelet does not have (PVC, CSI …).
pub fn path(pod_dir: &Path, volume: &Volume) -> Option<PathBuf> {
    let plugin = match volume {
        Volume { host_path: Some(source), .. } => return Some(PathBuf::from(&source.path)),
        Volume { empty_dir: Some(_), .. } => "kubernetes.io~empty-dir",
        Volume { config_map: Some(_), .. } => "kubernetes.io~configmap",
        Volume { secret: Some(_), .. } => "kubernetes.io~secret",
        Volume { downward_api: Some(_), .. } => "kubernetes.io~downward-api",
        Volume { projected: Some(_), .. } => "kubernetes.io~projected",
        _ => return None,
    };
    Some(pod_dir.join("volumes").join(plugin).join(&volume.name))
}

/// Whether the volume's content can change while the pod runs.
pub fn is_live(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// Whether any volume of the pod can change.
pub fn has_live(pod: &Pod) -> bool {
    volumes(pod).any(is_live)
}

impl PodVolumes {
    /// Volumes of a pod on `host`.
    pub fn new(host: Arc<Host>) -> Self {
        Self { host, tokens: Tokens::default() }
    }

    /// When a token has to be renewed next.
    pub fn renew_at(&self) -> Option<Timestamp> {
        self.tokens.renew_at()
    }

    /// Brings all volumes into their wanted state; doing so twice changes nothing.
    pub async fn setup(&self, pod: &Pod, around: &Surroundings, now: Timestamp) -> Result<(), VolumeError> {
        let dir = self.host.config.pod_dir(spec::uid(pod));
        for volume in volumes(pod).filter(|volume| volume.image.is_none()) {
            let fail = |why: String| VolumeError { volume: volume.name.clone(), why };
            let Some(target) = path(&dir, volume) else { return Err(fail(refusal(volume))) };
            self.one(pod, volume, target, around, now).await.map_err(fail)?;
        }
        Ok(())
    }

    async fn one(
        &self,
        pod: &Pod,
        volume: &Volume,
        target: PathBuf,
        around: &Surroundings,
        now: Timestamp,
    ) -> Result<(), String> {
        if let Some(source) = &volume.host_path {
            return host_path::check(&target, source.type_.as_deref().unwrap_or_default());
        }
        let group =
            pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|s| s.fs_group);
        let group = group.and_then(|gid| u32::try_from(gid).ok());
        if let Some(source) = &volume.empty_dir {
            return self.empty_dir(source, &target, group).map_err(|error| error.to_string());
        }
        let payload = self.payload(pod, volume, around, now).await?;
        self.in_memory(&target).map_err(|error| error.to_string())?;
        let own = |dir: &Path| group.map_or(Ok(()), |gid| give_to_group(dir, gid, true));
        atomic::write(&target, &payload, now, own).map(drop).map_err(|error| error.to_string())
    }

    fn empty_dir(&self, source: &EmptyDirVolumeSource, target: &Path, group: Option<u32>) -> io::Result<()> {
        let fresh = !target.exists();
        fs::create_dir_all(target)?;
        let in_memory = source.medium.as_deref().is_some_and(|medium| medium.starts_with("Memory"));
        // As upstream's: a new tmpfs is like /tmp, where nobody removes what others made.
        let mode = if in_memory { 0o1777 } else { 0o777 };
        if in_memory && !is_mount_point(target) {
            let limit = source.size_limit.as_ref().map_or(0, quantity::value);
            let size = u64::try_from(limit).unwrap_or(0);
            self.host.mounts.tmpfs(target, size, mode).map_err(io::Error::other)?;
        }
        if fresh {
            fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
            if let Some(gid) = group {
                give_to_group(target, gid, false)?;
            }
        }
        Ok(())
    }

    /// Secrets and tokens never touch a disk; where mounting is not allowed (tests) a directory must do.
    fn in_memory(&self, target: &Path) -> io::Result<()> {
        if target.exists() {
            return Ok(());
        }
        fs::create_dir_all(target)?;
        if let Err(error) = self.host.mounts.tmpfs(target, 0, 0o1777) {
            tracing::warn!(target = %target.display(), %error, "volume is not in memory");
        }
        fs::set_permissions(target, fs::Permissions::from_mode(0o1777))
    }

    async fn payload(
        &self,
        pod: &Pod,
        volume: &Volume,
        around: &Surroundings,
        now: Timestamp,
    ) -> Result<Payload, String> {
        let (uid, namespace, objects) = (spec::uid(pod), spec::namespace(pod), &self.host.objects);
        if let Some(s) = &volume.config_map {
            let map = objects.config_maps.get(uid, namespace, &s.name).await?;
            let optional = s.optional == Some(true);
            return payload::config_map(
                &s.name,
                map.as_deref(),
                s.items.as_deref(),
                s.default_mode,
                optional,
            );
        }
        if let Some(s) = &volume.secret {
            let name = s.secret_name.clone().unwrap_or_default();
            let secret = objects.secrets.get(uid, namespace, &name).await?;
            let optional = s.optional == Some(true);
            return payload::secret(&name, secret.as_deref(), s.items.as_deref(), s.default_mode, optional);
        }
        if let Some(s) = &volume.downward_api {
            return payload::downward(pod, s.items.as_deref(), s.default_mode, around);
        }
        match &volume.projected {
            Some(projected) => self.projected(pod, projected, around, now).await,
            None => Ok(Payload::new()),
        }
    }

    async fn projected(
        &self,
        pod: &Pod,
        projected: &ProjectedVolumeSource,
        around: &Surroundings,
        now: Timestamp,
    ) -> Result<Payload, String> {
        let mut all = Payload::new();
        for source in projected.sources.iter().flatten() {
            all.extend(self.projection(pod, source, projected.default_mode, around, now).await?);
        }
        Ok(all)
    }

    async fn projection(
        &self,
        pod: &Pod,
        source: &VolumeProjection,
        mode: Option<i32>,
        around: &Surroundings,
        now: Timestamp,
    ) -> Result<Payload, String> {
        let (uid, namespace, objects) = (spec::uid(pod), spec::namespace(pod), &self.host.objects);
        if let Some(s) = &source.config_map {
            let map = objects.config_maps.get(uid, namespace, &s.name).await?;
            return payload::config_map(
                &s.name,
                map.as_deref(),
                s.items.as_deref(),
                mode,
                s.optional == Some(true),
            );
        }
        if let Some(s) = &source.secret {
            let secret = objects.secrets.get(uid, namespace, &s.name).await?;
            return payload::secret(
                &s.name,
                secret.as_deref(),
                s.items.as_deref(),
                mode,
                s.optional == Some(true),
            );
        }
        if let Some(s) = &source.downward_api {
            return payload::downward(pod, s.items.as_deref(), mode, around);
        }
        if let Some(wanted) = &source.service_account_token {
            let token = self.tokens.get(&self.host.config.client, pod, wanted, now).await;
            let token = token.map_err(|error| format!("failed to fetch token: {error}"))?;
            return Ok([(wanted.path.clone(), private_file(pod, token, mode))].into());
        }
        if let Some(wanted) = &source.cluster_trust_bundle {
            let anchors = objects.trust_bundles.anchors(uid, wanted).await?;
            return Ok([(wanted.path.clone(), private_file(pod, anchors, mode))].into());
        }
        Err("projected volume has a source that this kubelet does not know".to_owned())
    }

    /// Unmounts and removes the volumes of the pod with `uid`; its last words stay.
    pub fn take_down(host: &Host, uid: &str) -> io::Result<()> {
        let dir = host.config.pod_dir(uid).join("volumes");
        if !dir.exists() {
            return Ok(());
        }
        host.mounts.unmount_below(&dir).map_err(io::Error::other)?;
        fs::remove_dir_all(dir)
    }

    /// Unmounts and removes everything of the pod with `uid`.
    pub fn remove_all(host: &Host, uid: &str) -> io::Result<()> {
        let dir = host.config.pod_dir(uid);
        if !dir.exists() {
            return Ok(());
        }
        host.mounts.unmount_below(&dir).map_err(io::Error::other)?;
        fs::remove_dir_all(dir)
    }
}

/// A token, like trust anchors, is for its user alone: owned by the one user that all containers run as, or by the pod's group.
fn private_file(pod: &Pod, text: String, mode: Option<i32>) -> File {
    let uid = single_user(pod);
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|s| s.fs_group);
    let default = mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(payload::DEFAULT_MODE);
    let mode = if uid.is_some() || group.is_some() { 0o600 } else { default };
    File { data: text.into_bytes(), mode, uid }
}

fn single_user(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec.as_ref()?.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec::containers(pod)
        .into_iter()
        .map(|(_, c)| c.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

fn refusal(volume: &Volume) -> String {
    if let Some(claim) = &volume.persistent_volume_claim {
        return format!(
            "persistentvolumeclaim \"{}\": persistent volumes are not supported by this kubelet",
            claim.claim_name
        );
    }
    "no volume plugin matched: this kubelet has emptyDir, hostPath, configMap, secret, downwardAPI, projected and image"
        .to_owned()
}
