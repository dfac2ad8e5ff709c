//! Log output: one line an event, to standard error, JSON for machines or text for people.

use std::{io, sync::OnceLock};

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Puts another filter in the place of the one that [`init`] was given.
static REPLACE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("log.filter: {0}")]
pub struct Error(String);

/// Which lines there are.
#[derive(Debug)]
pub struct Filter(EnvFilter);

impl Filter {
    /// Reads the filter of a configuration.
    ///
    /// # Errors
    /// [`Error`] if it cannot be parsed.
    pub fn parse(config: &LogConfig) -> Result<Self, Error> {
        let filter = EnvFilter::builder().parse(&config.filter);
        filter.map(Self).map_err(|error| Error(error.to_string()))
    }

    /// Puts it in force, where [`init`] was called; elsewhere the lines are not ours to choose.
    pub fn apply(self) {
        if let Some(replace) = REPLACE.get() {
            replace(self.0);
        }
    }
}

/// Sends events to standard error from now on. A second call changes nothing.
///
/// # Errors
/// [`Error`] if the filter cannot be parsed.
pub fn init(config: &LogConfig) -> Result<(), Error> {
    let Filter(filter) = Filter::parse(config)?;
    let lines = tracing_subscriber::fmt().with_writer(io::stderr);
    // An error means that there is a subscriber already, which is then the one to use.
    let _ = match config.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            lines
                .try_init()
                .map(|()| keep(move |filter| handle.reload(filter)))
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(false);
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            lines
                .try_init()
                .map(|()| keep(move |filter| handle.reload(filter)))
        }
    };
    Ok(())
}

fn keep<E>(replace: impl Fn(EnvFilter) -> Result<(), E> + Send + Sync + 'static) {
    // It fails where the subscriber is gone, and ours stays as long as the process.
    let _ = REPLACE.set(Box::new(move |filter| {
        let _ = replace(filter);
    }));
}
