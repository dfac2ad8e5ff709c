//! The tokens of an organization that workers hold still.

use serde::Serialize;

use crate::{
    cli::{Console, error::Error, name, table::Table, value},
    pb::admin::v1::{OutstandingTokens, TokenHolder},
};

/// What is out there, in JSON.
#[derive(Debug, Serialize)]
pub(super) struct ExposureView {
    count: u64,
    last_expire_time: Option<String>,
    holders: Vec<HolderView>,
    truncated: bool,
    since: Option<String>,
}

#[derive(Debug, Serialize)]
struct HolderView {
    resource: String,
    sharepoint_host: Option<String>,
    caller: String,
    count: u64,
    last_expire_time: Option<String>,
}

impl ExposureView {
    /// Writes a row for each holder, if there are any.
    pub(super) fn write(&self, console: &mut Console<'_>) -> Result<(), Error> {
        if self.holders.is_empty() {
            return Ok(());
        }
        let header = ["held by", "resource", "host", "tokens", "last one ends"];
        let mut table = Table::with_header(&header);
        for holder in &self.holders {
            table.push([
                &holder.caller,
                &holder.resource,
                holder.sharepoint_host.as_deref().unwrap_or_default(),
                &holder.count.to_string(),
                holder.last_expire_time.as_deref().unwrap_or_default(),
            ]);
        }
        writeln!(console.out).map_err(Error::Io)?;
        table.write(console.out).map_err(Error::Io)
    }

    /// What to know of it.
    pub(super) fn notes(&self) -> Vec<String> {
        let since = self.since.as_deref().unwrap_or("its start");
        let mut notes = vec![match &self.last_expire_time {
            Some(end) => format!(
                "tokens that workers hold work until they end, the last of those that this broker handed \
                 out at {end}"
            ),
            None => "this broker has handed out no token that works still".to_owned(),
        }];
        if self.truncated {
            notes.push(format!(
                "not all holders are listed; there are at most {} tokens, and the audit log has each",
                self.count
            ));
        }
        notes.push(format!(
            "what was handed out before {since}, or by other replicas, is in their audit logs"
        ));
        notes
    }
}

impl From<OutstandingTokens> for ExposureView {
    fn from(tokens: OutstandingTokens) -> Self {
        Self {
            count: tokens.count,
            last_expire_time: tokens.last_expire_time.as_ref().map(value::show_time),
            holders: tokens.holders.into_iter().map(HolderView::from).collect(),
            truncated: tokens.truncated,
            since: tokens.since.as_ref().map(value::show_time),
        }
    }
}

impl From<TokenHolder> for HolderView {
    fn from(holder: TokenHolder) -> Self {
        Self {
            resource: name::resource(holder.resource),
            sharepoint_host: Some(holder.sharepoint_host).filter(|host| !host.is_empty()),
            caller: holder.caller,
            count: holder.count,
            last_expire_time: holder.last_expire_time.as_ref().map(value::show_time),
        }
    }
}
