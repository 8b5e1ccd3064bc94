//! What a model's message says, as JSON. Asked for JSON alone, models still think aloud, explain, or put it into a fence. Such
//! wrapping is taken off; where more than one reading is left, there is none.

use serde::Deserialize;
use serde_json::Value;

/// Tags that models put their thoughts between.
const THOUGHTS: [&str; 3] = ["think", "thinking", "thought"];

/// A message of a chat completion, as far as it may hold the answer.
#[derive(Deserialize)]
pub(super) struct Message {
    content: Option<Content>,
    /// Where servers that divide thoughts from answers put the first; some put everything there.
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
}

/// The content: a text, or parts with texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Deserialize)]
struct ContentPart {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

impl Message {
    /// The text that holds the answer; `None` if there is no text at all.
    pub(super) fn text(self) -> Option<String> {
        let content = self.content.map(|content| match content {
            Content::Text(text) => text,
            Content::Parts(parts) => {
                let texts =
                    parts.into_iter().filter(|part| !matches!(part.kind.as_str(), "thinking" | "reasoning"));
                texts.map(|part| part.text).collect()
            }
        });
        let says = |text: &String| !trimmed(text).is_empty();
        content.filter(says).or(self.reasoning_content.filter(says))
    }
}

/// The one JSON value in `text`.
///
/// # Errors
///
/// There is none, or there are several that differ; in words.
pub(super) fn json(text: &str) -> Result<Value, String> {
    let text = without_thoughts(trimmed(text))?;
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    if let Some(value) = only(fenced(text).filter_map(|block| serde_json::from_str(trimmed(block)).ok()))? {
        return Ok(value);
    }
    only(objects(text))?.ok_or_else(|| "is no JSON".to_owned())
}

/// Without white space and a byte order mark at the ends.
fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// What comes after the thoughts.
fn without_thoughts(text: &str) -> Result<&str, String> {
    for tag in THOUGHTS {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        if let Some((_, rest)) = text.rsplit_once(&close) {
            return Ok(trimmed(rest));
        }
        if text.starts_with(&open) {
            return Err("ends in the middle of its thoughts".into());
        }
    }
    Ok(text)
}

/// What stands between fences, without the name of the language.
fn fenced(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.map(|block| {
        block.split_once('\n').map_or(block, |(language, rest)| {
            if language.trim().chars().all(|c| c.is_ascii_alphanumeric()) { rest } else { block }
        })
    })
}

/// Objects in running text, the outermost ones.
fn objects(text: &str) -> impl Iterator<Item = Value> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while let Some(start) = rest.find('{') {
            let from = &rest[start..];
            let mut stream = serde_json::Deserializer::from_str(from).into_iter::<Value>();
            match stream.next() {
                Some(Ok(value)) => {
                    rest = &from[stream.byte_offset()..];
                    return Some(value);
                }
                _ => rest = &from[1..],
            }
        }
        None
    })
}

/// The value, if there is one or all are the same.
fn only(mut values: impl Iterator<Item = Value>) -> Result<Option<Value>, String> {
    let Some(first) = values.next() else { return Ok(None) };
    match values.all(|value| value == first) {
        true => Ok(Some(first)),
        false => Err("holds several JSON values that differ".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    #[test]
    fn the_answer_is_found_in_what_models_put_around_it() {
        let wanted = value!({ "scores": { "lid": 4 } });
        let answer = r#"{"scores": {"lid": 4}}"#;
        for text in [
            answer.to_owned(),
            format!("\u{feff}  {answer}\n"),
            format!("```json\n{answer}\n```"),
            format!("```\n{answer}\n```\n"),
            format!("``` {answer} ```"),
            format!("<think>Is it {{\"scores\": 1}}?</think>\n{answer}"),
            format!("no opening tag, as some templates leave it</think>{answer}"),
            format!("Here it is:\n\n```json\n{answer}\n```\nI hope that {{this}} helps."),
            format!("The lid is the same, so: {answer} Done."),
            format!("{answer}\n{answer}"),
        ] {
            assert_eq!(json(&text), Ok(wanted.clone()), "{text}");
        }
        assert_eq!(json("4"), Ok(value!(4)));
        assert_eq!(json("null"), Ok(value!(null)));
    }

    #[test]
    fn nothing_is_guessed_where_there_are_several_readings_or_none() {
        for (text, reason) in [
            ("", "no JSON"),
            ("The lid is the same.", "no JSON"),
            ("{\"scores\": {\"lid\": 4", "no JSON"),
            ("<think>Is it {\"scores\": 1}?", "thoughts"),
            ("{\"lid\": 4} or rather {\"lid\": 3}", "several"),
            ("```json\n{\"lid\": 4}\n```\n```json\n{\"lid\": 3}\n```", "several"),
            ("{'lid': 4}", "no JSON"),
        ] {
            let error = json(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn messages_come_as_text_in_parts_or_with_everything_in_the_thoughts() {
        let text = |message: Value| serde_json::from_value::<Message>(message).unwrap().text();
        assert_eq!(text(value!({ "content": "x" })).as_deref(), Some("x"));
        let parts = value!([{ "type": "thinking", "text": "hm" }, { "type": "text", "text": "{\"a\":" }, { "type": "text", "text": " 1}" }]);
        assert_eq!(text(value!({ "content": parts })).as_deref(), Some("{\"a\": 1}"));
        for name in ["reasoning_content", "reasoning"] {
            for content in [value!(null), value!(""), value!(" \n")] {
                assert_eq!(text(value!({ "content": content, name: "{}" })).as_deref(), Some("{}"));
            }
            assert_eq!(text(value!({ "content": "x", name: "{}" })).as_deref(), Some("x"));
        }
        assert_eq!(text(value!({ "role": "assistant" })), None);
    }
}
