//! The one call of Microsoft Graph that tells a tenant's SharePoint host.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Shared,
    access_token::Claims,
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
    let course = shared.faults.meet(Some(tenant), Endpoint::Graph, &peer);
    let alteration = match course.await {
        Course::Answer(response) => return response,
        Course::Reject(rejection) => return rejection.into_response(&trace, &shared.authority),
        Course::Proceed(alteration) => alteration,
    };
    if !claims.roles.iter().any(|role| ROLES.contains(&&**role)) {
        return error(403, "accessDenied", "Access denied");
    }
    let host = shared
        .directory
        .read(tenant, |tenant| tenant.sharepoint_hosts.first().cloned())
        .flatten();
    let Some(host) = host else {
        return error(400, "BadRequest", "Tenant does not have a SPO license.");
    };
    let body = json!({
        "@odata.context":
            format!("{}graph/v1.0/$metadata#sites(webUrl,siteCollection)/$entity", shared.authority),
        "webUrl": format!("https://{host}"),
        "siteCollection": {"hostname": host, "root": {}},
    });
    trace.answer(StatusCode::OK, alteration.apply(body))
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
