//! What `corten image` does. Listing, removing and pulling ask the running runtime over CRI, so that they
//! work with any runtime; importing has no CRI call and writes into the store, cluster running or not.

use std::fmt::Write as _;
use std::path::Path;

use futures::future::BoxFuture;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::{
    AuthConfig, Image as CriImage, ImageSpec, ListImagesRequest, PullImageRequest, RemoveImageRequest,
};
use tonic::transport::{Channel, Endpoint};

use super::{Image, ImageError, ImageStore, StoreConfig};

/// Answers of CRI may hold many images.
const MAX_ANSWER: usize = 64 << 20;

async fn connect(socket: &Path) -> Result<ImageServiceClient<Channel>, ImageError> {
    let refused = |error: &dyn std::error::Error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        ImageError::Unavailable(format!(
            "cannot reach the container runtime at {}: {error}{cause}",
            socket.display()
        ))
    };
    let endpoint =
        Endpoint::try_from(format!("unix://{}", socket.display())).map_err(|error| refused(&error))?;
    let channel = endpoint.connect().await.map_err(|error| refused(&error))?;
    Ok(ImageServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER))
}

fn refused(status: tonic::Status) -> ImageError {
    let message = status.message().to_owned();
    match status.code() {
        tonic::Code::NotFound => ImageError::NotFound(message),
        tonic::Code::Unauthenticated => ImageError::Unauthorized(message),
        tonic::Code::Unavailable => ImageError::Unavailable(message),
        _ => ImageError::Invalid(message),
    }
}

fn spec(name: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() })
}

/// `corten image ls`
pub fn list(socket: &Path) -> BoxFuture<'_, Result<Vec<CriImage>, ImageError>> {
    Box::pin(async move {
        let answer = connect(socket).await?.list_images(ListImagesRequest::default()).await;
        answer.map(|answer| answer.into_inner().images).map_err(refused)
    })
}

/// `corten image rm`; the image must exist.
pub fn remove<'a>(socket: &'a Path, name: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
    Box::pin(async move {
        let mut client = connect(socket).await?;
        let status = k8s_cri::v1::ImageStatusRequest { image: spec(name), verbose: false };
        let known = client.image_status(status).await.map_err(refused)?.into_inner().image;
        if known.is_none() {
            return Err(ImageError::NotFound(format!("image {name:?}: not found")));
        }
        client.remove_image(RemoveImageRequest { image: spec(name) }).await.map(|_| ()).map_err(refused)
    })
}

/// `corten image pull`; returns the image's id.
pub fn pull<'a>(
    socket: &'a Path,
    name: &'a str,
    username: &'a str,
    password: &'a str,
) -> BoxFuture<'a, Result<String, ImageError>> {
    Box::pin(async move {
        let auth =
            AuthConfig { username: username.into(), password: password.into(), ..AuthConfig::default() };
        let request = PullImageRequest { image: spec(name), auth: Some(auth), sandbox_config: None };
        let answer = connect(socket).await?.pull_image(request).await;
        answer.map(|answer| answer.into_inner().image_ref).map_err(refused)
    })
}

/// `corten image import`: into the store in `dir` (`node/images`). Blocking.
pub fn import(dir: &Path, tar: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    let dir = std::path::absolute(dir).map_err(ImageError::io(format!("resolve {}", dir.display())))?;
    ImageStore::open(StoreConfig { dir, insecure_registries: Vec::new() })?.import(tar, name)
}

/// The table that `corten image ls` prints: one row a tag, as `crictl images` does.
pub fn table(images: &[CriImage]) -> String {
    let mut rows = vec![["IMAGE", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned)];
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(13).collect();
        let mut row =
            |name: &str, tag: &str| rows.push([name.into(), tag.into(), id.clone(), size(image.size)]);
        for (name, tag) in image.repo_tags.iter().filter_map(|name| name.rsplit_once(':')) {
            row(name, tag);
        }
        if image.repo_tags.is_empty() {
            let digest = image.repo_digests.first().map(String::as_str).unwrap_or("<none>");
            row(digest.split('@').next().unwrap_or("<none>"), "<none>");
        }
    }
    rows[1..].sort();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + 3;
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [name, tag, id, size] in &rows {
        let [a, b, c] = widths;
        let _ = writeln!(text, "{name:<a$}{tag:<b$}{id:<c$}{size}");
    }
    text
}

/// Bytes for people, in powers of 1000 with three digits.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_table() {
        for (bytes, want) in
            [(0, "0B"), (999, "999B"), (1_500, "1.50kB"), (12_345_678, "12.3MB"), (999_000_000_000, "999GB")]
        {
            assert_eq!(size(bytes), want);
        }
        let image = |tags: &[&str], digest: &str| CriImage {
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            repo_digests: vec![digest.to_owned()],
            size: 5_000_000,
            ..CriImage::default()
        };
        let text = table(&[
            image(&["docker.io/library/nginx:1", "localhost:5000/a:b"], "x@y"),
            image(&[], "q.io/z@sha256:1"),
        ]);
        let want = "\
IMAGE                     TAG      IMAGE ID        SIZE
docker.io/library/nginx   1        abababababaab   5.00MB
";
        assert_eq!(text.lines().next(), want.lines().next());
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("localhost:5000/a          b        ababababababa   5.00MB"), "{text}");
        assert!(text.contains("q.io/z                    <none>   ababababababa   5.00MB"), "{text}");
    }
}
