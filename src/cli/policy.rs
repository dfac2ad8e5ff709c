//! `policy`: what a policy file says, without a broker.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with a policy file.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a policy file as a broker does when it starts.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Trust domain of the broker. Left out: that of the first caller in the file.
        #[arg(long, value_name = "DOMAIN")]
        trust_domain: Option<String>,
    },
    /// Ask a policy file for a decision, and learn which grant decides; exits 0 if granted, 5 if denied.
    Test(TestArguments),
}

/// What to ask.
#[derive(Debug, Args)]
pub struct TestArguments {
    /// The policy file.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// SPIFFE ID of the caller.
    #[arg(long = "as", value_name = "SPIFFE_ID")]
    pub caller: String,
    /// Action, as in the file.
    #[arg(long)]
    pub action: String,
    /// Id of the organization.
    #[arg(long, value_name = "ID")]
    pub organization: String,
    /// Label of the organization, as in msp=northwind; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// With get_token: the resource, as in the file.
    #[arg(long)]
    pub resource: Option<String>,
    /// With a resource: the purpose, as in the file. Left out: backup.
    #[arg(long)]
    pub purpose: Option<String>,
    /// With a resource: the access, as in the file. Left out: application.
    #[arg(long)]
    pub access: Option<String>,
    /// Take it that a job grant covers it.
    #[arg(long)]
    pub job_runs: bool,
    /// Trust domain of the broker. Left out: that of the first caller in the file.
    #[arg(long, value_name = "DOMAIN")]
    pub trust_domain: Option<String>,
}
