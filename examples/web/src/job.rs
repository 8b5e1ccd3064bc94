//! What a job is: what is asked, what becomes of it, and how both look in JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uno_models::unope::UnoPe;
use utoipa::ToSchema;

use crate::body::Object;

/// Name of a job: 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{32}$", example = "0b1f2c3d4e5f60718293a4b5c6d7e8f9")]
pub struct JobId(String);

impl JobId {
    /// A new one, that nobody can guess.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(hex(&bytes)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was given is no name of a job.
#[derive(Debug, PartialEq, Eq)]
pub struct NoJobId;

impl FromStr for JobId {
    type Err = NoJobId;

    /// Takes nothing but 32 lower-case hexadecimal digits, so that a name is safe in a path.
    fn from_str(text: &str) -> Result<Self, NoJobId> {
        if is_hex(text, 32) { Ok(Self(text.to_owned())) } else { Err(NoJobId) }
    }
}

/// Whether `text` is so many lower-case hexadecimal digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a client asks for; what is left out is what the model was made for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// What the pictures show; may be empty.
    pub prompt: String,
    /// Names of uploaded references, in the order in which the model sees them.
    #[serde(default)]
    pub references: Vec<String>,
    /// Width in pixels, a multiple of 16.
    #[schema(minimum = 16, multiple_of = 16)]
    pub width: Option<usize>,
    /// Height in pixels, a multiple of 16.
    #[schema(minimum = 16, multiple_of = 16)]
    pub height: Option<usize>,
    /// Steps of the sampler.
    #[schema(minimum = 1)]
    pub num_steps: Option<usize>,
    /// How closely the prompt is followed.
    #[schema(minimum = 0, maximum = 100)]
    pub guidance: Option<f32>,
    /// Seed of the first picture; a random one if it is left out.
    #[schema(minimum = 0, format = "uint64")]
    pub seed: Option<u64>,
    /// How many pictures, with the seeds `seed`, `seed + 1` ….
    #[schema(minimum = 1)]
    pub num_images: Option<usize>,
    /// Longer side that references are scaled to, in pixels.
    #[schema(minimum = 16)]
    pub ref_size: Option<u32>,
    /// How references are placed.
    #[schema(value_type = Option<Placement>)]
    pub pe: Option<UnoPe>,
    /// Factor on UNO's LoRA; 0 is plain FLUX.
    #[schema(minimum = -10, maximum = 10)]
    pub lora_scale: Option<f64>,
    /// Further LoRAs that the server knows; all of them with their own scales if this is left out.
    #[schema(value_type = Option<Vec<LoraRequest>>)]
    pub loras: Option<Vec<Object<LoraRequest>>>,
    /// The memory to use: one of those that `GET /api/model` lists.
    pub memory: Option<String>,
}

/// How references are placed: diagonally, by rows only, by columns only, or without an offset.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes uno_models::unope::UnoPe in the OpenAPI document")]
pub enum Placement {
    D,
    H,
    W,
    O,
}

/// A further LoRA that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraRequest {
    /// Its name, as `GET /api/model` lists it.
    pub name: String,
    /// Its factor; the one that the server was started with if this is left out.
    #[schema(minimum = -10, maximum = 10)]
    pub scale: Option<f64>,
}

/// A further LoRA, and its factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoraScale {
    /// Its name.
    pub name: String,
    /// Its factor.
    pub scale: f64,
}

/// A reference picture that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reference {
    /// SHA-256 of the file, in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub id: String,
    /// Width in pixels, upright.
    pub width: u32,
    /// Height in pixels, upright.
    pub height: u32,
}

/// All settings of a job, none left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobSettings {
    /// What the pictures show.
    pub prompt: String,
    /// References, in the order in which the model sees them.
    pub references: Vec<Reference>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Steps of the sampler.
    pub num_steps: usize,
    /// How closely the prompt is followed.
    pub guidance: f32,
    /// Seed of the first picture.
    #[schema(format = "uint64")]
    pub seed: u64,
    /// How many pictures.
    pub num_images: usize,
    /// Longer side that references are scaled to, in pixels.
    pub ref_size: u32,
    /// How references are placed.
    #[schema(value_type = Placement)]
    pub pe: UnoPe,
    /// Factor on UNO's LoRA.
    pub lora_scale: f64,
    /// Further LoRAs.
    pub loras: Vec<LoraScale>,
    /// The memory to use.
    pub memory: String,
}

/// Where a job is between being asked for and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl State {
    /// Its name, in JSON and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| state.name() == name)
    }

    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// How far a running job is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Progress {
    /// The picture under way, from 0.
    pub picture: usize,
    /// What is done now, for people: `loading the transformer`, `encoding prompts`, `denoising`, `decoding`, `cancelling` ….
    pub stage: String,
    /// Steps of this picture that are done.
    pub step: usize,
    /// Steps of each picture.
    pub steps: usize,
    /// How much of the whole job is done, 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub fraction: f64,
    /// Seconds until the whole job is done; null until it can be told.
    #[schema(required = true)]
    pub seconds_left: Option<f64>,
}

/// A finished picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Picture {
    /// Its path on this server.
    pub url: String,
    /// Its own seed.
    #[schema(format = "uint64")]
    pub seed: u64,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

/// A job as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Where it is.
    pub state: State,
    /// When it was asked for, in seconds since 1970.
    pub created: f64,
    /// When work at it began.
    #[schema(required = true)]
    pub started: Option<f64>,
    /// When it ended.
    #[schema(required = true)]
    pub finished: Option<f64>,
    /// What was asked for.
    pub settings: JobSettings,
    /// While it is queued, how many are before it, the running one counted.
    #[schema(required = true)]
    pub position: Option<usize>,
    /// While it runs, how far it is.
    #[schema(required = true)]
    pub progress: Option<Progress>,
    /// The finished pictures, in order.
    pub pictures: Vec<Picture>,
    /// What was changed or noticed, for people.
    pub notices: Vec<String>,
    /// Why it failed.
    #[schema(required = true)]
    pub error: Option<String>,
}

impl Job {
    /// The first `count` pictures of a job with these settings.
    pub fn pictures_of(id: &JobId, settings: &JobSettings, count: usize) -> Vec<Picture> {
        let picture = |n: usize| Picture {
            url: format!("/api/jobs/{id}/pictures/{n}"),
            seed: settings.seed.wrapping_add(n as u64),
            width: settings.width,
            height: settings.height,
        };
        (0..count).map(picture).collect()
    }
}

/// What a running picture looks like so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Preview {
    /// The job.
    pub id: JobId,
    /// The picture under way, from 0.
    pub picture: usize,
    /// Steps of this picture that are done.
    pub step: usize,
    /// Steps of each picture.
    pub steps: usize,
    /// A small PNG, as a `data:` address.
    pub image: String,
}

/// Seconds since 1970 in UTC.
pub fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |duration| duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs_are_random_and_nothing_else_is_one() {
        let id = JobId::random().unwrap();
        assert_ne!(id, JobId::random().unwrap());
        assert_eq!(id.as_str().parse::<JobId>().unwrap(), id);
        let long = "0".repeat(33);
        for text in
            ["", "0", "../../etc/passwd", "ABCDEF00000000000000000000000000", &long, "é".repeat(16).as_str()]
        {
            assert_eq!(text.parse::<JobId>(), Err(NoJobId), "{text}");
        }
    }

    #[test]
    fn states_come_back_from_their_names() {
        for state in [State::Queued, State::Running, State::Done, State::Failed, State::Cancelled] {
            assert_eq!(State::from_name(state.name()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        assert_eq!(State::from_name("lost"), None);
    }

    #[test]
    fn a_seed_of_64_bits_survives_json() {
        let json = format!(r#"{{"prompt": "", "seed": {}}}"#, u64::MAX);
        assert_eq!(serde_json::from_str::<JobRequest>(&json).unwrap().seed, Some(u64::MAX));
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<JobRequest>(r#"{"prompt": "", "promt": ""}"#).is_err());
    }
}
