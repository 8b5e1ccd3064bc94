//! Distillation of classifier-free guidance (Meng et al., arXiv 2210.03142), as FLUX.1-dev has been through it: the transformer
//! learns to give at once, for the guidance that it is told, what a prompt and no prompt give together.

use burn::tensor::{DType, Device, Tensor, TensorData};
use uno_core::flux::Flux;
use uno_core::traits::{Conditioning, VelocityInput, VelocityModel};

use super::base::{Base, Batch, Scenes};
use super::world::Draw;
use crate::error::Result;

/// Guidances that are learned: from the plain model to more than anybody asks for.
const RANGE: [f32; 2] = [1.0, 5.0];

/// The mean squared error in step `step` against what `teacher`, which is not trained, gives with guidance. Text encoders are
/// the teacher's, which is on `device`.
///
/// # Errors
///
/// Token ids beyond the vocabulary.
pub fn loss(
    model: &Flux,
    teacher: &Base,
    scenes: &Scenes,
    batch: usize,
    seed: u64,
    step: u64,
    device: &Device,
) -> Result<Tensor<1>> {
    let Batch { latent, times, prompts, .. } = scenes.batch(batch, seed, step, device);
    let conditioning = teacher.condition(&prompts, scenes.grid)?;
    let empty = teacher.condition(&vec![&scenes.empty; batch], scenes.grid)?;
    let ones = vec![1.0; batch];
    let input =
        VelocityInput { latent: latent.clone(), t: &times, guidance: &ones, conditioning: &conditioning };
    let away = teacher.flux.velocity(VelocityInput {
        conditioning: &empty,
        latent: latent.clone(),
        ..input.clone()
    })?;
    let towards = teacher.flux.velocity(input)?;
    let mut draw = Draw::stream(seed, 301, step);
    let guidance: Vec<f32> = (0..batch).map(|_| draw.between(RANGE[0], RANGE[1])).collect();
    let scale = Tensor::<1>::from_data(TensorData::new(guidance.clone(), [batch]), (device, DType::F32));
    let wanted = away.clone() + (towards - away) * scale.reshape([batch, 1, 1]);

    let conditioning =
        Conditioning { txt: conditioning.txt.autodiff(), vec: conditioning.vec.autodiff(), ..conditioning };
    let input = VelocityInput {
        latent: latent.autodiff(),
        t: &times,
        guidance: &guidance,
        conditioning: &conditioning,
    };
    Ok((model.velocity(input)? - wanted.autodiff()).square().mean())
}
