//! One batch: encodings of its samples, and what is drawn for each of them.

use burn::tensor::{DType, Device, Tensor, TensorData};
use uno_core::latents::{PATCH, pack};
use uno_core::sampling::schedule;
use uno_core::traits::Conditioning;

use super::buckets::Fit;
use super::data::Checked;
use super::encodings::Encodings;
use super::loss::{Mixed, mix};
use super::random::{Draws, Purpose};
use crate::error::{Error, Result};
use crate::unope::{Grid, UnoPe, sequence_ids};

/// How the samples of a stage become batches.
#[derive(Debug, Clone)]
pub struct BatchRecipe {
    /// Seed of all draws.
    pub seed: u64,
    /// Times that are drawn from, all alike: a schedule from 1 to 0.
    pub times: Vec<f32>,
    /// How often a prompt is replaced by the empty one.
    pub text_dropout: f64,
    /// How references are placed.
    pub pe: UnoPe,
    /// How targets are brought to the size of their bucket.
    pub fit: Fit,
}

/// The schedule that times are drawn from: 999 steps, shifted for the number of tokens at a resolution
/// (official `train.py`: `get_schedule(999, (res // 8)^2 // 4)`).
///
/// # Errors
///
/// None for resolutions that buckets exist for.
pub fn training_times(resolution: usize) -> Result<Vec<f32>> {
    let side = resolution / 8;
    Ok(schedule(999, side * side / 4, true)?)
}

/// A batch, ready for the model.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Noisy latents and wanted velocities.
    pub mixed: Mixed,
    /// One time per sample.
    pub t: Vec<f32>,
    /// Prompts and references.
    pub conditioning: Conditioning,
}

impl BatchRecipe {
    /// Makes a batch of samples that have one shape. `first` is the number of the first of them, counted over all samples that
    /// a run takes: it decides what is drawn, whatever the sizes of batches are.
    ///
    /// # Errors
    ///
    /// What encoding returns; samples of different shapes.
    pub fn make(
        &self,
        samples: &[&Checked],
        first: u64,
        encodings: &Encodings,
        device: &Device,
    ) -> Result<Batch> {
        let Some(shape) = samples.first().map(|sample| sample.shape()) else {
            return Err(Error::request("batch", "no samples", "at least one"));
        };
        if let Some(other) = samples.iter().find(|sample| sample.shape() != shape) {
            let got = format!("{:?} and {:?} (target, references)", shape, other.shape());
            return Err(Error::request(
                "batch",
                got,
                "samples of one shape: as many references, of equal sizes",
            ));
        }
        let (mut latents, mut noise, mut t) = (Vec::new(), Vec::new(), Vec::new());
        let (mut txt, mut vec) = (Vec::new(), Vec::new());
        let mut references: Vec<Vec<Tensor<4>>> = vec![Vec::new(); shape.1.len()];
        for (i, checked) in samples.iter().enumerate() {
            let draws = |purpose| Draws::new(self.seed, purpose, first + i as u64);
            let is_dropped = draws(Purpose::TextDropout).uniform() < self.text_dropout;
            let prompt = if is_dropped { "" } else { &checked.sample.prompt };
            let encoded = encodings.prompt(prompt)?;
            txt.push(encoded.txt.to_device(device));
            vec.push(encoded.vec.to_device(device));
            let time = draws(Purpose::Time).below(self.times.len());
            t.push(self.times.get(time).copied().unwrap_or(1.0));
            let latent =
                encodings.target(&checked.sample.target, checked.target, self.fit)?.to_device(device);
            let dims = latent.dims();
            let normal = draws(Purpose::Noise).normal(dims.iter().product());
            noise.push(Tensor::<4>::from_data(TensorData::new(normal, dims), (device, DType::F32)));
            latents.push(latent);
            for (place, path) in references.iter_mut().zip(&checked.sample.references) {
                place.push(encodings.reference(path, checked.long_side)?.to_device(device));
            }
        }
        let grid = |dims: [usize; 4]| -> Grid { (dims[2] / PATCH, dims[3] / PATCH) };
        let latents = Tensor::cat(latents, 0);
        let references: Vec<Tensor<4>> = references.into_iter().map(|all| Tensor::cat(all, 0)).collect();
        let grids: Vec<Grid> = references.iter().map(|r| grid(r.dims())).collect();
        let txt = Tensor::cat(txt, 0);
        let conditioning = Conditioning {
            ids: sequence_ids(self.pe, txt.dims()[1], grid(latents.dims()), &grids),
            txt,
            vec: Tensor::cat(vec, 0),
            references: references.into_iter().map(pack).collect::<uno_core::Result<_>>()?,
        };
        let mixed = mix(pack(latents)?, pack(Tensor::cat(noise, 0))?, &t);
        Ok(Batch { mixed, t, conditioning })
    }
}
