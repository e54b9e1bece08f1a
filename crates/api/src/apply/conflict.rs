//! The Status of an apply that met fields of others.

use super::managed::{Identity, Operation};
use super::path::PathElement;
use super::set::Set;
use crate::Status;
use crate::field::Quoted;
use crate::status::Cause;

/// A field that the patch says otherwise than the manager who owns it.
#[derive(Clone, Debug)]
pub(super) struct Conflict {
    pub manager: Identity,
    pub path: Vec<PathElement>,
}

impl Conflict {
    pub fn all(manager: &Identity, fields: &Set) -> impl Iterator<Item = Conflict> {
        fields.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path })
    }

    fn field(&self) -> String {
        self.path.iter().map(ToString::to_string).collect()
    }
}

/// `"kubectl" with subresource "scale" using apps/v1`
fn print(manager: &Identity) -> String {
    let mut text = manager.name.quoted();
    if !manager.subresource.is_empty() {
        text += &format!(" with subresource {}", manager.subresource.quoted());
    }
    if manager.operation == Operation::Update {
        text += &format!(" using {}", manager.api_version);
    }
    text
}

/// 409, with a cause for each field.
pub(super) fn status(conflicts: &[Conflict]) -> Box<Status> {
    let mut status = Status::new(409, "Conflict", message(conflicts));
    status.causes = conflicts
        .iter()
        .map(|conflict| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", print(&conflict.manager)),
            field: conflict.field(),
        })
        .collect();
    status
}

fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            print(&one.manager),
            one.field()
        );
    }
    let mut lines = Vec::new();
    for of_one in conflicts.chunk_by(|a, b| a.manager == b.manager) {
        lines.push(format!("conflicts with {}:", print(&of_one[0].manager)));
        lines.extend(of_one.iter().map(|conflict| format!("- {}", conflict.field())));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
