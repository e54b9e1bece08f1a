//! Rules about crates: which room may use which, one version of what matters, a reason beside each dependency, licences.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::exceptions::Exceptions;
use super::licence;

/// The rooms: each uses only those before it.
const ORDER: [&str; 16] = [
    "corten-sys",
    "corten-api",
    "corten-streaming",
    "corten-store",
    "corten-apiserver",
    "corten-client",
    "corten-scheduler",
    "corten-controllers",
    "corten-network",
    "corten-netfeed",
    "corten-runtime",
    "corten-kubelet",
    "corten-proxy",
    "corten-dns",
    "corten-cli",
    "corten",
];
/// Crates that do not ship; they stand beside the order and may use any room.
const TOOLS: [&str; 4] = ["corten-testkit", "xtask", "corten-bench", "corten-testserver"];
/// Rooms that know the API and nothing behind it, and what is behind it.
const CLIENTS: [&str; 7] = [
    "corten-client",
    "corten-scheduler",
    "corten-controllers",
    "corten-kubelet",
    "corten-proxy",
    "corten-dns",
    "corten-cli",
];
const BEHIND_THE_API: [&str; 4] = ["corten-store", "corten-apiserver", "corten-runtime", "corten-network"];
/// Crates of which a second version would be a second world: types that do not fit, another TLS stack, more code.
const SINGLE: [&str; 12] = [
    "tokio",
    "hyper",
    "http",
    "tower",
    "rustls",
    "tonic",
    "prost",
    "kube",
    "k8s-openapi",
    "k8s-cri",
    "serde_json",
    "clap",
];

/// Checks the workspace's manifests and its whole dependency tree.
pub fn check(root: &Path, exceptions: &Exceptions, findings: &mut Vec<String>) -> Result<()> {
    findings.extend(reasons(&fs::read_to_string(root.join("Cargo.toml"))?));
    let metadata = metadata(root)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for package in packages {
        if package["id"].as_str().is_some_and(|id| members.contains(id)) {
            findings.extend(layers(package));
        } else if !licensed(package, exceptions) {
            findings.push(format!(
                "dependency {}: licence {} is not allowed",
                name(package),
                package["license"]
            ));
        }
    }
    findings.extend(duplicates(packages));
    Ok(())
}

fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked"]).current_dir(root);
    command.args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)]);
    let output = command.output().context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

fn layers(package: &Value) -> Vec<String> {
    let user = name(package);
    let used = package["dependencies"].as_array().into_iter().flatten();
    let used = used.filter(|dependency| dependency["path"].is_string());
    used.filter_map(|dependency| layer(user, name(dependency), dependency["kind"] == "dev")).collect()
}

/// What is wrong with one room using another. Tests of a room may look behind the API.
fn layer(user: &str, used: &str, in_tests: bool) -> Option<String> {
    let place = |room: &str| ORDER.iter().position(|known| *known == room);
    if TOOLS.contains(&user) || (in_tests && TOOLS.contains(&used)) {
        return None;
    }
    let (Some(above), Some(below)) = (place(user), place(used)) else {
        return Some(format!("{user} uses {used}: one of them has no place in the order of rooms"));
    };
    if below >= above {
        return Some(format!("{user} uses {used}, which comes later in the order of rooms"));
    }
    let peeks = CLIENTS.contains(&user) && BEHIND_THE_API.contains(&used) && !in_tests;
    peeks.then(|| format!("{user} uses {used}: it is to know the API and nothing behind it"))
}

fn licensed(package: &Value, exceptions: &Exceptions) -> bool {
    let expression = package["license"].as_str().unwrap_or_default();
    licence::allowed(expression) || exceptions.allow("licence", name(package))
}

fn duplicates(packages: &[Value]) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages.iter().filter(|package| SINGLE.contains(&name(package))) {
        versions.entry(name(package)).or_default().insert(package["version"].as_str().unwrap_or_default());
    }
    let several = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    several
        .map(|(name, versions)| format!("dependency {name} is there in several versions: {versions:?}"))
        .collect()
}

/// Dependencies in the workspace's manifest that do not say what they are for.
fn reasons(manifest: &str) -> Vec<String> {
    let section = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| line.contains(" = ") && !line.starts_with('#') && !line.starts_with("corten-"))
        .filter(|line| line.rsplit_once(" # ").is_none_or(|(_, reason)| reason.trim().is_empty()))
        .map(|line| format!("Cargo.toml: no reason beside {:?}", line.split(" = ").next().unwrap_or(line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_use_rooms_before_them() {
        for (user, used, in_tests, good) in [
            ("corten-apiserver", "corten-store", false, true),
            ("corten-store", "corten-apiserver", false, false),
            ("corten-client", "corten-store", false, false),
            ("corten-client", "corten-apiserver", true, true),
            ("corten-api", "corten-testkit", true, true),
            ("corten-api", "corten-testkit", false, false),
            ("xtask", "corten", false, true),
            ("corten-api", "corten-unheard-of", false, false),
        ] {
            assert_eq!(layer(user, used, in_tests).is_none(), good, "{user} -> {used}");
        }
    }

    #[test]
    fn dependencies_say_what_they_are_for() {
        let manifest = "[workspace.dependencies]\n# ours\ncorten-a = { path = \"a\" }\na = \"1\" # why\nb = \"2\"\n[x]\nc = 1";
        assert_eq!(reasons(manifest), ["Cargo.toml: no reason beside \"b\""]);
    }
}
