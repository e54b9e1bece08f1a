//! Kernel modules in the order in which they can be loaded. Debian's package has no list of dependencies (it is made when
//! it is installed), but each module says its own.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// A module as it is loaded.
pub struct Module {
    /// As the kernel calls it.
    pub name: String,
    /// The file's content.
    pub bytes: Vec<u8>,
}

/// The modules called `names` below `dir`, each after what it needs. One that is not there is built in.
pub fn with_dependencies(dir: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let mut files = HashMap::new();
    collect(dir, &mut files)?;
    let mut order = Vec::new();
    for name in names {
        add(name, &files, &mut order)?;
    }
    Ok(order)
}

fn collect(dir: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some(module) = name.strip_suffix(".ko") {
            files.insert(module.replace('-', "_"), entry.path());
        } else if name.contains(".ko.") {
            bail!("{name} is compressed, which no Debian kernel was when this was written");
        }
    }
    Ok(())
}

fn add(name: &str, files: &HashMap<String, PathBuf>, order: &mut Vec<Module>) -> Result<()> {
    let name = name.replace('-', "_");
    let Some(path) = files.get(&name) else { return Ok(()) };
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let bytes = fs::read(path)?;
    for needed in depends(&bytes) {
        add(&needed, files, order)?;
    }
    order.push(Module { name, bytes });
    Ok(())
}

/// The line `depends=a,b` of a module's own description.
fn depends(bytes: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) else { return Vec::new() };
    let rest = &bytes[at + MARK.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let text = String::from_utf8_lossy(&rest[..end]).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn dependencies_are_read_from_the_file() {
        for (bytes, wanted) in [
            (&b"ELF\0license=GPL\0depends=nf_nat,nf-tables\0name=x\0"[..], vec!["nf_nat", "nf-tables"]),
            (b"ELF\0depends=\0name=x\0", vec![]),
            (b"ELF", vec![]),
        ] {
            assert_eq!(super::depends(bytes), wanted);
        }
    }
}
