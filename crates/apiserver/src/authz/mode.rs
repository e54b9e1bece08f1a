//! The names of `--authorization-mode`.

use std::str::FromStr;

/// An authoriser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everybody may do everything.
    AlwaysAllow,
    /// Only `system:masters` may do anything.
    AlwaysDeny,
    /// What kubelets need for their own node and its pods.
    Node,
    /// Roles and bindings.
    Rbac,
}

/// What clusters of Corten start with.
pub const DEFAULT_MODES: [Mode; 2] = [Mode::Node, Mode::Rbac];

impl Mode {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Mode::AlwaysAllow => "AlwaysAllow",
            Mode::AlwaysDeny => "AlwaysDeny",
            Mode::Node => "Node",
            Mode::Rbac => "RBAC",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Mode::AlwaysAllow, Mode::AlwaysDeny, Mode::Node, Mode::Rbac];
        if let Some(mode) = known.into_iter().find(|mode| mode.name() == text) {
            return Ok(mode);
        }
        Err(match text {
            "Webhook" | "ABAC" => format!(
                "authorization-mode {text} is not supported by Corten (AlwaysAllow, AlwaysDeny, Node and RBAC are)"
            ),
            _ => format!("authorization-mode {text:?} is not a valid mode"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!("RBAC".parse(), Ok(Mode::Rbac));
        assert!("rbac".parse::<Mode>().is_err());
        assert!("Webhook".parse::<Mode>().unwrap_err().contains("not supported"));
    }
}
