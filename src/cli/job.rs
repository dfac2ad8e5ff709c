//! `job`: which jobs run, as a scheduler tells.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Console, Options, Output, connection,
    error::Error,
    name::{self, PurposeName, ResourceName},
    table::Table,
    value,
};
use crate::{
    client::{self, Operator},
    clock::Clock,
    pb::{
        admin::v1::{CreateJobGrantRequest, JobGrant, ListJobGrantsRequest, RevokeJobGrantRequest},
        v1::{Purpose, Resource},
    },
};

/// What to tell or ask about jobs.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Tell of a job that runs: its workers get the tokens that the policy grants them for it.
    Create(CreateArguments),
    /// List the jobs of an organization that run.
    List {
        /// Id of the organization.
        #[arg(value_name = "ORGANIZATION")]
        organization_id: String,
    },
    /// End a job before its time.
    Revoke {
        /// Id of the organization.
        #[arg(value_name = "ORGANIZATION")]
        organization_id: String,
        /// Id of the job grant, as `job create` and `job list` show it.
        #[arg(value_name = "JOB_GRANT")]
        job_grant_id: String,
    },
}

/// A job.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Id of the organization.
    #[arg(value_name = "ORGANIZATION")]
    organization_id: String,
    /// The scheduler's name for the job; it is on record with each token.
    #[arg(value_name = "JOB_ID")]
    job_id: String,
    /// SPIFFE ID of the worker that does it; one that ends in `/*` stands for all below that path.
    #[arg(long, value_name = "SPIFFE_ID")]
    workers: String,
    /// API that it needs; may be repeated.
    #[arg(long = "resource", value_enum, required = true)]
    resources: Vec<ResourceName>,
    /// What it is.
    #[arg(long, value_enum, default_value_t = PurposeName::Backup)]
    purpose: PurposeName,
    /// How long it takes at most, as in 90m or 4h; at most 24h.
    #[arg(long = "for", value_name = "DURATION", value_parser = value::parse_duration)]
    lasts: Duration,
    /// Id of this request: the same request with the same id is done only once. Left out: made up.
    #[arg(long, value_name = "ID", default_value_t = Uuid::new_v4().to_string())]
    #[arg(hide_default_value = true)]
    request_id: String,
}

/// A job grant in JSON: the fields of the contract.
#[derive(Serialize)]
struct JobGrantView {
    job_grant_id: String,
    organization_id: String,
    job_id: String,
    workers: String,
    resources: Vec<String>,
    purpose: String,
    create_time: String,
    end_time: String,
}

/// The answer to `job revoke` in JSON.
#[derive(Serialize)]
struct RevokedView {
    ran: bool,
}

pub(super) async fn run(
    options: &Options,
    command: JobCommand,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let operator = Operator::connect(&connection(options)?).await?;
    match command {
        JobCommand::Create(arguments) => {
            let response = operator.create_job_grant(arguments.request()).await?;
            let grant = response.job_grant;
            let grant = grant.ok_or_else(|| client::Error::incomplete_answer("job_grant"))?;
            write(options.output, vec![grant], console)
        }
        JobCommand::List { organization_id } => {
            let request = ListJobGrantsRequest { organization_id };
            let response = operator.list_job_grants(request).await?;
            write(options.output, response.job_grants, console)
        }
        JobCommand::Revoke {
            organization_id,
            job_grant_id,
        } => {
            let request = RevokeJobGrantRequest {
                organization_id,
                job_grant_id,
            };
            let ran = operator.revoke_job_grant(request).await?.ran;
            match options.output {
                Output::Json => console.json(&RevokedView { ran }),
                Output::Table | Output::Token => {
                    let ended = if ran { "ended" } else { "had ended before" };
                    writeln!(console.out, "{ended}").map_err(Error::Io)
                }
            }
        }
    }
}

impl CreateArguments {
    fn request(self) -> CreateJobGrantRequest {
        let resources = self.resources.into_iter().map(Resource::from);
        CreateJobGrantRequest {
            request_id: self.request_id,
            organization_id: self.organization_id,
            job_id: self.job_id,
            workers: self.workers,
            resources: resources.map(i32::from).collect(),
            purpose: Purpose::from(self.purpose).into(),
            end_time: Some((Clock::system().now() + self.lasts).into()),
        }
    }
}

fn write(output: Output, grants: Vec<JobGrant>, console: &mut Console<'_>) -> Result<(), Error> {
    let views: Vec<_> = grants.into_iter().map(view).collect();
    match output {
        Output::Json => console.json(&views),
        Output::Table | Output::Token => table(&views).write(console.out).map_err(Error::Io),
    }
}

fn view(grant: JobGrant) -> JobGrantView {
    let time = |time: Option<prost_types::Timestamp>| {
        time.as_ref().map(value::show_time).unwrap_or_default()
    };
    JobGrantView {
        resources: grant.resources.into_iter().map(name::resource).collect(),
        purpose: name::purpose(grant.purpose),
        create_time: time(grant.create_time),
        end_time: time(grant.end_time),
        job_grant_id: grant.job_grant_id,
        organization_id: grant.organization_id,
        job_id: grant.job_id,
        workers: grant.workers,
    }
}

fn table(views: &[JobGrantView]) -> Table {
    let mut table = Table::with_header(&[
        "job grant",
        "job",
        "workers",
        "resources",
        "purpose",
        "ends",
    ]);
    for view in views {
        table.push([
            &view.job_grant_id,
            &view.job_id,
            &view.workers,
            &view.resources.join(","),
            &view.purpose,
            &view.end_time,
        ]);
    }
    table
}
