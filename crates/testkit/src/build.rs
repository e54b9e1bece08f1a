//! Where the things under test are: the built program, the images, kubectl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory of this build's profile (`target/debug`): a test program lies in `deps` below it.
fn profile_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a test program has a path");
    let dir = program.parent().expect("and lies in a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("deps has a parent") } else { dir };
    dir.to_owned()
}

/// The target directory.
pub fn target_dir() -> PathBuf {
    profile_dir().parent().expect("the profile's directory has a parent").to_owned()
}

/// The root of the workspace.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testkit lies two below the root")
}

/// The program under test: `$CORTEN_BIN`, or what cargo has built beside the tests. `cargo test --workspace` builds it;
/// where only this crate is tested and nothing is there yet, it is built now.
pub fn corten() -> PathBuf {
    if let Some(path) = std::env::var_os("CORTEN_BIN") {
        return path.into();
    }
    let path = profile_dir().join("corten");
    if !path.exists() {
        cargo(&["build", "--quiet", "--package", "corten"]);
    }
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// The tar files that `cargo xtask image` makes; made now where they are missing.
pub fn images() -> Vec<PathBuf> {
    let dir = target_dir().join("images");
    let tars = ["busybox", "nginx", "testserver", "mysql"].map(|name| dir.join(format!("{name}.tar")));
    if !tars.iter().all(|tar| tar.exists()) {
        cargo(&["run", "--quiet", "--package", "xtask", "--", "image"]);
    }
    tars.into()
}

/// The kubectl that we promise to work with: `$CORTEN_KUBECTL`, or what `scripts/tools` installs.
pub fn kubectl() -> PathBuf {
    if let Some(path) = std::env::var_os("CORTEN_KUBECTL") {
        return path.into();
    }
    let path = target_dir().join("tools/bin/kubectl");
    if !path.exists() {
        tools(&["kubectl"]);
    }
    path
}

/// Another client that `scripts/tools` installs, by its path in `target/tools`. The script is asked once a program, also
/// when something is there: it knows what is out of date.
pub fn tool(path: &str) -> PathBuf {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| tools(&[]));
    let path = target_dir().join("tools").join(path);
    assert!(path.exists(), "scripts/tools has not made {}", path.display());
    path
}

fn tools(words: &[&str]) {
    let mut command = Command::new(root().join("scripts/tools"));
    let status = command.args(words).env("CARGO_TARGET_DIR", target_dir()).status();
    assert!(
        status.expect("scripts/tools can be run").success(),
        "scripts/tools could not install everything"
    );
}

fn cargo(words: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(words).env("CARGO_TARGET_DIR", target_dir()).current_dir(root());
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "cargo {words:?} failed");
}
