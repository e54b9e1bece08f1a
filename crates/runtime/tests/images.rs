//! The image store from outside: archives built here, a real registry on loopback, real overlayfs mounts.
//! Needs root and Debian's `docker-registry`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use corten_runtime::image::{Image, ImageError, ImageServer, ImageStore, PullAuth, StoreConfig, commands};
use k8s_cri::v1::image_service_server::{ImageService, ImageServiceServer};
use k8s_cri::v1::{ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn store(dir: &Path) -> ImageStore {
    ImageStore::open(StoreConfig { dir: dir.join("images"), insecure_registries: vec![] }).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A tar with these files, in order.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image made of layers, each given as the tar's files.
struct Built {
    config: Vec<u8>,
    /// (tar, what is transferred)
    layers: Vec<(Vec<u8>, Vec<u8>)>,
    manifest: Vec<u8>,
}

fn build(layers: &[&[(&str, &[u8])]], user: &str) -> Built {
    let layers: Vec<_> =
        layers.iter().map(|files| tar_of(files)).map(|tar| (tar.clone(), gzip(&tar))).collect();
    let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| digest(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"User": user, "Cmd": ["sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let describe =
        |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|(_, blob)| describe("application/vnd.oci.image.layer.v1.tar+gzip", blob)).collect::<Vec<_>>(),
    });
    Built { config, layers, manifest: manifest.to_string().into_bytes() }
}

impl Built {
    fn id(&self) -> String {
        digest(&self.config)
    }

    fn blobs(&self) -> Vec<&[u8]> {
        let layers = self.layers.iter().map(|(_, blob)| blob.as_slice());
        layers.chain([self.config.as_slice(), self.manifest.as_slice()]).collect()
    }
}

/// An OCI layout with these images; a name is the annotation of containerd.
fn oci_layout(images: &[(&Built, Option<&str>)]) -> Vec<u8> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut manifests = Vec::new();
    for (image, name) in images {
        for blob in image.blobs() {
            files.insert(format!("blobs/sha256/{}", &digest(blob)[7..]), blob.to_vec());
        }
        let mut entry = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&image.manifest), "size": image.manifest.len()});
        if let Some(name) = name {
            entry["annotations"] = json!({"io.containerd.image.name": name});
        }
        manifests.push(entry);
    }
    files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    files.insert(
        "index.json".into(),
        json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes(),
    );
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    tar_of(&files)
}

/// What `docker save` wrote for many years.
fn docker_save(images: &[(&Built, &[&str])]) -> Vec<u8> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut manifest = Vec::new();
    for (image, tags) in images {
        let config = format!("{}.json", &image.id()[7..]);
        let mut layers = Vec::new();
        for (tar, _) in &image.layers {
            let path = format!("{}/layer.tar", &digest(tar)[7..]);
            files.push((path.clone(), tar.clone()));
            layers.push(path);
        }
        files.push((config.clone(), image.config.clone()));
        manifest.push(json!({"Config": config, "RepoTags": tags, "Layers": layers}));
    }
    files.push(("manifest.json".into(), Value::Array(manifest).to_string().into_bytes()));
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    tar_of(&files)
}

fn import(store: &ImageStore, dir: &Path, tar: &[u8], name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    let path = dir.join("archive.tar");
    std::fs::write(&path, tar).unwrap();
    store.import(&path, name)
}

fn count(dir: &Path, part: &str) -> usize {
    std::fs::read_dir(dir.join("images").join(part)).unwrap().count()
}

const BASE: &[(&str, &[u8])] =
    &[("bin/sh", b"#!"), ("etc/motd", b"base"), ("etc/old", b"old"), ("data/x", b"1")];
const TOP: &[(&str, &[u8])] =
    &[("etc/motd", b"top"), ("etc/.wh.old", b""), ("data/.wh..wh..opq", b""), ("data/y", b"2")];

#[test]
fn an_oci_layout_is_imported_mounted_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let built = build(&[BASE, TOP], "1000:1000");
    let images = import(&store, dir.path(), &gzip(&oci_layout(&[(&built, Some("nginx:1"))])), None).unwrap();
    assert_eq!(images.len(), 1);
    let image = store.resolve("nginx:1").unwrap().unwrap();
    assert_eq!(image.id, built.id());
    assert_eq!(image.references, ["docker.io/library/nginx:1"]);
    assert_eq!(image.repo_digests, [format!("docker.io/library/nginx@{}", digest(&built.manifest))]);
    assert_eq!(image.size, built.blobs().iter().map(|blob| blob.len() as u64).sum::<u64>());
    for name in
        [&image.id, &image.id[7..], &image.id[..20], &image.repo_digests[0], "docker.io/library/nginx:1"]
    {
        assert!(store.resolve(name).unwrap().is_some(), "{name}");
    }
    assert!(store.resolve("nginx").unwrap().is_none(), "no :latest");

    let container = dir.path().join("with,odd:name");
    let rootfs = store.mount_rootfs(&image, &container).unwrap();
    assert_eq!(store.mount_rootfs(&image, &container).unwrap(), rootfs, "idempotent");
    let read = |path: &str| std::fs::read_to_string(rootfs.join(path)).unwrap();
    assert_eq!(read("etc/motd"), "top");
    assert!(!rootfs.join("etc/old").exists(), "whiteout");
    assert!(!rootfs.join("data/x").exists() && rootfs.join("data/y").exists(), "opaque");
    std::fs::write(rootfs.join("new"), "n").unwrap();

    store.remove("nginx:1").unwrap();
    store.remove("nginx:1").unwrap();
    assert!(store.resolve("nginx:1").unwrap().is_none());
    assert_eq!(
        (count(dir.path(), "blobs/sha256"), count(dir.path(), "layers")),
        (0, 2),
        "a container stands on the layers"
    );
    assert_eq!(read("etc/motd"), "top");
    store.unmount_rootfs(&container).unwrap();
    store.unmount_rootfs(&container).unwrap();
    assert_eq!(std::fs::read_dir(&container).unwrap().count(), 0);
    store.collect().unwrap();
    assert_eq!(
        (count(dir.path(), "layers"), count(dir.path(), "leases"), count(dir.path(), "tmp")),
        (0, 0, 0)
    );
    assert_eq!(store.usage().unwrap().used_bytes, 0);
}

#[test]
fn docker_save_with_several_images_shares_layers() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (one, two) = (build(&[BASE], ""), build(&[BASE, TOP], ""));
    let tar = docker_save(&[(&one, &["one:1", "localhost:5000/one:2"]), (&two, &["two:1"])]);
    assert_eq!(import(&store, dir.path(), &tar, None).unwrap().len(), 2);
    assert_eq!(count(dir.path(), "layers"), 2);
    assert_eq!(store.resolve("localhost:5000/one:2").unwrap().unwrap().id, one.id());
    assert_eq!(store.list().unwrap().len(), 2);

    store.remove("one:1").unwrap();
    assert_eq!(
        store.resolve("localhost:5000/one:2").unwrap().unwrap().references.len(),
        1,
        "the other tag stays"
    );
    store.remove(&two.id()).unwrap();
    assert_eq!(count(dir.path(), "layers"), 1);
    store.remove("localhost:5000/one:2").unwrap();
    assert_eq!(count(dir.path(), "layers"), 0);

    assert!(import(&store, dir.path(), &tar, Some("name:1")).unwrap_err().to_string().contains("2 images"));
    let single = docker_save(&[(&one, &["one:1"])]);
    import(&store, dir.path(), &single, Some("other:v2")).unwrap();
    assert!(store.resolve("one:1").unwrap().is_none());
    assert_eq!(store.resolve("other:v2").unwrap().unwrap().id, one.id());
}

#[test]
fn another_process_sees_an_import_and_a_tag_that_moves() {
    let dir = tempfile::tempdir().unwrap();
    let (running, importing) = (store(dir.path()), store(dir.path()));
    assert!(running.resolve("app:1").unwrap().is_none());
    let (old, new) = (build(&[BASE], ""), build(&[BASE, TOP], ""));
    import(&importing, dir.path(), &oci_layout(&[(&old, Some("app:1"))]), None).unwrap();
    assert_eq!(running.resolve("app:1").unwrap().unwrap().id, old.id());
    import(&importing, dir.path(), &oci_layout(&[(&new, Some("app:1"))]), None).unwrap();
    assert_eq!(running.resolve("app:1").unwrap().unwrap().id, new.id());
    assert_eq!(running.resolve(&old.id()).unwrap().unwrap().references, Vec::<String>::new());
}

#[test]
fn archives_for_several_platforms_and_without_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (here, elsewhere) = (build(&[BASE], ""), build(&[TOP], ""));
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for blob in here.blobs().into_iter().chain(elsewhere.blobs()) {
        files.insert(format!("blobs/sha256/{}", &digest(blob)[7..]), blob.to_vec());
    }
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let entry = |built: &Built, arch: &str| {
        json!({"mediaType": "m", "digest": digest(&built.manifest),
        "size": 1, "platform": {"os": "linux", "architecture": arch}})
    };
    let index = json!({"manifests": [entry(&elsewhere, "mips64"), entry(&here, arch)]}).to_string();
    files.insert(format!("blobs/sha256/{}", &digest(index.as_bytes())[7..]), index.clone().into_bytes());
    let top = json!({"manifests": [{"digest": digest(index.as_bytes()), "size": 1,
        "annotations": {"org.opencontainers.image.ref.name": "quay.io/multi/app:v1"}}]});
    files.insert("index.json".into(), top.to_string().into_bytes());
    let list: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    import(&store, dir.path(), &tar_of(&list), None).unwrap();
    assert_eq!(store.resolve("quay.io/multi/app:v1").unwrap().unwrap().id, here.id());

    let nameless = import(&store, dir.path(), &oci_layout(&[(&elsewhere, None)]), None).unwrap();
    assert!(nameless[0].references.is_empty());
    assert_eq!(store.resolve(&elsewhere.id()).unwrap().unwrap().id, elsewhere.id());
}

#[test]
fn bad_archives_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let built = build(&[BASE], "");
    let good = oci_layout(&[(&built, Some("a:1"))]);
    let mut wrong_layer = build(&[BASE], "");
    let config = String::from_utf8(wrong_layer.config.clone()).unwrap();
    wrong_layer.config = config.replace(&digest(&wrong_layer.layers[0].0), &digest(b"other")).into_bytes();
    let evil = build(&[&[("etc/x", b"1")]], "");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("not a tar", b"hello".repeat(300), "not a readable image archive"),
        ("empty", tar_of(&[]), "neither an OCI layout nor"),
        ("cut", good[..good.len() / 2].to_vec(), ""),
        ("cut gzip", gzip(&good)[..200].to_vec(), ""),
        ("blob of another digest", tar_of(&[("blobs/sha256/00", b"x")]), "unsupported digest"),
        (
            "lying blob",
            tar_of(&[(&format!("blobs/sha256/{}", "0".repeat(64)), b"x")]),
            "does not match its digest",
        ),
        ("missing blob", tar_of(&[("index.json", oci_index(&evil).as_bytes())]), "not found"),
        ("bad name", oci_layout(&[(&built, Some("BAD NAME"))]), "failed to parse reference"),
        ("wrong layer", docker_save(&[(&wrong_layer, &["w:1"])]), "want diff id"),
        (
            "lacking",
            tar_of(&[("manifest.json", br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]"#)]),
            "archive lacks",
        ),
        ("bad json", tar_of(&[("manifest.json", b"[")]), "not valid"),
        ("nothing inside", tar_of(&[("index.json", br#"{"manifests":[]}"#)]), "no image for this platform"),
    ];
    for (what, tar, want) in cases {
        let error = import(&store, dir.path(), &tar, None).unwrap_err();
        assert!(error.to_string().contains(want), "{what}: {error}");
    }
    assert!(store.list().unwrap().is_empty());
    store.collect().unwrap();
    assert_eq!(
        (count(dir.path(), "blobs/sha256"), count(dir.path(), "layers"), count(dir.path(), "tmp")),
        (0, 0, 0)
    );
    assert!(matches!(store.import(Path::new("/nonexistent.tar"), None), Err(ImageError::Io { .. })));
}

fn oci_index(built: &Built) -> String {
    json!({"manifests": [{"digest": digest(&built.manifest), "size": 1}]}).to_string()
}

#[test]
fn a_hundred_layers_fit_on_the_mount_page() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let names: Vec<String> = (0..120).map(|number| format!("file{number}")).collect();
    let files: Vec<[(&str, &[u8]); 1]> =
        names.iter().map(|name| [(name.as_str(), b"x".as_slice())]).collect();
    let layers: Vec<&[(&str, &[u8])]> = files.iter().map(|files| files.as_slice()).collect();
    let built = build(&layers, "");
    import(&store, dir.path(), &docker_save(&[(&built, &["many:1"])]), None).unwrap();
    let container = dir.path().join("container-with-a-long-name".repeat(4));
    let image = store.resolve("many:1").unwrap().unwrap();
    let rootfs = store.mount_rootfs(&image, &container).unwrap();
    assert_eq!(std::fs::read_dir(&rootfs).unwrap().count(), 120);
    store.unmount_rootfs(&container).unwrap();

    let empty = build(&[], "");
    import(&store, dir.path(), &docker_save(&[(&empty, &["scratch:1"])]), None).unwrap();
    let rootfs = store.mount_rootfs(&store.resolve("scratch:1").unwrap().unwrap(), &container).unwrap();
    assert_eq!(std::fs::read_dir(&rootfs).unwrap().count(), 0);
    store.unmount_rootfs(&container).unwrap();
}

#[test]
fn importing_mounting_and_removing_at_once_disturb_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                // A handle of its own stands for a process of its own.
                let store = store(dir);
                let own = worker.to_string();
                let built = build(&[BASE, &[("own", own.as_bytes())]], "");
                let archive = dir.join(format!("{worker}.tar"));
                std::fs::write(&archive, docker_save(&[(&built, &[&format!("app{worker}:1")])])).unwrap();
                for _ in 0..10 {
                    store.import(&archive, None).unwrap();
                    let image = store.resolve(&format!("app{worker}:1")).unwrap().unwrap();
                    let container = dir.join(format!("container{worker}"));
                    let rootfs = store.mount_rootfs(&image, &container).unwrap();
                    store.remove(&image.id).unwrap();
                    assert_eq!(std::fs::read_to_string(rootfs.join("own")).unwrap(), own);
                    assert_eq!(std::fs::read_to_string(rootfs.join("etc/motd")).unwrap(), "base");
                    store.unmount_rootfs(&container).unwrap();
                }
            });
        }
    });
    let store = store(dir);
    assert!(store.list().unwrap().is_empty());
    assert_eq!((count(dir, "blobs/sha256"), count(dir, "layers"), count(dir, "tmp")), (0, 0, 0));
}

#[test]
fn whiteouts_on_disk_are_overlayfs_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let built = build(&[BASE, TOP], "");
    let images = import(&store, dir.path(), &docker_save(&[(&built, &["w:1"])]), None).unwrap();
    let whiteout = std::fs::symlink_metadata(images[0].layers[1].join("etc/old")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
}

/// Debian's registry on a free port, gone with this value.
struct Registry {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// With `auth`, user `tester` with password `secret`.
    fn start(auth: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {"filesystem": {"rootdirectory": dir.path().join("data")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        if auth {
            let file = dir.path().join("htpasswd");
            std::fs::write(&file, HTPASSWD).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": file}});
        }
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut process = Command::new("docker-registry")
            .args([Path::new("serve"), &path])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry of Debian is installed");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the registry says where it listens").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', ',']).next().unwrap().to_owned();
            }
        };
        // Kept read, or the registry would block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address, _dir: dir }
    }

    async fn push(&self, name: &str, built: &Built, auth: &RegistryAuth) {
        let reference: oci_client::Reference = format!("{}/{name}", self.address).parse().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
        let client = oci_client::Client::try_from(config).unwrap();
        client.store_auth_if_needed(&self.address, auth).await;
        for blob in built.blobs() {
            client.push_blob(&reference, blob.to_vec(), &digest(blob)).await.unwrap();
        }
        let kind = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        client.push_manifest_raw(&reference, built.manifest.clone(), kind).await.unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const HTPASSWD: &str = "tester:$2y$04$0L8ap3mBGFAet00cKQXpueOJr4pX9.3vnDLmOdeUxm1u2cBLdrXUa\n";

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_from_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(false);
    let (first, second) = (build(&[BASE], ""), build(&[BASE, TOP], ""));
    registry.push("team/app:1", &first, &RegistryAuth::Anonymous).await;
    registry.push("team/app:2", &second, &RegistryAuth::Anonymous).await;
    let store = store(dir.path());
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.address);
    let auth = PullAuth::default();
    let (one, two) = (name("1"), name("2"));
    let (a, b, c) = tokio::join!(store.pull(&one, &auth), store.pull(&two, &auth), store.pull(&two, &auth));
    assert_eq!((a.unwrap().id, b.unwrap().id, c.unwrap().id), (first.id(), second.id(), second.id()));
    assert_eq!(count(dir.path(), "layers"), 2);
    assert_eq!(count(dir.path(), "tmp"), 0);
    let by_digest = format!("{}/team/app@{}", registry.address, digest(&first.manifest));
    assert_eq!(store.resolve(&by_digest).unwrap().unwrap().id, first.id());
    store.remove(&first.id()).unwrap();
    let again = store.pull(&by_digest, &auth).await.unwrap();
    assert_eq!((again.references.len(), again.repo_digests), (0, vec![by_digest]));

    registry.push("team/app:1", &second, &RegistryAuth::Anonymous).await;
    assert_eq!(store.pull(&one, &auth).await.unwrap().id, second.id(), "a tag that moved in the registry");

    let missing = store.pull(&name("none"), &auth).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);
    let want = format!(
        "failed to pull and unpack image \"{0}\": failed to resolve reference \"{0}\": {0}: not found",
        name("none")
    );
    assert_eq!(missing.to_string(), want);
    let bad = store.pull("Bad Name", &auth).await.unwrap_err();
    assert_eq!(bad.code(), tonic::Code::InvalidArgument);

    let address = registry.address.clone();
    drop(registry);
    let down = store.pull(&format!("{address}/team/app:1"), &auth).await.unwrap_err();
    assert_eq!(down.code(), tonic::Code::Unavailable);
    assert!(down.to_string().to_lowercase().contains("connection refused"), "{down}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_want_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(true);
    let built = build(&[BASE], "");
    registry.push("private:1", &built, &RegistryAuth::Basic("tester".into(), "secret".into())).await;
    let store = store(dir.path());
    let name = format!("{}/private:1", registry.address);
    let auth = |user: &str, password: &str| PullAuth {
        username: user.into(),
        password: password.into(),
        token: String::new(),
    };
    for wrong in [PullAuth::default(), auth("tester", "wrong"), auth("nobody", "secret")] {
        let error = store.pull(&name, &wrong).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unauthenticated, "{error}");
        assert!(error.to_string().contains("authorization failed"), "{error}");
    }
    assert_eq!(store.pull(&name, &auth("tester", "secret")).await.unwrap().id, built.id());
    assert!(
        store.pull(&name, &PullAuth::default()).await.is_err(),
        "one pull's credentials do not serve another"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cri_tells_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let built = build(&[BASE], "www-data");
    import(&store, dir.path(), &docker_save(&[(&built, &["web:1"])]), None).unwrap();
    let server = ImageServer::new(store.clone());
    let spec = |name: &str| Some(ImageSpec { image: name.into(), ..ImageSpec::default() });
    let status = async |name: &str, verbose| {
        let request = ImageStatusRequest { image: spec(name), verbose };
        server.image_status(tonic::Request::new(request)).await.unwrap().into_inner()
    };
    let found = status("web:1", true).await;
    let image = found.image.unwrap();
    assert_eq!((image.username.as_str(), image.uid), ("www-data", None));
    assert!(found.info["info"].contains("imageSpec"));
    assert!(status("nope", false).await.image.is_none());
    let all = server.list_images(tonic::Request::new(ListImagesRequest::default())).await.unwrap();
    assert_eq!(all.into_inner().images, std::slice::from_ref(&image));
    let usage = server.image_fs_info(tonic::Request::new(ImageFsInfoRequest {})).await.unwrap().into_inner();
    assert!(usage.image_filesystems[0].used_bytes.as_ref().unwrap().value > 0);

    let socket = serve(dir.path(), server.clone());
    assert_eq!(commands::list(&socket).await.unwrap(), [image]);
    commands::remove(&socket, "web:1").await.unwrap();
    let gone = commands::remove(&socket, "web:1").await.unwrap_err();
    assert!(gone.to_string().contains("not found"), "{gone}");
    assert!(
        commands::pull(&socket, "127.0.0.1:1/x", "", "")
            .await
            .unwrap_err()
            .to_string()
            .contains("failed to pull")
    );
    assert!(
        commands::list(Path::new("/nonexistent.sock"))
            .await
            .unwrap_err()
            .to_string()
            .contains("cannot reach")
    );
}

fn serve(dir: &Path, server: ImageServer) -> PathBuf {
    let socket = dir.join("cri.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let service = tonic::transport::Server::builder().add_service(ImageServiceServer::new(server));
    tokio::spawn(service.serve_with_incoming(incoming));
    socket
}
