//! `org suspend` and `org resume`.

use clap::Args;

use super::{
    Change, ExposureView, RequestArguments, again, complete, operator, report, revision, write,
};
use crate::{
    cli::{Console, Options, error::Error},
    pb::admin::v1::{ResumeOrganizationRequest, SuspendOrganizationRequest},
};

/// What to suspend.
#[derive(Debug, Args)]
pub struct SuspendArguments {
    /// Id of the organization.
    #[arg(value_name = "ORGANIZATION")]
    organization_id: String,
    /// Why, for those who look at the organization later on: at most 200 characters.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Revision that must still be the current one. Left out: whichever is.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    #[command(flatten)]
    request: RequestArguments,
}

/// What to resume.
#[derive(Debug, Args)]
pub struct ResumeArguments {
    /// Id of the organization.
    #[arg(value_name = "ORGANIZATION")]
    organization_id: String,
    /// Have its credential get a token from Entra first; if it does not, it stays suspended.
    #[arg(long)]
    verify: bool,
    /// Revision that must still be the current one. Left out: whichever is.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    #[command(flatten)]
    request: RequestArguments,
}

pub(super) async fn suspend(
    options: &Options,
    arguments: SuspendArguments,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let organization_id = arguments.organization_id;
    let operator = operator(options).await?;
    let revision = revision(&operator, &organization_id, arguments.revision).await?;
    let again = again(revision, &arguments.request);
    let response = operator.suspend(SuspendOrganizationRequest {
        request_id: arguments.request.request_id,
        organization_id,
        revision,
        reason: arguments.reason,
    });
    let response = response
        .await
        .map_err(|error| Error::from(error).or_again(&again))?;
    let change = Change {
        organization: complete(response.organization)?.into(),
        warnings: Vec::new(),
        validate_only: false,
        keks_to_destroy: Vec::new(),
        outstanding_tokens: response.outstanding_tokens.map(ExposureView::from),
    };
    write(options, &change, console)
}

pub(super) async fn resume(
    options: &Options,
    arguments: ResumeArguments,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let organization_id = arguments.organization_id;
    let operator = operator(options).await?;
    let revision = revision(&operator, &organization_id, arguments.revision).await?;
    let again = again(revision, &arguments.request);
    let response = operator.resume(ResumeOrganizationRequest {
        request_id: arguments.request.request_id,
        organization_id,
        revision,
        verify_credential: arguments.verify,
    });
    let response = response
        .await
        .map_err(|error| Error::from(error).or_again(&again))?;
    report(options, response.organization, Vec::new(), false, console)
}
