//! For those who look after the server: whether it takes requests, and what it has done.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Shared;
use crate::body::Json;
use crate::error::{ApiError, Result};

pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(metrics))
}

/// Whether jobs are taken.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`, or `stopping`.
    status: &'static str,
    /// The model's name.
    model: String,
    /// Version of the program.
    version: &'static str,
}

/// Whether jobs are taken.
#[utoipa::path(
    get, path = "/health", tag = "server",
    responses(
        (status = 200, description = "They are", body = Health),
        (status = 503, description = "The server is stopping", body = Health),
    ),
)]
async fn health(State(app): State<Shared>) -> Response {
    let is_stopping = app.queue.is_stopping();
    let (code, status) =
        if is_stopping { (StatusCode::SERVICE_UNAVAILABLE, "stopping") } else { (StatusCode::OK, "ok") };
    let model = app.model.name().to_owned();
    (code, Json(Health { status, model, version: env!("CARGO_PKG_VERSION") })).into_response()
}

/// Metrics for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "server",
    responses((status = 200, description = "In the text format of OpenMetrics", content_type = "application/openmetrics-text", body = String)),
)]
async fn metrics(State(app): State<Shared>) -> Result<Response> {
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = app.metrics.text().map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
