//! Errors in the shape of Entra: an OAuth 2.0 error (RFC 6749 §5.2) with an AADSTS number, and the
//! ids that its support asks for.

use std::{borrow::Cow, time::SystemTime};

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use prost_types::Timestamp;
use serde_json::json;
use url::Url;
use uuid::Uuid;

use super::certificate::Thumbprint;

use crate::clock::Clock;

/// Why the token endpoint gives no token.
#[derive(Debug, Clone)]
pub(super) struct Rejection {
    status: StatusCode,
    error: Cow<'static, str>,
    code: u32,
    text: String,
    suberror: Option<&'static str>,
    /// Beside those of every answer.
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What one answer can be found again by.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    trace_id: Uuid,
    /// The client's own `client-request-id`, if it sent one.
    correlation_id: Uuid,
    time: SystemTime,
}

// === impl Rejection ===

impl Rejection {
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<Cow<'static, str>>,
        code: u32,
        text: impl Into<String>,
    ) -> Self {
        Self {
            status,
            error: error.into(),
            code,
            text: text.into(),
            suberror: None,
            headers: Vec::new(),
        }
    }

    /// Adds a response header.
    pub(super) fn add_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.push((name, value));
    }

    /// The AADSTS number.
    #[cfg(test)]
    pub(super) fn code(&self) -> u32 {
        self.code
    }

    pub(super) fn into_response(self, trace: &Trace, authority: &Url) -> Response {
        let Self {
            status,
            error,
            code,
            text,
            suberror,
            headers,
        } = self;
        let timestamp = rfc3339(trace.time).replace('T', " ");
        let Trace {
            trace_id,
            correlation_id,
            ..
        } = trace;
        let mut body = json!({
            "error": error,
            "error_description": format!(
                "AADSTS{code}: {text}\r\nTrace ID: {trace_id}\r\n\
                 Correlation ID: {correlation_id}\r\nTimestamp: {timestamp}"
            ),
            "error_codes": [code],
            "timestamp": timestamp,
            "trace_id": trace_id.to_string(),
            "correlation_id": correlation_id.to_string(),
            "error_uri": format!("{authority}error?code={code}"),
        });
        if let Some(suberror) = suberror {
            body["suberror"] = suberror.into();
        }
        let mut response = trace.answer(status, body);
        response.headers_mut().extend(headers);
        response
    }

    fn bad_request(error: &'static str, code: u32, text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, code, text)
    }

    /// `invalid_client` is the one error that Entra answers with 401.
    fn invalid_client(code: u32, text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_client", code, text)
    }
}

/// Requests that are wrong in themselves.
impl Rejection {
    pub(super) fn missing_parameter(name: &str) -> Self {
        let text = format!("The request body must contain the following parameter: '{name}'.");
        Self::bad_request("invalid_request", 900_144, text)
    }

    pub(super) fn repeated_parameter(name: &str) -> Self {
        let text = format!("The request is not properly formatted. '{name}' is duplicated.");
        Self::bad_request("invalid_request", 9_000_411, text)
    }

    pub(super) fn resource_parameter() -> Self {
        let text = "The 'resource' request parameter is not supported.";
        Self::bad_request("invalid_request", 901_002, text)
    }

    pub(super) fn unsupported_grant_type(grant_type: &str) -> Self {
        let text = format!("The app requested an unsupported grant type '{grant_type}'.");
        Self::bad_request("unsupported_grant_type", 70_003, text)
    }

    pub(super) fn scope_without_default(scope: &str) -> Self {
        let text = format!(
            "The provided value for scope {scope} is not valid. Client credential flows must have \
             a scope value with /.default suffixed to the resource identifier."
        );
        Self::bad_request("invalid_scope", 1_002_012, text)
    }

    pub(super) fn several_scopes(scope: &str) -> Self {
        let text = format!(
            "The provided value for the input parameter 'scope' is not valid. The scope {scope} \
             is not valid."
        );
        Self::bad_request("invalid_scope", 70_011, text)
    }

    pub(super) fn malformed_tenant(tenant: &str) -> Self {
        let text = format!(
            "Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid \
             external domain."
        );
        Self::bad_request("invalid_request", 900_023, text)
    }

    pub(super) fn shared_endpoint() -> Self {
        let text = "The grant type is not supported over the /common or /consumers endpoints. \
                    Use a tenant-specific endpoint.";
        Self::bad_request("invalid_request", 9_001_023, text)
    }
}

/// Tenants, applications and resources that are not as the request thinks.
impl Rejection {
    pub(super) fn unknown_tenant(tenant: &str) -> Self {
        let text = format!(
            "Tenant '{tenant}' not found. Check that the tenant ID is correct and that the sign-in \
             goes to the right cloud."
        );
        Self::bad_request("invalid_request", 90_002, text)
    }

    /// The discovery document has a name of its own for an unknown tenant.
    pub(super) fn with_error(mut self, error: &'static str) -> Self {
        self.error = error.into();
        self
    }

    pub(super) fn unknown_application(client_id: &str, tenant: &str) -> Self {
        let text = format!(
            "Application with identifier '{client_id}' was not found in the directory '{tenant}'. \
             It may not have been installed by the administrator of the tenant, or the request \
             may have gone to the wrong tenant."
        );
        Self::bad_request("unauthorized_client", 700_016, text)
    }

    pub(super) fn disabled_application(client_id: Uuid) -> Self {
        let text = format!("Application '{client_id}' is disabled.");
        Self::bad_request("unauthorized_client", 7_000_112, text)
    }

    pub(super) fn blocked_by_conditional_access() -> Self {
        let text = "Access has been blocked by Conditional Access policies. The access policy \
                    does not allow token issuance.";
        Self {
            suberror: Some("message_only"),
            ..Self::bad_request("interaction_required", 53_003, text)
        }
    }

    pub(super) fn unknown_resource(identifier: &str, tenant: &str) -> Self {
        let text = format!(
            "The resource principal named {identifier} was not found in the tenant named {tenant}."
        );
        Self::bad_request("invalid_resource", 500_011, text)
    }
}

/// Clients that do not prove who they are.
impl Rejection {
    pub(super) fn unauthenticated() -> Self {
        let text = "The request body must contain the following parameter: 'client_assertion' or \
                    'client_secret'.";
        Self::invalid_client(7_000_218, text)
    }

    pub(super) fn wrong_secret(client_id: Uuid) -> Self {
        let text = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the \
             client secret value, not the client secret ID, for a secret added to app \
             '{client_id}'."
        );
        Self::invalid_client(7_000_215, text)
    }

    pub(super) fn expired_secret(client_id: Uuid) -> Self {
        let text = format!("The provided client secret keys for app '{client_id}' are expired.");
        Self::invalid_client(7_000_222, text)
    }

    pub(super) fn unknown_certificate(client_id: Uuid, thumbprint: &Thumbprint) -> Self {
        let text = format!(
            "The certificate with identifier used to sign the client assertion is not registered \
             on application '{client_id}'. [Reason - The key was not found., Thumbprint of key \
             used by client: '{thumbprint}']"
        );
        Self::invalid_client(700_027, text)
    }

    pub(super) fn bad_signature(thumbprint: &Thumbprint) -> Self {
        let text = format!(
            "Client assertion failed signature validation. [Reason - The provided signature value \
             did not match the expected signature value., Thumbprint of key used by client: \
             '{thumbprint}']"
        );
        Self::invalid_client(700_027, text)
    }

    pub(super) fn revoked_certificate(thumbprint: &Thumbprint) -> Self {
        let text = format!("The certificate with thumbprint '{thumbprint}' has been revoked.");
        Self::invalid_client(7_000_214, text)
    }

    pub(super) fn expired_certificate(thumbprint: &Thumbprint) -> Self {
        let text = format!(
            "The provided certificate with thumbprint '{thumbprint}' is not within its specified \
             lifetime."
        );
        Self::invalid_client(1_000_502, text)
    }

    pub(super) fn assertion_outside_its_time(now: &str, start: &str, end: &str) -> Self {
        let text = format!(
            "Client assertion is not within its valid time range. Current time: {now}, assertion \
             valid from {start}, expiry time of assertion {end}."
        );
        Self::invalid_client(700_024, text)
    }

    pub(super) fn foreign_assertion() -> Self {
        let text = "Client assertion application identifier doesn't match 'client_id' parameter.";
        Self::invalid_client(700_021, text)
    }

    pub(super) fn wrong_audience() -> Self {
        let text = "Client assertion audience claim does not match Realm issuer.";
        Self::invalid_client(700_023, text)
    }

    pub(super) fn malformed_jwt() -> Self {
        let text = "JWT token is invalid or malformed.";
        Self::bad_request("invalid_request", 50_027, text)
    }

    pub(super) fn missing_thumbprint() -> Self {
        let text = "Invalid JWT token. No certificate SHA-1 thumbprint, certificate SHA-256 \
                    thumbprint, nor keyId are specified in token header.";
        Self::bad_request("invalid_request", 5_002_723, text)
    }

    pub(super) fn unsupported_algorithm(algorithm: &str) -> Self {
        let text =
            format!("Invalid JWT token. '{algorithm}' is not a supported signature algorithm.");
        Self::bad_request("invalid_request", 5_002_738, text)
    }
}

// === impl Trace ===

impl Trace {
    pub(super) fn new(request: &HeaderMap) -> Self {
        Self {
            trace_id: Uuid::new_v4(),
            correlation_id: client_request_id(request).unwrap_or_else(Uuid::new_v4),
            time: Clock::system().now(),
        }
    }

    /// A JSON answer with the headers that Entra adds to every one.
    pub(super) fn answer(&self, status: StatusCode, body: serde_json::Value) -> Response {
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: String| {
            let value = HeaderValue::try_from(value);
            headers.insert(
                name,
                value.expect("ids and the texts below are visible ASCII"),
            );
        };
        set(header::CACHE_CONTROL, "no-store, no-cache".into());
        set(header::PRAGMA, "no-cache".into());
        set(
            HeaderName::from_static("x-ms-request-id"),
            self.trace_id.to_string(),
        );
        set(
            HeaderName::from_static("client-request-id"),
            self.correlation_id.to_string(),
        );
        set(
            HeaderName::from_static("x-ms-ests-server"),
            "2.1.0 - SIM ProdSlices".into(),
        );
        // Entra sets cookies here too, and a client that kept them would tie its tenants together.
        set(
            header::SET_COOKIE,
            format!("fpc={}; path=/; secure; HttpOnly", self.trace_id.simple()),
        );
        response
    }
}

/// The GUID by which the client wants to find the request in Entra's logs.
pub(super) fn client_request_id(request: &HeaderMap) -> Option<Uuid> {
    let value = request.get("client-request-id")?.to_str().ok()?;
    Uuid::try_parse(value).ok()
}

/// A time to the second, as RFC 3339 in UTC.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let mut timestamp = Timestamp::from(time);
    timestamp.nanos = 0;
    timestamp.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_to_the_second() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_123);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20Z");
    }

    #[tokio::test]
    async fn an_error_has_the_shape_of_entras() {
        let mut request = HeaderMap::new();
        let correlation_id = Uuid::new_v4();
        let value = correlation_id.to_string().parse().unwrap();
        request.insert("client-request-id", value);
        let authority = Url::parse("https://127.0.0.1:1").unwrap();
        let response = Rejection::wrong_secret(Uuid::new_v4())
            .into_response(&Trace::new(&request), &authority);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["cache-control"], "no-store, no-cache");
        let trace_id = response.headers()["x-ms-request-id"].clone();

        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"], "invalid_client");
        assert_eq!(body["error_codes"], json!([7_000_215]));
        assert_eq!(body["correlation_id"], json!(correlation_id.to_string()));
        assert_eq!(body["trace_id"], trace_id.to_str().unwrap());
        assert_eq!(body["error_uri"], "https://127.0.0.1:1/error?code=7000215");
        let lines: Vec<_> = body["error_description"]
            .as_str()
            .unwrap()
            .split("\r\n")
            .collect();
        assert!(lines[0].starts_with("AADSTS7000215: Invalid client secret"));
        assert_eq!(
            lines[1],
            format!("Trace ID: {}", trace_id.to_str().unwrap())
        );
        assert_eq!(lines[2], format!("Correlation ID: {correlation_id}"));
        assert_eq!(
            lines[3],
            format!("Timestamp: {}", body["timestamp"].as_str().unwrap())
        );
    }
}
