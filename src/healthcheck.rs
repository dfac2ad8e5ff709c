//! `kodo-broker healthcheck`: asks a health port, for containers that have no other program to do it.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// As the broker names it on its health port.
const UNSEALED: &str = "unsealed";

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
    let mut client = HealthClient::new(channel);
    let status = ask(&mut client, service).await?;
    if status == ServingStatus::Serving {
        return Ok(());
    }
    let mut reason = format!("{service} is {}", status.as_str_name());
    // An older broker has no such service.
    if ask(&mut client, UNSEALED).await == Ok(ServingStatus::NotServing) {
        reason.push_str(": the broker is sealed, it cannot open what it guards; its log says why");
    }
    Err(reason)
}

async fn ask(client: &mut HealthClient<Channel>, service: &str) -> Result<ServingStatus, String> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = client.check(request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    Ok(answer.into_inner().status())
}
