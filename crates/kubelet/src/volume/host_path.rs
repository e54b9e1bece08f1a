//! hostPath volumes: what has to be at the path, and what is made there.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks (and for the `…OrCreate` types makes) what is at `path`. Errors are upstream's words.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
            return made.map_err(|error| error.to_string());
        }
        "FileOrCreate" if !path.exists() => {
            fs::File::create(path).map_err(|error| error.to_string())?;
            return fs::set_permissions(path, fs::Permissions::from_mode(0o644))
                .map_err(|error| error.to_string());
        }
        _ => {}
    }
    let found = fs::metadata(path).map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(test);
    let (good, what) = match kind {
        "" => return Ok(()),
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "file"),
        "Socket" => (is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if good { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not a {what}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        for (name, kind, good) in [
            ("", "Directory", true),
            ("f", "File", true),
            ("f", "Directory", false),
            ("", "File", false),
            ("missing", "", true),
            ("missing", "Directory", false),
            ("made/dir", "DirectoryOrCreate", true),
            ("made/file", "FileOrCreate", true),
            ("f", "Socket", false),
        ] {
            assert_eq!(check(&dir.path().join(name), kind).is_ok(), good, "{name} {kind}");
        }
        let error = check(&dir.path().join("f"), "Directory").unwrap_err();
        assert!(
            error.starts_with("hostPath type check failed: ") && error.ends_with("/f is not a directory")
        );
        assert!(check(Path::new("/dev/null"), "CharDevice").is_ok());
    }
}
