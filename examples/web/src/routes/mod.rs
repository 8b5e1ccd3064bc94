//! What is answered at which path.

mod health;
mod images;
mod jobs;
mod model;
mod openapi;
pub mod page;
mod references;
mod watch;

use std::future::Future;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use utoipa_axum::router::OpenApiRouter;

use crate::app::Shared;
use crate::body::named;
use crate::error::{ApiError, Result};
use crate::job::JobId;

/// All routes, with the document that describes them.
pub fn all() -> Router<Shared> {
    let (router, api) = described().split_for_parts();
    let document: Arc<str> = openapi::document(api).into();
    router.layer(Extension(openapi::Document(document)))
}

fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .merge(jobs::routes())
        .merge(watch::routes())
        .merge(references::routes())
        .merge(model::routes())
        .merge(images::routes())
        .merge(page::routes())
        .merge(health::routes())
        .merge(openapi::routes())
}

/// Parts of a path; one that does not fit leads to nothing.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|_| ApiError::not_found("there is nothing of this name"))
    }
}

/// The query after the path; an error names the field.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri).map_err(|error| {
            let text = error.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text).to_owned();
            match text.split_once(": ") {
                Some((path, _)) if path.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
                    ApiError::invalid(text.clone()).with_param(path)
                }
                _ => named(text),
            }
        })?;
        Ok(Self(query.0))
    }
}

/// The name of a job in a path.
///
/// # Errors
///
/// 404: what is no name is no name of a job.
fn job_id(text: &str) -> Result<JobId> {
    text.parse().map_err(|_| ApiError::not_found("no such job"))
}

/// An answer that a client may keep, if it asks each time whether it still holds: `tag` says what is in it, and the body is only
/// made for who has another one.
///
/// # Errors
///
/// What the body returns.
async fn cached(
    request: &HeaderMap,
    kind: &'static str,
    tag: &str,
    body: impl Future<Output = Result<Bytes>>,
) -> Result<Response> {
    let tag = format!("\"{tag}\"");
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body.await?).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).map_err(ApiError::internal)?);
    Ok(response)
}
