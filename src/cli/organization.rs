//! `org`: organizations and their credentials.

mod exposure;
mod label;
mod suspension;
mod update;
mod view;

use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use self::{
    exposure::ExposureView,
    label::LabelArguments,
    suspension::{ResumeArguments, SuspendArguments},
    update::UpdateArguments,
    view::{OrganizationView, WarningView},
};
use super::{
    Console, Options, Output, connection, credential::CredentialArguments, error::Error,
    kek::KekView, name::CloudName,
};
use crate::{
    client::{self, Operator},
    pb::admin::v1::{
        Cloud, GetOrganizationRequest, ListOrganizationsRequest, Organization,
        RegisterOrganizationRequest, RevokeOrganizationRequest, RotateCredentialRequest, Warning,
    },
};

/// As many as the broker gives at once.
const PAGE_SIZE: u32 = 500;

/// What to do with organizations.
#[derive(Debug, Subcommand)]
pub enum OrganizationCommand {
    /// Register an organization; its credential must get a token from Entra first.
    Register(Box<RegisterArguments>),
    /// List all organizations that this caller may see, revoked ones too.
    List {
        /// Labels that they have to have, all of them.
        #[command(flatten)]
        labels: LabelArguments,
    },
    /// Show one organization.
    Get {
        /// Id of the organization.
        #[arg(value_name = "ORGANIZATION")]
        organization_id: String,
    },
    /// Change the name or the labels.
    Update(UpdateArguments),
    /// Replace the credential; the new one must get a token from Entra first.
    Rotate(Box<RotateArguments>),
    /// Suspend an organization: it gets no tokens until it is resumed; its credential stays.
    Suspend(SuspendArguments),
    /// Have a suspended organization get tokens again.
    Resume(ResumeArguments),
    /// Revoke an organization for good.
    Revoke(RevokeArguments),
}

/// What to register.
#[derive(Debug, Args)]
pub struct RegisterArguments {
    /// Id to register under: up to 63 characters of a-z, 0-9 and `-`. Left out: made up.
    #[arg(value_name = "ORGANIZATION")]
    organization_id: Option<String>,
    /// Directory (tenant) id, or a domain of the tenant.
    #[arg(long)]
    tenant: String,
    /// Microsoft cloud that the tenant is in.
    #[arg(long, value_enum)]
    cloud: CloudName,
    /// Application (client) id.
    #[arg(long, value_name = "ID")]
    client_id: String,
    #[command(flatten)]
    credential: CredentialArguments,
    /// Name for people.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    display_name: String,
    /// SharePoint root host, as in contoso.sharepoint.com. Left out: looked up through Graph.
    #[arg(
        long,
        value_name = "HOST",
        default_value = "",
        hide_default_value = true
    )]
    sharepoint_root_host: String,
    /// Further SharePoint host that tokens may be asked for; may be repeated.
    #[arg(long = "sharepoint-host", value_name = "HOST")]
    sharepoint_hosts: Vec<String>,
    #[command(flatten)]
    labels: LabelArguments,
    /// Check everything, the credential at Entra included, and store nothing.
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    request: RequestArguments,
}

/// What to rotate.
#[derive(Debug, Args)]
pub struct RotateArguments {
    /// Id of the organization.
    #[arg(value_name = "ORGANIZATION")]
    organization_id: String,
    #[command(flatten)]
    credential: CredentialArguments,
    /// Revision that must still be the current one. Left out: whichever is.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Hand out no token any more that was obtained with the old credential: for one that has leaked.
    #[arg(long)]
    forget_tokens: bool,
    /// Check everything, the credential at Entra included, and change nothing.
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    request: RequestArguments,
}

/// What to revoke.
#[derive(Debug, Args)]
pub struct RevokeArguments {
    /// Id of the organization.
    #[arg(value_name = "ORGANIZATION")]
    organization_id: String,
    /// Revision that must still be the current one. Left out: whichever is.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Have older copies of the store and backups be unreadable for it, too, and tell what is left to do
    /// until they are.
    #[arg(long)]
    shred: bool,
    /// Do it. Without this, only what would happen is told.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    request: RequestArguments,
}

/// Which request this is.
#[derive(Debug, Args)]
struct RequestArguments {
    /// Id of this request: the same request with the same id is done only once. Left out: made up.
    #[arg(long, value_name = "ID", default_value_t = Uuid::new_v4().to_string())]
    #[arg(hide_default_value = true)]
    request_id: String,
}

/// The answer to a change, as JSON.
#[derive(Serialize)]
struct Change {
    organization: OrganizationView,
    warnings: Vec<WarningView>,
    /// Whether nothing was stored.
    validate_only: bool,
    /// With `revoke --shred`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keks_to_destroy: Vec<KekView>,
    /// With `suspend` and `revoke`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outstanding_tokens: Option<ExposureView>,
}

#[derive(Serialize)]
struct Listing {
    organizations: Vec<OrganizationView>,
}

pub(super) async fn run(
    options: &Options,
    command: OrganizationCommand,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    // What can be refused here is refused before anything is sent.
    match command {
        OrganizationCommand::Register(arguments) => register(options, *arguments, console).await,
        OrganizationCommand::List { labels } => list(options, labels, console).await,
        OrganizationCommand::Get { organization_id } => {
            let operator = operator(options).await?;
            let organization = current(&operator, &organization_id).await?;
            let view = OrganizationView::from(organization);
            match options.output {
                Output::Json => console.json(&view),
                Output::Table | Output::Token => view.table().write(console.out).map_err(Error::Io),
            }
        }
        OrganizationCommand::Update(arguments) => update::update(options, arguments, console).await,
        OrganizationCommand::Rotate(arguments) => rotate(options, *arguments, console).await,
        OrganizationCommand::Suspend(arguments) => {
            suspension::suspend(options, arguments, console).await
        }
        OrganizationCommand::Resume(arguments) => {
            suspension::resume(options, arguments, console).await
        }
        OrganizationCommand::Revoke(arguments) => revoke(options, arguments, console).await,
    }
}

async fn register(
    options: &Options,
    arguments: RegisterArguments,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let credential = arguments.credential.read(console.input)?;
    let request_id = arguments.request.request_id;
    let request = RegisterOrganizationRequest {
        request_id: request_id.clone(),
        organization_id: arguments.organization_id.unwrap_or_default(),
        display_name: arguments.display_name,
        tenant: arguments.tenant,
        cloud: Cloud::from(arguments.cloud).into(),
        client_id: arguments.client_id,
        credential: Some(credential),
        sharepoint_root_host: arguments.sharepoint_root_host,
        sharepoint_hosts: arguments.sharepoint_hosts,
        validate_only: arguments.validate_only,
        labels: arguments.labels.map()?,
    };
    let operator = operator(options).await?;
    let again = format!("--request-id {request_id}");
    let response = operator.register(request).await;
    let response = response.map_err(|error| Error::from(error).or_again(&again))?;
    report(
        options,
        response.organization,
        response.warnings,
        arguments.validate_only,
        console,
    )
}

async fn list(
    options: &Options,
    labels: LabelArguments,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let labels = labels.map()?;
    let operator = operator(options).await?;
    let mut organizations = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListOrganizationsRequest {
            page_size: PAGE_SIZE,
            page_token,
            labels: labels.clone(),
        };
        let page = operator.list_page(request).await?;
        organizations.extend(page.organizations.into_iter().map(OrganizationView::from));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    // The broker's order is stable, but means nothing to people.
    organizations.sort_by(|a, b| a.organization_id.cmp(&b.organization_id));
    match options.output {
        Output::Json => console.json(&Listing { organizations }),
        Output::Table | Output::Token => view::list_table(&organizations)
            .write(console.out)
            .map_err(Error::Io),
    }
}

async fn rotate(
    options: &Options,
    arguments: RotateArguments,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let credential = arguments.credential.read(console.input)?;
    let operator = operator(options).await?;
    let revision = revision(&operator, &arguments.organization_id, arguments.revision).await?;
    let again = again(revision, &arguments.request);
    let response = operator.rotate(RotateCredentialRequest {
        request_id: arguments.request.request_id,
        organization_id: arguments.organization_id,
        revision,
        credential: Some(credential),
        validate_only: arguments.validate_only,
        forget_tokens: arguments.forget_tokens,
    });
    let response = response
        .await
        .map_err(|error| Error::from(error).or_again(&again))?;
    report(
        options,
        response.organization,
        response.warnings,
        arguments.validate_only,
        console,
    )
}

async fn revoke(
    options: &Options,
    arguments: RevokeArguments,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let organization_id = arguments.organization_id;
    if !arguments.yes {
        return Err(Error::usage(format!(
            "this would revoke `{organization_id}` for good: its credential is erased, it gets no \
             more tokens, and those that workers hold live until they end; repeat with `--yes`"
        )));
    }
    let operator = operator(options).await?;
    let revision = revision(&operator, &organization_id, arguments.revision).await?;
    let again = again(revision, &arguments.request);
    let response = operator.revoke(RevokeOrganizationRequest {
        request_id: arguments.request.request_id,
        organization_id,
        revision,
        shred: arguments.shred,
    });
    let response = response
        .await
        .map_err(|error| Error::from(error).or_again(&again))?;
    let change = Change {
        organization: complete(response.organization)?.into(),
        warnings: Vec::new(),
        validate_only: false,
        keks_to_destroy: response
            .keks_to_destroy
            .into_iter()
            .map(KekView::from)
            .collect(),
        outstanding_tokens: response.outstanding_tokens.map(ExposureView::from),
    };
    write(options, &change, console)?;
    if arguments.shred {
        let held = "what the broker had of it opens no more, but in copies of the store and backups from before, \
                    for whoever has them and the KEK of their time";
        console.remark("note", held)?;
    }
    for kek in &change.keks_to_destroy {
        console.remark("to do", &kek.remedy(None))?;
    }
    Ok(())
}

async fn operator(options: &Options) -> Result<Operator, Error> {
    Ok(Operator::connect(&connection(options)?).await?)
}

/// The revision that a change is to be of: the one that was given, or whichever is the current one.
async fn revision(
    operator: &Operator,
    organization_id: &str,
    given: Option<u64>,
) -> Result<u64, Error> {
    match given {
        Some(revision) => Ok(revision),
        None => Ok(current(operator, organization_id).await?.revision),
    }
}

/// The organization as it is now.
async fn current(operator: &Operator, organization_id: &str) -> Result<Organization, Error> {
    let request = GetOrganizationRequest {
        organization_id: organization_id.to_owned(),
    };
    let organization = operator.get(request).await?.organization;
    Ok(organization.ok_or_else(|| client::Error::incomplete_answer("organization"))?)
}

/// The revision belongs to the request: read anew, it would make another request of it.
fn again(revision: u64, request: &RequestArguments) -> String {
    format!("--revision {revision} --request-id {}", request.request_id)
}

/// The organization that every answer to a change has.
fn complete(organization: Option<Organization>) -> Result<Organization, Error> {
    Ok(organization.ok_or_else(|| client::Error::incomplete_answer("organization"))?)
}

/// Writes a change as it was asked for.
fn write(options: &Options, change: &Change, console: &mut Console<'_>) -> Result<(), Error> {
    match options.output {
        Output::Json => console.json(change)?,
        Output::Table | Output::Token => {
            let table = change.organization.table();
            table.write(console.out).map_err(Error::Io)?;
        }
    }
    let Some(exposure) = &change.outstanding_tokens else {
        return Ok(());
    };
    if options.output != Output::Json {
        exposure.write(console)?;
    }
    for note in exposure.notes() {
        console.remark("note", &note)?;
    }
    Ok(())
}

/// Writes what a change led to.
fn report(
    options: &Options,
    organization: Option<Organization>,
    warnings: Vec<Warning>,
    validate_only: bool,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let change = Change {
        organization: complete(organization)?.into(),
        warnings: warnings.into_iter().map(WarningView::from).collect(),
        validate_only,
        keks_to_destroy: Vec::new(),
        outstanding_tokens: None,
    };
    write(options, &change, console)?;
    for warning in &change.warnings {
        console.remark("warning", &warning.message)?;
    }
    if validate_only {
        console.remark("note", "everything was checked and nothing was stored")?;
    }
    Ok(())
}
