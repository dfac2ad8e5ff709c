//! `token`: access tokens.

mod jwt;
mod report;
mod watch;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use self::report::ReportArguments;
use super::{
    Console, Options, Output, connection,
    error::Error,
    name::{PurposeName, ResourceName},
    table::Table,
    value,
};
use crate::client::{Client, ConnectionConfig, Token, TokenOptions};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Get an access token. The table does not show the token itself; `-o token` and `-o json` do.
    Get(WantedArguments),
    /// Show each token as it comes, one line each: its times and its fingerprint, not the token.
    /// Runs until there will be no next one.
    Watch(WantedArguments),
    /// Tell the broker that an API refused a token, and show what it makes of that.
    Report(ReportArguments),
}

/// Which token is wanted, and for what.
#[derive(Debug, Args)]
pub struct WantedArguments {
    #[command(flatten)]
    of: KeyArguments,
    /// How long the token must live at least, as in 660s or 11m. Left out: 5 minutes.
    #[arg(long, value_name = "DURATION", value_parser = value::parse_duration)]
    min_remaining: Option<Duration>,
    /// What the token is wanted for.
    #[arg(long, value_enum, default_value_t = PurposeName::Backup)]
    purpose: PurposeName,
    /// The job that it is for, as the scheduler told the broker. Left out: any.
    #[arg(long = "job", value_name = "JOB_ID")]
    job_id: Option<String>,
}

/// What the token is of.
#[derive(Debug, Args)]
struct KeyArguments {
    /// Id of the organization.
    #[arg(value_name = "ORGANIZATION")]
    organization_id: String,
    /// API that the token is for.
    #[arg(value_enum)]
    resource: ResourceName,
    /// Only with sharepoint: one of the organization's hosts. Left out: its root host.
    #[arg(long, value_name = "HOST")]
    sharepoint_host: Option<String>,
}

/// A token in JSON: the fields of the contract.
#[derive(Serialize)]
struct TokenView<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expire_time: String,
    refresh_time: String,
    resource_url: &'a str,
    client_id: &'a str,
    credential_version: u64,
    fingerprint: &'a str,
}

pub(super) async fn run(
    options: &Options,
    command: TokenCommand,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    // Who sits before it decides on whether to try again.
    let config = ConnectionConfig {
        max_attempts: 1,
        ..connection(options)?
    };
    match command {
        TokenCommand::Get(wanted) => {
            let client = Client::connect(&config).await?;
            let resource = wanted.of.resource.into();
            let token = client.token(&wanted.of.organization_id, resource, wanted.options());
            write(options.output, &*token.await?, console)
        }
        TokenCommand::Watch(wanted) => {
            let client = Client::connect(&config).await?;
            watch::run(options.output, &client, &wanted, console).await
        }
        TokenCommand::Report(arguments) => {
            // Before connecting: what is wrong with the file is told first.
            let refusal = arguments.refusal(console)?;
            let client = Client::connect(&config).await?;
            report::run(options.output, &client, &arguments, refusal, console).await
        }
    }
}

impl WantedArguments {
    fn options(&self) -> TokenOptions {
        TokenOptions {
            sharepoint_host: self.of.sharepoint_host.clone(),
            min_remaining: self.min_remaining,
            purpose: self.purpose.into(),
            job_id: self.job_id.clone(),
            timeout: None,
        }
    }
}

fn write(output: Output, token: &Token, console: &mut Console<'_>) -> Result<(), Error> {
    match output {
        Output::Table => table(token).write(console.out).map_err(Error::Io),
        Output::Json => console.json(&TokenView {
            // Asked for: this output is for programs that use the token.
            access_token: token.access_token.expose(),
            token_type: "Bearer",
            expire_time: value::show_system_time(token.expire_time),
            refresh_time: value::show_system_time(token.refresh_time),
            resource_url: &token.resource_url,
            client_id: &token.client_id,
            credential_version: token.credential_version,
            fingerprint: &token.fingerprint,
        }),
        // Asked for: this output is the token.
        Output::Token => {
            writeln!(console.out, "{}", token.access_token.expose()).map_err(Error::Io)
        }
    }
}

/// A line for each thing that may be seen of a token.
fn table(token: &Token) -> Table {
    let mut table = Table::default();
    table.push(["expires", &value::show_system_time(token.expire_time)]);
    table.push(["ask again at", &value::show_system_time(token.refresh_time)]);
    table.push(["resource URL", &token.resource_url]);
    table.push(["client id", &token.client_id]);
    table.push(["credential version", &token.credential_version.to_string()]);
    table.push(["fingerprint", &token.fingerprint]);
    // To read its unsigned parts, of which only a few are shown.
    match jwt::decode(token.access_token.expose()) {
        Some(parts) => {
            for (name, value) in parts {
                table.push([&name, &value]);
            }
        }
        None => table.push(["token", "opaque"]),
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn written(output: Output, access_token: &str) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let token = crate::client::token_for_tests(access_token, "f00d", time);
        let mut out = Vec::new();
        let mut console = Console {
            input: &mut std::io::empty(),
            out: &mut out,
            err: &mut std::io::sink(),
        };
        write(output, &token, &mut console).expect("a buffer takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn table_does_not_show_the_token() {
        let table = written(Output::Table, "canary");
        assert!(!table.contains("canary"), "{table}");
        assert!(table.contains("\ntoken               opaque\n"), "{table}");
        assert!(
            table.starts_with("expires             2027-01-15T08:00:00Z\n"),
            "{table}"
        );
    }

    #[test]
    fn token_output_is_the_token_and_a_line_end() {
        assert_eq!(written(Output::Token, "canary"), "canary\n");
    }

    #[test]
    fn json_has_the_token_and_its_times() {
        let json = written(Output::Json, "canary");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["access_token"], "canary");
        assert_eq!(json["refresh_time"], "2027-01-15T07:30:00Z");
        assert_eq!(json["credential_version"], 3);
    }
}
