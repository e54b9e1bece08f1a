//! Images: a content store of blobs by digest, layers unpacked once, overlayfs root file systems on top.
//!
//! One directory (`node/images`) is shared by the running runtime and by `corten image import`: content is
//! added under a shared file lock and collected under an exclusive one; what exists is said by one small
//! index, replaced by rename and noticed by readers through its identity. A crash leaves content that
//! nothing refers to, which the next `open` removes.
//!
//! ```text
//! node/images/
//!   index.json            images: names, digests, layers; sizes of layers
//!   blobs/sha256/HEX      manifests, configurations, layers as they were transferred
//!   layers/HEX24/         unpacked layers, named by their chain id
//!   leases/HEX            layers that one container stands on
//!   tmp/                  drafts
//! ```

mod collect;
pub mod commands;
mod commit;
mod content;
mod error;
mod guard;
mod import;
mod index;
mod locks;
mod manifest;
mod mount;
mod pull;
mod reference;
mod service;
mod store;
mod unpack;

pub use error::ImageError;
pub use service::ImageServer;
pub use store::{FsUsage, Image, ImageStore, PullAuth, StoreConfig};
