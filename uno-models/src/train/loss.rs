//! The loss of rectified flow: how well the velocity from noise to picture is predicted.

use burn::tensor::{FloatDType, Tensor};

/// A latent mixed with noise at time t, and the velocity that the model should predict there.
#[derive(Debug, Clone)]
pub struct Mixed {
    /// `(1 - t) x1 + t x0`, packed, `[batch, tokens, channels]`.
    pub latent: Tensor<3>,
    /// `x0 - x1`, of the same shape.
    pub velocity: Tensor<3>,
}

/// Mixes packed latents `x1` with `noise` (x0) at one time per sample, in f32. `[batch, tokens, channels]` each.
pub fn mix(latents: Tensor<3>, noise: Tensor<3>, t: &[f32]) -> Mixed {
    let batch = latents.dims()[0];
    let t = Tensor::<1>::from_floats(t, &latents.device()).reshape([batch, 1, 1]);
    let rest = t.clone().neg().add_scalar(1.0);
    Mixed { latent: rest * latents.clone() + t * noise.clone(), velocity: noise - latents }
}

/// Mean squared error over all numbers, in f32.
pub fn mean_squared_error(predicted: Tensor<3>, wanted: Tensor<3>) -> Tensor<1> {
    (predicted.cast(FloatDType::F32) - wanted).square().mean()
}
