//! Takes a cluster down when its test program is gone, however it went: a shell that waits for the end of a pipe.
//!
//! The watchdog also holds a lock until it is done, so that clusters of test programs that follow one another do not overlap.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::build;
use crate::machines::Machine;

/// Lock first (the one before may still be busy), say so, wait for the end of stdin, take down.
const SCRIPT: &str = r#"
exec 9>"$LOCK"
flock --timeout 600 9
echo locked
exec >/dev/null
cat
$ENTER "$CORTEN" down --purge --name "$NAME" --data-dir "$DIR" >"$DIR.down.log" 2>&1 && rm -rf "$DIR" "$DIR.down.log"
"#;

/// As long as this value lives in the test program, the cluster may live.
#[derive(Debug)]
pub struct Watchdog {
    _line: ChildStdin,
    _shell: Child,
}

impl Watchdog {
    /// Waits for the cluster before this one to be gone.
    pub fn start(corten: &Path, name: &str, data_dir: &Path, alone: bool, machine: Option<&Machine>) -> Self {
        let lock =
            build::target_dir().join(if alone { "e2e.lock".to_owned() } else { format!("e2e-{name}.lock") });
        let mut shell = Command::new("sh");
        shell
            .args(["-c", SCRIPT])
            .env("LOCK", lock)
            .env(
                "ENTER",
                machine.map_or_else(String::new, |m| format!("nsenter --net=/run/netns/{}", m.netns)),
            )
            .env("CORTEN", corten)
            .env("NAME", name)
            .env("DIR", data_dir);
        // A group of its own: Ctrl-C ends the tests, not their tidying up.
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = shell.spawn().expect("sh can be run");
        let mut said = String::new();
        let out = child.stdout.take().expect("its output is a pipe");
        BufReader::new(out).read_line(&mut said).expect("the watchdog speaks");
        assert_eq!(said, "locked\n", "another test cluster does not go away");
        let line = child.stdin.take().expect("its input is a pipe");
        Self { _line: line, _shell: child }
    }
}
