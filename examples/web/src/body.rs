//! Bodies: read within limits of size and time, and JSON in both directions.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{ApiError, Result};

/// Most bytes of a JSON body: a prompt with every character escaped, and names.
pub const MAX_JSON: usize = 256 << 10;
/// Longest time between two pieces of a body.
const BETWEEN: Duration = Duration::from_secs(20);
/// Longest time for a whole body.
const WHOLE: Duration = Duration::from_secs(300);

/// JSON, as an answer or as the body of a request.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes)
                .into_response(),
            Err(error) => ApiError::internal(format_args!("an answer is no JSON: {error}")).into_response(),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        check_type(request.headers(), "application/json", |kind| kind == "application/json")?;
        Ok(Self(parse(&read(request, MAX_JSON, "the body").await?)?))
    }
}

/// Parses JSON; an error names the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let json = &mut serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut *json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        // What Rust calls them is of no use to a client.
        let whole = "a whole number from 0 on";
        let text = ["usize", "u64", "u32"].iter().fold(inner.to_string(), |text, kind| {
            text.replace(&format!("expected {kind}"), &format!("expected {whole}"))
        });
        if !inner.is_data() {
            return ApiError::invalid(format!("the body is no JSON: {text}"));
        }
        let error = named(text);
        match error.param() {
            None if path != "." => ApiError::invalid(format!("{path}: {}", error.message())).with_param(path),
            _ => error,
        }
    })?;
    json.end().map_err(|error| ApiError::invalid(format!("the body is no JSON: {error}")))?;
    Ok(value)
}

/// serde's message as an error: it names unknown, missing and repeated fields.
pub fn named(text: String) -> ApiError {
    let starts = ["unknown field `", "missing field `", "duplicate field `"];
    let rest = starts.into_iter().find_map(|start| text.strip_prefix(start));
    match rest.and_then(|rest| rest.split_once('`')) {
        Some((field, _)) => ApiError::invalid(text.clone()).with_param(field),
        None => ApiError::invalid(text),
    }
}

/// A struct that is written as an object; serde would take an array of its fields, too.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(OfMap(PhantomData)).map(Self)
    }
}

/// Whether the body is of a type that is taken.
///
/// # Errors
///
/// 415, with what is wanted.
pub fn check_type(headers: &HeaderMap, wanted: &str, is_taken: impl Fn(&str) -> bool) -> Result<()> {
    let got = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("what is no text"));
    let kind = got.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if is_taken(&kind) {
        return Ok(());
    }
    let got = got.unwrap_or("none");
    let message = format!("Content-Type: got {got:?}, wanted {wanted}");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// Reads a body of at most `most` bytes; `what` it is, for the message.
///
/// # Errors
///
/// 413 for a larger one, 408 for one that does not arrive, 400 for one that breaks off.
pub async fn read(request: Request, most: usize, what: &str) -> Result<Bytes> {
    let too_large = || ApiError::too_large(format!("{what} is too large: wanted at most {most} bytes"));
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > most as u64) {
        return Err(too_large());
    }
    let mut stream = request.into_body().into_data_stream();
    let whole = async {
        let mut bytes = BytesMut::new();
        while let Some(piece) = in_time(BETWEEN, stream.next()).await? {
            let piece = piece.map_err(|_| ApiError::invalid(format!("{what} breaks off")))?;
            if bytes.len() + piece.len() > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    };
    in_time(WHOLE, whole).await?
}

/// What a future gives within a time.
///
/// # Errors
///
/// 408.
pub async fn in_time<T>(time: Duration, future: impl Future<Output = T>) -> Result<T> {
    let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
    tokio::time::timeout(time, future).await.map_err(late)
}

/// Limits of time for a body that is read elsewhere: between two pieces, and in all.
pub const TIMES: (Duration, Duration) = (BETWEEN, WHOLE);

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::job::JobRequest;

    fn refused(json: &str) -> ApiError {
        parse::<JobRequest>(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn errors_in_json_name_the_field() {
        for (json, param) in [
            (r#"{"prompt": 1}"#, Some("prompt")),
            (r#"{}"#, Some("prompt")),
            (r#"{"prompt": "", "promt": 1}"#, Some("promt")),
            (r#"{"prompt": "", "width": -1}"#, Some("width")),
            (r#"{"prompt": "", "width": 1.5}"#, Some("width")),
            (r#"{"prompt": "", "pe": "x"}"#, Some("pe")),
            (r#"{"prompt": "", "references": ["", 1]}"#, Some("references[1]")),
            (r#"{"prompt": "", "loras": [{"name": "x", "scale": "y"}]}"#, Some("loras[0].scale")),
            (r#"{"prompt": "", "prompt": ""}"#, Some("prompt")),
            (r#"{"prompt": "", "loras": [["x", 1]]}"#, Some("loras[0]")),
            (r#"["a mug"]"#, None),
            ("null", None),
            (r#"{"prompt": ""} x"#, None),
            (r#"{"prompt": ""#, None),
            ("", None),
        ] {
            let error = refused(json);
            assert_eq!(
                (error.status(), error.param()),
                (StatusCode::BAD_REQUEST, param),
                "{json}: {}",
                error.message()
            );
        }
    }

    #[test]
    fn a_tower_of_brackets_is_refused() {
        let tower = format!("{{\"x\": {}", "[".repeat(100_000));
        let error = parse::<serde_json::Map<String, serde_json::Value>>(tower.as_bytes()).unwrap_err();
        assert!(error.message().contains("recursion"), "{}", error.message());
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_their_limit() {
        let request = |text: &'static str| Request::new(Body::from(text));
        assert_eq!(read(request("1234"), 4, "it").await.unwrap(), "1234");
        assert_eq!(
            read(request("12345"), 4, "it").await.unwrap_err().status(),
            StatusCode::PAYLOAD_TOO_LARGE
        );
    }

    #[test]
    fn types_are_compared_without_their_parameters() {
        let mut headers = HeaderMap::new();
        let is_json = |kind: &str| kind == "application/json";
        assert!(check_type(&headers, "JSON", is_json).is_err());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("Application/JSON; charset=utf-8"));
        assert!(check_type(&headers, "JSON", is_json).is_ok());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert!(check_type(&headers, "JSON", is_json).is_err());
    }
}
