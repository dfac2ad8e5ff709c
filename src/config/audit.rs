//! `[audit]`: where hand-outs are recorded.

use std::path::PathBuf;

use serde::Deserialize;

/// `[audit]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// The file, or no record at all.
    pub file: Option<PathBuf>,
    /// When a line counts as written.
    pub durability: Durability,
}

/// When a line counts as written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Once the disk has it.
    #[default]
    Sync,
    /// Once the system has it: a power cut takes the last lines.
    Os,
}
