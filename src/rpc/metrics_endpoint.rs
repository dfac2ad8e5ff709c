//! `/metrics` for Prometheus, in plain text on a port of its own. Nothing in it is about one customer.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::StreamExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::listener::{PlainConnection, accept_plain};
use crate::metrics::{self, Metrics};

/// Connections at once, which anybody may open, and how long one may live.
const SCRAPERS_MAX: usize = 16;
const AGE_MAX: Duration = Duration::from_secs(600);
/// How long the head of a request may take, the first one or a later one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Serves the figures until `stop`.
pub fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) {
    let mut connections = accept_plain(listener, SCRAPERS_MAX, tasks, stop.clone());
    let served = tasks.clone();
    tasks.spawn(async move {
        while let Some(Ok(connection)) = connections.next().await {
            let serving = timeout(AGE_MAX, serve_one(connection, metrics.clone()));
            let stop = stop.clone();
            served.spawn(async move { stop.run_until_cancelled(serving).await });
        }
    });
}

async fn serve_one(connection: PlainConnection, metrics: Arc<Metrics>) {
    let service = service_fn(|request| {
        let answer = answer(&request, &metrics);
        async { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(connection), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the metrics broke");
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    } else {
        let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        *response.body_mut() = metrics.text().into();
    }
    response
}
