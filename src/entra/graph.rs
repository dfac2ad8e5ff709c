//! The one thing that Microsoft Graph is asked: the tenant's SharePoint root host. The host cannot be
//! built from the tenant's domain, since tenants may rename it.

use serde::Deserialize;

use super::{Error, Trouble, client::THROTTLED, http::Answer};
use crate::organization::{Cloud, SharePointHost};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Site {
    site_collection: SiteCollection,
}

#[derive(Deserialize)]
struct SiteCollection {
    hostname: String,
}

/// Reads the host out of Graph's answer about the root site. It must be one of the cloud's SharePoint
/// hosts: a token is asked for whatever it names.
pub(super) fn root_host(cloud: Cloud, answer: Answer) -> Result<SharePointHost, Error> {
    let host = answer.host;
    if answer.status.as_u16() == 429 {
        return Err(Error::Throttled {
            retry_after: answer.retry_after.unwrap_or(THROTTLED),
        });
    }
    if answer.status.is_server_error() {
        return Err(Error::Unreachable {
            host,
            trouble: Trouble::Server,
            reason: format!("it answers {}", answer.status.as_u16()).into(),
            retry_after: answer.retry_after,
        });
    }
    let invalid = |reason| Error::AnswerInvalid {
        host: host.clone(),
        reason,
    };
    if !answer.status.is_success() {
        return Err(invalid("it does not tell the application its root site"));
    }
    let site: Site = serde_json::from_slice(&answer.body)
        .map_err(|_| invalid("its root site has no siteCollection.hostname"))?;
    SharePointHost::parse(&site.site_collection.hostname, cloud)
        .map_err(|_| invalid("its root site is on a host that is none of SharePoint"))
}
