//! `org update`.

use clap::Args;
use prost_types::FieldMask;

use super::{
    Change, Options, RequestArguments, again, complete, current, label::LabelArguments, operator,
    write,
};
use crate::{
    cli::{Console, error::Error},
    pb::admin::v1::UpdateOrganizationRequest,
};

/// What to change.
#[derive(Debug, Args)]
pub struct UpdateArguments {
    /// Id of the organization.
    #[arg(value_name = "ORGANIZATION")]
    organization_id: String,
    /// Name for people.
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    #[command(flatten)]
    labels: LabelArguments,
    /// Key of a label that it is to have no more; may be repeated.
    #[arg(long = "remove-label", value_name = "KEY")]
    removed: Vec<String>,
    /// Revision that must still be the current one. Left out: whichever is.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    #[command(flatten)]
    request: RequestArguments,
}

pub(super) async fn update(
    options: &Options,
    arguments: UpdateArguments,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let added = arguments.labels.map()?;
    let mut paths = Vec::new();
    if arguments.display_name.is_some() {
        paths.push("display_name".to_owned());
    }
    if !added.is_empty() || !arguments.removed.is_empty() {
        paths.push("labels".to_owned());
    }
    if paths.is_empty() {
        return Err(Error::usage(
            "say what to change with `--display-name`, `--label` or `--remove-label`",
        ));
    }
    if let Some(key) = arguments
        .removed
        .iter()
        .find(|key| added.contains_key(*key))
    {
        return Err(Error::usage(format!(
            "`{key}` cannot be both set and removed; leave one of them out"
        )));
    }
    let operator = operator(options).await?;
    let mut organization = current(&operator, &arguments.organization_id).await?;
    let revision = arguments.revision.unwrap_or(organization.revision);
    // What it has stays. If the change was made before, this makes the same request of it once more.
    let mut labels = std::mem::take(&mut organization.labels);
    labels.retain(|key, _| !arguments.removed.contains(key));
    labels.extend(added);
    if !paths.iter().any(|path| path == "labels") {
        labels.clear();
    }
    let again = again(revision, &arguments.request);
    let response = operator.update(UpdateOrganizationRequest {
        request_id: arguments.request.request_id,
        organization_id: arguments.organization_id,
        revision,
        update_mask: Some(FieldMask { paths }),
        display_name: arguments.display_name.unwrap_or_default(),
        labels,
    });
    let response = response
        .await
        .map_err(|error| Error::from(error).or_again(&again))?;
    let change = Change {
        organization: complete(response.organization)?.into(),
        warnings: Vec::new(),
        validate_only: false,
        keks_to_destroy: Vec::new(),
        outstanding_tokens: None,
    };
    write(options, &change, console)
}
