//! `cargo xtask image`: the images that examples and tests run, made here from Debian's packages and our own test server,
//! so that a cluster is of use without a registry and no binary lies in the repository.
//!
//! Every image stands on one layer with busybox, so `kubectl exec` finds a shell in it and `kubectl cp` finds tar.

mod debian;
mod layer;
mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use debian::Packages;
use layer::Layer;
use layout::Image;

/// Raise it when the builder writes something else for the same inputs.
const EDITION: &str = "2";
/// Where our own images are said to come from: no such registry exists, so nothing is ever pulled by mistake.
const TESTSERVER: &str = "corten.local/testserver";

const NGINX_CONF: &str = include_str!("nginx.conf");
const MOTD: &str = "A stand-in for mysql made for tests of Corten: it holds no data.\n";

/// `cargo xtask image`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the tar files go [default: TARGET/images].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build them even if nothing changed.
    #[arg(long)]
    force: bool,
    /// Which images [default: all].
    #[arg(value_name = "NAME", value_parser = ["busybox", "nginx", "testserver", "mysql"])]
    names: Vec<String>,
}

/// Builds what is missing or out of date.
pub fn run(args: &Args) -> Result<()> {
    let target = crate::target_dir()?;
    let out = args.out.clone().unwrap_or_else(|| target.join("images"));
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let kitchen = Kitchen { packages: Packages::new(&target.join("debs"))?, target };
    for name in ["busybox", "nginx", "testserver", "mysql"] {
        if args.names.is_empty() || args.names.iter().any(|wanted| wanted == name) {
            kitchen.serve(name, &out, args.force).with_context(|| format!("image {name}"))?;
        }
    }
    Ok(())
}

struct Kitchen {
    packages: Packages,
    target: PathBuf,
}

impl Kitchen {
    /// Builds one image unless the file beside it says that it was built from the same inputs.
    fn serve(&self, name: &str, out: &Path, force: bool) -> Result<()> {
        let (tar, stamp) = (out.join(format!("{name}.tar")), out.join(format!("{name}.inputs")));
        let inputs = self.inputs(name)?;
        if !force && tar.exists() && fs::read_to_string(&stamp).is_ok_and(|before| before == inputs) {
            return Ok(());
        }
        let images = self.cook(name)?;
        let fresh = out.join(format!("{name}.tar.new"));
        layout::write(&images, &fresh)?;
        fs::rename(&fresh, &tar)?;
        fs::write(&stamp, inputs)?;
        println!("built {}: {}", tar.display(), layout::names(&images).join(", "));
        Ok(())
    }

    /// What the image is made from, as a digest.
    fn inputs(&self, name: &str) -> Result<String> {
        let mut hash = Sha256::new();
        for part in [EDITION, name, NGINX_CONF, MOTD] {
            hash.update(part);
        }
        hash.update(fs::read(self.packages.file("busybox-static", "bin/busybox")?)?);
        if matches!(name, "testserver" | "mysql") {
            hash.update(fs::read(self.testserver()?)?);
        }
        Ok(hex::encode(hash.finalize()))
    }

    fn cook(&self, name: &str) -> Result<Vec<Image>> {
        let base = self.busybox()?;
        Ok(match name {
            "busybox" => vec![Image::new("docker.io/library/busybox:1.35", &[&base]).command(&["sh"])],
            "nginx" => vec![self.nginx(&base)?],
            "testserver" => self.testservers(&base)?,
            "mysql" => vec![self.mysql(&base)?],
            _ => bail!("no such image"),
        })
    }

    fn busybox(&self) -> Result<Layer> {
        let program = self.packages.file("busybox-static", "bin/busybox")?;
        let list = Command::new(&program).arg("--list-full").output()?;
        let mut layer = Layer::default();
        layer.file("bin/busybox", 0o755, fs::read(&program)?);
        for applet in String::from_utf8(list.stdout)?.lines().filter(|path| *path != "bin/busybox") {
            layer.link(applet.trim_start_matches('/'), "/bin/busybox");
        }
        // Programs are looked for on the usual path, whatever Debian's list says.
        layer.link("bin/sh", "/bin/busybox");
        layer.file("etc/passwd", 0o644, PASSWD.into());
        layer.file("etc/group", 0o644, GROUP.into());
        layer.directory("tmp", 0o1777);
        layer.directory("root", 0o700);
        layer.directory("var/run", 0o755);
        Ok(layer)
    }

    fn nginx(&self, base: &Layer) -> Result<Image> {
        let tree = self.packages.unpack(&[
            "nginx",
            "nginx-common",
            "libc6",
            "libcrypt1",
            "libpcre2-8-0",
            "libssl3",
            "zlib1g",
        ])?;
        let mut layer = Layer::default();
        for library in debian::libraries(&tree, "usr/sbin/nginx")? {
            layer.copy(&tree, &library)?;
        }
        for file in ["usr/sbin/nginx", "etc/nginx/mime.types", "usr/share/nginx/html/index.html"] {
            layer.copy(&tree, file)?;
        }
        layer.file("etc/nginx/nginx.conf", 0o644, NGINX_CONF.into());
        layer.directory("var/lib/nginx", 0o755);
        layer.directory("var/log/nginx", 0o755);
        Ok(Image::new("docker.io/library/nginx:1.22", &[base, &layer])
            .command(&["nginx", "-g", "daemon off;"])
            .stop_signal("SIGQUIT")
            .port("80/tcp"))
    }

    /// Two tags that differ in one variable: enough for a rolling update to have something to roll.
    fn testservers(&self, base: &Layer) -> Result<Vec<Image>> {
        let mut layer = Layer::default();
        layer.file("usr/bin/testserver", 0o755, fs::read(self.testserver()?)?);
        let image = |tag: &str| {
            Image::new(&format!("{TESTSERVER}:{tag}"), &[base, &layer])
                .entrypoint(&["testserver"])
                .env(&format!("VERSION={tag}"))
                .port("8080/tcp")
        };
        Ok(vec![image("1"), image("2")])
    }

    fn mysql(&self, base: &Layer) -> Result<Image> {
        let mut layer = Layer::default();
        layer.file("usr/sbin/mysqld", 0o755, fs::read(self.testserver()?)?);
        layer.file("etc/motd", 0o644, MOTD.into());
        Ok(Image::new("docker.io/library/mysql:5.6", &[base, &layer])
            .entrypoint(&["mysqld"])
            .command(&["serve", "--greeting-port", "3306", "--require-env", "MYSQL_ROOT_PASSWORD"])
            .port("3306/tcp"))
    }

    /// Our own server, linked statically; cargo does nothing when it is up to date.
    fn testserver(&self) -> Result<PathBuf> {
        let host = host_triple()?;
        let target = self.target.join("static");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--release", "--package", "corten-testserver", "--target", &host]);
        build.current_dir(crate::root()).arg("--target-dir").arg(&target);
        build.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("RUSTFLAGS");
        crate::must(&mut build)?;
        Ok(target.join(host).join("release/testserver"))
    }
}

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
tester:x:1000:1000:tester:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
";
const GROUP: &str = "\
root:x:0:
tty:x:5:
www-data:x:33:
tester:x:1000:
helpers:x:2000:tester
nogroup:x:65534:
";

/// The name that rustc has for this machine.
fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc -vV names no host")?.to_owned())
}
