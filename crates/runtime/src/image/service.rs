//! CRI's ImageService over the store.

use std::collections::HashMap;

use base64::Engine as _;
use k8s_cri::v1::image_service_server::ImageService;
use k8s_cri::v1::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, Image as CriImage, ImageFsInfoRequest,
    ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest,
    ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
    UInt64Value,
};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::pull::blocking;
use super::reference::normalise;
use super::{Image, ImageError, ImageStore, PullAuth};

/// Serves CRI's ImageService; give it to `ImageServiceServer::new` beside the RuntimeService.
#[derive(Clone)]
pub struct ImageServer {
    store: ImageStore,
}

impl ImageServer {
    /// A service over `store`.
    pub fn new(store: ImageStore) -> Self {
        Self { store }
    }

    fn usage(&self) -> Result<FilesystemUsage, ImageError> {
        let usage = self.store.usage()?;
        Ok(FilesystemUsage {
            timestamp: i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
            fs_id: Some(FilesystemIdentifier { mountpoint: self.store.dir().display().to_string() }),
            used_bytes: Some(UInt64Value { value: usage.used_bytes }),
            inodes_used: Some(UInt64Value { value: usage.inodes_used }),
        })
    }
}

#[async_trait::async_trait]
impl ImageService for ImageServer {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image).map(|spec| spec.image);
        let images = match wanted.filter(|name| !name.is_empty()) {
            Some(name) => self.store.resolve(&name)?.into_iter().collect(),
            None => self.store.list()?,
        };
        Ok(Response::new(ListImagesResponse { images: images.iter().map(to_cri).collect() }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let Some(image) = self.store.resolve(&name_of(request.image)?)? else {
            return Ok(Response::new(ImageStatusResponse::default()));
        };
        let info = if request.verbose { verbose(&image) } else { HashMap::new() };
        Ok(Response::new(ImageStatusResponse { image: Some(to_cri(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(request.image)?;
        let auth = credentials(request.auth.unwrap_or_default(), &name)?;
        let started = std::time::Instant::now();
        let image = self.store.pull(&name, &auth).await.inspect_err(|error| {
            tracing::info!(image = name, %error, "pull failed");
        })?;
        let took_ms = started.elapsed().as_millis();
        tracing::info!(image = name, id = image.id, bytes = image.size, took_ms, "pulled image");
        Ok(Response::new(PullImageResponse { image_ref: image.id }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = name_of(request.into_inner().image)?;
        let store = self.store.clone();
        blocking(move || store.remove(&name)).await?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let server = self.clone();
        let usage = blocking(move || server.usage()).await?;
        let response = ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        };
        Ok(Response::new(response))
    }
}

fn name_of(spec: Option<ImageSpec>) -> Result<String, Status> {
    let name = spec.map(|spec| spec.image).unwrap_or_default();
    if name.is_empty() { Err(Status::invalid_argument("image is not named")) } else { Ok(name) }
}

fn to_cri(image: &Image) -> CriImage {
    let user = image.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    CriImage {
        id: image.id.clone(),
        repo_tags: image.references.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| Int64Value { value }),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: None,
        pinned: image.pinned,
    }
}

/// What `crictl inspecti` shows below `info`.
fn verbose(image: &Image) -> HashMap<String, String> {
    let layers: Vec<_> = image.layers.iter().map(|layer| layer.display().to_string()).collect();
    let info = json!({"imageSpec": *image.config, "layers": layers});
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// CRI's credentials; those for another server than the image's are not sent to it.
fn credentials(auth: AuthConfig, image: &str) -> Result<PullAuth, Status> {
    if !auth.server_address.is_empty() && !is_for(&auth.server_address, image) {
        return Ok(PullAuth::default());
    }
    if !auth.registry_token.is_empty() {
        return Ok(PullAuth { token: auth.registry_token, ..PullAuth::default() });
    }
    if !auth.username.is_empty() || auth.auth.is_empty() {
        return Ok(PullAuth { username: auth.username, password: auth.password, token: String::new() });
    }
    let invalid = || Status::invalid_argument("auth is not base64 of user:password");
    let decoded =
        base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).map_err(|_| invalid())?;
    let decoded = String::from_utf8(decoded).map_err(|_| invalid())?;
    let (username, password) = decoded.split_once(':').ok_or_else(invalid)?;
    let password = password.trim_end_matches('\0').to_owned();
    Ok(PullAuth { username: username.to_owned(), password, token: String::new() })
}

fn is_for(server: &str, image: &str) -> bool {
    let host = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let Ok(reference) = normalise(image) else { return false };
    host == reference.registry() || host == reference.resolve_registry()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_all_their_forms() {
        let pair = |auth: AuthConfig| {
            credentials(auth, "nginx").map(|a| (a.username, a.password, a.token)).map_err(|s| s.code())
        };
        let text = |a: &str, b: &str, c: &str| Ok((a.to_owned(), b.to_owned(), c.to_owned()));
        let base = AuthConfig::default;
        assert_eq!(pair(base()), text("", "", ""));
        assert_eq!(
            pair(AuthConfig { username: "u".into(), password: "p".into(), ..base() }),
            text("u", "p", "")
        );
        assert_eq!(pair(AuthConfig { auth: "dTpwOnE=".into(), ..base() }), text("u", "p:q", ""));
        assert_eq!(pair(AuthConfig { registry_token: "t".into(), ..base() }), text("", "", "t"));
        assert_eq!(pair(AuthConfig { auth: "!".into(), ..base() }), Err(tonic::Code::InvalidArgument));
        let server =
            |server: &str| AuthConfig { username: "u".into(), server_address: server.into(), ..base() };
        assert_eq!(pair(server("https://index.docker.io/v1/")), text("u", "", ""));
        assert_eq!(pair(server("docker.io")), text("u", "", ""));
        assert_eq!(pair(server("evil.example.com")), text("", "", ""));
    }
}
