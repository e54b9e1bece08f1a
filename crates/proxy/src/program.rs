//! The one place that runs programs (`iptables-restore`, `nft`): input in, output back, nothing hangs.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::backend::Error;

/// Ten thousand services take seconds on a loaded machine; more than this means that it hangs.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Of what a program complains about, so much is shown.
const COMPLAINT_LIMIT: usize = 2000;

/// Runs `program` with `input` and returns what it printed. It runs in the network namespace of the calling thread.
pub(crate) async fn run(program: &'static str, args: &[&str], input: &str) -> Result<String, Error> {
    run_noted(program, args, input).await.map(|(text, _)| text)
}

/// The same; returns its process id as well, by which the kernel tells what it changed.
pub(crate) async fn run_noted(
    program: &'static str,
    args: &[&str],
    input: &str,
) -> Result<(String, u32), Error> {
    let failed = |why: String| Error::Program { program, why };
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot start: {error}")))?;
    let id = child.id().unwrap_or_default();
    let stdin = child.stdin.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A broken pipe only means that the program gave up early; it says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(TIMEOUT, both)
        .await
        .map_err(|_| failed(format!("not finished in {TIMEOUT:?}")))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok((String::from_utf8_lossy(&output.stdout).into_owned(), id));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.trim().chars().take(COMPLAINT_LIMIT).collect()))
}

/// Administrative directories are missing from the PATH of many services.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default())
}
