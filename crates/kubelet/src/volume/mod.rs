//! Volumes of pods: where they lie, how they come to be, how they follow their sources, how they go.

pub mod atomic;
pub mod host_path;
pub mod payload;
pub mod pod_volumes;
pub mod sub_path;
pub mod token;
pub mod trust;

use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

/// Why a volume is not there; the text of the FailedMount event.
#[derive(Debug, Clone, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub struct VolumeError {
    /// Name of the volume in the pod's spec.
    pub volume: String,
    /// What went wrong.
    pub why: String,
}

/// Gives everything below `dir` to the group, writable unless `read_only`, and lets new files inherit it.
pub fn give_to_group(dir: &Path, gid: u32, read_only: bool) -> std::io::Result<()> {
    let metadata = std::fs::symlink_metadata(dir)?;
    lchown(dir, None, Some(gid))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mask = if read_only { 0o440 } else { 0o660 };
    let extra = if metadata.is_dir() { 0o2110 } else { 0 };
    let mode = metadata.permissions().mode() | mask | extra;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode & 0o7777))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(dir)? {
            give_to_group(&entry?.path(), gid, read_only)?;
        }
    }
    Ok(())
}
