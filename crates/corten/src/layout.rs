//! Where everything of one cluster is below its data directory.

use std::path::{Path, PathBuf};

/// The data directory of a cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`, made absolute: shims and mounts outlive the working directory.
    pub fn new(root: &Path) -> std::io::Result<Self> {
        Ok(Layout { root: std::path::absolute(root)? })
    }

    /// The data directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// The admin kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// The token with which nodes join.
    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Everything of the node.
    pub fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// The CRI socket of the built-in runtime.
    pub fn cri_socket(&self) -> PathBuf {
        self.node().join("cri.sock")
    }

    /// The content store of images.
    pub fn images(&self) -> PathBuf {
        self.node().join("images")
    }

    /// What the pod network remembers.
    pub fn network(&self) -> PathBuf {
        self.node().join("network")
    }

    /// The process id of the running cluster; locked while it runs.
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("run/corten.pid")
    }

    /// Log of a cluster in the background.
    pub fn log(&self) -> PathBuf {
        self.root.join("run/corten.log")
    }
}
