//! The document that describes the API, made from the handlers themselves.

use std::sync::Arc;

use axum::Extension;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{cached, page};
use crate::app::Shared;
use crate::error::{ErrorBody, Result};

/// The document.
#[derive(Clone)]
pub struct Document(pub Arc<str>);

pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(openapi))
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "server",
    responses(
        (status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = serde_json::Value),
        (status = 304, description = "What the client has still holds"),
    ),
)]
async fn openapi(Extension(document): Extension<Document>, headers: HeaderMap) -> Result<Response> {
    let bytes = Bytes::copy_from_slice(document.0.as_bytes());
    cached(&headers, "application/json", concat!("openapi-", env!("CARGO_PKG_VERSION")), async { Ok(bytes) })
        .await
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "uno-web",
        description = "Pictures of the subjects in reference pictures, as a prompt describes. docs/serving.md has the whole.",
    ),
    components(schemas(ErrorBody))
)]
struct Shell;

/// The document over the routes that are described by `api`.
pub fn document(api: utoipa::openapi::OpenApi) -> String {
    let mut whole = Shell::openapi();
    whole.merge(api);
    let mut json = serde_json::to_value(&whole).unwrap_or(Value::Null);
    json["components"]["securitySchemes"] = json!({ "token": { "type": "http", "scheme": "bearer" } });
    let paths = json["paths"].as_object_mut().into_iter().flatten();
    for (path, operations) in paths {
        let is_open = page::is_part(path) || matches!(path.as_str(), "/health" | "/openapi.json");
        for (_, operation) in operations.as_object_mut().into_iter().flatten() {
            if !operation.is_object() {
                continue;
            }
            operation["security"] = if is_open { json!([]) } else { json!([{}, { "token": [] }]) };
            // Whatever else comes is an error of this form.
            operation["responses"]["default"] = json!({
                "description": "An error",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } },
            });
        }
    }
    json.to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_route_is_described_with_its_errors() {
        let (_, api) = super::super::described().split_for_parts();
        let json: serde_json::Value = serde_json::from_str(&super::document(api)).unwrap();
        let paths = json["paths"].as_object().unwrap();
        for path in [
            "/api/jobs",
            "/api/jobs/{id}/events",
            "/v1/images/edits",
            "/openapi.json",
            "/metrics",
            "/api/plan",
        ] {
            assert!(paths.contains_key(path), "{path} in {:?}", paths.keys());
        }
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(operation["responses"]["default"].is_object(), "{method} {path}");
                assert!(operation["summary"].is_string(), "{method} {path}");
            }
        }
        assert!(json["components"]["schemas"]["ErrorBody"].is_object());
    }
}
