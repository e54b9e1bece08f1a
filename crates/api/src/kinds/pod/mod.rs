//! What makes a pod special.

mod columns;

use super::row::NO_HOOKS;
use crate::kind::Hooks;

pub(super) use columns::COLUMNS;

pub(super) const HOOKS: Hooks = Hooks { row_conditions: Some(columns::row_conditions), ..NO_HOOKS };
