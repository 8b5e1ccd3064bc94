//! The second filter: a vision-language model says in three rounds whether two pictures show the same subject (paper, section 3.2):
//! it names the subject's parts, then what differs in each, then scores each from 0 to 4. The mean is the score.

use std::collections::BTreeMap;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::endpoint::{Endpoint, Part};
use crate::error::Result;

/// The best score of a part.
const BEST: f64 = 4.0;
/// Most parts that a subject is divided into.
const MAX_PARTS: usize = 24;
/// Longest name of a part, or note on it, in characters.
const MAX_WORDS: usize = 500;

/// What the model said of a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// What differs, part by part.
    pub differences: BTreeMap<String, String>,
    /// Scores, 0 to 4, part by part.
    pub scores: BTreeMap<String, f64>,
    /// Their mean.
    pub score: f64,
}

/// Asks all three rounds about `subject` in two pictures.
///
/// # Errors
///
/// What the endpoint returns.
pub fn judge(endpoint: &Endpoint, subject: &str, pictures: [&RgbImage; 2]) -> Result<Judgement> {
    let show = |text| [Part::Text(text), Part::Picture(pictures[0]), Part::Picture(pictures[1])];

    let question = format!(
        "Both pictures are meant to show the same object: {subject}. Look at it in each. Which parts does it consist of, so that one \
         could compare part by part (for example lid, handle, writing)? Name one to {MAX_PARTS} parts, each in a few words. Answer as JSON."
    );
    let schema = object(&json!({ "parts": { "type": "array", "items": { "type": "string" } } }));
    let parts = endpoint.ask(&show(&question), ("parts", &schema), read_parts)?;

    let list = parts.join("; ");
    let question = format!(
        "Both pictures are meant to show the same object: {subject}. Compare these parts of it: {list}. For each say in a few words \
         how it differs between the pictures in shape, colour, material, pattern or writing; position, pose, size and light do not \
         count. Write \"none\" where it does not differ. Answer as JSON."
    );
    let schema = by_part(&parts, "differences", &json!({ "type": "string" }));
    let differences = endpoint.ask(&show(&question), ("differences", &schema), |value| {
        let found: BTreeMap<String, String> = read_by_part(value, "differences", &parts)?;
        match found.values().find(|note| note.chars().count() > MAX_WORDS) {
            Some(_) => Err(format!("has a note of more than {MAX_WORDS} characters")),
            None => Ok(found),
        }
    })?;

    let notes: String = differences.iter().map(|(part, note)| format!("\n{part}: {note}")).collect();
    let question = format!(
        "Both pictures are meant to show the same object: {subject}. These differences were noted:{notes}\nLook again, and score \
         how alike each part is: 4 the same, 3 nearly, 2 alike in kind, 1 hardly, 0 another one or missing. Answer as JSON."
    );
    let schema = by_part(&parts, "scores", &json!({ "type": "number", "minimum": 0, "maximum": 4 }));
    let scores = endpoint.ask(&show(&question), ("scores", &schema), |value| {
        let found: BTreeMap<String, f64> = read_by_part(value, "scores", &parts)?;
        // Absurd scores are known from published data (131184.67): they are no answer.
        match found.values().find(|score| !(0.0..=BEST).contains(*score)) {
            Some(score) => Err(format!("has the score {score}, wanted 0 to 4")),
            None => Ok(found),
        }
    })?;
    let score = scores.values().sum::<f64>() / scores.len().max(1) as f64;
    Ok(Judgement { differences, scores, score })
}

fn object(properties: &Value) -> Value {
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(|map| map.keys()).collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

/// The schema of an answer that has one value for each part.
fn by_part(parts: &[String], name: &str, value: &Value) -> Value {
    let properties: serde_json::Map<String, Value> =
        parts.iter().map(|part| (part.clone(), value.clone())).collect();
    object(&json!({ name: object(&Value::Object(properties)) }))
}

fn read_parts(value: Value) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Answer {
        parts: Vec<String>,
    }
    let Answer { parts } =
        serde_json::from_value(value).map_err(|e| format!("is not of the form asked for ({e})"))?;
    let distinct: std::collections::BTreeSet<&str> = parts.iter().map(|part| part.trim()).collect();
    let is_sound = distinct.iter().all(|part| !part.is_empty() && part.chars().count() <= MAX_WORDS);
    if parts.is_empty() || parts.len() > MAX_PARTS || distinct.len() != parts.len() || !is_sound {
        return Err(format!("names {} parts; wanted 1 to {MAX_PARTS}, all different", parts.len()));
    }
    Ok(parts)
}

/// One value for each part, no more and no fewer: below `name` as asked for, or, which says the same, without it; and for a single
/// part the value alone.
fn read_by_part<T: FromAnswer>(
    value: Value,
    name: &str,
    parts: &[String],
) -> Result<BTreeMap<String, T>, String> {
    let found = match (value, parts) {
        (Value::Object(mut answer), _) => match answer.remove(name) {
            Some(_) if !answer.is_empty() => return Err(format!("has more than {name}")),
            Some(Value::Object(found)) => found,
            Some(single) if parts.len() == 1 => serde_json::Map::from_iter([(parts[0].clone(), single)]),
            Some(_) => return Err(format!("has {name} that are not by part")),
            None => answer,
        },
        (single, [part]) => serde_json::Map::from_iter([(part.clone(), single)]),
        (_, parts) => return Err(format!("says one thing of {} parts", parts.len())),
    };
    if let Some(part) = parts.iter().find(|part| !found.contains_key(*part)) {
        return Err(format!("says nothing of the part {part:?}"));
    }
    if found.len() > parts.len() {
        return Err("speaks of parts that were not named".into());
    }
    found.into_iter().map(|(part, value)| Ok((part, T::from_answer(value)?))).collect()
}

/// A value that an answer holds for a part.
trait FromAnswer: Sized {
    fn from_answer(value: Value) -> Result<Self, String>;
}

impl FromAnswer for String {
    fn from_answer(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(format!("has {other}, wanted words")),
        }
    }
}

/// A number, also one in quotes.
impl FromAnswer for f64 {
    fn from_answer(value: Value) -> Result<Self, String> {
        let number = match &value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| number.is_finite()).ok_or_else(|| format!("has {value}, wanted a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_only_in_the_form_that_was_asked_for() {
        assert_eq!(read_parts(json!({ "parts": ["lid", "handle"] })).unwrap(), ["lid", "handle"]);
        for wrong in [
            json!({ "parts": [] }),
            json!({ "parts": ["lid", "lid"] }),
            json!({ "parts": [" "] }),
            json!({ "parts": [1] }),
            json!({ "parts": ["lid"], "more": 1 }),
            json!(["lid"]),
            json!({ "parts": vec!["x"; 25] }),
        ] {
            assert!(read_parts(wrong.clone()).is_err(), "{wrong}");
        }
        let parts = ["lid".to_owned(), "handle".to_owned()];
        let read = |value| read_by_part::<f64>(value, "scores", &parts);
        assert_eq!(read(json!({ "scores": { "lid": 4, "handle": 2.5 } })).unwrap()["handle"], 2.5);
        assert_eq!(read(json!({ "scores": { "lid": 4, "handle": " 2" } })).unwrap()["handle"], 2.0);
        assert_eq!(read(json!({ "lid": 4, "handle": 3 })).unwrap()["handle"], 3.0);
        let one = |value| read_by_part::<f64>(value, "scores", &parts[..1]).map(|found| found["lid"]);
        for single in [json!(4), json!("4"), json!({ "scores": 4 }), json!({ "lid": 4 })] {
            assert_eq!(one(single.clone()), Ok(4.0), "{single}");
        }
        for wrong in [
            json!({ "scores": { "lid": 4 } }),
            json!({ "scores": { "lid": 4, "handle": "two" } }),
            json!({ "scores": { "lid": 4, "handle": "inf" } }),
            json!(4),
            json!({ "scores": 4 }),
            json!({ "scores": { "lid": 4, "handle": 2, "foot": 1 } }),
            json!({ "scores": { "lid": 4, "handle": 2 }, "more": {} }),
            json!({ "score": { "lid": 4, "handle": 2 } }),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
