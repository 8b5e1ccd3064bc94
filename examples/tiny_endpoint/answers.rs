//! What the renderer knows of a picture, in the form that a question asks for.

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde_json::{Map, Value, json};
use uno_core::image::Pixels;
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::tiny::evaluation::locate;
use uno_models::tiny::world::caption::{Detail, of_subject, subject_in};
use uno_models::tiny::world::{Kind, Look, Scene, Subject};

/// The one part that subjects are compared by.
const PART: &str = "colours and pattern";
/// Distance of a subject up to which it counts as the same (pictures of the renderer have 0.01), and what a score is worth.
const SAME: f32 = 0.06;
const PER_SCORE: f32 = 0.02;

/// The name of the form that a question asks for, and an answer in it.
pub fn answer(question: &Value) -> Result<(String, Value)> {
    let name = question["response_format"]["json_schema"]["name"].as_str().context("no response_format")?;
    let content = question["messages"][0]["content"].as_array().context("no messages")?;
    let text: String = content.iter().filter_map(|part| part["text"].as_str()).collect();
    let urls = content.iter().filter_map(|part| part["image_url"]["url"].as_str());
    let pictures = urls.map(picture).collect::<Result<Vec<_>>>()?;
    let subject = || subject_in(&text).with_context(|| format!("names nothing of this world: {text}"));
    let answer = match name {
        "parts" => json!({ "parts": [PART] }),
        "differences" => {
            let note = if score(subject()?, &pictures) == 4.0 { "none" } else { "not the same look" };
            json!({ "differences": { PART: note } })
        }
        "scores" => json!({ "scores": { PART: score(subject()?, &pictures) } }),
        "box" => json!({ "box": pictures.first().and_then(|picture| area(subject().ok()?, picture)) }),
        "subjects" => json!({ "subjects": all() }),
        other => bail!("{other:?} is no form that is known here"),
    };
    Ok((name.to_owned(), answer))
}

/// How surely all pictures show a subject, 0 to 4 in quarters: the worst of them counts.
fn score(subject: Subject, pictures: &[Pixels]) -> f32 {
    let distance = |picture: &Pixels| {
        // Alone, or one of two: sizes of both are tried.
        let [alone, of_two] = [1, 2].map(|count| locate(picture, subject, count).distance);
        alone.min(of_two)
    };
    let worst = pictures.iter().map(distance).fold(0.0, f32::max);
    ((4.0 - (worst - SAME).max(0.0) / PER_SCORE).max(0.0) * 4.0).floor() / 4.0
}

/// Where a subject is: left, top, right, bottom.
fn area(subject: Subject, picture: &Pixels) -> Option<[u32; 4]> {
    let found = locate(picture, subject, 2);
    // What fits this badly is not there.
    if found.distance > 0.12 {
        return None;
    }
    Some(found.area(picture.width as u32, picture.height as u32))
}

/// All subjects of the world, those that are held out left aside, with its scenes.
fn all() -> Vec<Value> {
    let scenes: Vec<&str> = Scene::ALL.iter().map(|scene| scene.word()).collect();
    let looks = || Look::all().filter(|look| !look.is_held_out());
    let subject = |kind: Kind, look: Look| {
        let subject = Subject { kind, look };
        let mut entry = Map::new();
        entry.insert("description".into(), of_subject(subject, Detail::Looks).into());
        entry.insert("name".into(), of_subject(subject, Detail::KindOnly).into());
        entry.insert("scenes".into(), scenes.clone().into());
        Value::Object(entry)
    };
    Kind::ALL.iter().flat_map(|&kind| looks().map(move |look| subject(kind, look))).collect()
}

/// A picture from a data address.
fn picture(url: &str) -> Result<Pixels> {
    let data =
        url.strip_prefix("data:image/png;base64,").context("pictures come as data:image/png;base64")?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(data)?;
    let rgb = Picture::from_bytes("question", &bytes, &DecodeOptions::default())?.to_rgb();
    Ok(Pixels { width: rgb.width() as usize, height: rgb.height() as usize, rgb: rgb.into_raw() })
}
