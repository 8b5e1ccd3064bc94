//! References: uploaded, shown, and shown as the model sees them.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Path, Query, cached};
use crate::app::{Shared, blocking};
use crate::body::{Json, check_type, read};
use crate::error::{ApiError, Result};
use crate::job::Reference;

pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(add)).routes(routes!(whole)).routes(routes!(preview))
}

/// Uploads a reference. The same file has the same id.
#[utoipa::path(
    post, path = "/api/references", tag = "references",
    request_body(
        description = "A PNG, JPEG, WebP, BMP, GIF or TIFF file",
        content(
            ([u8] = "image/png"), ([u8] = "image/jpeg"), ([u8] = "image/webp"), ([u8] = "image/bmp"), ([u8] = "image/gif"),
            ([u8] = "image/tiff"), ([u8] = "application/octet-stream"),
        ),
    ),
    responses((status = 201, description = "It is here", body = Reference)),
)]
async fn add(State(app): State<Shared>, request: Request) -> Result<Response> {
    let is_taken = |kind: &str| kind.starts_with("image/") || matches!(kind, "" | "application/octet-stream");
    check_type(request.headers(), "that of a picture (image/png …) or application/octet-stream", is_taken)?;
    let bytes = read(request, app.limits.upload_bytes as usize, "the picture").await?;
    let reference = app.references.add(bytes).await?;
    Ok((StatusCode::CREATED, Json(reference)).into_response())
}

/// A reference as PNG, upright.
#[utoipa::path(
    get, path = "/api/references/{id}", tag = "references",
    params(("id" = String, Path, pattern = "^[0-9a-f]{64}$")),
    responses(
        (status = 200, description = "The picture", content_type = "image/png", body = [u8]),
        (status = 304, description = "What the client has still holds"),
    ),
)]
async fn whole(State(app): State<Shared>, Path(id): Path<String>, headers: HeaderMap) -> Result<Response> {
    let reference = find(&app, id).await?;
    let tag = reference.id.clone();
    let png = app.references.png(reference, None);
    cached(&headers, "image/png", &tag, async { png.await.map(Into::into) }).await
}

/// Among how many references it is seen, and how large.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PreviewQuery {
    /// How many references there are.
    #[param(minimum = 1, default = 1)]
    count: Option<usize>,
    /// Longer side that references are scaled to, in pixels; by default that of the model for this number.
    #[param(minimum = 16)]
    ref_size: Option<u32>,
}

/// A reference as the model will see it: scaled and cropped.
#[utoipa::path(
    get, path = "/api/references/{id}/preview", tag = "references",
    params(("id" = String, Path, pattern = "^[0-9a-f]{64}$"), PreviewQuery),
    responses(
        (status = 200, description = "The picture", content_type = "image/png", body = [u8]),
        (status = 304, description = "What the client has still holds"),
    ),
)]
async fn preview(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<PreviewQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let count = query.count.unwrap_or(1);
    let most = app.limits.references.max(1);
    if !(1..=most).contains(&count) {
        return Err(ApiError::field("count", count, format!("1 to {most}")));
    }
    let long_side = query.ref_size.unwrap_or_else(|| app.model.long_side(count));
    app.limits.check_ref_size(long_side)?;
    let reference = find(&app, id).await?;
    let tag = format!("{}-{long_side}", reference.id);
    let png = app.references.png(reference, Some(long_side));
    cached(&headers, "image/png", &tag, async { png.await.map(Into::into) }).await
}

async fn find(app: &Shared, id: String) -> Result<Reference> {
    let references = app.references.clone();
    blocking(move || references.find(&id)).await
}
