//! An endpoint that speaks OpenAI's chat completions, as vLLM, Ollama, LM Studio and the services do: questions with pictures,
//! answers in a given form.

use std::io::Read;
use std::time::{Duration, SystemTime};

use base64::Engine;
use image::RgbImage;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;

use super::answer::{self, Message};
use crate::error::{EndpointFailure, Error, Result};

/// Largest answer that is read.
const MAX_ANSWER: u64 = 4 << 20;
/// Longest wait between attempts of our own.
const MAX_WAIT: Duration = Duration::from_secs(120);
/// Longest wait that a server may ask for.
const MAX_ASKED: Duration = Duration::from_secs(600);
/// How often a question is asked whose answers cannot be read.
const READINGS: u32 = 3;

/// Where the endpoint is, and how patient we are with it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Address up to and including the version: `http://localhost:8000/v1`.
    pub url: String,
    /// Name of the model there.
    pub model: String,
    /// Environment variable that holds the key, if one is needed; the key itself is in no file.
    #[serde(default)]
    pub key_variable: Option<String>,
    /// Longest wait for an answer, in seconds.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: f64,
    /// How often a question is asked before it is given up.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
    /// Wait before the second attempt, in seconds; it doubles with each.
    #[serde(default = "default_wait")]
    pub wait_seconds: f64,
}

fn default_timeout() -> f64 {
    120.0
}

fn default_attempts() -> u32 {
    5
}

fn default_wait() -> f64 {
    1.0
}

/// A part of a question.
#[derive(Debug, Clone)]
pub enum Part<'a> {
    /// Words.
    Text(&'a str),
    /// A picture.
    Picture(&'a RgbImage),
}

/// Why an attempt failed.
enum Failure {
    /// Another attempt may succeed, after a wait that the server may have named.
    Passing(String, Option<Duration>),
    /// No attempt will.
    Lasting(String),
    /// There was an answer, but none that can be read.
    Unreadable(String),
}

/// The endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    config: EndpointConfig,
    agent: Agent,
    key: Option<String>,
}

impl Endpoint {
    /// Checks the configuration; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// An address that is none; limits that are not positive; a variable that is not set.
    pub fn new(config: EndpointConfig) -> Result<Self> {
        let is_web = config.url.starts_with("http://") || config.url.starts_with("https://");
        if !is_web {
            return Err(Error::request("endpoint url", &config.url, "http:// or https:// ... /v1"));
        }
        for (name, seconds) in [
            ("endpoint timeout_seconds", config.timeout_seconds),
            ("endpoint wait_seconds", config.wait_seconds),
        ] {
            if !(seconds > 0.0 && seconds <= 3600.0) {
                return Err(Error::request(name, seconds, "above 0, at most 3600"));
            }
        }
        if config.attempts == 0 {
            return Err(Error::request("endpoint attempts", 0, "at least 1"));
        }
        let key = match &config.key_variable {
            None => None,
            Some(name) => Some(std::env::var(name).map_err(|_| {
                Error::request(
                    "endpoint key_variable",
                    name,
                    "the name of an environment variable that holds the key",
                )
            })?),
        };
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs_f64(config.timeout_seconds)))
            // Answers to errors say what is wrong.
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("uno-rs/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self { config, agent, key })
    }

    /// What it was made with.
    pub fn config(&self) -> &EndpointConfig {
        &self.config
    }

    /// Asks a question; `schema` (JSON Schema, called `name`) is the form of the answer, and `read` checks it. An answer that is
    /// not of the form is asked for again, three times in all, as is one that fails to come.
    ///
    /// # Errors
    ///
    /// What the server refuses; all attempts failed, with what the last one met; a wait of more than ten minutes that the server
    /// asks for.
    pub fn ask<T>(
        &self,
        question: &[Part<'_>],
        (name, schema): (&str, &Value),
        read: impl Fn(Value) -> Result<T, String>,
    ) -> Result<T> {
        let content = question.iter().map(part).collect::<Result<Vec<_>>>()?;
        let body = json!({
            "model": self.config.model,
            "messages": [{ "role": "user", "content": content }],
            "temperature": 0,
            "response_format": {
                "type": "json_schema", "json_schema": { "name": name, "strict": true, "schema": schema },
            },
        });
        let mut wait = Duration::from_secs_f64(self.config.wait_seconds);
        let (mut attempt, mut readings) = (1, 0);
        loop {
            let (reason, asked) = match self.attempt(&body, &read) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Lasting(reason)) => return Err(self.error(reason, EndpointFailure::Refused)),
                Err(Failure::Passing(reason, asked)) => (reason, asked),
                Err(Failure::Unreadable(reason)) => {
                    readings += 1;
                    if readings == READINGS {
                        let reason = format!("{reason}; {READINGS} answers could not be read");
                        return Err(self.error(reason, EndpointFailure::Unreadable));
                    }
                    continue;
                }
            };
            if attempt == self.config.attempts {
                let reason = format!("{reason}; {attempt} attempts failed");
                return Err(self.error(reason, EndpointFailure::Unreachable));
            }
            if let Some(asked) = asked.filter(|asked| *asked > MAX_ASKED) {
                let reason =
                    format!("{reason}; it asks for a wait of {} seconds; run again then", asked.as_secs());
                return Err(self.error(reason, EndpointFailure::Refused));
            }
            std::thread::sleep(asked.unwrap_or(wait));
            wait = wait.saturating_mul(2).min(MAX_WAIT);
            attempt += 1;
        }
    }

    fn error(&self, reason: String, kind: EndpointFailure) -> Error {
        Error::Endpoint { url: self.config.url.clone(), reason, kind }
    }

    fn attempt<T>(&self, body: &Value, read: impl Fn(Value) -> Result<T, String>) -> Result<T, Failure> {
        let url = format!("{}/chat/completions", self.config.url.trim_end_matches('/'));
        let mut request = self.agent.post(&url);
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let passing = |reason: String| Failure::Passing(reason, None);
        let mut response = request.send_json(body).map_err(|e| match e {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Lasting(e.to_string()),
            e => passing(e.to_string()),
        })?;
        let status = response.status().as_u16();
        let asked = response.headers().get("retry-after");
        let asked = asked.and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
        let mut text = String::new();
        let mut reader = response.body_mut().as_reader().take(MAX_ANSWER + 1);
        reader.read_to_string(&mut text).map_err(|e| passing(format!("the answer broke off: {e}")))?;
        if text.len() as u64 > MAX_ANSWER {
            return Err(passing(format!("the answer has more than {MAX_ANSWER} bytes")));
        }
        match status {
            200 => {}
            408 | 409 | 425 | 429 | 500..=599 => {
                let reason = format!("status {status}: {}", start_of(&text));
                return Err(Failure::Passing(reason, asked));
            }
            _ => return Err(Failure::Lasting(format!("status {status}: {}", start_of(&text)))),
        }
        let answer: Answer = serde_json::from_str(&text)
            .map_err(|e| passing(format!("no chat completion ({e}): {}", start_of(&text))))?;
        let choice = answer.choices.into_iter().next();
        let content = choice.and_then(|choice| choice.message.text());
        let content = content.ok_or_else(|| Failure::Unreadable("an answer without content".into()))?;
        let value = answer::json(&content).and_then(&read);
        value.map_err(|reason| Failure::Unreadable(format!("the answer {reason}: {}", start_of(&content))))
    }
}

/// What `Retry-After` asks for: a number of seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let seconds = value.trim().parse().ok().map(Duration::from_secs);
    // A date that is past means at once.
    seconds.or_else(|| Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()))
}

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

fn part(part: &Part<'_>) -> Result<Value> {
    Ok(match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Picture(picture) => {
            let mut png = std::io::Cursor::new(Vec::new());
            picture
                .write_to(&mut png, image::ImageFormat::Png)
                .map_err(|e| Error::picture("question", e.to_string()))?;
            let data = base64::engine::general_purpose::STANDARD.encode(png.into_inner());
            json!({ "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{data}") } })
        }
    })
}

/// The first line's worth of a text, on one line.
fn start_of(text: &str) -> String {
    let start: String = text.chars().take(200).collect();
    start.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_by_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let asked = |value: &str| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked(" 0 "), Some(0));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-1"), None);
    }
}
