//! How an exec, attach or port-forward ended, as clients read it on the error stream.

use serde_json::{Value, json};

use crate::backend::StreamError;

/// The end of a remote command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0, or an attach that ended.
    Success,
    /// Another exit code.
    Exited { command: Vec<String>, code: i32 },
    /// It could not be run; `what` is said before the cause.
    Failed { what: &'static str, cause: String },
}

impl Outcome {
    /// Of an exec.
    pub fn of_exec(command: &[String], result: Result<i32, StreamError>) -> Self {
        match result {
            Ok(0) => Self::Success,
            Ok(code) => Self::Exited { command: command.to_vec(), code },
            Err(StreamError(cause)) => Self::Failed { what: "error executing command in container", cause },
        }
    }

    /// Of an attach.
    pub fn of_attach(result: Result<(), StreamError>) -> Self {
        match result {
            Ok(()) => Self::Success,
            Err(StreamError(cause)) => Self::Failed { what: "error attaching to container", cause },
        }
    }

    /// What goes out on the error stream: from protocol version 4 on a `Status` object, before that only
    /// the message of a failure.
    pub fn message(&self, as_status: bool) -> Vec<u8> {
        let status = self.status();
        if as_status {
            return status.to_string().into_bytes();
        }
        status["message"].as_str().unwrap_or_default().as_bytes().to_vec()
    }

    fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exited { command, code } => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!(
                    "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                    command.join(" ")
                ),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed { what, cause } => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {what}: {cause}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": format!("{what}: {cause}")}]},
                "code": 500,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_as_clients_read_them() {
        let text = |outcome: Outcome, as_status| String::from_utf8(outcome.message(as_status)).unwrap();
        assert_eq!(text(Outcome::of_exec(&[], Ok(0)), true), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(text(Outcome::Success, false), "");
        let exit = Outcome::of_exec(&["sh".into(), "-c".into()], Ok(3));
        let status: Value = serde_json::from_str(&text(exit.clone(), true)).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
        assert!(text(exit, false).contains("error executing command [sh -c], exit code 3"));
        let failed = Outcome::of_attach(Err(StreamError("gone".into())));
        let status: Value = serde_json::from_str(&text(failed, true)).unwrap();
        assert_eq!((&status["code"], &status["reason"]), (&json!(500), &json!("InternalError")));
        assert_eq!(status["message"], "Internal error occurred: error attaching to container: gone");
    }
}
