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
    let Batch { latent, weights, times, prompts, .. } = scenes.batch(batch, seed, step, device);
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
    Ok(((model.velocity(input)? - wanted.autodiff()).square() * weights.autodiff()).mean())
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use uno_core::weights::{Checkpoint, LoadOptions, Storage, StoredTensor};

    use super::super::base::tests::{CONFIG, settings, small};
    use super::super::trainer::Trainer;
    use super::*;

    #[test]
    fn the_transformer_learns_what_guidance_gives() {
        let (device, tracked) = (Device::flex(), Device::flex().autodiff());
        let ([flux, t5, clip], scenes) = small();
        // A last layer and modulations that are not zero, so that prompts matter.
        let seen = flux.tensors().iter().map(|(name, tensor)| {
            let numbers = tensor.to_f32();
            let is_zero = name.ends_with("weight") && numbers.iter().all(|x| *x == 0.0);
            let numbers = if is_zero {
                Draw::stream(9, 9, numbers.len() as u64).normals(numbers.len())
            } else {
                numbers
            };
            let numbers: Vec<f32> = numbers.iter().map(|x| if is_zero { 0.1 * x } else { *x }).collect();
            (name.clone(), StoredTensor::from_f32(tensor.shape().to_vec(), &numbers).unwrap())
        });
        let flux = Checkpoint::from_tensors("teacher", seen.collect::<Vec<_>>());
        let teacher = Base::load(&flux, &t5, &clip, CONFIG, &LoadOptions::new(&device)).unwrap();
        let options = LoadOptions::new(&tracked).with_storage(Storage::Expanded);
        let mut trainer = Trainer::new(Flux::load(&flux, &options).unwrap(), settings()).unwrap();
        let mut step = |step: u64| {
            trainer.step(2e-3, |model, _| loss(model, &teacher, &scenes, 4, 1, step, &device)).unwrap().loss
        };
        let first: f64 = (0..5).map(&mut step).sum();
        let last: f64 = (5..65).map(&mut step).skip(55).sum();
        assert!(first > 1e-6 && last < 0.7 * first, "{first} {last}");
    }
}
