//! Debian's packages as a source of files: downloaded once, unpacked beside the build, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Downloaded packages and what was unpacked from them.
pub struct Packages {
    dir: PathBuf,
}

impl Packages {
    /// Keeps everything under `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// A file of one package: the installed one where there is one, else from the archive.
    pub fn file(&self, package: &str, path: &str) -> Result<PathBuf> {
        let installed = Path::new("/").join(path);
        let owner =
            Command::new("dpkg-query").args(["-L", package]).output().context("cannot run dpkg-query")?;
        let listed = String::from_utf8_lossy(&owner.stdout).lines().any(|line| Path::new(line) == installed);
        if listed && installed.exists() {
            return Ok(installed);
        }
        let file = self.unpack(&[package])?.join(path);
        ensure!(file.exists(), "package {package} has no {path}");
        Ok(file)
    }

    /// A directory with the files of all these packages.
    pub fn unpack(&self, packages: &[&str]) -> Result<PathBuf> {
        let tree = self.dir.join(packages.first().context("no packages")?);
        let complete = tree.with_extension("complete");
        if fs::read_to_string(&complete).is_ok_and(|list| list == packages.join(" ")) {
            return Ok(tree);
        }
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        fs::create_dir_all(&tree)?;
        for package in packages {
            let archive = self.download(package)?;
            crate::must(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree))?;
        }
        fs::write(&complete, packages.join(" "))?;
        Ok(tree)
    }

    /// The package's archive; the lists are fetched first where apt has none yet.
    fn download(&self, package: &str) -> Result<PathBuf> {
        if let Some(found) = self.archive(package)? {
            return Ok(found);
        }
        println!("fetching Debian package {package}");
        if !self.apt(&["download", package])? {
            ensure!(
                self.apt(&["update"])? && self.apt(&["download", package])?,
                "apt-get cannot download {package}"
            );
        }
        self.archive(package)?.with_context(|| format!("apt-get downloaded no archive of {package}"))
    }

    fn apt(&self, words: &[&str]) -> Result<bool> {
        let mut apt = Command::new("apt-get");
        // The download directory belongs to whoever builds, not to apt's own user.
        apt.args(["-qq", "-o", "APT::Sandbox::User=root"]).args(words).current_dir(&self.dir);
        Ok(apt.status().context("cannot run apt-get: images are built on Debian")?.success())
    }

    fn archive(&self, package: &str) -> Result<Option<PathBuf>> {
        let prefix = format!("{package}_");
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&prefix) && name.ends_with(".deb") {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// The libraries that a program in an unpacked tree loads, its loader among them, as paths in the tree.
/// The tree's own loader is asked, so what the host has installed plays no part.
pub fn libraries(tree: &Path, program: &str) -> Result<Vec<String>> {
    let folders = library_folders(tree)?;
    let loader = folders.iter().find_map(|folder| loader_in(folder)).context("the tree has no loader")?;
    let search = folders.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(":");
    let output = Command::new(&loader)
        .args(["--library-path", &search, "--list"])
        .arg(tree.join(program))
        .output()
        .with_context(|| format!("cannot run {}", loader.display()))?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success() && !text.contains("not found"), "{program} misses libraries:\n{text}");
    let mut found: Vec<String> = text.lines().filter_map(|line| library(tree, line)).collect();
    let called = interpreter(tree)?;
    found.push(called);
    Ok(found)
}

/// `libz.so.1 => TREE/lib/libz.so.1 (0x…)` is `lib/libz.so.1`; the loader and the kernel's own page are no files of the tree.
fn library(tree: &Path, line: &str) -> Option<String> {
    let path = line.split_once("=> ")?.1.split(" (").next()?;
    Some(Path::new(path).strip_prefix(tree).ok()?.to_string_lossy().into_owned())
}

/// Where programs expect their loader: `lib64/ld-linux-x86-64.so.2` or `lib/ld-linux-aarch64.so.1`.
fn interpreter(tree: &Path) -> Result<String> {
    for folder in ["lib64", "lib"] {
        if let Some(loader) = loader_in(&tree.join(folder)) {
            return Ok(loader.strip_prefix(tree)?.to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("the tree has no loader in lib64 or lib")
}

fn loader_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux-")))
}

/// Debian's multiarch folders (`lib/x86_64-linux-gnu`) of the tree.
fn library_folders(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for parent in ["lib", "usr/lib"] {
        let Ok(entries) = fs::read_dir(tree.join(parent)) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu") {
                folders.push(path);
            }
        }
    }
    Ok(folders)
}
