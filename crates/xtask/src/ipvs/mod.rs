//! `cargo xtask ipvs`: the packet table of the proxy in mode ipvs, in a small virtual machine with Debian's kernel, because
//! many kernels that tests run on have no IPVS.
//!
//! The machine is emulated in software (no KVM needed) and has no disk and no network: its kernel and modules come out of
//! Debian's package, its only file system is an archive with the test program, `ip`, `nft` and busybox.

mod archive;
mod modules;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use archive::Archive;
use clap::Parser;

/// The package that stands for the newest kernel of this Debian for virtual machines.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// What the tests need of it; dependencies are found. What is not there as a module is built in.
const MODULES: [&str; 22] = [
    "veth",
    "bridge",
    "dummy",
    "ip_vs",
    "ip_vs_rr",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_fib_inet",
    "nft_hash",
    "nft_numgen",
    "nft_objref",
    "nft_limit",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
];
/// Programs that the tests run.
const PROGRAMS: [&str; 3] = ["/usr/bin/busybox", "/usr/sbin/ip", "/usr/sbin/nft"];
/// Memory of the machine; the archive takes a part of it.
const MEMORY_MIB: u32 = 1024;
/// Nothing lasts for so long, emulated or not.
const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);
/// An emulated machine may think for so long before a packet counts as lost.
const SILENCE_MS: u32 = 4000;
/// How the machine says what came of it.
const VERDICT: &str = "corten-exit-code:";

/// Packets through the kernel's load balancer, in a virtual machine.
#[derive(Parser)]
pub struct Args {
    /// Tests to run (names as for `cargo test -p corten-proxy --test packets`).
    #[arg(default_values_t = ["ipvs::".to_owned()])]
    tests: Vec<String>,
}

/// Builds everything, runs the machine, and fails when a test fails.
pub fn run(args: &Args) -> Result<()> {
    let dir = crate::target_dir()?.join("ipvs");
    fs::create_dir_all(&dir)?;
    crate::must(Command::new(crate::root().join("scripts/need")).args([
        "qemu-system-x86",
        "seabios",
        "nftables",
        "iproute2",
        "busybox-static",
        "binutils",
    ]))?;
    let kernel = Kernel::fetch(&dir)?;
    let test = build_test(&dir)?;
    let image = dir.join("initramfs");
    fs::write(&image, archive(&kernel, &test, &args.tests)?.finish())?;
    boot(&kernel.image, &image)
}

/// What Debian's package has.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Downloads the package once and unpacks it.
    fn fetch(dir: &Path) -> Result<Self> {
        let package = newest_package()?;
        let unpacked = dir.join(&package);
        if !unpacked.join("complete").exists() {
            println!("==> fetching {package}");
            let download =
                || Command::new("apt-get").args(["-q", "download", &package]).current_dir(dir).output();
            if !download()?.status.success() {
                crate::must(Command::new("apt-get").args(["-qq", "update"]))?;
                let output = download()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            let file = find(dir, |name| name.starts_with(&format!("{package}_")) && name.ends_with(".deb"))?;
            crate::must(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked))?;
            fs::remove_file(file)?;
            fs::write(unpacked.join("complete"), "")?;
        }
        let image = find(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
        let release = find(&unpacked.join("lib/modules"), |_| true)?;
        Ok(Self { image, modules: release.join("kernel") })
    }
}

fn newest_package() -> Result<String> {
    let output = Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    name.map(str::to_owned).with_context(|| format!("apt knows no {KERNEL_PACKAGE}; try `apt-get update`"))
}

fn find(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if wanted(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    bail!("{} does not have what was looked for", dir.display())
}

/// Builds the test program and takes its debug information away, which would not fit into the machine.
fn build_test(dir: &Path) -> Result<PathBuf> {
    println!("==> building the tests");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--package", "corten-proxy", "--test", "packets", "--no-run", "--message-format=json"])
        .env("CARGO_TARGET_DIR", crate::target_dir()?)
        .current_dir(crate::root())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the tests do not compile");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let built = said.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_ours = message["target"]["name"] == "packets";
        is_ours.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    let built = built.context("cargo did not say where the test program is")?;
    let small = dir.join("packets");
    crate::must(Command::new("strip").arg("-o").arg(&small).arg(&built))?;
    Ok(small)
}

fn archive(kernel: &Kernel, test: &Path, tests: &[String]) -> Result<Archive> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys", "run", "tmp", "modules"] {
        archive.directory(dir);
    }
    let programs = PROGRAMS.iter().map(PathBuf::from).chain([test.to_owned()]);
    let mut libraries = BTreeSet::new();
    for program in programs {
        let program = fs::canonicalize(&program).with_context(|| program.display().to_string())?;
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        archive.file(&format!("bin/{name}"), &fs::read(&program)?, true);
        libraries.extend(libraries_of(&program)?);
    }
    for library in libraries {
        archive.file(library.trim_start_matches('/'), &fs::read(&library)?, true);
    }
    let order = modules::with_dependencies(&kernel.modules, &MODULES)?;
    for module in &order {
        archive.file(&format!("modules/{}.ko", module.name), &module.bytes, false);
    }
    let names: Vec<&str> = order.iter().map(|module| module.name.as_str()).collect();
    archive.file("init", init(&names, tests).as_bytes(), true);
    Ok(archive)
}

/// Paths of the libraries that a program is loaded with; none for a static one.
fn libraries_of(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

/// The machine's first and only program.
fn init(modules: &[&str], tests: &[String]) -> String {
    let tests: String = tests.iter().map(|name| format!(" '{}'", name.replace('\'', ""))).collect();
    format!(
        "#!/bin/busybox sh\n\
         export PATH=/bin HOME=/tmp RUST_BACKTRACE=0 CORTEN_PACKETS_IPVS=1 CORTEN_PACKETS_SILENCE_MS={SILENCE_MS}\n\
         busybox mount -t proc proc /proc\n\
         busybox mount -t sysfs sysfs /sys\n\
         busybox mount -t devtmpfs dev /dev\n\
         for module in {modules}; do busybox insmod /modules/$module.ko || echo \"no module $module\"; done\n\
         packets --nocapture --test-threads 1{tests}\n\
         echo {VERDICT} $?\n\
         busybox poweroff -f\n",
        modules = modules.join(" ")
    )
}

/// Runs the machine and shows what it says.
fn boot(kernel: &Path, image: &Path) -> Result<()> {
    println!("==> starting the machine");
    let started = Instant::now();
    let mut machine = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-nographic",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .args(["-m", &MEMORY_MIB.to_string(), "-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64")?;
    let output = machine.stdout.take().context("qemu's output")?;
    let (done, finished) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let code = follow(BufReader::new(output));
        let _ = done.send(());
        code
    });
    if finished.recv_timeout(TIME_LIMIT).is_err() {
        machine.kill()?;
    }
    machine.wait()?;
    let code = reader.join().ok().flatten();
    println!("==> the machine ran for {} s", started.elapsed().as_secs());
    match code {
        Some(0) => Ok(()),
        Some(code) => bail!("the tests failed (exit code {code})"),
        None => bail!("the machine ended without a result"),
    }
}

/// Prints the machine's lines; returns the exit code of the tests.
fn follow(mut output: impl BufRead) -> Option<i32> {
    let (mut code, mut line) = (None, Vec::new());
    while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line);
        match text.trim().split_once(VERDICT) {
            Some((_, verdict)) => code = verdict.trim().parse().ok(),
            None => println!("    {}", text.trim_end()),
        }
        line.clear();
    }
    code
}
