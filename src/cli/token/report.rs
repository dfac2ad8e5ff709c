//! `token report`: a token that an API refused.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::KeyArguments;
use crate::{
    cli::{Console, Output, error::Error, source::Source, table::Table},
    client::{ClaimsChallenge, Client, Refusal, Verdict},
};

/// Which token was refused, and how.
#[derive(Debug, Args)]
pub struct ReportArguments {
    #[command(flatten)]
    of: KeyArguments,
    /// Fingerprint of the token, as `token get` shows it.
    #[arg(long)]
    fingerprint: String,
    /// HTTP status of the API's answer.
    #[arg(long, value_enum)]
    status: StatusName,
    /// File with the `claims` that the answer's `WWW-Authenticate` had beside
    /// `error="insufficient_claims"`; `-` for standard input. Only with 401.
    #[arg(long, value_name = "FILE")]
    claims_file: Option<OsString>,
}

/// HTTP statuses by which an API refuses a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusName {
    /// Unauthorized: the token is not accepted.
    #[value(name = "401")]
    Unauthorized,
    /// Forbidden: the token does not allow this.
    #[value(name = "403")]
    Forbidden,
}

/// A verdict in JSON: the fields of the contract.
#[derive(Debug, Default, PartialEq, Serialize)]
struct VerdictView<'a> {
    verdict: &'static str,
    missing_roles: &'a [String],
    roles: &'a [String],
    retry_after_seconds: Option<f64>,
}

impl ReportArguments {
    /// Reads what there is to read.
    pub(super) fn refusal(&self, console: &mut Console<'_>) -> Result<Refusal, Error> {
        let claims = match (&self.claims_file, self.status) {
            (None, _) => None,
            (Some(_), StatusName::Forbidden) => {
                let message = "`--claims-file` goes only with `--status 401`";
                return Err(Error::usage(message));
            }
            (Some(file), StatusName::Unauthorized) => {
                let source = Source::from(file.clone());
                let text = source.read_text("--claims-file", console.input)?;
                let wanted =
                    || Error::input("`--claims-file` must name a file with the value of `claims`");
                Some(ClaimsChallenge::new(&text).ok_or_else(wanted)?)
            }
        };
        Ok(match self.status {
            StatusName::Unauthorized => Refusal::Unauthorized {
                claims_challenge: claims,
            },
            StatusName::Forbidden => Refusal::Forbidden,
        })
    }
}

pub(super) async fn run(
    output: Output,
    client: &Client,
    arguments: &ReportArguments,
    refusal: Refusal,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let verdict = client.report_fingerprint(
        &arguments.of.organization_id,
        arguments.of.resource.into(),
        arguments.of.sharepoint_host.as_deref(),
        &arguments.fingerprint,
        refusal,
    );
    let verdict = verdict.await?;
    let view = view(&verdict);
    match output {
        Output::Json => console.json(&view),
        Output::Table | Output::Token => table(&view).write(console.out).map_err(Error::Io),
    }
}

fn view(verdict: &Verdict) -> VerdictView<'_> {
    let plain = |verdict| VerdictView {
        verdict,
        ..Default::default()
    };
    match verdict {
        Verdict::Replaced => plain("replaced"),
        Verdict::AlreadyReplaced => plain("already-replaced"),
        Verdict::TooSoon { retry_after } => VerdictView {
            retry_after_seconds: Some(retry_after.as_secs_f64()),
            ..plain("too-soon")
        },
        Verdict::RolesMissing { missing, present } => VerdictView {
            missing_roles: missing,
            roles: present,
            ..plain("roles-missing")
        },
        Verdict::RolesPresent { present } => VerdictView {
            roles: present,
            ..plain("roles-present")
        },
        Verdict::RolesUnknown => plain("roles-unknown"),
    }
}

fn table(view: &VerdictView<'_>) -> Table {
    let mut table = Table::default();
    table.push(["verdict", view.verdict]);
    if let Some(seconds) = view.retry_after_seconds {
        table.push(["retry after", &format!("{seconds}s")]);
    }
    for (name, roles) in [("missing role", view.missing_roles), ("role", view.roles)] {
        for role in roles {
            table.push([name, role]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, RemoteCommand, TokenCommand};

    /// What `token report contoso graph` with these flags and this standard input reports.
    fn refusal(flags: &str, mut input: &[u8]) -> Result<Refusal, Error> {
        let line = format!("kodo-broker token report contoso graph --fingerprint f00d {flags}");
        let cli = Cli::try_parse_from(line.split(' ')).expect("a valid command line");
        let Command::Remote(RemoteCommand::Token(TokenCommand::Report(arguments))) = cli.command
        else {
            panic!("a report")
        };
        let mut console = Console {
            input: &mut input,
            out: &mut std::io::sink(),
            err: &mut std::io::sink(),
        };
        arguments.refusal(&mut console)
    }

    fn written(verdict: &Verdict) -> String {
        let mut out = Vec::new();
        table(&view(verdict)).write(&mut out).expect("a buffer");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_status_and_a_challenge_make_a_refusal() {
        assert_eq!(
            refusal("--status 403", b"").expect("one"),
            Refusal::Forbidden
        );
        let plain = refusal("--status 401", b"").expect("one");
        assert_eq!(
            plain,
            Refusal::Unauthorized {
                claims_challenge: None
            }
        );
        let claims = refusal("--status 401 --claims-file -", b"eyJhIjp7fX0=\n");
        let challenge = ClaimsChallenge::new("eyJhIjp7fX0=");
        assert_eq!(
            claims.expect("one"),
            Refusal::Unauthorized {
                claims_challenge: challenge
            }
        );
    }

    #[test]
    fn a_challenge_is_refused_with_403_and_where_it_is_none() {
        let error = refusal("--status 403 --claims-file -", b"eyJhIjp7fX0=");
        assert_eq!(error.expect_err("nonsense").exit_code(), 2);
        for input in [&b""[..], b"Bearer claims=\"eyJhIjp7fX0=\"", &[b'a'; 9000]] {
            let error = refusal("--status 401 --claims-file -", input).expect_err("none");
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains("--claims-file"), "{error}");
        }
    }

    #[test]
    fn a_verdict_is_shown_with_what_belongs_to_it() {
        assert_eq!(written(&Verdict::Replaced), "verdict  replaced\n");
        let too_soon = Verdict::TooSoon {
            retry_after: Duration::from_secs(40),
        };
        assert!(written(&too_soon).ends_with("retry after  40s\n"));
        let missing = Verdict::RolesMissing {
            missing: vec!["Mail.ReadWrite".into()],
            present: vec!["User.Read.All".into()],
        };
        assert_eq!(
            written(&missing),
            "verdict       roles-missing\n\
             missing role  Mail.ReadWrite\n\
             role          User.Read.All\n"
        );
    }
}
