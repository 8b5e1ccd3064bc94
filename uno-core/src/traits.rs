//! What the parts of a generation are to each other. Implement one of these to put in a part of your own.

use std::ops::{ControlFlow, Range};

use burn::tensor::Tensor;

use crate::approximation::Approximation;
use crate::error::{Error, Result};
use crate::flux::PositionId;

/// Turns prompts into what the velocity model is conditioned on.
pub trait TextEncoder: Send + Sync {
    /// Encodes a batch of prompts. Each prompt's result depends on that prompt alone.
    ///
    /// # Errors
    ///
    /// A prompt that cannot be tokenized, or a result that is not finite.
    fn encode(&self, prompts: &[String]) -> Result<TextEncoding>;
}

/// Prompts as the velocity model takes them.
#[derive(Debug, Clone)]
pub struct TextEncoding {
    /// One state per token, `[batch, tokens, features]` (T5).
    pub txt: Tensor<3>,
    /// One state per prompt, `[batch, features]` (CLIP).
    pub vec: Tensor<2>,
    /// Prompts that were too long, and by how much.
    pub truncated: Vec<Truncation>,
}

/// A prompt that an encoder could not take in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncation {
    /// Which prompt of the batch.
    pub prompt: usize,
    /// Which encoder.
    pub encoder: &'static str,
    /// Tokens that were kept, special tokens included.
    pub kept: usize,
    /// Tokens that were dropped.
    pub dropped: usize,
}

/// Maps pictures to latents and back.
pub trait LatentCodec: Send + Sync {
    /// Pictures `[batch, 3, H, W]` in `[-1, 1]`, f32, to latents `[batch, C, H / f, W / f]`, f32.
    /// With a seed the latent is drawn from the encoder's distribution, without one it is its mean.
    ///
    /// # Errors
    ///
    /// A size that is not a multiple of the downsampling factor.
    fn encode(&self, pictures: Tensor<4>, seed: Option<u64>) -> Result<Tensor<4>>;

    /// Latents `[batch, C, h, w]` to pictures `[batch, 3, h * f, w * f]`, f32, in about `[-1, 1]`.
    ///
    /// # Errors
    ///
    /// Latents of another number of channels.
    fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>>;

    /// Channels of a latent (C); 16 for FLUX.
    fn channels(&self) -> usize;

    /// Pixels per latent along each side (f); 8 for FLUX.
    fn downsampling(&self) -> usize;
}

/// What stays the same over all steps of a generation.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Text states `[batch, text tokens, features]`.
    pub txt: Tensor<3>,
    /// Pooled text `[batch, features]`.
    pub vec: Tensor<2>,
    /// Packed reference latents, `[batch, tokens of the reference, channels]` each.
    pub references: Vec<Tensor<3>>,
    /// Positions of the text tokens, the noisy latent's tokens, then each reference's.
    pub ids: Vec<PositionId>,
}

impl Conditioning {
    /// That of some samples of the batch, which must be there.
    pub(crate) fn samples(&self, range: Range<usize>) -> Self {
        let (first, count) = (range.start, range.len());
        Self {
            txt: self.txt.clone().narrow(0, first, count),
            vec: self.vec.clone().narrow(0, first, count),
            references: self.references.iter().map(|r| r.clone().narrow(0, first, count)).collect(),
            ids: self.ids.clone(),
        }
    }
}

/// Input of one evaluation of the velocity model.
#[derive(Debug, Clone)]
pub struct VelocityInput<'a> {
    /// Packed noisy latent `[batch, tokens, channels]`.
    pub latent: Tensor<3>,
    /// Time of each sample, 1 (noise) to 0 (picture), `[batch]`.
    pub t: &'a [f32],
    /// Guidance of each sample, `[batch]`; ignored by models without guidance input.
    pub guidance: &'a [f32],
    /// What stays the same over all steps.
    pub conditioning: &'a Conditioning,
}

/// The steps of one generation, before the first.
#[derive(Debug, Clone, Copy)]
pub struct Steps<'a> {
    /// What stays the same over all steps.
    pub conditioning: &'a Conditioning,
    /// The time that each step starts from, 1 (noise) to 0 (picture).
    pub times: &'a [f32],
    /// Guidance of each sample, `[batch]`; ignored by models without guidance input.
    pub guidance: &'a [f32],
    /// What may be approximated.
    pub approximation: Approximation,
}

impl Steps<'_> {
    /// The time of a step, for each sample.
    ///
    /// # Errors
    ///
    /// A step beyond the last.
    pub fn time(&self, step: usize, batch: usize) -> Result<Vec<f32>> {
        let t = self.times.get(step);
        let t = t.ok_or_else(|| Error::invalid("step", step, format!("less than {}", self.times.len())))?;
        Ok(vec![*t; batch])
    }
}

/// The result of one step of [`Velocity`].
#[derive(Debug, Clone)]
pub struct Predicted {
    /// Velocity of the latent's tokens, `[batch, tokens, channels]`.
    pub velocity: Tensor<3>,
    /// For how many samples of the batch most of the work was spared ([`Approximation::first_block_cache`]).
    pub reused: usize,
}

/// A velocity model made ready for [`Steps`]: of the number of the step, from 0, and the packed noisy latent `[batch, tokens,
/// channels]`. Steps are asked for in their order.
pub type Velocity<'a> = Box<dyn FnMut(usize, Tensor<3>) -> Result<Predicted> + 'a>;

/// Predicts the velocity `dx/dt` of a noisy latent.
pub trait VelocityModel: Send + Sync {
    /// Velocity of the latent's tokens, `[batch, tokens, channels]`.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit together or to the model.
    fn velocity(&self, input: VelocityInput<'_>) -> Result<Tensor<3>>;

    /// The same for steps that are known beforehand. A model that can compute something once for all of them does so; without
    /// approximations the results are those of [`velocity`](Self::velocity), up to rounding.
    ///
    /// # Errors
    ///
    /// Approximations that the model does not know; by default, it knows none.
    fn prepare<'a>(&'a self, steps: Steps<'a>) -> Result<Velocity<'a>> {
        if !steps.approximation.is_none() {
            let got = format!("{:?}", steps.approximation);
            return Err(Error::invalid("approximation", got, "none: this model computes every step in full"));
        }
        Ok(Box::new(move |step, latent| {
            let t = steps.time(step, latent.dims()[0])?;
            let Steps { conditioning, guidance, .. } = steps;
            let velocity = self.velocity(VelocityInput { latent, t: &t, guidance, conditioning })?;
            Ok(Predicted { velocity, reused: 0 })
        }))
    }

    /// Features of a packed latent token; 64 for FLUX.
    fn in_channels(&self) -> usize;
}

/// What an [`Observer`] is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A stage begins: loading, text encoding, decoding ...
    Stage {
        /// Name of the stage, for people.
        name: &'a str,
    },
    /// A step of the sampler is done.
    Step {
        /// Steps done, from 1.
        step: usize,
        /// Steps in all.
        total: usize,
        /// The time that the step started from, 1 (noise) to 0 (picture).
        t: f32,
        /// Seconds that this step took.
        seconds: f64,
        /// For how many samples most of the work was spared ([`Approximation::first_block_cache`]).
        reused: usize,
        /// The packed latent after the step, `[batch, tokens, channels]`.
        latent: &'a Tensor<3>,
    },
    /// Something was changed or noticed that the user should know, such as a truncated prompt.
    Notice {
        /// What, for people.
        text: &'a str,
    },
}

/// Watches long work, and may stop it.
///
/// Closures that take an [`Event`] and return [`ControlFlow`] are observers too.
pub trait Observer: Send + Sync {
    /// Called as work goes on; [`ControlFlow::Break`] cancels it with [`crate::Error::Cancelled`].
    fn on_event(&self, event: &Event<'_>) -> ControlFlow<()>;
}

impl<F: Fn(&Event<'_>) -> ControlFlow<()> + Send + Sync> Observer for F {
    fn on_event(&self, event: &Event<'_>) -> ControlFlow<()> {
        self(event)
    }
}

/// Watches nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn on_event(&self, _: &Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
