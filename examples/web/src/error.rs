//! One error type for everything that goes over HTTP, in the form of OpenAI's errors.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Shorthand for results of handlers.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// A request that got no answer but this.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    retry_after: Option<u64>,
}
