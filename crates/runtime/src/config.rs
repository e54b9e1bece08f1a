//! What the runtime must know to run.

use std::path::PathBuf;

use corten_network::PodNetwork;

use crate::image::ImageStore;

/// Configuration of [`crate::serve`].
#[derive(Clone)]
pub struct RuntimeConfig {
    /// Cluster name; names the control group root.
    pub cluster_name: String,
    /// The node's directory (`…/node`): `sandboxes/` and `containers/` are made below it.
    pub node_dir: PathBuf,
    /// Where CRI is served, usually `node_dir/cri.sock`. An old socket file there is replaced.
    pub socket: PathBuf,
    /// Control group under which sandboxes without a `cgroup_parent` are put (`/corten`).
    pub cgroup_root: String,
    /// Program and first arguments that start a shim, normally `["/proc/self/exe", "shim"]`. The program must
    /// hand what follows to [`crate::shim_main`] before it starts any thread.
    pub shim_command: Vec<String>,
    /// The node's pod network.
    pub network: PodNetwork,
    /// The node's images.
    pub images: ImageStore,
}

impl RuntimeConfig {
    pub(crate) fn sandboxes_dir(&self) -> PathBuf {
        self.node_dir.join("sandboxes")
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.node_dir.join("containers")
    }
}
