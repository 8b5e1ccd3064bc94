//! One error type for everything that goes over HTTP, in the form of OpenAI's errors.

use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::body::Json;
use crate::connections::Crowd;
use crate::disk::Unwritable;
use crate::store::StoreError;

/// Shorthand for results of handlers.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// What a client is told instead of what it asked for.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<String>,
    retry_after: Option<u64>,
}

/// An error as JSON.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorDetails,
}

/// What is in an error.
#[derive(Serialize, ToSchema)]
pub struct ErrorDetails {
    /// What was got, what was wanted, and how to mend it.
    message: String,
    /// Its kind.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field at fault.
    #[schema(required = true)]
    param: Option<String>,
    /// Always null.
    #[schema(required = true)]
    code: Option<String>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, retry_after: None }
    }

    /// What is asked cannot be done, because of this field.
    pub fn field(param: impl Into<String>, got: impl Display, wanted: impl Display) -> Self {
        let param = param.into();
        Self::invalid(format!("{param}: got {got}, wanted {wanted}")).with_param(param)
    }

    /// What is asked cannot be done.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// The queue is full; there is room in so many seconds.
    pub fn queue_is_full(jobs: usize, seconds: u64) -> Self {
        let message = format!("the queue is full ({jobs} jobs wait); try again in {seconds} s");
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// The client has no ordinary connection, for this reason.
    pub fn too_many_connections(crowd: Crowd) -> Self {
        let (status, message) = match crowd {
            Crowd::Server => {
                (StatusCode::SERVICE_UNAVAILABLE, "too many connections are open; try again soon")
            }
            Crowd::Address => {
                (StatusCode::TOO_MANY_REQUESTS, "too many connections from your address are open; close some")
            }
        };
        Self { retry_after: Some(1), ..Self::new(status, message) }
    }

    /// The server takes no more jobs.
    pub fn is_stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping; try again when it is back")
    }

    /// Something inside the server failed; its log has the details, the client does not.
    pub fn internal(what: impl Display) -> Self {
        error!("{what}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed at this; its log says why")
    }

    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    #[cfg(test)]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }
}

/// The kind of error, as OpenAI names them.
fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::CONFLICT => "conflict_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, message, param, retry_after } = self;
        let body = ErrorBody { error: ErrorDetails { message, kind: kind(status), param, code: None } };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<uno_models::Error> for ApiError {
    fn from(error: uno_models::Error) -> Self {
        match &error {
            uno_models::Error::Request { field, .. } => Self::invalid(error.to_string()).with_param(field),
            uno_models::Error::Picture { .. } => Self::invalid(error.to_string()),
            _ => Self::internal(error),
        }
    }
}

impl From<Unwritable> for ApiError {
    fn from(error: Unwritable) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unwritable(error) => error.into(),
            StoreError::Database(_) => Self::internal(error),
        }
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error)
    }
}

impl From<getrandom::Error> for ApiError {
    fn from(error: getrandom::Error) -> Self {
        Self::internal(format_args!("no random numbers: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_they_are() {
        let response = ApiError::queue_is_full(3, 42).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "42");
        let response = ApiError::new(StatusCode::UNAUTHORIZED, "").into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn errors_of_requests_name_their_field() {
        let error = ApiError::from(uno_models::Error::request("width", 0, "16 to 8192 pixels"));
        assert_eq!((error.status(), error.param()), (StatusCode::BAD_REQUEST, Some("width")));
        let error = ApiError::from(uno_models::Error::checkpoint("DiT", "secret path"));
        assert_eq!(error.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!error.message().contains("secret"), "{}", error.message());
    }
}
