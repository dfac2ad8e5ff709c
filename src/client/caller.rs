//! Who a caller is to the broker.

use super::{ConnectionConfig, Error, connection::Connection};
use crate::pb::v1::{
    WhoAmIRequest, WhoAmIResponse, identity_service_client::IdentityServiceClient,
};

/// Asks the broker who it takes the caller for, on whose word, and what its policy grants.
///
/// # Errors
///
/// As [`Client::connect`](super::Client::connect), and as the comment of the RPC in
/// `identity_service.proto` tells.
pub async fn who_am_i(config: &ConnectionConfig) -> Result<WhoAmIResponse, Error> {
    let connection = Connection::open(config).await?;
    let mut service = IdentityServiceClient::new(connection.channel.clone());
    let response = service
        .who_am_i(connection.request(WhoAmIRequest {}))
        .await?;
    Ok(response.into_inner())
}
