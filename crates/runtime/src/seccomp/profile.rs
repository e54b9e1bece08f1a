//! `Localhost`: a profile in a file of the node, in OCI's JSON.

use std::path::Path;
use std::str::FromStr;

use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use serde::Deserialize;
use syscalls::Sysno;

use super::{Filters, Rules};

/// Longest profile that is read.
const MAX_PROFILE: u64 = 1 << 20;
const EPERM: u32 = 1;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Calls>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads and compiles the profile at `path`.
pub(crate) fn from_file(path: &Path) -> Result<Filters, String> {
    let failed = |why: String| format!("{}: {why}", path.display());
    let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if size > MAX_PROFILE {
        return Err(failed(format!("{size} bytes are too many")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    compile(&text).map_err(failed)
}

fn compile(text: &str) -> Result<Filters, String> {
    let profile: Profile = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut base = Rules::default();
    let mut others: Vec<(SeccompAction, Rules)> = Vec::new();
    for calls in &profile.syscalls {
        let wanted = action(&calls.action, calls.errno_ret)?;
        let conditions = conditions(&calls.args)?;
        // Names that this kernel's table lacks belong to other architectures.
        for call in calls.names.iter().filter_map(|name| Sysno::from_str(name).ok()) {
            if wanted != default && strictness(&wanted) <= strictness(&default) {
                base.add(call, conditions.clone());
            }
            if wanted != default && wanted != SeccompAction::Allow {
                let at = others.iter().position(|(action, _)| *action == wanted);
                let at = at.unwrap_or_else(|| {
                    others.push((wanted.clone(), Rules::default()));
                    others.len() - 1
                });
                others[at].1.add(call, conditions.clone());
            }
        }
    }
    let mut filters = Filters::default();
    // The base goes last: it may not allow the call that installs filters.
    for (matched, rules) in others {
        filters.add(rules, SeccompAction::Allow, matched)?;
    }
    filters.add(base, default, SeccompAction::Allow)?;
    Ok(filters)
}

/// The kernel's order, from letting pass to killing.
fn strictness(action: &SeccompAction) -> u8 {
    match action {
        SeccompAction::Allow => 0,
        SeccompAction::Log => 1,
        SeccompAction::Trace(_) => 2,
        SeccompAction::Errno(_) => 3,
        SeccompAction::Trap => 4,
        SeccompAction::KillThread => 5,
        SeccompAction::KillProcess => 6,
    }
}

fn action(name: &str, value: Option<u32>) -> Result<SeccompAction, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(value.unwrap_or(EPERM)),
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(value.unwrap_or(EPERM)),
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        other => return Err(format!("action {other:?} is not supported")),
    })
}

/// All arguments must compare; none is "always".
fn conditions(args: &[Argument]) -> Result<Vec<SeccompRule>, String> {
    if args.is_empty() {
        return Ok(Vec::new());
    }
    let one = |arg: &Argument| {
        let (operator, value) = match arg.op.as_str() {
            "SCMP_CMP_NE" => (SeccompCmpOp::Ne, arg.value),
            "SCMP_CMP_LT" => (SeccompCmpOp::Lt, arg.value),
            "SCMP_CMP_LE" => (SeccompCmpOp::Le, arg.value),
            "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, arg.value),
            "SCMP_CMP_GE" => (SeccompCmpOp::Ge, arg.value),
            "SCMP_CMP_GT" => (SeccompCmpOp::Gt, arg.value),
            "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(arg.value), arg.value_two),
            other => return Err(format!("comparison {other:?} is not supported")),
        };
        SeccompCondition::new(arg.index, SeccompCmpArgLen::Qword, operator, value).map_err(|e| e.to_string())
    };
    let all = args.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![SeccompRule::new(all).map_err(|e| e.to_string())?])
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::super::testing::ask;
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    const KILL_THREAD: u32 = 0;
    const LOG: u32 = 0x7ffc_0000;

    fn answers(profile: &str, calls: &[(Sysno, u64, u32)]) {
        let filters = compile(profile).unwrap();
        for (call, first, want) in calls {
            assert_eq!(ask(&filters, i64::from(call.id()), [*first, 0, 0, 0, 0, 0]), *want, "{call} {first}");
        }
    }

    #[test]
    fn allow_lists_deny_lists_and_mixtures() {
        answers(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
                {"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW"},
                {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
                {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
                {"names":["kill"],"action":"SCMP_ACT_KILL"}]}"#,
            &[
                (Sysno::read, 0, ALLOW),
                (Sysno::write, 1, ALLOW),
                (Sysno::write, 2, ERRNO + 1),
                (Sysno::clone3, 0, ERRNO + 38),
                (Sysno::kill, 0, KILL_THREAD),
                (Sysno::mount, 0, ERRNO + 1),
            ],
        );
        answers(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#,
            &[(Sysno::mkdir, 0, ERRNO + 1), (Sysno::read, 0, ALLOW)],
        );
        answers(r#"{"defaultAction":"SCMP_ACT_LOG"}"#, &[(Sysno::read, 0, LOG)]);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        for profile in [
            "{",
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":0,"value":1,"op":"SOMEHOW"}]}]}"#,
        ] {
            assert!(compile(profile).is_err(), "{profile}");
        }
        assert!(from_file(Path::new("/no/such/profile")).is_err());
    }
}
