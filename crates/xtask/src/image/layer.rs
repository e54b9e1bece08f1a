//! One layer as a tree of files, written the same way every time: sorted, owned by root, without times.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// Most links from one name to a file.
const MAX_LINKS: usize = 8;

/// Paths without a leading `/` and what lies there.
#[derive(Clone, Default)]
pub struct Layer(BTreeMap<String, Node>);

#[derive(Clone)]
enum Node {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(String),
}

impl Layer {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.parents(path);
        self.0.insert(path.to_owned(), Node::Directory(mode));
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.parents(path);
        self.0.insert(path.to_owned(), Node::File(mode, bytes));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.0.insert(path.to_owned(), Node::Link(to.to_owned()));
    }

    /// Copies a file out of an unpacked tree; of a link, also what it leads to.
    pub fn copy(&mut self, tree: &Path, path: &str) -> Result<()> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let from = tree.join(&path);
            let kind = fs::symlink_metadata(&from).with_context(|| format!("no {}", from.display()))?;
            if !kind.is_symlink() {
                self.file(&path, kind.permissions().mode() & 0o7777, fs::read(&from)?);
                return Ok(());
            }
            let to = fs::read_link(&from)?.to_string_lossy().into_owned();
            self.link(&path, &to);
            path = follow(&path, &to);
        }
        anyhow::bail!("{path}: too many links")
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Node::Directory(0o755));
        }
    }

    /// The layer as a tar archive.
    pub fn to_tar(&self) -> io::Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, node) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            match node {
                Node::Directory(mode) => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Node::File(mode, bytes) => {
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, path, bytes.as_slice())?;
                }
                Node::Link(to) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, path, to)?;
                }
            }
        }
        archive.into_inner()
    }
}

/// Where a link at `path` leads: `follow("usr/lib/a.so", "../b.so")` is `usr/b.so`.
fn follow(path: &str, to: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    if !to.starts_with('/') {
        parts.extend(path.split('/'));
        parts.pop();
    }
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_tree() {
        for (path, to, end) in [
            ("usr/lib/a.so", "../b.so", "usr/b.so"),
            ("lib64/ld.so", "/lib/x/ld.so", "lib/x/ld.so"),
            ("lib/a", "./b", "lib/b"),
            ("a", "b", "b"),
        ] {
            assert_eq!(follow(path, to), end, "{path} -> {to}");
        }
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let mut one = Layer::default();
        one.file("etc/a", 0o644, b"a".to_vec());
        one.link("bin/b", "/etc/a");
        let mut two = Layer::default();
        two.link("bin/b", "/etc/a");
        two.file("etc/a", 0o644, b"a".to_vec());
        assert_eq!(one.to_tar().unwrap(), two.to_tar().unwrap());
    }
}
