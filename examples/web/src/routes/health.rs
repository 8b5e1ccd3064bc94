//! For those who look after the server: whether it takes requests, the state of its disk, and what it has done.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{Shared, blocking};
use crate::body::Json;
use crate::disk::Trouble;
use crate::error::{ApiError, Result};

pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(storage)).routes(routes!(metrics))
}

/// Whether jobs are taken.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`, `degraded` while the data folder cannot be written to, or `stopping`.
    status: &'static str,
    /// The model's name.
    model: String,
    /// Version of the program.
    version: &'static str,
    /// `ok`, or what keeps the data folder from being written to: `full`, `read_only`, `denied`, `failing`.
    storage: &'static str,
    /// Bytes that are free there; null where the system does not tell.
    #[schema(required = true)]
    free_bytes: Option<u64>,
}

/// Whether jobs are taken. Nothing is waited for: the disk is as of the last look, which is a second ago.
#[utoipa::path(
    get, path = "/health", tag = "server",
    responses(
        (status = 200, description = "They are", body = Health),
        (status = 503, description = "The server is stopping, or its data folder cannot be written to", body = Health),
    ),
)]
async fn health(State(app): State<Shared>) -> Response {
    let disk = app.store.disk();
    let trouble = disk.trouble();
    let (code, status) = match (app.queue.is_stopping(), &trouble) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (false, Some(_)) => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
        (false, None) => (StatusCode::OK, "ok"),
    };
    let health = Health {
        status,
        model: app.model.name().to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        storage: trouble.as_ref().map_or("ok", Trouble::name),
        free_bytes: disk.free(),
    };
    (code, Json(health)).into_response()
}

/// The disk under the data folder.
#[derive(Serialize, ToSchema)]
struct Storage {
    /// `ok`, or what keeps the data folder from being written to: `full`, `read_only`, `denied`, `failing`.
    status: &'static str,
    /// The data folder, as the server was given it.
    folder: String,
    /// Bytes that are free there; null where the system does not tell.
    #[schema(required = true)]
    free_bytes: Option<u64>,
    /// What is wrong and what to do about it; null if nothing is.
    #[schema(required = true)]
    message: Option<String>,
}

/// Whether the data folder can be written to.
#[utoipa::path(
    get, path = "/api/storage", tag = "server",
    responses((status = 200, description = "The state of the disk", body = Storage)),
)]
async fn storage(State(app): State<Shared>) -> Result<Json<Storage>> {
    let storage = blocking(move || {
        let disk = app.store.disk();
        let unwritable = disk.unwritable();
        Ok(Storage {
            status: unwritable.as_ref().map_or("ok", |unwritable| unwritable.trouble.name()),
            folder: disk.folder().display().to_string(),
            free_bytes: disk.free(),
            message: unwritable.map(|unwritable| unwritable.to_string()),
        })
    });
    storage.await.map(Json)
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
