//! What the machine has and how much of it is free, read from the kernel.

use std::fs;
use std::path::Path;

/// Capacity and identity of the machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// CPUs, in thousandths.
    pub cpu_milli: i64,
    /// Memory, in bytes.
    pub memory_bytes: i64,
    /// Size of the file system under the data directory, in bytes.
    pub storage_bytes: i64,
    /// Contents of machine-id.
    pub machine_id: String,
    /// Product UUID of the board.
    pub system_uuid: String,
    /// Differs with every boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// Pretty name of the distribution.
    pub os_image: String,
    /// Go's word for the CPU architecture.
    pub architecture: &'static str,
}

/// Use of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Size, in bytes.
    pub size: u64,
    /// Free for ordinary users, in bytes.
    pub available: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

impl Disk {
    /// Percent of the size in use.
    pub fn used_percent(&self) -> u64 {
        (self.size - self.available.min(self.size)).saturating_mul(100).checked_div(self.size).unwrap_or(0)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// One value of /proc/meminfo, in bytes.
pub fn meminfo(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: i64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Memory that programs could have, in bytes.
pub fn memory_available() -> Option<i64> {
    meminfo(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}

/// Use of the file system at `path`.
pub fn disk(path: &Path) -> std::io::Result<Disk> {
    let found = nix::sys::statvfs::statvfs(path)?;
    let block = found.fragment_size();
    Ok(Disk {
        size: found.blocks().saturating_mul(block),
        available: found.blocks_available().saturating_mul(block),
        inodes: found.files(),
        inodes_free: found.files_available(),
    })
}

/// Processes and threads of the machine, and the most that it can have.
pub fn processes() -> Option<(u64, u64)> {
    let text = read("/proc/loadavg");
    let running = text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((running, read("/proc/sys/kernel/pid_max").parse().ok()?))
}

impl Machine {
    /// Reads everything once.
    pub fn read(data_dir: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text, "MemTotal"));
        let storage = disk(data_dir).map_or(0, |disk| disk.size);
        Self {
            cpu_milli: i64::try_from(cpus).unwrap_or(1).saturating_mul(1000),
            memory_bytes: memory.unwrap_or(0),
            storage_bytes: i64::try_from(storage).unwrap_or(i64::MAX),
            machine_id: read("/etc/machine-id"),
            system_uuid: read("/sys/class/dmi/id/product_uuid"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                "powerpc64" => "ppc64le",
                other => other,
            },
        }
    }
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files() {
        let text = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:   8 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(16_777_216));
        assert_eq!(meminfo(text, "MemAvailable"), Some(8192));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(Disk { size: 100, available: 15, ..Disk::default() }.used_percent(), 85);
        assert_eq!(Disk::default().used_percent(), 0);
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cpu_milli >= 1000 && machine.memory_bytes > 0 && machine.storage_bytes > 0);
    }
}
