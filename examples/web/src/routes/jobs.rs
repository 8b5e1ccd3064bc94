//! Jobs: asked for, listed, cancelled, removed, and their pictures.

use std::io::ErrorKind;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Path, Query, cached, job_id};
use crate::app::{Shared, blocking};
use crate::body::Json;
use crate::error::{ApiError, Result};
use crate::job::{Job, JobRequest};
use crate::settings::resolve;

/// Most jobs of one list.
const MOST: usize = 200;

pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(one, remove))
        .routes(routes!(cancel))
        .routes(routes!(picture))
}

/// Puts a job into the queue.
#[utoipa::path(
    post, path = "/api/jobs", tag = "jobs",
    request_body = JobRequest,
    responses((status = 202, description = "It is in the queue", body = Job, headers(("Location" = String, description = "Its address")))),
)]
async fn create(State(app): State<Shared>, Json(request): Json<JobRequest>) -> Result<Response> {
    let job = blocking(move || {
        let settings = resolve(request, &app.limits, &app.model, &app.references)?;
        app.queue.submit(settings, false)
    });
    let job = job.await?;
    let location = HeaderValue::from_str(&format!("/api/jobs/{}", job.id)).map_err(ApiError::internal)?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(job)).into_response())
}

/// Which jobs are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// How many at the most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// Only those that are older than this one.
    #[param(pattern = "^[0-9a-f]{32}$")]
    before: Option<String>,
}

/// Jobs, newest first.
#[derive(Serialize, ToSchema)]
struct JobList {
    /// The jobs.
    jobs: Vec<Job>,
    /// Whether there are older ones.
    more: bool,
}

/// Lists jobs, newest first.
#[utoipa::path(
    get, path = "/api/jobs", tag = "jobs", params(ListQuery),
    responses((status = 200, description = "The jobs", body = JobList)),
)]
async fn list(State(app): State<Shared>, Query(query): Query<ListQuery>) -> Result<Json<JobList>> {
    let limit = query.limit.unwrap_or(50);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::field("limit", limit, format!("1 to {MOST}")));
    }
    let before = query.before.map(|id| {
        let wrong = || ApiError::invalid("before: wanted the id of a job").with_param("before");
        id.parse().map_err(|_| wrong())
    });
    let before = before.transpose()?;
    let (jobs, more) = blocking(move || app.queue.list(limit, before.as_ref())).await?;
    Ok(Json(JobList { jobs, more }))
}

/// One job.
#[utoipa::path(
    get, path = "/api/jobs/{id}", tag = "jobs", params(("id" = crate::job::JobId, Path)),
    responses((status = 200, description = "The job as it is now", body = Job)),
)]
async fn one(State(app): State<Shared>, Path(id): Path<String>) -> Result<Json<Job>> {
    let id = job_id(&id)?;
    blocking(move || app.queue.job(&id)).await.map(Json)
}

/// Stops a job, or takes it from the queue. Finished pictures stay.
#[utoipa::path(
    post, path = "/api/jobs/{id}/cancel", tag = "jobs", params(("id" = crate::job::JobId, Path)),
    responses((status = 200, description = "The job; a running one ends at its next step", body = Job)),
)]
async fn cancel(State(app): State<Shared>, Path(id): Path<String>) -> Result<Json<Job>> {
    let id = job_id(&id)?;
    blocking(move || app.queue.cancel(&id)).await.map(Json)
}

/// Removes a job that has ended, with its pictures.
#[utoipa::path(
    delete, path = "/api/jobs/{id}", tag = "jobs", params(("id" = crate::job::JobId, Path)),
    responses((status = 204, description = "It is gone")),
)]
async fn remove(State(app): State<Shared>, Path(id): Path<String>) -> Result<StatusCode> {
    let id = job_id(&id)?;
    blocking(move || app.queue.remove(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a picture is wanted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PictureQuery {
    /// 1: as a file with a name, to be saved.
    #[param(minimum = 0, maximum = 1)]
    download: Option<u8>,
}

/// A finished picture as PNG, with its settings inside.
#[utoipa::path(
    get, path = "/api/jobs/{id}/pictures/{n}", tag = "jobs",
    params(("id" = crate::job::JobId, Path), ("n" = usize, Path, description = "Which, from 0"), PictureQuery),
    responses(
        (status = 200, description = "The picture", content_type = "image/png", body = [u8]),
        (status = 304, description = "What the client has still holds"),
    ),
)]
async fn picture(
    State(app): State<Shared>,
    Path((id, n)): Path<(String, usize)>,
    Query(query): Query<PictureQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let is_download = match query.download.unwrap_or(0) {
        0 => false,
        1 => true,
        other => return Err(ApiError::field("download", other, "0 or 1")),
    };
    let id = job_id(&id)?;
    let tag = format!("{id}-{n}");
    let name = format!("attachment; filename=\"uno-{}-{n}.png\"", id.as_str().get(..8).unwrap_or_default());
    // A picture that was removed holds no more, whatever the client has.
    let queue = app.queue.clone();
    let wanted = id.clone();
    let job = blocking(move || queue.job(&wanted)).await?;
    if n >= job.pictures.len() {
        return Err(ApiError::not_found(format!("no such picture: {} are finished", job.pictures.len())));
    }
    let read = blocking(move || {
        let path = app.store.folder().pictures_of(&id).join(format!("{n}.png"));
        std::fs::read(&path).map(Into::into).map_err(|error| match error.kind() {
            // Somebody has taken it away, or the database is an older one.
            ErrorKind::NotFound => {
                ApiError::not_found("the file of this picture is missing in the data folder")
            }
            _ => ApiError::internal(format_args!("{}: {error}", path.display())),
        })
    });
    let mut response = cached(&headers, "image/png", &tag, read).await?;
    if is_download {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).map_err(ApiError::internal)?);
    }
    Ok(response)
}
