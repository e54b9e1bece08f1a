//! The last steps inside the container before its program runs: find it, filter system calls, execute.
//!
//! Words of errors follow runc's (`exec: "x": executable file not found in $PATH`), because people and
//! tools look for them in events.

use std::ffi::{CString, OsStr};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::{Process, Spec};

use crate::seccomp::Filters;

/// Runs the program named in the spec, with system call filters if there are any.
#[derive(Clone, Default)]
pub(super) struct ProgramExecutor {
    pub seccomp: Option<Filters>,
    pub final_capabilities: Option<Vec<String>>,
}

impl Executor for ProgramExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let error = self.replace_process(spec);
        // The agent has been told "started" already; the log is where runc puts this, too.
        let _ = writeln!(std::io::stderr(), "{error}");
        Err(ExecutorError::Other(error))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = process_of(spec).map_err(ExecutorValidationError::ArgValidationError)?;
        find(process).map(drop).map_err(ExecutorValidationError::ArgValidationError)
    }
}

impl ProgramExecutor {
    fn replace_process(&self, spec: &Spec) -> String {
        let prepared = process_of(spec).and_then(|process| {
            let program = find(process)?;
            let words = process.args().iter().flatten();
            let words: Vec<CString> = words.map(|w| CString::new(w.as_str()).unwrap_or_default()).collect();
            let path = CString::new(program.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
            Ok((path, words))
        });
        let (path, words) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return error,
        };
        corten_sys::signals::restore_defaults();
        if let Err(error) = self.confine() {
            return error;
        }
        match nix::unistd::execv(&path, &words) {
            Ok(never) => match never {},
            Err(errno) => format!("exec {}: {}", path.to_string_lossy(), errno.desc().to_lowercase()),
        }
    }

    fn confine(&self) -> Result<(), String> {
        if let Some(filters) = &self.seccomp {
            filters.install().map_err(|e| format!("seccomp: {e}"))?;
        }
        match &self.final_capabilities {
            Some(names) => drop_to(names).map_err(|e| format!("capabilities: {e}")),
            None => Ok(()),
        }
    }
}

/// Gives up every capability that is not named: those that installing the filter needed.
fn drop_to(names: &[String]) -> Result<(), caps::errors::CapsError> {
    let keep: CapsHashSet = names.iter().filter_map(|n| n.parse::<Capability>().ok()).collect();
    for cap in caps::read(None, CapSet::Bounding)?.difference(&keep) {
        caps::drop(None, CapSet::Bounding, *cap)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        let now = caps::read(None, set)?;
        caps::set(None, set, &now.intersection(&keep).copied().collect())?;
    }
    Ok(())
}

fn process_of(spec: &Spec) -> Result<&Process, String> {
    spec.process().as_ref().ok_or_else(|| "spec without process".to_owned())
}

/// The file to execute for the first word of the command, looked up in the container's `PATH`.
fn find(process: &Process) -> Result<PathBuf, String> {
    let word = process.args().iter().flatten().next().ok_or("no command specified")?;
    let env = process.env().as_deref().unwrap_or_default();
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
    look_up(word, path).map_err(|why| format!("exec: {word:?}: {why}"))
}

fn look_up(word: &str, path: &str) -> Result<PathBuf, String> {
    if word.contains('/') {
        return executable(Path::new(word)).map(|()| PathBuf::from(word));
    }
    let mut denied = None;
    for dir in path.split(':') {
        // An empty entry means the working directory, as everywhere on Unix.
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(OsStr::new(word));
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(why) if why.contains("permission denied") => denied = Some(why),
            Err(_) => {}
        }
    }
    Err(denied.unwrap_or_else(|| "executable file not found in $PATH".into()))
}

fn executable(path: &Path) -> Result<(), String> {
    let stat = path.metadata().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("stat {}: no such file or directory", path.display()),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => format!("stat {}: {e}", path.display()),
    })?;
    match (stat.is_dir(), stat.permissions().mode() & 0o111) {
        (true, _) => Err("is a directory".into()),
        (false, 0) => Err("permission denied".into()),
        (false, _) => Ok(()),
    }
}

/// The part of a start error that a user can act on: what the executor said, when it was the executor.
pub(super) fn user_words(error: &str) -> String {
    match error.find("exec: \"").or_else(|| error.find("exec: no command")) {
        // libcontainer wraps and repeats it; the words end where the wrapping closes.
        Some(at) => error[at..].trim_end_matches(['"', '\\', '\0']).to_owned(),
        None => error.trim_end_matches('\0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_or_refused_in_runcs_words() {
        let dir = std::env::temp_dir().join(format!("corten-exec-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("bin/sub")).unwrap();
        for (name, mode) in [("ok", 0o755), ("no", 0o644)] {
            let file = dir.join("bin").join(name);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        }
        let path = format!("/nowhere:{}", dir.join("bin").display());
        let full = |name: &str| dir.join("bin").join(name).display().to_string();
        for (word, want) in [
            ("ok".to_owned(), Ok(dir.join("bin/ok"))),
            (full("ok"), Ok(dir.join("bin/ok"))),
            ("missing".into(), Err("executable file not found in $PATH".into())),
            ("no".into(), Err("permission denied".into())),
            (full("sub"), Err("is a directory".into())),
            (full("gone"), Err(format!("stat {}: no such file or directory", full("gone")))),
        ] {
            assert_eq!(look_up(&word, &path), want, "{word}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_wrapping_is_taken_off() {
        let wrapped = "failed to create container: exec process failed with error exec: \"x\": executable file not found in $PATH";
        assert_eq!(user_words(wrapped), "exec: \"x\": executable file not found in $PATH");
        assert_eq!(user_words("failed to prepare rootfs"), "failed to prepare rootfs");
    }
}
