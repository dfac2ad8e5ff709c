//! Log output: one line an event, to standard error, JSON for machines or text for people.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("log.filter: {0}")]
pub struct Error(String);

/// Sends events to standard error from now on. A second call changes nothing.
///
/// # Errors
/// [`Error`] if the filter cannot be parsed.
pub fn init(config: &LogConfig) -> Result<(), Error> {
    let filter = EnvFilter::builder()
        .parse(&config.filter)
        .map_err(|error| Error(error.to_string()))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // An error means that there is a subscriber already, which is then the one to use.
    let _ = match config.format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_ansi(false).try_init(),
    };
    Ok(())
}
