//! What handlers share, and the way of a request through them.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state, map_request, map_response};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, watch};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::info;

use crate::error::{ApiError, Result};
use crate::guard::{self, Guard};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::queue::Queue;
use crate::references::References;
use crate::routes;
use crate::settings::Limits;
use crate::store::Store;
use crate::{connections, drain};

/// What handlers share.
pub struct App {
    pub queue: Arc<Queue>,
    pub store: Arc<Store>,
    pub references: Arc<References>,
    pub model: Arc<Model>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub guard: Guard,
    /// True once connections are to be ended.
    pub closing: watch::Receiver<bool>,
    /// One permit for each event stream.
    pub streams: Arc<Semaphore>,
}

/// The state of all handlers.
pub type Shared = Arc<App>;

/// All routes. A request goes from the outermost layer, which is the last here, to its handler.
pub fn router(app: Shared) -> Router {
    routes::all()
        .fallback(async || ApiError::not_found("no such path; docs/serving.md and /openapi.json list them"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "another method is wanted; `Allow` says which")
        })
        .layer(from_fn_with_state(app.clone(), guard::check))
        .layer(from_fn(connections::answer_in_a_crowd))
        .layer(map_request(drain::rest))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(map_response(guard::add_headers))
        .layer(from_fn_with_state(app.clone(), record))
        .with_state(app)
}

/// Counts and logs a request. What it asks for is private and not logged.
async fn record(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let path = path.unwrap_or_else(|| "other".to_owned());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    app.metrics.request_answered(method.as_str(), &path, status);
    info!(%method, path, status, ms = start.elapsed().as_millis() as u64, "request");
    response
}

fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    ApiError::internal(format_args!("a handler panicked: {text}")).into_response()
}

/// Runs what waits for the disk on a thread that may.
///
/// # Errors
///
/// What `f` returns.
pub async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(ApiError::internal)?
}
