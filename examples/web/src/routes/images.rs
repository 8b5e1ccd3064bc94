//! OpenAI's image endpoints: one request, one answer, with the same queue in between.

mod request;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::request::{EditsForm, ImagesRequest, ResponseFormat, read_form, renamed};
use crate::app::{Shared, blocking};
use crate::body::Json;
use crate::error::{ApiError, Result};
use crate::job::{Job, JobId, State as JobState};
use crate::queue::Update;
use crate::settings::resolve;

pub fn routes() -> OpenApiRouter<Shared> {
    let edits = OpenApiRouter::new().routes(routes!(edits));
    // Limits are those of the parts, which are read one by one.
    let edits = edits.layer(axum::extract::DefaultBodyLimit::disable());
    OpenApiRouter::new().routes(routes!(generations)).merge(edits).routes(routes!(models))
}

/// Finished pictures.
#[derive(Serialize, ToSchema)]
struct ImagesAnswer {
    /// When they were asked for, in seconds since 1970.
    created: u64,
    /// The pictures.
    data: Vec<Image>,
}

/// A finished picture.
#[derive(Serialize, ToSchema)]
struct Image {
    /// The PNG in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64_json: Option<String>,
    /// Its address on this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// The models that are served: one.
#[derive(Serialize, ToSchema)]
struct Models {
    object: &'static str,
    data: Vec<ModelEntry>,
}

/// A model.
#[derive(Serialize, ToSchema)]
struct ModelEntry {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// The model, as OpenAI's clients list it.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, description = "One", body = Models)))]
async fn models(State(app): State<Shared>) -> Json<Models> {
    let id = app.model.name().to_owned();
    Json(Models {
        object: "list",
        data: vec![ModelEntry { id, object: "model", created: 0, owned_by: "uno-rs" }],
    })
}

/// Makes pictures of a prompt.
#[utoipa::path(
    post, path = "/v1/images/generations", tag = "openai", request_body = ImagesRequest,
    responses((status = 200, description = "The pictures", body = ImagesAnswer)),
)]
async fn generations(
    State(app): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<ImagesRequest>,
) -> Result<Json<ImagesAnswer>> {
    make(app, &headers, request, Vec::new()).await
}

/// Makes pictures of a prompt and references.
#[utoipa::path(
    post, path = "/v1/images/edits", tag = "openai",
    request_body(content = EditsForm, content_type = "multipart/form-data"),
    responses((status = 200, description = "The pictures", body = ImagesAnswer)),
)]
async fn edits(State(app): State<Shared>, request: Request) -> Result<Json<ImagesAnswer>> {
    let headers = request.headers().clone();
    let (request, pictures) = read_form(request, &app).await?;
    let mut references = Vec::new();
    for picture in pictures {
        let reference = app.references.add(picture).await.map_err(|error| error.with_param("image"))?;
        references.push(reference.id);
    }
    make(app, &headers, request, references).await
}

/// Puts a job into the queue and waits for its end.
async fn make(
    app: Shared,
    headers: &HeaderMap,
    request: ImagesRequest,
    references: Vec<String>,
) -> Result<Json<ImagesAnswer>> {
    let format = request.response_format();
    let wanted = request.into_job(references, app.model.name())?;
    let this = app.clone();
    // This goes on when the client hangs up in the meantime: the job is cancelled as soon as there is one.
    let submitted = blocking(move || {
        let settings = resolve(wanted, &this.limits, &this.model, &this.references).map_err(renamed)?;
        let job = this.queue.submit(settings, true)?;
        let attached = Attached { app: this.clone(), id: job.id.clone() };
        let (job, updates) = this.queue.follow_job(&job.id)?;
        Ok((attached, job, updates))
    });
    let (attached, job, updates) = submitted.await?;
    let job = ended(&app, job, updates).await?;
    drop(attached);
    match job.state {
        JobState::Done => {}
        JobState::Failed => {
            let error = job.error.unwrap_or_default();
            return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error));
        }
        _ => return Err(ApiError::conflict("the job was cancelled")),
    }
    let base = base(headers);
    let data = blocking(move || {
        let image = |(n, picture): (usize, &crate::job::Picture)| match format {
            ResponseFormat::Url => Ok(Image { b64_json: None, url: Some(format!("{base}{}", picture.url)) }),
            ResponseFormat::B64Json => {
                let bytes = std::fs::read(app.store.folder().pictures_of(&job.id).join(format!("{n}.png")))?;
                Ok(Image { b64_json: Some(BASE64_STANDARD.encode(bytes)), url: None })
            }
        };
        Ok((job.created, job.pictures.iter().enumerate().map(image).collect::<Result<Vec<_>>>()?))
    });
    let (created, data) = data.await?;
    Ok(Json(ImagesAnswer { created: created as u64, data }))
}

/// A job whose client waits for it; it is cancelled when the client no longer does.
struct Attached {
    app: Shared,
    id: JobId,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let (app, id) = (self.app.clone(), self.id.clone());
        // One that has ended cannot be cancelled, which is fine.
        let cancel = move || drop(app.queue.cancel(&id));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(cancel)),
            Err(_) => cancel(),
        }
    }
}

/// Waits until a job has ended.
async fn ended(app: &Shared, mut job: Job, mut updates: Receiver<Update>) -> Result<Job> {
    let mut closing = app.closing.clone();
    while !job.state.has_ended() {
        let update = tokio::select! {
            update = updates.recv() => update,
            _ = closing.wait_for(|closing| *closing) => return Err(ApiError::is_stopping()),
        };
        match update {
            Ok(Update::Job(now)) if now.id == job.id => job = (*now).clone(),
            Ok(Update::Removed(id)) if id == job.id => return Err(ApiError::conflict("the job was removed")),
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => {
                let (this, id) = (app.clone(), job.id.clone());
                job = blocking(move || this.queue.job(&id)).await?;
            }
            Err(RecvError::Closed) => return Err(ApiError::is_stopping()),
        }
    }
    Ok(job)
}

/// This server's address, as the client knows it: its name was checked.
fn base(headers: &HeaderMap) -> String {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_https = text(header::HeaderName::from_static("x-forwarded-proto")) == Some("https");
    format!("{}://{}", if is_https { "https" } else { "http" }, text(header::HOST).unwrap_or("localhost"))
}
