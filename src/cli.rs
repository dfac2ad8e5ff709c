//! The command line: what operators type, built on [`client`](crate::client) alone.
//!
//! One file per group of commands. Nothing here prints by itself: output goes to the [`Console`]
//! that the caller hands in. Secrets come from files or standard input, never from a flag.

mod audit;
mod console;
mod credential;
mod error;
mod job;
mod kek;
mod name;
mod organization;
#[cfg(feature = "server")]
mod policy;
mod source;
mod store;
mod table;
mod token;
mod value;
mod whoami;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::error::Error;
#[cfg(feature = "server")]
pub use self::policy::{PolicyCommand, TestArguments};
#[cfg(feature = "server")]
pub use self::{audit::OfflineAuditCommand, store::OfflineCommand};
pub use self::{
    audit::{AuditCommand, HandOutView},
    console::Console,
    job::JobCommand,
    organization::OrganizationCommand,
    store::StoreCommand,
    token::TokenCommand,
};
use crate::client::ConnectionConfig;

/// What the exit codes mean, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  unexpected: a defect or damage of the broker, or the output cannot be written
   2  wrong command line
   3  refused input: a file or field is wrong, the id is taken, the revision is old
   4  no such organization, or not visible to this caller
   5  this caller is not allowed to do that
   6  the tenant's administrator must act first
  10  the audit log was changed
  11  the end of the audit log is missing
  12  lines of the audit log are missing, or there twice
  13  the audit log was written under another key
  75  try again later
  78  wrong configuration";

/// Credential broker for Microsoft 365.
#[derive(Debug, Parser)]
#[command(name = "kodo-broker", version, after_help = EXIT_CODES)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Options {
    /// Connection file: where the broker is and which certificate to show it.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "KODO_BROKER_CONNECTION"
    )]
    pub connection: Option<PathBuf>,
    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs; errors too are JSON then.
    Json,
    /// Only with `token get`: the token and nothing else.
    Token,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker until SIGTERM.
    #[cfg(feature = "server")]
    Serve {
        /// Configuration file; `deploy/broker.toml` explains each option.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Start even where a guard of the process fails, as on a machine with swap. Never where
        /// there are real credentials.
        #[arg(long)]
        insecure_dev: bool,
    },
    /// Start everything on this machine, with a simulated Entra, and show it.
    #[cfg(feature = "simulator")]
    Dev {
        /// Loopback address to serve on; port 0 takes a free one.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
        listen: std::net::SocketAddr,
        /// Keep everything in this folder. Left out: a temporary one, deleted at the end.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Ask a broker's health port; exits 0 if it serves. For container health checks.
    #[cfg(feature = "server")]
    Healthcheck {
        /// URL of the health port, as in http://127.0.0.1:8081.
        #[arg(long, value_name = "URL")]
        endpoint: String,
        /// What to ask about: `readiness` or `liveness`.
        #[arg(long, default_value = "readiness")]
        service: String,
    },
    /// Check a policy file, and ask it for decisions, without a broker.
    #[cfg(feature = "server")]
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// What is done by calling a broker.
    #[command(flatten)]
    Remote(RemoteCommand),
}

/// What is done by calling a broker.
#[derive(Debug, Subcommand)]
pub enum RemoteCommand {
    /// Register, list, rotate and revoke organizations.
    #[command(subcommand)]
    Org(OrganizationCommand),
    /// Get and watch access tokens, and report those that are refused.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Back the store up and restore it, look after its keys.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Tell which jobs run, for grants that hold only while one does.
    #[command(subcommand)]
    Job(JobCommand),
    /// Show who this caller is to the broker, on whose word, and what its policy grants.
    Whoami,
    /// Verify the audit log, and ask it who was given what.
    #[command(subcommand)]
    Audit(AuditCommand),
}

/// A point in time as it is shown.
#[cfg(feature = "server")]
#[must_use]
pub fn time(time: std::time::SystemTime) -> String {
    value::show_system_time(time)
}

/// Shows what an audit log told, and returns the exit code that `--help` explains.
#[cfg(feature = "server")]
pub fn show_hand_outs(
    options: &Options,
    hand_outs: Result<Vec<HandOutView>, std::io::Error>,
    console: &mut Console<'_>,
) -> ExitCode {
    let shown = hand_outs
        .map_err(|error| Error::input(error.to_string()))
        .and_then(|hand_outs| audit::show(options, &hand_outs, console));
    ended(options, shown.or_else(Error::unless_pipe_closed), console)
}

/// Runs a command that calls a broker, and returns the exit code that `--help` explains.
pub fn run(options: &Options, command: RemoteCommand, console: &mut Console<'_>) -> ExitCode {
    let done = execute(options, command, console);
    ended(options, done, console)
}

fn ended(options: &Options, done: Result<(), Error>, console: &mut Console<'_>) -> ExitCode {
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    // With standard error gone too, the exit code is all that is left to tell.
    let _ = match options.output {
        Output::Json => error.write_json(console.err),
        Output::Table | Output::Token => error.write_text(console.err),
    };
    ExitCode::from(error.exit_code())
}

fn execute(
    options: &Options,
    command: RemoteCommand,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let is_token = matches!(&command, RemoteCommand::Token(TokenCommand::Get(_)));
    if options.output == Output::Token && !is_token {
        return Err(Error::usage("`--output token` goes only with `token get`"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Io)?;
    let done = runtime.block_on(async {
        match command {
            RemoteCommand::Org(command) => organization::run(options, command, console).await,
            RemoteCommand::Token(command) => token::run(options, command, console).await,
            RemoteCommand::Store(command) => store::run(options, command, console).await,
            RemoteCommand::Job(command) => job::run(options, command, console).await,
            RemoteCommand::Whoami => whoami::run(options, console).await,
            RemoteCommand::Audit(command) => audit::run(options, command, console).await,
        }
    });
    done.and_then(|()| console.out.flush().map_err(Error::Io))
        .or_else(Error::unless_pipe_closed)
}

/// Reads the connection file.
fn connection(options: &Options) -> Result<ConnectionConfig, Error> {
    let path = options.connection.as_ref().ok_or_else(|| {
        Error::usage("name a connection file with `--connection` or KODO_BROKER_CONNECTION")
    })?;
    Ok(ConnectionConfig::load(path)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Runs a command line without input: exit code, output, error output.
    fn run_line(line: &str) -> (ExitCode, String, String) {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a valid command line");
        let Command::Remote(command) = cli.command else {
            panic!("a remote command")
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            input: &mut std::io::empty(),
            out: &mut out,
            err: &mut err,
        };
        let code = run(&cli.options, command, &mut console);
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (code, text(out), text(err))
    }

    #[test]
    fn definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_explains_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("75  try again later"), "{help}");
    }

    #[test]
    fn output_token_goes_only_with_token_get() {
        for line in [
            "kodo-broker -o token org list",
            "kodo-broker -o token whoami",
            "kodo-broker -o token token watch contoso graph",
            "kodo-broker -o token token report contoso graph --fingerprint f --status 401",
        ] {
            let (code, out, err) = run_line(line);
            assert_eq!(code, ExitCode::from(2));
            assert!(out.is_empty());
            assert!(
                err.starts_with("error: `--output token` goes only"),
                "{err}"
            );
        }
    }

    #[test]
    fn a_missing_connection_file_is_a_wrong_configuration() {
        let (code, _, err) = run_line("kodo-broker --connection /nowhere/c.toml org list");
        assert_eq!(code, ExitCode::from(78));
        assert!(err.contains("/nowhere/c.toml"), "{err}");
    }

    #[test]
    fn errors_are_json_with_json_output() {
        let (_, _, err) = run_line("kodo-broker --connection /nowhere/c.toml -o json org list");
        let error: serde_json::Value = serde_json::from_str(&err).expect("JSON");
        assert_eq!(error["error"]["exit_code"], 78);
    }
}
