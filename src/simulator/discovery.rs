//! The OpenID Connect discovery document of a tenant and the key set it points to.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Shared,
    error_response::{Rejection, Trace},
    fault::{Course, Endpoint},
    server::Peer,
};

pub(super) async fn document(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(tenant_name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let content = |tenant: Uuid| {
        let authority = &shared.authority;
        json!({
            "token_endpoint": format!("{authority}{tenant}/oauth2/v2.0/token"),
            "token_endpoint_auth_methods_supported":
                ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "jwks_uri": format!("{authority}{tenant}/discovery/v2.0/keys"),
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "issuer": format!("{authority}{tenant}/v2.0"),
            "authorization_endpoint": format!("{authority}{tenant}/oauth2/v2.0/authorize"),
            "tenant_region_scope": "EU",
            "cloud_instance_name": "simulator",
        })
    };
    answer(&shared, &peer, &tenant_name, &headers, content).await
}

pub(super) async fn keys(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(tenant_name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let content = |_| shared.signing_key.key_set();
    answer(&shared, &peer, &tenant_name, &headers, content).await
}

async fn answer(
    shared: &Shared,
    peer: &Peer,
    tenant_name: &str,
    headers: &HeaderMap,
    content: impl FnOnce(Uuid) -> Value,
) -> Response {
    let trace = Trace::new(headers);
    let tenant = shared.script_key(tenant_name);
    let met = shared.faults.meet(tenant, Endpoint::Discovery, peer);
    let (course, delivery) = met.await;
    let answer = match course {
        Course::Answer(response) => response,
        Course::Reject(rejection) => rejection.into_response(&trace, &shared.authority),
        Course::Proceed(alteration) => match shared.directory.resolve(tenant_name) {
            Some(tenant) => trace.answer(StatusCode::OK, alteration.apply(content(tenant))),
            None => Rejection::unknown_tenant(tenant_name)
                .with_error("invalid_tenant")
                .into_response(&trace, &shared.authority),
        },
    };
    delivery.send(answer, peer.clone()).await
}
