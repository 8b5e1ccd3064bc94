//! An endpoint that speaks OpenAI's chat completions, as vLLM, Ollama, LM Studio and the services do: questions with pictures,
//! answers in a given form.

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use image::RgbImage;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;

use crate::error::{Error, Result};

/// Largest answer that is read.
const MAX_ANSWER: u64 = 4 << 20;
/// Longest wait that a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(120);

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
    /// not of the form is asked for again, as is one that fails to come.
    ///
    /// # Errors
    ///
    /// What the server refuses; all attempts failed, with what the last one met.
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
        let mut attempt = 1;
        loop {
            let (reason, asked) = match self.attempt(&body, &read) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Lasting(reason)) => return Err(self.error(reason, true)),
                Err(Failure::Passing(reason, asked)) => (reason, asked),
            };
            if attempt == self.config.attempts {
                return Err(self.error(format!("{reason}; {attempt} attempts failed"), false));
            }
            std::thread::sleep(asked.unwrap_or(wait).min(MAX_WAIT));
            wait = wait.saturating_mul(2).min(MAX_WAIT);
            attempt += 1;
        }
    }

    fn error(&self, reason: String, is_lasting: bool) -> Error {
        Error::Endpoint { url: self.config.url.clone(), reason, is_lasting }
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
        let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
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
                return Err(Failure::Passing(reason, asked.map(Duration::from_secs)));
            }
            _ => return Err(Failure::Lasting(format!("status {status}: {}", start_of(&text)))),
        }
        let answer: Answer = serde_json::from_str(&text)
            .map_err(|e| passing(format!("no chat completion ({e}): {}", start_of(&text))))?;
        let choice = answer.choices.into_iter().next();
        let content = choice.and_then(|choice| choice.message.content);
        let content = content.ok_or_else(|| passing("an answer without content".into()))?;
        let value = serde_json::from_str(content.trim())
            .map_err(|e| passing(format!("the answer is no JSON ({e}): {}", start_of(&content))))?;
        read(value).map_err(|reason| passing(format!("the answer {reason}: {}", start_of(&content))))
    }
}

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
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
