//! `token watch`: tokens as they come.

use serde::Serialize;

use super::{WantedArguments, value};
use crate::{
    cli::{Console, Output, error::Error},
    client::{Client, Token},
};

/// A token that has come, in JSON: the fields of the contract without the token itself.
#[derive(Serialize)]
struct TokenView<'a> {
    expire_time: String,
    refresh_time: String,
    credential_version: u64,
    fingerprint: &'a str,
}

pub(super) async fn run(
    output: Output,
    client: &Client,
    wanted: &WantedArguments,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let resource = wanted.of.resource.into();
    let mut watch = client.watch(&wanted.of.organization_id, resource, wanted.options());
    while let Some(token) = watch.next().await {
        write(output, &*token?, console)?;
    }
    Ok(())
}

fn write(output: Output, token: &Token, console: &mut Console<'_>) -> Result<(), Error> {
    let view = TokenView {
        expire_time: value::show_system_time(token.expire_time),
        refresh_time: value::show_system_time(token.refresh_time),
        credential_version: token.credential_version,
        fingerprint: &token.fingerprint,
    };
    match output {
        Output::Json => console.json_line(&view),
        // A table's columns could not be known beforehand; these have a fixed width.
        Output::Table | Output::Token => console.line(&format!(
            "expires {}  refresh {}  fingerprint {}",
            view.expire_time, view.refresh_time, view.fingerprint
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn written(output: Output) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let token = crate::client::token_for_tests("canary", "f00d", time);
        let mut out = Vec::new();
        let mut console = Console {
            input: &mut std::io::empty(),
            out: &mut out,
            err: &mut std::io::sink(),
        };
        write(output, &token, &mut console).expect("a buffer takes everything");
        String::from_utf8(out).expect("text")
    }

    #[tokio::test]
    async fn each_token_is_a_line_without_the_token() {
        assert_eq!(
            written(Output::Table),
            "expires 2027-01-15T08:00:00Z  refresh 2027-01-15T07:30:00Z  fingerprint f00d\n"
        );
        let json = written(Output::Json);
        assert_eq!(json.find('\n'), Some(json.len() - 1), "{json}");
        assert!(!json.contains("canary"), "{json}");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["fingerprint"], "f00d");
        assert_eq!(json["expire_time"], "2027-01-15T08:00:00Z");
    }
}
