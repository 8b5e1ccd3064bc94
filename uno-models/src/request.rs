//! What is asked of a generation, and whether it can be done.

use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};
use uno_core::approximation::Approximation;
use uno_core::noise::NoiseSource;
use uno_core::sampling::SequenceLength;

use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::unope::UnoPe;

/// Pixels per token along each side: pictures are rounded down to multiples of this.
pub const MULTIPLE: usize = 16;
/// Longest side of a picture that is accepted, in pixels.
pub const MAX_SIDE: usize = 8192;
/// Most steps that are accepted.
pub const MAX_STEPS: usize = 10_000;
/// Most pictures of one prompt; each is a record in memory before the first is made.
pub const MAX_PICTURES: usize = 100_000;

/// One picture of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// What the picture shows; may be empty.
    pub prompt: String,
    /// Which noise it starts from.
    pub seed: u64,
}

/// Format that the initial noise is drawn in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoiseDtype {
    /// As the official pipeline: rounded to bf16.
    #[default]
    Bf16,
    /// Full precision.
    F32,
}

impl NoiseDtype {
    pub(crate) fn float(self) -> FloatDType {
        match self {
            Self::Bf16 => FloatDType::BF16,
            Self::F32 => FloatDType::F32,
        }
    }
}

/// The settings that a model was made for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// Width and height of a picture in pixels.
    pub side: usize,
    /// Longer side that a single reference is scaled to, and each of several.
    pub ref_sizes: [u32; 2],
    /// Guidance.
    pub guidance: f32,
}

impl Defaults {
    /// Those of the official command line, for UNO on FLUX.1: 512x512, references of 512, or of 320 if there are several, guidance 4.
    pub const UNO: Self = Self { side: 512, ref_sizes: [512, 320], guidance: 4.0 };
    /// Those of the small model that the programs carry: 128x128, references of 128 or 80, guidance 4.
    pub const UNO_TINY: Self = Self { side: 128, ref_sizes: [128, 80], guidance: 4.0 };

    /// The longer side that references are scaled to, by their number.
    pub fn long_side(&self, references: usize) -> u32 {
        self.ref_sizes[usize::from(references > 1)]
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self::UNO
    }
}

/// A generation: one or more samples with the same references and settings, computed together.
///
/// Defaults are those of the official command line: 512x512, 25 steps, guidance 4, seed 3407. Those of a loaded model are in
/// [`UnoPipeline::request`](crate::UnoPipeline::request).
#[derive(Debug, Clone)]
pub struct Request {
    /// The pictures to make.
    pub samples: Vec<Sample>,
    /// Pictures of the subjects, in the order in which the model sees them; may be empty.
    pub references: Vec<Picture>,
    /// Width in pixels; rounded down to a multiple of 16.
    pub width: usize,
    /// Height in pixels; rounded down to a multiple of 16.
    pub height: usize,
    /// Steps of the sampler.
    pub num_steps: usize,
    /// How closely the prompt is followed (an input of the distilled model, not classifier-free guidance).
    pub guidance: f32,
    /// Longer side that references are scaled to; by default [`ref_sizes`](Self::ref_sizes) says it.
    pub ref_size: Option<u32>,
    /// Longer side of a single reference, and of each of several, where `ref_size` does not say it: 512 and 320.
    pub ref_sizes: [u32; 2],
    /// How references are placed.
    pub pe: UnoPe,
    /// Whose random numbers the noise is.
    pub noise: NoiseSource,
    /// Format that the noise is drawn in.
    pub noise_dtype: NoiseDtype,
    /// Initial noise `[samples, channels, height / 8, width / 8]` in place of drawn noise; seeds are then not used.
    pub latents: Option<Tensor<4>>,
    /// Which sequence length shifts the schedule.
    pub sequence_length: SequenceLength,
    /// Whether the schedule is shifted at all.
    pub shift: bool,
    /// With a seed, reference latents are drawn from the encoder's distribution; without, they are its mean.
    pub reference_seed: Option<u64>,
    /// What may be approximated to save time; nothing by default.
    pub approximation: Approximation,
}

impl Request {
    /// One picture of `prompt` with the official default settings.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self::with_defaults(prompt, Defaults::UNO)
    }

    /// One picture of `prompt` with the settings that a model was made for.
    pub fn with_defaults(prompt: impl Into<String>, defaults: Defaults) -> Self {
        Self {
            samples: vec![Sample { prompt: prompt.into(), seed: 3407 }],
            references: Vec::new(),
            width: defaults.side,
            height: defaults.side,
            num_steps: 25,
            guidance: defaults.guidance,
            ref_size: None,
            ref_sizes: defaults.ref_sizes,
            pe: UnoPe::default(),
            noise: NoiseSource::default(),
            noise_dtype: NoiseDtype::default(),
            latents: None,
            sequence_length: SequenceLength::default(),
            shift: true,
            reference_seed: None,
            approximation: Approximation::default(),
        }
    }

    /// Adds a reference.
    pub fn with_reference(mut self, picture: Picture) -> Self {
        self.references.push(picture);
        self
    }

    /// Sets width and height in pixels.
    pub fn with_size(mut self, width: usize, height: usize) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// Sets the number of steps.
    pub fn with_steps(mut self, num_steps: usize) -> Self {
        self.num_steps = num_steps;
        self
    }

    /// Sets the seed of every sample.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.samples.iter_mut().for_each(|sample| sample.seed = seed);
        self
    }

    /// Makes `count` pictures of each prompt, with the seeds `seed, seed + 1 ...` of the official `--num_images_per_prompt`.
    ///
    /// # Errors
    ///
    /// Seeds beyond 64 bits; no pictures, or more than [`MAX_PICTURES`].
    pub fn with_images_per_prompt(mut self, count: usize) -> Result<Self> {
        if !(1..=MAX_PICTURES).contains(&count) {
            return Err(Error::request("num_images_per_prompt", count, format!("1 to {MAX_PICTURES}")));
        }
        let mut samples = Vec::new();
        for Sample { prompt, seed } in &self.samples {
            for j in 0..count as u64 {
                let next = seed.checked_add(j).ok_or_else(|| {
                    Error::request("seed", format!("{seed} + {j}"), "a sum that fits 64 bits")
                })?;
                samples.push(Sample { prompt: prompt.clone(), seed: next });
            }
        }
        self.samples = samples;
        Ok(self)
    }

    /// Longer side that references are scaled to.
    pub fn long_side(&self) -> u32 {
        self.long_side_of(self.references.len())
    }

    /// Longer side that so many references are scaled to.
    pub fn long_side_of(&self, references: usize) -> u32 {
        self.ref_size.unwrap_or(self.ref_sizes[usize::from(references > 1)])
    }

    /// Checks every setting, before any work; `channels` and `downsampling` are the codec's.
    /// Returns width and height as they will be made.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be done, with what can.
    pub fn validate(&self, channels: usize, downsampling: usize) -> Result<(usize, usize)> {
        if self.samples.is_empty() {
            return Err(Error::request("samples", 0, "at least one prompt and seed"));
        }
        let side = |field: &str, value: usize| {
            if (MULTIPLE..=MAX_SIDE).contains(&value) {
                Ok(value / MULTIPLE * MULTIPLE)
            } else {
                Err(Error::request(field, value, format!("{MULTIPLE} to {MAX_SIDE} pixels")))
            }
        };
        let (width, height) = (side("width", self.width)?, side("height", self.height)?);
        if !(1..=MAX_STEPS).contains(&self.num_steps) {
            return Err(Error::request("num_steps", self.num_steps, format!("1 to {MAX_STEPS}")));
        }
        if !self.guidance.is_finite() {
            return Err(Error::request("guidance", self.guidance, "a finite number, about 1 to 10"));
        }
        if !(MULTIPLE..=MAX_SIDE).contains(&(self.long_side() as usize)) {
            return Err(Error::request(
                "ref_size",
                self.long_side(),
                format!("{MULTIPLE} to {MAX_SIDE} pixels"),
            ));
        }
        self.approximation.check()?;
        if let Some(latents) = &self.latents {
            let wanted = [self.samples.len(), channels, height / downsampling, width / downsampling];
            if latents.dims() != wanted {
                let wanted = format!(
                    "{wanted:?}: [samples, channels, height / {downsampling}, width / {downsampling}]"
                );
                return Err(Error::request("latents", format!("{:?}", latents.dims()), wanted));
            }
        }
        Ok((width, height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: Request, field: &str) {
        let error = request.validate(16, 8).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }

    #[test]
    fn settings_that_cannot_be_done_are_named() {
        refused(Request::new("").with_size(0, 512), "width");
        refused(Request::new("").with_size(512, 15), "height");
        refused(Request::new("").with_size(512, usize::MAX), "height");
        refused(Request::new("").with_steps(0), "num_steps");
        refused(Request { guidance: f32::NAN, ..Request::new("") }, "guidance");
        refused(Request { ref_size: Some(0), ..Request::new("") }, "ref_size");
        refused(Request { samples: Vec::new(), ..Request::new("") }, "samples");
        let approximation = Approximation { reference_cache: Some(0), ..Approximation::default() };
        refused(Request { approximation, ..Request::new("") }, "reference_cache");
    }

    #[test]
    fn sizes_are_rounded_down_to_multiples_of_16() {
        assert_eq!(Request::new("").with_size(527, 511).validate(16, 8).unwrap(), (512, 496));
    }

    #[test]
    fn references_are_as_large_as_the_model_takes_them_unless_a_size_is_asked_for() {
        let tiny = Request::with_defaults("", Defaults::UNO_TINY);
        assert_eq!([0, 1, 2, 7].map(|n| Request::new("").long_side_of(n)), [512, 512, 320, 320]);
        assert_eq!([0, 1, 2, 7].map(|n| tiny.long_side_of(n)), [128, 128, 80, 80]);
        assert_eq!(Request { ref_size: Some(64), ..tiny }.long_side_of(3), 64);
    }

    #[test]
    fn several_pictures_have_consecutive_seeds() {
        let request = Request::new("a").with_seed(5).with_images_per_prompt(3).unwrap();
        assert_eq!(request.samples.iter().map(|s| s.seed).collect::<Vec<_>>(), [5, 6, 7]);
        assert!(Request::new("a").with_seed(u64::MAX).with_images_per_prompt(2).is_err());
        for count in [0, MAX_PICTURES + 1, usize::MAX] {
            let error = Request::new("a").with_seed(0).with_images_per_prompt(count).unwrap_err();
            assert!(error.to_string().starts_with("num_images_per_prompt"), "{error}");
        }
    }
}
