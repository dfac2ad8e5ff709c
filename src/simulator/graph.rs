//! The one call of Microsoft Graph that tells a tenant's SharePoint host.

use std::{sync::Arc, time::SystemTime};

use axum::{
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Shared,
    access_token::Claims,
    directory::Tenant,
    error_response::{Trace, rfc3339},
    fault::{Course, Endpoint},
    resource::Resource,
    server::Peer,
};

use crate::clock::Clock;

/// Each of these application permissions lets the root site be read.
const ROLES: &[&str] = &[
    "Sites.Read.All",
    "Sites.ReadWrite.All",
    "Sites.Manage.All",
    "Sites.FullControl.All",
];

/// `GET /v1.0/sites/root`; the answer has what `$select=webUrl,siteCollection` asks for.
pub(super) async fn root_site(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Response {
    let trace = Trace::new(&headers);
    let Some((tenant, claims)) = bearer(&shared, &headers) else {
        let message = "Access token validation failure.";
        return error(401, "InvalidAuthenticationToken", message);
    };
    let met = shared.faults.meet(Some(tenant), Endpoint::Graph, &peer);
    let (course, delivery) = met.await;
    let answer = match course {
        Course::Answer(response) => response,
        Course::Reject(rejection) => rejection.into_response(&trace, &shared.authority),
        Course::Proceed(alteration) => match described(&shared, tenant, &claims) {
            Ok(body) => trace.answer(StatusCode::OK, alteration.apply(body)),
            Err(refusal) => *refusal,
        },
    };
    delivery.send(answer, peer).await
}

/// The root site, as far as the token may see it.
fn described(shared: &Shared, tenant: Uuid, claims: &Claims) -> Result<Value, Box<Response>> {
    let of_tenant = |tenant: &Tenant| {
        (
            tenant.sharepoint_hosts.first().cloned(),
            tenant.tokens_valid_from,
        )
    };
    let (host, valid_from) = shared.directory.read(tenant, of_tenant).unwrap_or_default();
    if let Some(valid_from) = valid_from.filter(|from| claims.issued_at() < *from) {
        return Err(challenge(shared, valid_from).into());
    }
    if !claims.roles.iter().any(|role| ROLES.contains(&&**role)) {
        return Err(error(403, "accessDenied", "Access denied").into());
    }
    let Some(host) = host else {
        let message = "Tenant does not have a SPO license.";
        return Err(error(400, "BadRequest", message).into());
    };
    Ok(json!({
        "@odata.context":
            format!("{}graph/v1.0/$metadata#sites(webUrl,siteCollection)/$entity", shared.authority),
        "webUrl": format!("https://{host}"),
        "siteCollection": {"hostname": host, "root": {}},
    }))
}

/// What continuous access evaluation says of a token from before a revocation: a claims challenge
/// (OpenID Connect Core 1.0 §5.5), which the next token request is to pass on.
fn challenge(shared: &Shared, valid_from: SystemTime) -> Response {
    let seconds = valid_from.duration_since(SystemTime::UNIX_EPOCH);
    let not_before = seconds.unwrap_or_default().as_secs().to_string();
    let wanted = json!({"access_token": {"nbf": {"essential": true, "value": not_before}}});
    let wanted = STANDARD.encode(wanted.to_string());
    let header = format!(
        "Bearer realm=\"\", authorization_uri=\"{}common/oauth2/authorize\", \
         client_id=\"00000003-0000-0000-c000-000000000000\", error=\"insufficient_claims\", \
         claims=\"{wanted}\"",
        shared.authority
    );
    let mut response = error(
        401,
        "InvalidAuthenticationToken",
        "Continuous access evaluation resulted in challenge with result: InteractionRequired and \
         code: TokenIssuedBeforeRevocationTimestamp",
    );
    let header = HeaderValue::try_from(header).expect("base64 and URLs are visible ASCII");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, header);
    response
}

/// The tenant and the claims of the request's token, if it is ours, for Graph, and not ended.
fn bearer(shared: &Shared, headers: &HeaderMap) -> Option<(Uuid, Claims)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?;
    let claims = shared.signing_key.verify(token, Clock::system().now())?;
    let audience = Resource::of_identifier(&claims.aud, &[]);
    let tenant = Uuid::try_parse(&claims.tid).ok()?;
    (audience == Some(Resource::Graph)).then_some((tenant, claims))
}

/// An error in Graph's shape, which is not that of the token endpoint.
fn error(status: u16, code: &str, message: &str) -> Response {
    let body = json!({"error": {
        "code": code,
        "message": message,
        "innerError": {"date": rfc3339(Clock::system().now()).trim_end_matches('Z')},
    }});
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(body)).into_response()
}
