//! Log rotation: a file above the limit is renamed, the runtime reopens its log, old files are compressed
//! away by count. `0.log` becomes `0.log.20260102-030405`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_cri::v1::ContainerState;

use crate::host::Host;

/// How often sizes are looked at (upstream's containerLogMonitorInterval).
const LOOK: Duration = Duration::from_secs(10);

/// The files of a log, oldest first, the current one last.
pub fn files(log: &Path) -> Vec<PathBuf> {
    let Some(name) = log.file_name().map(|name| format!("{}.", name.to_string_lossy())) else {
        return Vec::new();
    };
    let rotated = |entry: fs::DirEntry| {
        let own = entry.file_name().to_string_lossy().starts_with(&name);
        own.then(|| entry.path())
    };
    let entries = log.parent().and_then(|dir| fs::read_dir(dir).ok());
    let mut files: Vec<PathBuf> = entries.into_iter().flatten().flatten().filter_map(rotated).collect();
    files.sort();
    files.push(log.to_owned());
    files
}

/// Removes a log and what was rotated away from it.
pub fn remove_all(log: &Path) {
    for file in files(log) {
        let _ = fs::remove_file(file);
    }
}

/// Watches the sizes of running containers' logs until the kubelet stops.
pub async fn run(host: Arc<Host>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = host.stop.cancelled() => return,
        }
        for log in big_logs(&host) {
            if let Err(error) = rotate(&host, &log).await {
                tracing::warn!(log = %log.display(), error, "log was not rotated");
            }
        }
    }
}

fn big_logs(host: &Host) -> Vec<PathBuf> {
    let subdirectories =
        |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let containers = subdirectories(host.config.data_dir.join("logs")).flat_map(subdirectories);
    let files = containers.flat_map(subdirectories);
    let big = |path: &PathBuf| {
        let current = path.extension().is_some_and(|extension| extension == "log");
        current && fs::metadata(path).is_ok_and(|metadata| metadata.len() > host.config.log_max_size)
    };
    files.filter(big).collect()
}

async fn rotate(host: &Host, log: &Path) -> Result<(), String> {
    let id = owner(host, log).await?;
    let Some(id) = id else { return Ok(()) };
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S%.6f").to_string();
    let target = PathBuf::from(format!("{}.{stamp}", log.display()));
    fs::rename(log, &target).map_err(|error| error.to_string())?;
    if let Err(error) = host.cri.reopen_log(&id).await {
        // nothing may be lost: put it back
        fs::rename(&target, log).map_err(|error| error.to_string())?;
        return Err(error.to_string());
    }
    let files = files(log);
    let surplus = files.len().saturating_sub(host.config.log_max_files);
    files.iter().take(surplus).try_for_each(fs::remove_file).map_err(|error| error.to_string())
}

/// The running container that writes to `log`.
async fn owner(host: &Host, log: &Path) -> Result<Option<String>, String> {
    let listed = host.cri.containers(Default::default()).await.map_err(|error| error.to_string())?;
    for container in listed {
        let status = host.cri.container_status(&container.id).await.map_err(|error| error.to_string())?;
        let Some(status) = status else { continue };
        let same = Path::new(&status.log_path) == log;
        if same && status.state == ContainerState::ContainerRunning as i32 {
            return Ok(Some(container.id));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_log_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20260102-000000", "0.log.20260101-000000", "1.log", "10.log"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let log = dir.path().join("0.log");
        let names: Vec<String> =
            files(&log).iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["0.log.20260101-000000", "0.log.20260102-000000", "0.log"]);
        remove_all(&log);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
