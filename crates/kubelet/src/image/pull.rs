//! Getting an image onto the node: pull policy, credentials, and a bound on pulls at the same time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_cri::v1::{AuthConfig, Image, PodSandboxConfig};
use k8s_openapi::api::core::v1::Container;
use tokio::sync::Semaphore;

use super::reference;
use crate::cri::{Cri, CriError};

/// What stands between a container and its image.
#[derive(Debug, Clone, PartialEq)]
pub enum Need {
    /// It is there.
    Present(Box<Image>),
    /// It has to be pulled, under this name.
    Pull(String),
    /// It cannot be had: upstream's reason and message.
    Impossible(&'static str, String),
}

/// A pull that worked.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Reference that the runtime knows the image by.
    pub image_ref: String,
    /// Time in the registry's hands.
    pub pulling: Duration,
    /// Time in all.
    pub waiting: Duration,
    /// Size in bytes.
    pub size: u64,
}

/// Puller of one node.
#[derive(Clone)]
pub struct Puller {
    cri: Cri,
    slots: Arc<Semaphore>,
}

/// The pull policy in force: `Always` for `:latest` and no tag, else `IfNotPresent`.
pub fn policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ => {
            let image = reference::parse(container.image.as_deref().unwrap_or_default());
            let latest =
                image.is_ok_and(|r| r.digest.is_none() && r.tag.as_deref().unwrap_or("latest") == "latest");
            if latest { "Always" } else { "IfNotPresent" }
        }
    }
}

impl Puller {
    /// A puller with at most `parallel` pulls at a time.
    pub fn new(cri: Cri, parallel: usize) -> Self {
        Self { cri, slots: Arc::new(Semaphore::new(parallel.max(1))) }
    }

    /// What `container` needs.
    pub async fn need(&self, container: &Container) -> Need {
        let shown = container.image.as_deref().unwrap_or_default();
        let name = match reference::with_default_tag(shown) {
            Ok(name) => name,
            Err(why) => {
                let message = format!("Failed to apply default image tag \"{shown}\": {why}");
                return Need::Impossible("InvalidImageName", message);
            }
        };
        let policy = policy(container);
        if policy == "Always" {
            return Need::Pull(name);
        }
        match self.cri.image(&name).await {
            Ok(Some(image)) => Need::Present(Box::new(image)),
            Ok(None) if policy == "Never" => {
                let message = format!("Container image \"{shown}\" is not present with pull policy of Never");
                Need::Impossible("ErrImageNeverPull", message)
            }
            Ok(None) => Need::Pull(name),
            Err(error) => {
                Need::Impossible("ImageInspectError", format!("Failed to inspect image \"{shown}\": {error}"))
            }
        }
    }

    /// Pulls, trying each credential in turn (none at all when there is none).
    pub async fn pull(
        &self,
        name: &str,
        auths: Vec<AuthConfig>,
        sandbox: PodSandboxConfig,
    ) -> Result<Pulled, CriError> {
        let asked = Instant::now();
        let _slot = self.slots.acquire().await.map_err(|_| shutting_down())?;
        let began = Instant::now();
        let mut tries: Vec<Option<AuthConfig>> = auths.into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut failure = None;
        for auth in tries {
            match self.cri.pull(name, auth, sandbox.clone()).await {
                Ok(image_ref) => return Ok(self.finish(name, image_ref, asked, began).await),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(shutting_down))
    }

    async fn finish(&self, name: &str, image_ref: String, asked: Instant, began: Instant) -> Pulled {
        let size = self.cri.image(name).await.ok().flatten().map_or(0, |image| image.size);
        Pulled { image_ref, pulling: began.elapsed(), waiting: asked.elapsed(), size }
    }
}

fn shutting_down() -> CriError {
    CriError { code: tonic::Code::Aborted, message: "the kubelet is stopping".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_policies() {
        for (image, policy_in_spec, expected) in [
            ("a", None, "Always"),
            ("a:latest", None, "Always"),
            ("a:1", None, "IfNotPresent"),
            ("a", Some("Never"), "Never"),
        ] {
            let container = Container {
                image: Some(image.to_owned()),
                image_pull_policy: policy_in_spec.map(str::to_owned),
                ..Container::default()
            };
            assert_eq!(policy(&container), expected, "{image}");
        }
    }
}
