//! Images: a content store of blobs by digest, layers unpacked once, overlayfs root file systems on top.
//!
//! One directory (`node/images`) is shared by the running runtime and by `corten image import`: changes are
//! made under a file lock and published by renaming a small index, which readers notice by its identity.

mod error;
mod service;
mod store;

pub use error::ImageError;
pub use service::ImageServer;
pub use store::{FsUsage, Image, ImageStore, PullAuth, StoreConfig};
