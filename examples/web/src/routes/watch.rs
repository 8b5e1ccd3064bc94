//! Server-sent events: jobs as they change.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::error;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Path, job_id};
use crate::app::{Shared, blocking};
use crate::error::{ApiError, Result};
use crate::job::{Job, JobId};
use crate::queue::Update;

/// How often a silent stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(10);

pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(all)).routes(routes!(one))
}

/// Follows all jobs, without end.
#[utoipa::path(
    get, path = "/api/events", tag = "jobs",
    responses((
        status = 200, content_type = "text/event-stream", body = String,
        description = "Events `job`, `removed` and `preview`; at first all jobs that have not ended",
    )),
)]
async fn all(State(app): State<Shared>) -> Result<Response> {
    let permit = permit(&app)?;
    let this = app.clone();
    let (jobs, updates) = blocking(move || Ok(this.queue.follow())).await?;
    Ok(stream(Following::new(app, None, &jobs, updates, permit)))
}

/// Follows one job, until it has ended.
#[utoipa::path(
    get, path = "/api/jobs/{id}/events", tag = "jobs", params(("id" = JobId, Path)),
    responses((
        status = 200, content_type = "text/event-stream", body = String,
        description = "Events `job`, `removed` and `preview`; at first the job as it is",
    )),
)]
async fn one(State(app): State<Shared>, Path(id): Path<String>) -> Result<Response> {
    let (permit, id) = (permit(&app)?, job_id(&id)?);
    let (this, wanted) = (app.clone(), id.clone());
    let (job, updates) = blocking(move || this.queue.follow_job(&wanted)).await?;
    Ok(stream(Following::new(app, Some(id), &[job], updates, permit)))
}

fn permit(app: &Shared) -> Result<OwnedSemaphorePermit> {
    let full =
        |_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open; close some");
    app.streams.clone().try_acquire_owned().map_err(full)
}

/// One client that follows.
struct Following {
    app: Shared,
    only: Option<JobId>,
    updates: Receiver<Update>,
    closing: watch::Receiver<bool>,
    ready: VecDeque<Event>,
    has_ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Following {
    fn new(
        app: Shared,
        only: Option<JobId>,
        jobs: &[Job],
        updates: Receiver<Update>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let closing = app.closing.clone();
        let ready = VecDeque::new();
        let mut following = Self { app, only, updates, closing, ready, has_ended: false, _permit: permit };
        jobs.iter().for_each(|job| following.tell(job));
        following
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.has_ended {
                return None;
            }
            let update = tokio::select! {
                update = self.updates.recv() => update,
                _ = self.closing.wait_for(|closing| *closing) => return None,
            };
            // Who was too slow to hear everything is cut off, and learns all anew when it comes back.
            self.take(update.ok()?).await;
        }
    }

    async fn take(&mut self, update: Update) {
        match update {
            Update::Job(job) => self.tell(&job),
            Update::Moved => {
                let app = self.app.clone();
                let waiting = blocking(move || Ok(app.queue.waiting())).await;
                waiting.unwrap_or_default().iter().for_each(|job| self.tell(job));
            }
            Update::Removed(id) if self.is_wanted(&id) => {
                self.has_ended = self.only.is_some();
                self.push("removed", &serde_json::json!({ "id": id }));
            }
            Update::Preview(preview) if self.is_wanted(&preview.id) => self.push("preview", &*preview),
            Update::Removed(_) | Update::Preview(_) => {}
        }
    }

    fn is_wanted(&self, id: &JobId) -> bool {
        self.only.as_ref().is_none_or(|only| only == id)
    }

    fn tell(&mut self, job: &Job) {
        if self.is_wanted(&job.id) {
            self.has_ended = self.only.is_some() && job.state.has_ended();
            self.push("job", job);
        }
    }

    fn push(&mut self, name: &str, data: &impl Serialize) {
        match serde_json::to_string(data) {
            Ok(json) => self.ready.push_back(Event::default().event(name).data(json)),
            Err(error) => error!("an event is no JSON: {error}"),
        }
    }
}

fn stream(following: Following) -> Response {
    let events = unfold(following, async |mut following| {
        let event = following.next().await?;
        Some((Ok::<_, Infallible>(event), following))
    });
    // nginx would keep events back until it has a buffer full of them.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    let alive = KeepAlive::new().interval(ALIVE).text("here");
    (unbuffered, Sse::new(events).keep_alive(alive)).into_response()
}
