//! `POST /{tenant}/oauth2/v2.0/token`, the client credentials grant.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{self, ConnectInfo, FromRequest as _, Path, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Shared,
    access_token::{AuthenticationClass, Grant},
    assertion::Expected,
    directory::{Application, Standing, Tenant},
    error_response::{Rejection, Trace, client_request_id},
    fault::{Course, Endpoint},
    journal::{Authentication, Request},
    server::Peer,
    token_request::{ClientProof, TokenRequest},
};

use crate::clock::Clock;

/// Names that stand for many tenants, which this grant does not have.
const SHARED_TENANTS: &[&str] = &["common", "organizations", "consumers"];

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(tenant_name): Path<String>,
    request: extract::Request,
) -> Response {
    let headers = request.headers().clone();
    let trace = Trace::new(&headers);
    let tenant = shared.script_key(&tenant_name);
    let unread = shared.faults.meet_unread(tenant, Endpoint::Token, &peer);
    unread.await;
    // A body that breaks off or is too long counts as none.
    let body = Bytes::from_request(request, &()).await.unwrap_or_default();
    let request = TokenRequest::parse(&headers, &body);
    shared
        .journal
        .record(journal_entry(&tenant_name, &headers, &request));

    let met = shared.faults.meet(tenant, Endpoint::Token, &peer);
    let (course, delivery) = met.await;
    let answer = match course {
        Course::Answer(response) => response,
        Course::Reject(rejection) => rejection.into_response(&trace, &shared.authority),
        Course::Proceed(alteration) => {
            let granted = grant(&shared, &tenant_name, &request);
            match granted.and_then(|grant| token_answer(&shared, &grant)) {
                Ok(body) => trace.answer(StatusCode::OK, alteration.apply(body)),
                Err(rejection) => rejection.into_response(&trace, &shared.authority),
            }
        }
    };
    delivery.send(answer, peer).await
}

fn journal_entry(tenant_name: &str, headers: &HeaderMap, request: &TokenRequest) -> Request {
    Request {
        time: Clock::system().now(),
        tenant: tenant_name.into(),
        client_id: request.client_id().map(Into::into),
        scope: request.parameter("scope").map(Into::into),
        claims: request.parameter("claims").map(Into::into),
        authentication: match request.proof() {
            Ok(ClientProof::Secret(_)) => Authentication::Secret,
            Ok(ClientProof::Assertion(assertion)) => Authentication::Assertion {
                algorithm: assertion.algorithm().map(Into::into),
                id: assertion.id().map(Into::into),
            },
            Err(_) => Authentication::None,
        },
        client_request_id: client_request_id(headers),
        has_cookie: headers.contains_key(header::COOKIE),
    }
}

/// Decides on a request by the state of the directory now.
fn grant(shared: &Shared, tenant_name: &str, request: &TokenRequest) -> Result<Grant, Rejection> {
    if SHARED_TENANTS.contains(&tenant_name) {
        return Err(Rejection::shared_endpoint());
    }
    // A GUID or a domain; what is neither cannot be looked up at all.
    if Uuid::try_parse(tenant_name).is_err() && !tenant_name.contains('.') {
        return Err(Rejection::malformed_tenant(tenant_name));
    }
    let unknown = || Rejection::unknown_tenant(tenant_name);
    let tenant = shared.directory.resolve(tenant_name).ok_or_else(unknown)?;
    let identifier = request.resource()?;
    let audiences = shared.token_endpoints(&[tenant_name, &tenant.to_string()]);
    shared
        .directory
        .read(tenant, |tenant| {
            grant_in(tenant, &audiences, request, identifier)
        })
        // Removed in between.
        .unwrap_or_else(|| Err(unknown()))
}

fn grant_in(
    tenant: &Tenant,
    audiences: &[String],
    request: &TokenRequest,
    identifier: &str,
) -> Result<Grant, Rejection> {
    let client_id = request
        .client_id()
        .ok_or_else(|| Rejection::missing_parameter("client_id"))?;
    let application = Uuid::try_parse(client_id)
        .ok()
        .and_then(|id| tenant.application(id))
        .ok_or_else(|| Rejection::unknown_application(client_id, &tenant.display_name()))?;
    let authentication = authenticate(application, audiences, request.proof()?)?;
    match application.standing {
        Standing::Active => {}
        Standing::Disabled => {
            return Err(Rejection::disabled_application(application.client_id));
        }
        Standing::Blocked => return Err(Rejection::blocked_by_conditional_access()),
    }
    let resource = tenant
        .resource(identifier)
        .ok_or_else(|| Rejection::unknown_resource(identifier, &tenant.display_name()))?;
    Ok(Grant {
        tenant: tenant.id,
        client_id: application.client_id,
        service_principal_id: application.service_principal_id,
        resource,
        identifier: identifier.into(),
        roles: application.roles(resource),
        authentication,
        lifetime: tenant.draw_token_lifetime(),
        refresh_after: tenant.refresh_after,
    })
}

fn authenticate(
    application: &Application,
    audiences: &[String],
    proof: ClientProof,
) -> Result<AuthenticationClass, Rejection> {
    let now = Clock::system().now();
    let client_id = application.client_id;
    match proof {
        ClientProof::Secret(value) => {
            let mut matching = application
                .secrets
                .iter()
                .filter(|secret| secret.matches(&value, now))
                .peekable();
            if matching.peek().is_none() {
                return Err(Rejection::wrong_secret(client_id));
            }
            if matching.all(|secret| secret.is_expired(now)) {
                return Err(Rejection::expired_secret(client_id));
            }
            Ok(AuthenticationClass::Secret)
        }
        ClientProof::Assertion(assertion) => {
            let expected = Expected {
                client_id,
                audiences,
                now,
            };
            assertion.verify(&expected, &application.certificates)?;
            Ok(AuthenticationClass::Certificate)
        }
    }
}

fn token_answer(shared: &Shared, grant: &Grant) -> Result<Value, Rejection> {
    let token = shared.signing_key.issue(grant, Clock::system().now());
    let token = token.map_err(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Rejection::new(status, "server_error", 90_036, "The token was not signed.")
    })?;
    let seconds = grant.lifetime.as_secs();
    let mut answer = json!({
        "token_type": "Bearer",
        "expires_in": seconds,
        "ext_expires_in": seconds,
        "access_token": token,
    });
    if let Some(refresh_after) = grant.refresh_after {
        answer["refresh_in"] = refresh_after.as_secs().into();
    }
    Ok(answer)
}
