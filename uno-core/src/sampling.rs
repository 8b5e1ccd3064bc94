//! Timestep schedule and the Euler sampler.

use std::time::Instant;

use burn::tensor::{FloatDType, Tensor};

use crate::approximation::Approximation;
use crate::error::{Error, Result};
use crate::traits::{Conditioning, Event, Observer, Predicted, Steps, VelocityModel};

/// Which sequence length shifts the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SequenceLength {
    /// `(W/8) * (H/8) / 256`: what UNO's inference passes (an oddity of the official code; 16 for 512x512).
    #[default]
    Uno,
    /// `(W/16) * (H/16)`, the number of latent tokens: what FLUX itself and UNO's training pass.
    Flux,
}

impl SequenceLength {
    /// The length for a picture of `width` x `height` pixels.
    pub fn of(self, width: usize, height: usize) -> usize {
        match self {
            Self::Uno => (width / 8) * (height / 8) / 256,
            Self::Flux => (width / 16) * (height / 16),
        }
    }
}

/// Times from 1 to 0, `steps + 1` of them, linear or shifted towards 1 for longer sequences
/// (FLUX `sampling.py: get_schedule`).
///
/// # Errors
///
/// Zero steps.
pub fn schedule(steps: usize, sequence_length: usize, shift: bool) -> Result<Vec<f32>> {
    if steps == 0 {
        return Err(Error::invalid("steps", 0, "at least 1"));
    }
    // The line through (256, 0.5) and (4096, 1.15).
    let slope = (1.15 - 0.5) / (4096.0 - 256.0);
    let mu = slope * sequence_length as f64 + (0.5 - slope * 256.0);
    let factor = mu.exp() as f32;
    // As torch.linspace: counted from both ends, so that small times are exact.
    let step = -1.0 / steps as f32;
    let linear =
        |i: usize| if i < steps.div_ceil(2) { 1.0 + step * i as f32 } else { -step * (steps - i) as f32 };
    let shifted = |t: f32| if t == 0.0 { 0.0 } else { factor * (1.0 / (factor + (1.0 / t - 1.0))) };
    Ok((0..=steps).map(linear).map(|t| if shift { shifted(t) } else { t }).collect())
}

/// How a latent is made from noise.
#[derive(Debug, Clone, Copy)]
pub struct Sampler<'a> {
    /// From 1 to 0; each pair of neighbours is a step.
    pub times: &'a [f32],
    /// How closely the prompt is followed.
    pub guidance: f32,
    /// What may be approximated.
    pub approximation: Approximation,
}

impl<'a> Sampler<'a> {
    /// Every step in full.
    pub fn new(times: &'a [f32], guidance: f32) -> Self {
        Self { times, guidance, approximation: Approximation::default() }
    }
}

/// Integrates the velocity from noise to a clean latent: `x += (t_next - t) * v` for each pair of neighbouring times.
///
/// `latent` is packed, `[batch, tokens, channels]`; its own format decides how it is rounded after each operation, as in the
/// official pipeline (where it is bf16).
///
/// # Errors
///
/// What the model returns; [`Error::Cancelled`]; [`Error::NonFinite`] as soon as a velocity is not finite.
pub fn denoise(
    model: &dyn VelocityModel,
    mut latent: Tensor<3>,
    conditioning: &Conditioning,
    sampler: Sampler<'_>,
    observer: &dyn Observer,
) -> Result<Tensor<3>> {
    let dtype = crate::nn::float_dtype(&latent);
    let Sampler { times, approximation, .. } = sampler;
    let guidance = vec![sampler.guidance; latent.dims()[0]];
    let total = times.len().saturating_sub(1);
    let steps = Steps { conditioning, times: &times[..total], guidance: &guidance, approximation };
    let mut velocity = model.prepare(steps)?;
    for (i, pair) in times.windows(2).enumerate() {
        let &[t, t_next] = pair else { continue };
        let start = Instant::now();
        let Predicted { velocity, reused } = velocity(i, latent.clone())?;
        let velocity = velocity.to_device(&latent.device()).cast(FloatDType::F32);
        // Python multiplies by the difference in double precision and rounds once.
        let dt = f64::from(t_next) - f64::from(t);
        let change = velocity.mul_scalar(dt as f32).cast(dtype).cast(FloatDType::F32);
        latent = (latent.cast(FloatDType::F32) + change).cast(dtype);
        check_finite(
            &format!("the latent after step {} of {total}", i + 1),
            &latent,
            "the weights are damaged, of another model, or overflow in this number format (try f32)",
        )?;
        let seconds = start.elapsed().as_secs_f64();
        let event = Event::Step { step: i + 1, total, t, seconds, reused, latent: &latent };
        if observer.on_event(&event).is_break() {
            return Err(Error::Cancelled { step: i + 1, total });
        }
    }
    Ok(latent)
}

/// Fails if `tensor` holds NaN or infinity. This waits for the device to finish.
///
/// # Errors
///
/// [`Error::NonFinite`], naming `what` and the `remedy`.
pub fn check_finite<const D: usize>(what: &str, tensor: &Tensor<D>, remedy: &str) -> Result<()> {
    let values = crate::tensor_to_vec(tensor.clone())?;
    let count = values.iter().filter(|x| !x.is_finite()).count();
    if count == 0 {
        return Ok(());
    }
    Err(Error::NonFinite { what: what.to_owned(), count, total: values.len(), remedy: remedy.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rules_give_their_sequence_length() {
        assert_eq!(SequenceLength::Uno.of(512, 512), 16);
        assert_eq!(SequenceLength::Flux.of(512, 512), 1024);
    }

    #[test]
    fn a_schedule_runs_from_one_to_zero_and_falls() {
        for steps in [1, 4, 25, 50] {
            let times = schedule(steps, 4096, true).unwrap();
            assert_eq!((times[0], times[steps], times.len()), (1.0, 0.0, steps + 1));
            assert!(times.windows(2).all(|w| w[0] > w[1]));
        }
    }

    #[test]
    fn zero_steps_are_refused() {
        assert!(schedule(0, 16, true).unwrap_err().to_string().contains("steps"));
    }
}
