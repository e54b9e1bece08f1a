//! Pulls from registries: manifest for this machine, missing blobs a few at a time, each once even when
//! several images want it.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use oci_client::Reference;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use tokio::sync::mpsc;

use super::ImageError;
use super::commit::Candidate;
use super::content::{Content, MAX_DOCUMENT};
use super::import::pulled_digest;
use super::locks::Keyed;
use super::manifest::{ACCEPTED, Descriptor, Manifest, choose, host_platform};
use super::reference::{Digest, display, tagged};
use super::store::PullAuth;

/// Blobs of one image that are fetched at once.
const PARALLEL_BLOBS: usize = 3;
/// Attempts at one blob; each goes on where the last one stopped.
const BLOB_ATTEMPTS: u32 = 4;
/// Wait before the second attempt; doubles.
const RETRY_WAIT: Duration = Duration::from_millis(250);
/// Pieces of a blob that may wait for the disk.
const WRITE_QUEUE: usize = 16;
/// A registry that does not accept a connection for so long is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A registry that is silent for so long is down.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// One pull in progress.
pub(super) struct Pull<'a> {
    content: &'a Content,
    blob_locks: &'a Keyed,
    client: oci_client::Client,
    auth: RegistryAuth,
    reference: &'a Reference,
}

impl<'a> Pull<'a> {
    /// A client of its own: credentials of one pull must not serve another.
    pub fn new(
        content: &'a Content,
        blob_locks: &'a Keyed,
        reference: &'a Reference,
        auth: &PullAuth,
        plain_http: bool,
    ) -> Result<Self, ImageError> {
        // Fails when somebody chose a provider before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: if plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: "corten",
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config).map_err(|error| explain(error, reference))?;
        Ok(Self { content, blob_locks, client, auth: registry_auth(auth), reference })
    }

    /// Brings all blobs of the image here.
    pub async fn fetch(&self) -> Result<Candidate, ImageError> {
        let named = display(self.reference);
        let (manifest, top, layers) = self
            .fetch_manifests()
            .await
            .map_err(|error| error.during(&format!("failed to resolve reference {named:?}")))?;
        futures::stream::iter(layers.iter().map(Ok))
            .try_for_each_concurrent(PARALLEL_BLOBS, |blob| self.fetch_blob(blob))
            .await
            .map_err(|error| error.during("failed to copy"))?;
        Ok(Candidate {
            manifest,
            names: tagged(self.reference).filter(|_| self.reference.digest().is_none()).into_iter().collect(),
            repo_digests: [pulled_digest(self.reference, top.as_str())].into(),
            imported: false,
        })
    }

    /// The image's manifest, the digest that the name stands for (of the index, if there is one), and all
    /// blobs that are wanted.
    async fn fetch_manifests(&self) -> Result<(Digest, Digest, Vec<Descriptor>), ImageError> {
        let (mut digest, mut manifest) = self.fetch_manifest(self.reference).await?;
        let top = digest.clone();
        if let Manifest::Index(entries) = &manifest {
            let chosen = choose(entries, &host_platform())?;
            let reference = self.reference.clone_with_digest(chosen.digest.to_string());
            (digest, manifest) = self.fetch_manifest(&reference).await?;
        }
        match manifest {
            Manifest::Image { config, layers } if config.size <= MAX_DOCUMENT => {
                let mut blobs = layers;
                blobs.push(config);
                // The same layer may appear twice in one image.
                blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
                blobs.dedup_by(|a, b| a.digest == b.digest);
                Ok((digest, top, blobs))
            }
            Manifest::Image { .. } => Err(ImageError::Invalid("image configuration is too large".into())),
            Manifest::Index(_) => Err(ImageError::Invalid("index inside an index".into())),
        }
    }

    async fn fetch_manifest(&self, reference: &Reference) -> Result<(Digest, Manifest), ImageError> {
        let fetched = self.client.pull_manifest_raw(reference, &self.auth, ACCEPTED).await;
        let (bytes, _) = fetched.map_err(|error| explain(error, self.reference))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(ImageError::Invalid("manifest is too large".into()));
        }
        let manifest = Manifest::parse(&bytes)?;
        let expected = reference.digest().map(|digest| Digest::try_from(digest.to_owned())).transpose()?;
        let content = self.content.clone();
        let stored = blocking(move || content.ingest(&bytes[..], expected.as_ref())).await?;
        Ok((stored.0, manifest))
    }

    async fn fetch_blob(&self, blob: &Descriptor) -> Result<(), ImageError> {
        let _one_at_a_time = self.blob_locks.lock(blob.digest.as_str()).await;
        if self.content.size(&blob.digest).is_some() {
            return Ok(());
        }
        let (send, receive) = mpsc::channel(WRITE_QUEUE);
        let content = self.content.clone();
        let expected = blob.digest.clone();
        let writer = tokio::spawn(blocking(move || write_blob(&content, receive, &expected)));
        let downloaded = self.download(blob, &send).await;
        if downloaded.is_ok() {
            // A lost end mark shows up as the writer's error.
            let _ = send.send(Piece::End).await;
        }
        drop(send);
        let written =
            writer.await.map_err(|error| ImageError::Invalid(format!("writing failed: {error}")))?;
        // The disk's error explains a broken download, not the other way round.
        match (written, downloaded) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(error), Ok(())) | (Err(error @ ImageError::Io { .. }), Err(_)) | (_, Err(error)) => {
                Err(error)
            }
        }
    }

    async fn download(&self, blob: &Descriptor, out: &mpsc::Sender<Piece>) -> Result<(), ImageError> {
        let mut received = 0;
        let mut wait = RETRY_WAIT;
        let mut attempt = 1;
        loop {
            let error = match self.download_from(blob, &mut received, out).await {
                Ok(()) => return Ok(()),
                Err(error @ ImageError::Unavailable(_)) if attempt < BLOB_ATTEMPTS => error,
                Err(error) => return Err(error),
            };
            tracing::debug!(digest = %blob.digest, attempt, received, %error, "retrying blob");
            tokio::time::sleep(wait).await;
            wait *= 2;
            attempt += 1;
        }
    }

    async fn download_from(
        &self,
        blob: &Descriptor,
        received: &mut u64,
        out: &mpsc::Sender<Piece>,
    ) -> Result<(), ImageError> {
        let response =
            self.client.pull_blob_stream_partial(self.reference, blob.digest.as_str(), *received, None);
        let response = response.await.map_err(|error| explain(error, self.reference))?;
        let (mut stream, mut skip) = match response {
            BlobResponse::Full(stream) => (stream.stream, *received),
            BlobResponse::Partial(stream) => (stream.stream, 0),
        };
        while let Some(bytes) = stream.next().await {
            let mut bytes =
                bytes.map_err(|error| ImageError::Unavailable(format!("{}: {error}", blob.digest)))?;
            let drop = skip.min(bytes.len() as u64);
            skip -= drop;
            bytes = bytes.slice(usize::try_from(drop).unwrap_or(bytes.len())..);
            *received += bytes.len() as u64;
            if *received > blob.size {
                let (digest, size) = (&blob.digest, blob.size);
                return Err(ImageError::Invalid(format!("{digest}: registry sends more than {size} bytes")));
            }
            if out.send(Piece::Bytes(bytes)).await.is_err() {
                return Err(ImageError::Invalid(format!("{}: cannot be stored", blob.digest)));
            }
        }
        if *received < blob.size {
            return Err(ImageError::Unavailable(format!("{}: unexpected EOF", blob.digest)));
        }
        Ok(())
    }
}

enum Piece {
    Bytes(Bytes),
    End,
}

fn write_blob(
    content: &Content,
    mut pieces: mpsc::Receiver<Piece>,
    expected: &Digest,
) -> Result<(), ImageError> {
    let mut draft = content.begin()?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => draft.write(&bytes)?,
            Piece::End => return draft.finish(Some(expected)).map(|_| ()),
        }
    }
    Err(ImageError::Unavailable(format!("{expected}: download was cut short")))
}

/// Runs blocking work away from the asynchronous threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(ImageError::Invalid(format!("internal error: {error}"))))
}

fn registry_auth(auth: &PullAuth) -> RegistryAuth {
    if !auth.token.is_empty() {
        RegistryAuth::Bearer(auth.token.clone())
    } else if !auth.username.is_empty() || !auth.password.is_empty() {
        RegistryAuth::Basic(auth.username.clone(), auth.password.clone())
    } else {
        RegistryAuth::Anonymous
    }
}

/// True for registries on this machine, which are spoken to without TLS as Docker does.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Says in containerd's words what a registry's refusal means.
fn explain(error: OciDistributionError, reference: &Reference) -> ImageError {
    use OciDistributionError as E;
    let named = display(reference);
    let denied = || {
        ImageError::Unauthorized(
            "pull access denied, repository does not exist or may require authorization: \
             authorization failed: unauthorized"
                .into(),
        )
    };
    match error {
        E::ImageManifestNotFoundError(_) => ImageError::NotFound(format!("{named}: not found")),
        E::RegistryError { envelope, url } => {
            let has =
                |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
            use OciErrorCode as C;
            if has(&[C::ManifestUnknown, C::NameUnknown, C::NotFound, C::BlobUnknown, C::NameInvalid]) {
                ImageError::NotFound(format!("{named}: not found"))
            } else if has(&[C::Unauthorized, C::Denied]) {
                denied()
            } else if has(&[C::Toomanyrequests]) {
                ImageError::Unavailable(format!("unexpected status from {url}: 429 Too Many Requests"))
            } else {
                ImageError::Invalid(format!("unexpected answer from {url}: {envelope}"))
            }
        }
        E::ServerError { code: 404, .. } => ImageError::NotFound(format!("{named}: not found")),
        E::ServerError { code, url, message } => {
            let message = format!("unexpected status from GET request to {url}: {code}: {}", message.trim());
            let passing = code >= 500 || code == 429;
            if passing { ImageError::Unavailable(message) } else { ImageError::Invalid(message) }
        }
        E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => denied(),
        E::RequestError(error) => {
            ImageError::Unavailable(format!("failed to do request: {}", causes(&error)))
        }
        E::IoError(error) => ImageError::Unavailable(format!("failed to do request: {}", causes(&error))),
        other => ImageError::Invalid(other.to_string()),
    }
}

/// An error with all that caused it; HTTP clients hide "connection refused" three levels down.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_registries() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["docker.io", "localhost.example.com", "10.0.0.1:5000"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
