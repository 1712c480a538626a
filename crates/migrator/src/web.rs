//! What the daemon serves: the dashboard, the API, metrics, health.
//!
//! Every request passes the [`gate`] first. Answers are never cached and never shown in a frame, and the page may load
//! nothing but itself.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::daemon::Daemon;
use crate::metrics::{Exporter, names};
use crate::web::answer::Problem;
use crate::web::gate::Gate;
use crate::web::totals::Totals;

mod answer;
mod api;
mod events;
pub mod gate;
mod page;
mod totals;

/// Longest body of a request: a few names.
const BODY_LIMIT: usize = 1 << 20;

/// The API's description, as it is served.
pub const OPENAPI: &str = include_str!("web/openapi.json");

/// What is served, and to whom. A clone shares it.
#[derive(Clone, Debug)]
pub struct Site {
    daemon: Daemon,
    exporter: Exporter,
    gate: Arc<Gate>,
    totals: Arc<Totals>,
    /// Held while a report is made.
    reporting: Arc<tokio::sync::Mutex<()>>,
    closing: CancellationToken,
}

impl Site {
    /// Makes a site; its streams end when `closing` is cancelled.
    pub fn new(daemon: Daemon, exporter: Exporter, gate: Arc<Gate>, closing: CancellationToken) -> Self {
        let (totals, reporting) = (Arc::default(), Arc::default());
        Self { daemon, exporter, gate, totals, reporting, closing }
    }
}

/// Serves until the site is closed.
///
/// # Errors
/// The listener failed.
pub async fn serve(site: Site, listener: TcpListener) -> std::io::Result<()> {
    let closing = site.closing.clone();
    axum::serve(listener, router(site)).with_graceful_shutdown(closing.cancelled_owned()).await
}

/// A route, as the description has it.
type Route = (&'static str, &'static str, MethodRouter<Site>);

/// All routes.
fn routes() -> Vec<Route> {
    vec![
        ("get", "/", get(page::page)),
        ("get", "/healthz", get(healthz)),
        ("get", "/readyz", get(readyz)),
        ("get", "/metrics", get(metrics)),
        ("get", "/api/v1/openapi.json", get(openapi)),
        ("get", "/api/v1/jobs", get(api::jobs)),
        ("get", "/api/v1/jobs/{job}", get(api::job)),
        ("post", "/api/v1/jobs/{job}/run", post(api::run)),
        ("post", "/api/v1/jobs/{job}/cancel", post(api::cancel)),
        ("post", "/api/v1/jobs/{job}/retry", post(api::retry)),
        ("get", "/api/v1/runs", get(api::runs)),
        ("get", "/api/v1/runs/{job}/{run}", get(api::report)),
        ("get", "/api/v1/runs/{job}/{run}/report.html", get(api::page)),
        ("get", "/api/v1/failures", get(api::failures)),
        ("get", "/api/v1/files/{id}", get(api::file)),
        ("get", "/api/v1/events", get(events::events)),
    ]
}

fn router(site: Site) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, (_, path, method)| {
        // An id has slashes.
        router.route(&path.replace("{id}", "{*id}"), method)
    });
    router
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing here").into_response())
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here").into_response()
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(site.clone(), guard))
        .with_state(site)
}

/// Lets through what the gate lets through, and marks every answer.
async fn guard(State(site): State<Site>, request: Request<Body>, next: Next) -> Response {
    let mutates = !matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = match site.gate.check(mutates, request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            metrics::counter!(names::HTTP_REFUSED, "reason" => refused.as_str()).increment(1);
            tracing::warn!(reason = refused.as_str(), path = request.uri().path(), "a request is refused");
            refused.into_response()
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // The page has its own.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(site): State<Site>) -> Response {
    if site.daemon.is_well() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping, or the scheduler hangs\n").into_response()
    }
}

async fn metrics(State(site): State<Site>) -> Response {
    let text = site.exporter.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What is served is described, and what is described is served.
    #[test]
    fn the_description_has_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
                methods.map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
            })
            .collect();
        let served: BTreeSet<_> =
            routes().into_iter().map(|(method, path, _)| (method.to_owned(), path.to_owned())).collect();
        assert_eq!(described, served);
    }
}
