//! The page, its parts, and the examples to begin with; all are inside the program.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Path, cached};
use crate::app::Shared;
use crate::body::Json;
use crate::error::{ApiError, Result};
use crate::job::hex;

/// A file inside the program.
struct File {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    tag: String,
}

impl File {
    fn new(name: &'static str, bytes: &'static [u8]) -> Self {
        let kind = match name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "image/png",
        };
        Self { name, kind, bytes, tag: hex(&Sha256::digest(bytes)[..16]) }
    }

    async fn answer(&self, headers: &HeaderMap) -> Result<Response> {
        cached(headers, self.kind, &self.tag, async { Ok(Bytes::from_static(self.bytes)) }).await
    }
}

macro_rules! files {
    ($folder:literal: $($name:literal)*) => {
        LazyLock::new(|| vec![$(File::new($name, include_bytes!(concat!($folder, $name)))),*])
    };
}

/// The page and its parts.
static PAGE: LazyLock<Vec<File>> = files!("../../page/":
    "about.js" "actions.js" "api.js" "app.js" "buttons.css" "choices.js" "connection.js" "controls.css"
    "dialogs.css" "dialogs.js" "dom.js" "drop.js" "events.js" "examples.js" "fields.js" "format.js"
    "generate.js" "history.css" "history.js" "icon.svg" "index.html" "jobs.js" "pictures.js" "plan.js"
    "progress.js" "references.css" "references.js" "reorder.js" "settings.css" "settings.js" "shared.js"
    "sizes.js" "stage.css" "stage.js" "storage.js" "style.css" "theme.js" "turns.js" "viewer.js"
);

/// Pictures of the examples.
static PICTURES: LazyLock<Vec<File>> = files!("../../../assets/":
    "ball.png" "bird.png" "car.png" "fish.png" "house.png" "mug.png" "robot.png" "teapot.png"
);

/// Prompts in words that uno-tiny knows, with the names of pictures.
const EXAMPLES: [(&str, &[&str]); 6] = [
    ("a mug on a beach", &["mug.png"]),
    ("a robot to the left of a teapot in a meadow", &["robot.png", "teapot.png"]),
    ("a car in a city at night", &["car.png"]),
    ("a bird on top of a house in the snow", &["bird.png", "house.png"]),
    ("a ball to the right of a fish on a wooden table", &["ball.png", "fish.png"]),
    ("a red mug with white dots in the desert", &[]),
];

pub fn routes() -> OpenApiRouter<Shared> {
    let described =
        OpenApiRouter::new().routes(routes!(page)).routes(routes!(examples)).routes(routes!(picture));
    PAGE.iter().fold(described, |router, file| {
        router.route(
            &format!("/{}", file.name),
            get(async move |headers: HeaderMap| file.answer(&headers).await),
        )
    })
}

/// Whether a path is the page or one of its parts, which anybody may load: they ask for the token.
pub fn is_part(path: &str) -> bool {
    path == "/" || path.strip_prefix('/').is_some_and(|name| PAGE.iter().any(|file| file.name == name))
}

/// The page.
#[utoipa::path(
    get, path = "/", tag = "page",
    responses(
        (status = 200, description = "HTML", content_type = "text/html", body = String),
        (status = 304, description = "What the client has still holds"),
    ),
)]
async fn page(headers: HeaderMap) -> Result<Response> {
    find(&PAGE, "index.html")?.answer(&headers).await
}

fn find<'a>(files: &'a [File], name: &str) -> Result<&'a File> {
    files
        .iter()
        .find(|file| file.name == name)
        .ok_or_else(|| ApiError::not_found("there is nothing of this name"))
}

/// Something to begin with.
#[derive(Serialize, ToSchema)]
struct Examples {
    /// The examples.
    examples: Vec<Example>,
}

/// A prompt, and references that go with it.
#[derive(Serialize, ToSchema)]
struct Example {
    /// The prompt.
    prompt: String,
    /// Pictures, to be uploaded as references.
    references: Vec<ExampleReference>,
}

/// A picture of an example.
#[derive(Serialize, ToSchema)]
struct ExampleReference {
    /// Its name.
    name: String,
    /// Its path on this server.
    url: String,
}

/// Examples to begin with.
#[utoipa::path(get, path = "/api/examples", tag = "model", responses((status = 200, description = "Some", body = Examples)))]
async fn examples(State(app): State<Shared>) -> Json<Examples> {
    let most = app.limits.references;
    let reference =
        |name: &&str| ExampleReference { name: (*name).to_owned(), url: format!("/examples/{name}") };
    let fitting = EXAMPLES.iter().filter(|(_, references)| references.len() <= most);
    let example = |(prompt, references): &(&str, &[&str])| Example {
        prompt: (*prompt).to_owned(),
        references: references.iter().map(reference).collect(),
    };
    Json(Examples { examples: fitting.map(example).collect() })
}

/// A picture of an example.
#[utoipa::path(
    get, path = "/examples/{name}", tag = "model", params(("name" = String, Path)),
    responses(
        (status = 200, description = "The picture", content_type = "image/png", body = [u8]),
        (status = 304, description = "What the client has still holds"),
    ),
)]
async fn picture(Path(name): Path<String>, headers: HeaderMap) -> Result<Response> {
    find(&PICTURES, &name)?.answer(&headers).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_whole_page_is_inside_the_program() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
        let names =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let inside = PAGE.iter().map(|file| file.name.to_owned());
        assert_eq!(inside.collect::<BTreeSet<_>>(), names.collect::<BTreeSet<_>>());
    }

    #[test]
    fn pictures_of_examples_are_there() {
        for name in EXAMPLES.iter().flat_map(|(_, names)| *names) {
            assert!(find(&PICTURES, name).is_ok(), "{name}");
        }
    }

    #[test]
    fn only_parts_of_the_page_are_parts() {
        for path in ["/", "/index.html", "/app.js", "/style.css", "/icon.svg"] {
            assert!(is_part(path), "{path}");
        }
        for path in ["", "//", "/api/jobs", "/app.js/", "/examples/mug.png", "app.js"] {
            assert!(!is_part(path), "{path}");
        }
    }
}
