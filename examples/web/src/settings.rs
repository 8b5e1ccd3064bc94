//! From what a client asks for to the settings of a job: what is left out is filled in, what cannot be is refused.

use serde::Serialize;
use uno_models::preprocess::preprocessed_size_of;
use uno_models::request::MULTIPLE;
use utoipa::ToSchema;

use crate::arguments::Arguments;
use crate::error::{ApiError, Result};
use crate::job::{JobRequest, JobSettings, LoraScale};
use crate::model::Model;
use crate::references::References;

/// Most characters of a prompt. T5 reads 512 tokens, of about four characters each.
const MAX_PROMPT: usize = 4000;
/// Largest guidance; the published models know 1 to 10.
const MAX_GUIDANCE: f32 = 100.0;
/// Largest factor on a LoRA, either way.
const MAX_SCALE: f64 = 10.0;
/// Random seeds are below this, so that they are easy to read and every JSON reader holds them.
const RANDOM_SEEDS: u64 = 1 << 32;

/// What is accepted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Limits {
    /// Most references of a job.
    pub references: usize,
    /// Longest side of a picture in pixels.
    pub side: usize,
    /// Sides are multiples of this.
    pub multiple: usize,
    /// Most pixels of a picture.
    pub pixels: usize,
    /// Most steps.
    pub steps: usize,
    /// Most pictures of a job.
    pub images: usize,
    /// Most characters of a prompt.
    pub prompt: usize,
    /// Most bytes of a reference's file.
    pub upload_bytes: u64,
    /// Most jobs that wait.
    pub queue: usize,
}

impl Limits {
    pub fn new(arguments: &Arguments) -> Self {
        Self {
            references: arguments.max_references as usize,
            side: arguments.max_side as usize,
            multiple: MULTIPLE,
            pixels: arguments.max_pixels as usize,
            steps: arguments.max_steps as usize,
            images: arguments.max_images as usize,
            prompt: MAX_PROMPT,
            upload_bytes: arguments.max_upload.0,
            queue: arguments.queue as usize,
        }
    }

    /// Checks width and height of a picture.
    ///
    /// # Errors
    ///
    /// Those that are not made.
    pub fn check_size(&self, width: usize, height: usize) -> Result<()> {
        let most = self.side / MULTIPLE * MULTIPLE;
        for (name, side) in [("width", width), ("height", height)] {
            if !side.is_multiple_of(MULTIPLE) || !(MULTIPLE..=most).contains(&side) {
                let wanted = format!("a multiple of {MULTIPLE} from {MULTIPLE} to {most}");
                return Err(ApiError::field(name, side, wanted));
            }
        }
        if width * height > self.pixels {
            let got = format!("{width} with a height of {height}, {} pixels in all", width * height);
            return Err(ApiError::field("width", got, format!("at most {} pixels in all", self.pixels)));
        }
        Ok(())
    }

    /// Checks the longer side that references are scaled to.
    ///
    /// # Errors
    ///
    /// One that is too small or too large.
    pub fn check_ref_size(&self, ref_size: u32) -> Result<()> {
        within("ref_size", ref_size as usize, MULTIPLE, self.side, " pixels")
    }

    fn check_prompt(&self, prompt: &str) -> Result<()> {
        let length = prompt.chars().count();
        if length <= self.prompt {
            return Ok(());
        }
        Err(ApiError::field("prompt", format!("{length} characters"), format!("at most {}", self.prompt)))
    }
}

/// The settings of the job that is asked for.
///
/// # Errors
///
/// The first field that cannot be done, with what can.
pub fn resolve(
    request: JobRequest,
    limits: &Limits,
    model: &Model,
    references: &References,
) -> Result<JobSettings> {
    limits.check_prompt(&request.prompt)?;
    let defaults = model.defaults();
    let (width, height) =
        (request.width.unwrap_or(defaults.width), request.height.unwrap_or(defaults.height));
    limits.check_size(width, height)?;
    let num_steps = request.num_steps.unwrap_or(defaults.num_steps);
    within("num_steps", num_steps, 1, limits.steps, "")?;
    let num_images = request.num_images.unwrap_or(1);
    within("num_images", num_images, 1, limits.images, "")?;
    let guidance = request.guidance.unwrap_or(defaults.guidance);
    if !(0.0..=MAX_GUIDANCE).contains(&guidance) {
        return Err(ApiError::field("guidance", guidance, format!("0 to {MAX_GUIDANCE}")));
    }
    let seed = match request.seed {
        Some(seed) => seed,
        None => getrandom::u64()? % RANDOM_SEEDS,
    };
    if seed.checked_add(num_images as u64 - 1).is_none() {
        let wanted = format!("at most {}, for {num_images} pictures", u64::MAX - (num_images as u64 - 1));
        return Err(ApiError::field("seed", seed, wanted));
    }
    if request.references.len() > limits.references {
        let got = format!("{} pictures", request.references.len());
        return Err(ApiError::field("references", got, format!("at most {}", limits.references)));
    }
    let ref_size = request.ref_size.unwrap_or_else(|| model.long_side(request.references.len()));
    limits.check_ref_size(ref_size)?;
    let found = request.references.iter().enumerate().map(|(i, id)| {
        let param = format!("references[{i}]");
        let reference = match references.find(id) {
            Err(error) if error.is_not_found() => {
                let id: String = id.chars().take(80).collect();
                let message = format!("{param}: {id:?} is not here; upload it again");
                return Err(ApiError::invalid(message).with_param(param));
            }
            found => found?,
        };
        let name = format!("{}… ({param})", reference.id.get(..8).unwrap_or_default());
        preprocessed_size_of(&name, (reference.width, reference.height), ref_size)
            .map_err(|error| ApiError::from(error).with_param(param))?;
        Ok(reference)
    });
    let settings = JobSettings {
        references: found.collect::<Result<_>>()?,
        prompt: request.prompt,
        width,
        height,
        num_steps,
        guidance,
        seed,
        num_images,
        ref_size,
        pe: request.pe.unwrap_or(defaults.pe),
        lora_scale: lora_scale(request.lora_scale, model)?,
        loras: loras(request.loras.map(|loras| loras.into_iter().map(|lora| lora.0)), model)?,
        memory: match request.memory {
            None => defaults.memory.clone(),
            Some(memory) if model.memory_choices().contains(&memory) => memory,
            Some(memory) => {
                let got: String = memory.chars().take(80).collect();
                let wanted = format!("one of {}", model.memory_choices().join(", "));
                return Err(ApiError::field("memory", format_args!("{got:?}"), wanted));
            }
        },
    };
    model.check_fits(&settings)?;
    Ok(settings)
}

fn lora_scale(asked: Option<f64>, model: &Model) -> Result<f64> {
    let scale = asked.unwrap_or(model.defaults().lora_scale);
    check_scale("lora_scale", scale)?;
    if scale != 0.0 && !model.has_lora() {
        return Err(ApiError::field("lora_scale", scale, "0: the server was started without UNO's LoRA"));
    }
    Ok(scale)
}

/// Further LoRAs: those that are asked for, in the order in which the server was given them; all if nothing is said.
fn loras(
    asked: Option<impl Iterator<Item = crate::job::LoraRequest>>,
    model: &Model,
) -> Result<Vec<LoraScale>> {
    let Some(asked) = asked else { return Ok(model.loras().to_vec()) };
    let mut chosen = Vec::new();
    for (i, lora) in asked.enumerate() {
        let Some(known) = model.loras().iter().position(|known| known.name == lora.name) else {
            let name: String = lora.name.chars().take(80).collect();
            let names: Vec<_> = model.loras().iter().map(|known| known.name.as_str()).collect();
            let wanted =
                if names.is_empty() { "none: the server knows none".into() } else { names.join(" or ") };
            return Err(ApiError::field(format!("loras[{i}].name"), format_args!("{name:?}"), wanted));
        };
        let scale = lora.scale.unwrap_or(model.loras()[known].scale);
        check_scale(&format!("loras[{i}].scale"), scale)?;
        if chosen.iter().any(|(other, _)| *other == known) {
            return Err(ApiError::field(
                format!("loras[{i}].name"),
                format_args!("{:?} twice", lora.name),
                "each once",
            ));
        }
        chosen.push((known, LoraScale { name: lora.name, scale }));
    }
    chosen.sort_by_key(|(known, _)| *known);
    Ok(chosen.into_iter().map(|(_, lora)| lora).collect())
}

fn check_scale(name: &str, scale: f64) -> Result<()> {
    if (-MAX_SCALE..=MAX_SCALE).contains(&scale) {
        return Ok(());
    }
    Err(ApiError::field(name, scale, format!("-{MAX_SCALE} to {MAX_SCALE}")))
}

fn within(name: &str, got: usize, least: usize, most: usize, unit: &str) -> Result<()> {
    if (least..=most).contains(&got) {
        return Ok(());
    }
    Err(ApiError::field(name, got, format!("{least} to {most}{unit}")))
}
