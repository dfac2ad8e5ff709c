//! `kodo-broker healthcheck`: asks a health port, for containers that have no other program to do it.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Longer than a healthy broker ever takes, shorter than the probe's own time limit.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Exits 0 if `service` is served at `endpoint`, 1 with the reason if not.
#[must_use]
pub fn command(endpoint: &str, service: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let checked = match runtime {
        Ok(runtime) => runtime.block_on(check(endpoint, service)),
        Err(error) => Err(error.to_string()),
    };
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Standard error may be closed; the exit code says it too.
            let _ = writeln!(io::stderr(), "error: {endpoint}: {reason}");
            ExitCode::FAILURE
        }
    }
}

async fn check(endpoint: &str, service: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .map_err(|error| error.to_string())?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("{service} is {}", other.as_str_name())),
    }
}
