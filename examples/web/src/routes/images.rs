//! OpenAI's image endpoints: one request, one answer, with the same queue in between.

use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{Shared, blocking};
use crate::body::{Json, MAX_JSON, TIMES, check_type, in_time, parse};
use crate::error::{ApiError, Result};
use crate::job::{Job, JobId, JobRequest, State as JobState};
use crate::queue::Update;
use crate::settings::resolve;

pub fn routes() -> OpenApiRouter<Shared> {
    let edits = OpenApiRouter::new().routes(routes!(edits));
    // Limits are those of the parts, which are read one by one.
    let edits = edits.layer(axum::extract::DefaultBodyLimit::disable());
    OpenApiRouter::new().routes(routes!(generations)).merge(edits).routes(routes!(models))
}

/// What OpenAI's clients ask for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ImagesRequest {
    /// What the pictures show.
    prompt: String,
    /// What `GET /v1/models` lists, or nothing.
    model: Option<String>,
    /// How many pictures.
    #[schema(minimum = 1)]
    n: Option<usize>,
    /// Width and height, as `512x512`, or `auto`.
    #[schema(example = "512x512")]
    size: Option<String>,
    /// How pictures are given; `b64_json` if it is left out.
    response_format: Option<ResponseFormat>,
    /// `png`.
    #[expect(dead_code, reason = "what can be read is what is made")]
    output_format: Option<OutputFormat>,
    /// Whom it is for; not used.
    #[expect(dead_code, reason = "taken, and not used")]
    user: Option<String>,
    /// Seed of the first picture; a random one if it is left out.
    #[schema(minimum = 0)]
    seed: Option<u64>,
    /// Steps of the sampler.
    #[schema(minimum = 1)]
    num_steps: Option<usize>,
    /// How closely the prompt is followed.
    #[schema(minimum = 0, maximum = 100)]
    guidance: Option<f32>,
    /// `auto`.
    #[schema(value_type = Option<Auto>)]
    quality: Option<Value>,
    /// `auto`.
    #[schema(value_type = Option<Auto>)]
    style: Option<Value>,
    /// `auto` or `opaque`.
    #[schema(value_type = Option<Background>)]
    background: Option<Value>,
    /// `auto`.
    #[schema(value_type = Option<Auto>)]
    moderation: Option<Value>,
    /// `auto`.
    #[schema(value_type = Option<Auto>)]
    input_fidelity: Option<Value>,
    /// 100: PNG loses nothing.
    #[schema(value_type = Option<u8>, minimum = 100, maximum = 100)]
    output_compression: Option<Value>,
    /// 0.
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 0)]
    partial_images: Option<Value>,
    /// false.
    #[schema(value_type = Option<bool>)]
    stream: Option<Value>,
    /// Not known.
    #[schema(value_type = Option<String>, max_length = 0)]
    mask: Option<Value>,
}

/// How pictures are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ResponseFormat {
    B64Json,
    Url,
}

/// What pictures are written as.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OutputFormat {
    Png,
}

/// The one value of fields without a meaning here.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a field in the OpenAPI document")]
enum Auto {
    Auto,
}

/// What is behind a picture.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a field in the OpenAPI document")]
enum Background {
    Auto,
    Opaque,
}

/// The same in a form, with pictures.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes a form in the OpenAPI document")]
struct EditsForm {
    #[schema(inline)]
    #[schema(format = Binary, content_media_type = "application/octet-stream", value_type = Vec<String>)]
    image: Vec<Vec<u8>>,
    /// What the pictures show.
    prompt: String,
    /// What `GET /v1/models` lists, or nothing.
    model: Option<String>,
    /// How many pictures.
    #[schema(minimum = 1)]
    n: Option<usize>,
    /// Width and height, as `512x512`, or `auto`.
    size: Option<String>,
    /// How pictures are given; `b64_json` if it is left out.
    response_format: Option<ResponseFormat>,
    /// Seed of the first picture; a random one if it is left out.
    seed: Option<u64>,
    /// Steps of the sampler.
    num_steps: Option<usize>,
    /// How closely the prompt is followed.
    guidance: Option<f32>,
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
    check_type(request.headers(), "multipart/form-data", |kind| kind == "multipart/form-data")?;
    let headers = request.headers().clone();
    let form = Multipart::from_request(request, &app).await;
    let form = form.map_err(|error| ApiError::invalid(format!("the form: {}", error.body_text())))?;
    let (request, pictures) = in_time(TIMES.1, read_form(form, &app)).await??;
    let mut references = Vec::new();
    for picture in pictures {
        let reference = app.references.add(picture).await.map_err(|error| error.with_param("image"))?;
        references.push(reference.id);
    }
    make(app, &headers, request, references).await
}

/// Reads a form: its fields as one request, and its pictures.
async fn read_form(mut form: Multipart, app: &Shared) -> Result<(ImagesRequest, Vec<Bytes>)> {
    let (mut fields, mut pictures) = (Map::new(), Vec::new());
    let broken = |error: axum::extract::multipart::MultipartError| {
        ApiError::invalid(format!("the form is broken: {}", error.body_text()))
    };
    while let Some(mut field) = in_time(TIMES.0, form.next_field()).await?.map_err(broken)? {
        let name: String = field.name().unwrap_or_default().chars().take(80).collect();
        let is_picture = matches!(name.as_str(), "image" | "image[]");
        if is_picture && pictures.len() == app.limits.references {
            return Err(ApiError::field(
                "image",
                "more pictures",
                format!("at most {}", app.limits.references),
            ));
        }
        let most = if is_picture { app.limits.upload_bytes as usize } else { MAX_JSON };
        let mut bytes = BytesMut::new();
        while let Some(piece) = in_time(TIMES.0, field.chunk()).await?.map_err(broken)? {
            if bytes.len() + piece.len() > most {
                let message = format!("{name}: is too large, wanted at most {most} bytes");
                return Err(ApiError::too_large(message).with_param(name));
            }
            bytes.extend_from_slice(&piece);
        }
        if is_picture {
            pictures.push(bytes.freeze());
            continue;
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            ApiError::invalid(format!("{name}: got bytes that are no UTF-8, wanted text")).with_param(&name)
        })?;
        let value = value_of(&name, text);
        if fields.insert(name.clone(), value).is_some() {
            return Err(ApiError::invalid(format!("{name}: got it twice, wanted it once")).with_param(name));
        }
    }
    if pictures.is_empty() {
        return Err(ApiError::field(
            "image",
            "none",
            "at least one picture; /v1/images/generations needs none",
        ));
    }
    let json = serde_json::to_vec(&fields).map_err(ApiError::internal)?;
    Ok((parse(&json)?, pictures))
}

/// A field of a form, which is text, as JSON.
fn value_of(name: &str, text: &str) -> Value {
    let is_text = !matches!(
        name,
        "n" | "seed" | "num_steps" | "guidance" | "output_compression" | "partial_images" | "stream"
    );
    let parsed = if is_text { None } else { serde_json::from_str(text).ok() };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Puts a job into the queue and waits for its end.
async fn make(
    app: Shared,
    headers: &HeaderMap,
    request: ImagesRequest,
    references: Vec<String>,
) -> Result<Json<ImagesAnswer>> {
    check(&request, app.model.name())?;
    let format = request.response_format.unwrap_or(ResponseFormat::B64Json);
    let (width, height) = size(request.size.as_deref())?.unzip();
    let wanted = JobRequest {
        prompt: request.prompt,
        references,
        width,
        height,
        num_steps: request.num_steps,
        guidance: request.guidance,
        seed: request.seed,
        num_images: request.n,
        ref_size: None,
        pe: None,
        lora_scale: None,
        loras: None,
        memory: None,
    };
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
                let bytes = std::fs::read(app.store.pictures_of(&job.id).join(format!("{n}.png")))?;
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

/// Refuses what has no meaning here.
fn check(request: &ImagesRequest, name: &str) -> Result<()> {
    if let Some(model) = request.model.as_ref().filter(|model| *model != name) {
        let got: String = model.chars().take(80).collect();
        return Err(ApiError::field("model", format_args!("{got:?}"), format!("{name}, or nothing")));
    }
    let auto = || vec![Value::from("auto")];
    let fields = [
        ("quality", &request.quality, auto()),
        ("style", &request.style, auto()),
        ("background", &request.background, vec!["auto".into(), "opaque".into()]),
        ("moderation", &request.moderation, auto()),
        ("input_fidelity", &request.input_fidelity, auto()),
        ("output_compression", &request.output_compression, vec![100.into()]),
        ("partial_images", &request.partial_images, vec![0.into()]),
        ("stream", &request.stream, vec![false.into()]),
        ("mask", &request.mask, Vec::new()),
    ];
    for (name, value, taken) in fields {
        let Some(value) = value else { continue };
        if !taken.contains(value) {
            let words: Vec<_> = taken.iter().map(ToString::to_string).collect();
            let wanted = if words.is_empty() { "nothing".to_owned() } else { words.join(" or ") };
            let got: String = value.to_string().chars().take(80).collect();
            return Err(ApiError::field(name, got, format!("{wanted}: it has no other meaning here")));
        }
    }
    Ok(())
}

/// Width and height; `None` is the model's own.
fn size(text: Option<&str>) -> Result<Option<(usize, usize)>> {
    let Some(text) = text.filter(|text| *text != "auto") else { return Ok(None) };
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let got: String = text.chars().take(80).collect();
    sides.map(Some).ok_or_else(|| {
        ApiError::field("size", format_args!("{got:?}"), "a width and a height, as 512x512, or auto")
    })
}

/// Errors of a job's fields, under the names that they have here.
fn renamed(error: ApiError) -> ApiError {
    match error.param() {
        Some("width" | "height") => error.with_param("size"),
        Some("num_images") => error.with_param("n"),
        Some(param) if param.starts_with("references") => error.with_param("image"),
        _ => error,
    }
}

/// This server's address, as the client knows it: its name was checked.
fn base(headers: &HeaderMap) -> String {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_https = text(header::HeaderName::from_static("x-forwarded-proto")) == Some("https");
    format!("{}://{}", if is_https { "https" } else { "http" }, text(header::HOST).unwrap_or("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> ImagesRequest {
        parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(size(None).unwrap(), None);
        assert_eq!(size(Some("auto")).unwrap(), None);
        assert_eq!(size(Some("512x256")).unwrap(), Some((512, 256)));
        for text in ["", "512", "512x", "x512", "512x512x512", "-1x5", "512X512", "99999999999999999999x1"] {
            assert_eq!(size(Some(text)).unwrap_err().param(), Some("size"), "{text}");
        }
    }

    #[test]
    fn fields_without_a_meaning_are_refused_unless_they_change_nothing() {
        let all = r#"{"prompt": "", "model": "uno-tiny", "quality": "auto", "style": null, "background": "opaque", "moderation": "auto",
            "input_fidelity": "auto", "output_compression": 100, "partial_images": 0, "stream": false, "mask": null,
            "output_format": "png", "user": "me"}"#;
        assert!(check(&request(all), "uno-tiny").is_ok());
        for (field, value) in [
            ("model", "\"gpt-image-1\""),
            ("quality", "\"hd\""),
            ("style", "\"vivid\""),
            ("background", "\"transparent\""),
            ("moderation", "\"low\""),
            ("output_compression", "50"),
            ("partial_images", "1"),
            ("stream", "true"),
            ("mask", "\"x\""),
        ] {
            let json = format!(r#"{{"prompt": "", "{field}": {value}}}"#);
            assert_eq!(check(&request(&json), "uno-tiny").unwrap_err().param(), Some(field), "{json}");
        }
        assert!(parse::<ImagesRequest>(br#"{"prompt": "", "output_format": "webp"}"#).is_err());
        assert!(parse::<ImagesRequest>(br#"{"prompt": "", "negative_prompt": ""}"#).is_err());
    }

    #[test]
    fn fields_of_a_form_are_numbers_where_numbers_are_wanted() {
        assert_eq!(value_of("n", "2"), 2);
        assert_eq!(value_of("seed", "18446744073709551615"), u64::MAX);
        assert_eq!(value_of("prompt", "2"), "2");
        assert_eq!(value_of("n", "two"), "two");
    }
}
