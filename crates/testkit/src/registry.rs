//! Debian's docker-registry on loopback, filled by hand: one small client of its HTTP API is all that pushing takes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// User `tester`, password `secret`.
const HTPASSWD: &str = "tester:$2y$04$0L8ap3mBGFAet00cKQXpueOJr4pX9.3vnDLmOdeUxm1u2cBLdrXUa\n";
/// The same as a header.
const BASIC: &str = "Authorization: Basic dGVzdGVyOnNlY3JldA==\r\n";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry, gone with the value.
pub struct Registry {
    /// `127.0.0.1:PORT`
    pub address: String,
    process: Child,
    auth: bool,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// Starts an empty one; with `auth` it wants user `tester` and password `secret`.
    pub fn start(auth: bool) -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {"filesystem": {"rootdirectory": dir.path().join("data")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        if auth {
            let file = dir.path().join("htpasswd");
            fs::write(&file, HTPASSWD).expect("a scratch file");
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": file}});
        }
        let path = dir.path().join("config.yml");
        fs::write(&path, config.to_string()).expect("a scratch file");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("Debian's docker-registry is installed");
        let stderr = process.stderr.take().expect("its output is a pipe");
        let mut lines = BufReader::new(stderr).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| listening(&line));
        let address = address.expect("the registry says where it listens");
        // Kept read, or the registry would block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { address, process, auth, _dir: dir }
    }

    /// Puts the first image of an OCI layout (a tar file as `cargo xtask image` makes it) under `name:tag`.
    pub fn push(&self, tar: &Path, name: &str, tag: &str) {
        let files = unpack(tar);
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("an index");
        let manifest = blob(&files, &index["manifests"][0]["digest"]);
        let parsed: Value = serde_json::from_slice(manifest).expect("a manifest");
        let layers = parsed["layers"].as_array().expect("layers");
        for part in layers.iter().chain([&parsed["config"]]) {
            self.push_blob(name, blob(&files, &part["digest"]));
        }
        let (status, _) = self.ask("PUT", &format!("/v2/{name}/manifests/{tag}"), MANIFEST, manifest);
        assert_eq!(status, 201, "manifest of {name}:{tag}");
    }

    fn push_blob(&self, name: &str, bytes: &[u8]) {
        let (status, headers) = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), "text/plain", b"");
        assert_eq!(status, 202, "upload to {name}");
        let location = &headers["location"];
        let path = location.find("/v2/").map_or(location.as_str(), |at| &location[at..]);
        let digest = hex::encode(Sha256::digest(bytes));
        let path = format!("{path}{}digest=sha256:{digest}", if path.contains('?') { '&' } else { '?' });
        let (status, _) = self.ask("PUT", &path, "application/octet-stream", bytes);
        assert_eq!(status, 201, "blob {digest}");
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, BTreeMap<String, String>) {
        let mut stream = TcpStream::connect(&self.address).expect("the registry listens");
        let (host, length) = (&self.address, body.len());
        let auth = if self.auth { BASIC } else { "" };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
        .and_then(|()| stream.write_all(body))
        .expect("the registry reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the registry answers");
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        (status.expect("a status line"), headers)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn listening(line: &str) -> Option<String> {
    let rest = line.split("listening on ").nth(1)?;
    Some(rest.split(['"', ',', ' ']).next()?.to_owned())
}

/// An uncompressed tar by hand: names and sizes are all that a layout needs.
fn unpack(tar: &Path) -> BTreeMap<String, Vec<u8>> {
    const BLOCK: usize = 512;
    let bytes = fs::read(tar).unwrap_or_else(|error| panic!("{}: {error}", tar.display()));
    let mut files = BTreeMap::new();
    let mut at = 0;
    while at + BLOCK <= bytes.len() && bytes[at] != 0 {
        let text = |from: usize, to: usize| {
            String::from_utf8_lossy(&bytes[at + from..at + to]).trim_matches(['\0', ' ']).to_owned()
        };
        let size = usize::from_str_radix(&text(124, 136), 8).expect("a size in octal");
        files.insert(text(0, 100), bytes[at + BLOCK..at + BLOCK + size].to_vec());
        at += BLOCK + size.div_ceil(BLOCK) * BLOCK;
    }
    files
}

fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, digest: &Value) -> &'a [u8] {
    let digest = digest.as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
    &files[&format!("blobs/sha256/{digest}")]
}

/// The tar file of one of the test images.
pub fn image_tar(name: &str) -> PathBuf {
    crate::build::target_dir().join(format!("images/{name}.tar"))
}
