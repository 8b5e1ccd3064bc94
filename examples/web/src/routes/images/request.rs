//! What OpenAI's clients ask for, as JSON and as a form; what has no meaning here is refused.

use axum::extract::{FromRequest, Multipart, Request};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::app::Shared;
use crate::body::{MAX_JSON, TIMES, check_type, in_time, parse};
use crate::error::{ApiError, Result};
use crate::job::JobRequest;

/// What OpenAI's clients ask for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagesRequest {
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
    #[schema(minimum = 0, format = "uint64")]
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
pub enum ResponseFormat {
    B64Json,
    Url,
}

/// What pictures are written as.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
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
pub struct EditsForm {
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
    #[schema(minimum = 0, format = "uint64")]
    seed: Option<u64>,
    /// Steps of the sampler.
    num_steps: Option<usize>,
    /// How closely the prompt is followed.
    guidance: Option<f32>,
}

impl ImagesRequest {
    /// How the client wants its pictures.
    pub fn response_format(&self) -> ResponseFormat {
        self.response_format.unwrap_or(ResponseFormat::B64Json)
    }

    /// The job that is asked for, with these references, of the model of this name.
    ///
    /// # Errors
    ///
    /// Fields that have no meaning here, another model, a size that is none.
    pub fn into_job(self, references: Vec<String>, model: &str) -> Result<JobRequest> {
        check(&self, model)?;
        let (width, height) = size(self.size.as_deref())?.unzip();
        Ok(JobRequest {
            prompt: self.prompt,
            references,
            width,
            height,
            num_steps: self.num_steps,
            guidance: self.guidance,
            seed: self.seed,
            num_images: self.n,
            ref_size: None,
            pe: None,
            lora_scale: None,
            loras: None,
            memory: None,
        })
    }
}

/// An error of a job's field, under the name that the field has here.
pub fn renamed(error: ApiError) -> ApiError {
    match error.param() {
        Some("width" | "height") => error.with_param("size"),
        Some("num_images") => error.with_param("n"),
        Some(param) if param.starts_with("references") => error.with_param("image"),
        _ => error,
    }
}

/// Reads a form: its fields as one request, and its pictures.
///
/// # Errors
///
/// Another type of body, a broken form, parts beyond the limits.
pub async fn read_form(request: Request, app: &Shared) -> Result<(ImagesRequest, Vec<Bytes>)> {
    check_type(request.headers(), "multipart/form-data", |kind| kind == "multipart/form-data")?;
    let form = Multipart::from_request(request, app).await;
    let form = form.map_err(|error| ApiError::invalid(format!("the form: {}", error.body_text())))?;
    in_time(TIMES.1, read_parts(form, app)).await?
}

async fn read_parts(mut form: Multipart, app: &Shared) -> Result<(ImagesRequest, Vec<Bytes>)> {
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
