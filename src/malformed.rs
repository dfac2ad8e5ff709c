//! What is told to somebody whose text is not what it should be.

/// Why a text is not what it should be: a sentence for the caller, with the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);
