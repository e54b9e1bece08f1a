//! Device nodes and the control group's rules for them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use corten_sys::cgroups::{DeviceKind, DeviceRule, MKNOD, READ, WRITE};
use k8s_cri::v1::Device;
use serde_json::{Value, json};

use super::{Result, SpecError};

/// A directory given as device may hold this many nodes, /dev of a privileged container too.
const MAX_NODES: usize = 4096;
/// Below /dev, what is not devices of the host or belongs to each container itself.
const OWN_OF_CONTAINERS: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];

/// Devices of a container.
pub(super) struct Devices {
    /// Nodes to make.
    pub nodes: Vec<Value>,
    /// Rules, in order, for version 1.
    pub rules: Vec<Value>,
    /// All rules, the default devices' too, for version 2; none when everything is allowed.
    pub filter: Vec<DeviceRule>,
}

/// What every container may use: making nodes, and null, zero, full, random, urandom, tty, console, ptmx and
/// the terminals behind it.
const ALWAYS: [(Option<u32>, Option<u32>, u8); 10] = [
    (None, None, MKNOD),
    (Some(1), Some(3), ALL),
    (Some(1), Some(5), ALL),
    (Some(1), Some(7), ALL),
    (Some(1), Some(8), ALL),
    (Some(1), Some(9), ALL),
    (Some(5), Some(0), ALL),
    (Some(5), Some(1), ALL),
    (Some(5), Some(2), ALL),
    (Some(136), None, ALL),
];
const ALL: u8 = MKNOD | READ | WRITE;

fn always_allowed() -> Vec<DeviceRule> {
    let kind = Some(DeviceKind::Character);
    let mut rules: Vec<DeviceRule> = ALWAYS
        .iter()
        .map(|&(major, minor, access)| DeviceRule { allow: true, kind, major, minor, access })
        .collect();
    rules.push(DeviceRule { kind: Some(DeviceKind::Block), ..rules[0] });
    rules
}

pub(super) fn devices(asked: &[Device], privileged: bool) -> Result<Devices> {
    let mut found = Devices {
        nodes: Vec::new(),
        rules: vec![json!({"allow": privileged, "access": "rwm"})],
        filter: always_allowed(),
    };
    if privileged {
        add_tree(&mut found, Path::new("/dev"), Path::new("/dev"), "rwm")?;
    }
    for device in asked {
        let (host, inside) = (Path::new(&device.host_path), Path::new(&device.container_path));
        // udev's names are links; the container gets the node under the name asked for.
        let real = fs::canonicalize(host).map_err(|e| failed(host, &e))?;
        let access = if device.permissions.is_empty() { "rwm" } else { device.permissions.as_str() };
        match real.is_dir() {
            true => add_tree(&mut found, &real, inside, access)?,
            false => add_node(&mut found, &real, inside, access)?,
        }
    }
    if privileged {
        found.filter.clear();
    }
    Ok(found)
}

fn failed(path: &Path, error: &std::io::Error) -> SpecError {
    SpecError(format!("device {}: {error}", path.display()))
}

fn add_tree(found: &mut Devices, host: &Path, inside: &Path, access: &str) -> Result<()> {
    let mut waiting: Vec<(PathBuf, PathBuf)> = vec![(host.to_owned(), inside.to_owned())];
    while let Some((dir, target)) = waiting.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| failed(&dir, &e))?.flatten() {
            let name = entry.file_name();
            let own = dir == Path::new("/dev") && OWN_OF_CONTAINERS.iter().any(|own| name == *own);
            let Ok(kind) = entry.file_type() else { continue };
            if own || found.nodes.len() >= MAX_NODES {
                continue;
            }
            if kind.is_dir() {
                waiting.push((entry.path(), target.join(&name)));
            } else if kind.is_char_device() || kind.is_block_device() {
                add_node(found, &entry.path(), &target.join(&name), access)?;
            }
        }
    }
    Ok(())
}

fn add_node(found: &mut Devices, host: &Path, inside: &Path, access: &str) -> Result<()> {
    let stat = fs::metadata(host).map_err(|e| failed(host, &e))?;
    let (kind, filtered) = match stat.file_type() {
        t if t.is_char_device() => ("c", DeviceKind::Character),
        t if t.is_block_device() => ("b", DeviceKind::Block),
        _ => return Err(SpecError(format!("{} is not a device", host.display()))),
    };
    let (major, minor) = (nix::sys::stat::major(stat.rdev()), nix::sys::stat::minor(stat.rdev()));
    found.nodes.push(json!({
        "path": inside, "type": kind, "major": major, "minor": minor,
        "fileMode": stat.mode() & 0o7777, "uid": stat.uid(), "gid": stat.gid(),
    }));
    found.filter.push(DeviceRule {
        allow: true,
        kind: Some(filtered),
        major: u32::try_from(major).ok(),
        minor: u32::try_from(minor).ok(),
        access: access_bits(access),
    });
    found.rules.push(json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access}));
    Ok(())
}

/// Letters as in CRI and OCI: r, w and m.
fn access_bits(letters: &str) -> u8 {
    let bit = |letter, bit| if letters.contains(letter) { bit } else { 0 };
    bit('r', READ) | bit('w', WRITE) | bit('m', MKNOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_made_under_the_name_asked_for() {
        let device = |host: &str| Device {
            container_path: "/dev/nothing".into(),
            host_path: host.into(),
            permissions: "rw".into(),
        };
        let got = devices(&[device("/dev/null")], false).unwrap();
        assert_eq!((&got.nodes[0]["path"], &got.nodes[0]["minor"]), (&json!("/dev/nothing"), &json!(3)));
        assert_eq!(got.rules[0]["allow"], json!(false));
        assert_eq!(got.rules[1]["access"], json!("rw"));
        let last = got.filter.last().copied().unwrap();
        assert_eq!((last.major, last.minor, last.access), (Some(1), Some(3), READ | WRITE));
        assert!(devices(&[], true).unwrap().filter.is_empty());
        assert!(devices(&[device("/etc/passwd")], false).is_err());
        assert!(devices(&[device("/dev/none-such")], false).is_err());
    }
}
