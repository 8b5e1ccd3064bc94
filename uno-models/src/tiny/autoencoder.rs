//! Training of the autoencoder.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;
use uno_core::image::Pixels;
use uno_core::vae::AutoEncoder;

use super::world::{Composition, Draw, ReferenceView, Subject};
use crate::error::Result;

/// Pixels per side of a picture.
pub const SIDE: usize = 128;
/// Pixels per side of a reference that is one of several: as far from [`SIDE`] as UNO's 320 from 512.
pub const SMALL: usize = 80;
/// Pixels per side of the pieces that are trained on.
const CROP: usize = 64;
/// FLUX's fixed factors (see [`uno_core::vae`]).
const SCALE_FACTOR: f32 = 0.3611;
const SHIFT_FACTOR: f32 = 0.1159;
/// Weight of the divergence of latents from a normal distribution.
const DIVERGENCE: f64 = 1e-3;
/// Root mean square of the noise's strength on latents for the decoder alone, in deviations of latents.
const NOISE: f32 = 0.35;

/// What draws are made for; see [`Draw::stream`].
mod purpose {
    pub(super) const PICTURE: u64 = 100;
    pub(super) const CROP: u64 = 101;
    pub(super) const NOISE: u64 = 102;
}

/// Pictures to train on, rendered beforehand: three of four are compositions, the others reference views, half of them in the size
/// of one of several.
pub fn pictures(count: usize, seed: u64) -> Vec<Pixels> {
    let picture = |i: usize| {
        let mut draw = Draw::stream(seed, purpose::PICTURE, i as u64);
        if i % 4 == 3 {
            let view = ReferenceView { subject: Subject::draw(&mut draw, false), seed: draw.bits() };
            view.render(if i % 8 == 3 { SIDE } else { SMALL })
        } else {
            Composition::draw_any(&mut draw).render(SIDE)
        }
    };
    (0..count).into_par_iter().map(picture).collect()
}

/// The pieces of step `step`, `[batch, 3, CROP, CROP]` in [-1, 1].
fn pieces(pictures: &[Pixels], batch: usize, draw: &mut Draw, device: &Device) -> Tensor<4> {
    let mut numbers = vec![0f32; batch * 3 * CROP * CROP];
    for piece in numbers.chunks_mut(3 * CROP * CROP) {
        let picture = &pictures[draw.below(pictures.len())];
        let (left, top) = (draw.below(picture.width - CROP + 1), draw.below(picture.height - CROP + 1));
        for (channel, plane) in piece.chunks_mut(CROP * CROP).enumerate() {
            for (i, x) in plane.iter_mut().enumerate() {
                let at = (top + i / CROP) * picture.width + left + i % CROP;
                *x = f32::from(picture.rgb[3 * at + channel]) / 127.5 - 1.0;
            }
        }
    }
    Tensor::from_data(TensorData::new(numbers, [batch, 3, CROP, CROP]), (device, DType::F32))
}

/// Mean of the absolute differences.
fn distance(a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
    (a - b).abs().mean()
}

/// Differences of neighbours along a dimension.
fn slope(x: &Tensor<4>, dim: usize) -> Tensor<4> {
    let length = x.dims()[dim];
    x.clone().narrow(dim, 1, length - 1) - x.clone().narrow(dim, 0, length - 1)
}

/// The loss of one step: how far decoded pictures are from their originals, and the divergence of the latents.
pub fn loss(
    model: &AutoEncoder,
    data: &[Pixels],
    batch: usize,
    seed: u64,
    step: u64,
    device: &Device,
) -> Result<Tensor<1>> {
    let mut draw = Draw::stream(seed, purpose::CROP, step);
    let x = pieces(data, batch, &mut draw, device);
    let moments = model.moments_of_batch(x.clone());
    let [_, channels, h, w] = moments.dims();
    let z = channels / 2;
    let mean = moments.clone().narrow(1, 0, z);
    let log_variance = moments.narrow(1, z, z).clamp(-30.0, 20.0);
    let noise = TensorData::new(draw.normals(batch * z * h * w), [batch, z, h, w]);
    let noise = Tensor::from_data(noise, (device, DType::F32));
    let latent = mean.clone() + log_variance.clone().mul_scalar(0.5).exp() * noise;
    let y = model.decode_batch(latent);
    let divergence =
        (mean.square() + log_variance.clone().exp() - log_variance).sub_scalar(1.0).mean().mul_scalar(0.5);
    Ok(difference(&y, &x) + divergence.mul_scalar(DIVERGENCE))
}

/// How far pictures are from what they should be: absolute differences for sharp edges, those of slopes too, and squares for the
/// right colours.
fn difference(y: &Tensor<4>, x: &Tensor<4>) -> Tensor<1> {
    let slopes = distance(slope(y, 2), slope(x, 2)) + distance(slope(y, 3), slope(x, 3));
    let squares = (y.clone() - x.clone()).square().mean();
    distance(y.clone(), x.clone()) + squares.mul_scalar(2.0) + slopes.mul_scalar(0.5)
}

/// The loss of one step of the decoder alone, on latents of `encoder` with noise of random strength: it learns to draw what is
/// meant where latents are not quite right, as those of a generation are (Zheng et al., arXiv 2510.11690).
///
/// # Errors
///
/// What the encoder returns.
pub fn decoder_loss(
    model: &AutoEncoder,
    encoder: &AutoEncoder,
    data: &[Pixels],
    batch: usize,
    seed: u64,
    step: u64,
    device: &Device,
) -> Result<Tensor<1>> {
    let mut draw = Draw::stream(seed, purpose::NOISE, step);
    let x = pieces(data, batch, &mut draw, device);
    let moments = encoder.moments(x.clone())?;
    let [_, channels, h, w] = moments.dims();
    let (z, size) = (channels / 2, channels / 2 * h * w);
    // Latents have deviation 1 behind the fixed scale, so this many before it.
    let strengths: Vec<f32> =
        (0..batch).map(|_| NOISE * draw.normal_pair()[0].abs() / SCALE_FACTOR).collect();
    let noise = draw.normals(batch * size);
    let noise: Vec<f32> = noise.iter().enumerate().map(|(i, n)| n * strengths[i / size]).collect();
    let noise = Tensor::from_data(TensorData::new(noise, [batch, z, h, w]), (device, DType::F32));
    let latent = moments.narrow(1, 0, z) + noise;
    Ok(difference(&model.decode_batch(latent.autodiff()), &x.autodiff()))
}

/// Changes weights so that each latent channel, of the given mean and deviation before, comes out of FLUX's fixed shift and scale
/// with mean 0 and deviation 1.
///
/// The change is undone in the decoder, except at the picture's edge, where the padding's zeros now stand for something else.
pub fn normalize(weights: &mut BTreeMap<String, Vec<f32>>, mean: &[f32], deviation: &[f32]) {
    let factors: Vec<f32> = deviation.iter().map(|d| 1.0 / (d.max(1e-6) * SCALE_FACTOR)).collect();
    let offsets: Vec<f32> =
        mean.iter().zip(&factors).map(|(mean, factor)| SHIFT_FACTOR - mean * factor).collect();
    let channels = factors.len();
    if let Some(weight) = weights.get_mut("encoder.conv_out.weight") {
        let kernel = weight.len() / (2 * channels);
        for (rows, factor) in weight.chunks_mut(kernel).zip(&factors) {
            rows.iter_mut().for_each(|w| *w *= factor);
        }
    }
    if let Some(bias) = weights.get_mut("encoder.conv_out.bias") {
        for c in 0..channels {
            bias[c] = bias[c] * factors[c] + offsets[c];
            bias[channels + c] += 2.0 * factors[c].ln();
        }
    }
    let Some(mut weight) = weights.remove("decoder.conv_in.weight") else { return };
    if let Some(bias) = weights.get_mut("decoder.conv_in.bias") {
        let outputs = bias.len();
        let kernel = weight.len() / (outputs * channels);
        for (rows, bias) in weight.chunks_mut(channels * kernel).zip(bias.iter_mut()) {
            for (c, taps) in rows.chunks_mut(kernel).enumerate() {
                taps.iter_mut().for_each(|w| *w /= factors[c]);
                *bias -= taps.iter().sum::<f32>() * offsets[c];
            }
        }
    }
    weights.insert("decoder.conv_in.weight".into(), weight);
}

/// Mean and deviation of each channel of latents before scaling, `[pictures, C, h, w]`.
///
/// # Errors
///
/// The device fails.
pub fn spread_of_channels(latents: Tensor<4>) -> Result<[Vec<f32>; 2]> {
    let [pictures, channels, h, w] = latents.dims();
    let rows = latents.swap_dims(0, 1).reshape([channels, pictures * h * w]);
    let mean = rows.clone().mean_dim(1);
    let deviation = (rows - mean.clone()).square().mean_dim(1).sqrt();
    Ok([uno_core::tensor_to_vec(mean)?, uno_core::tensor_to_vec(deviation)?])
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use uno_core::weights::{Checkpoint, LoadOptions, Storage, StoredTensor};

    use super::super::fresh::{self, Sizes};
    use super::super::trainer::{Settings, Trainer};
    use super::*;
    use crate::train::optimizer::AdamWConfig;

    #[test]
    fn normalized_weights_give_normal_latents_and_the_same_picture_away_from_the_edge() {
        let sizes = Sizes { ae_channels: vec![32, 32, 32, 32], ..Sizes::default() };
        let first = fresh::autoencoder(&sizes, 1);
        let options = LoadOptions::new(&Device::flex());
        let mut weights = first.tensors().iter().map(|(name, t)| (name.clone(), t.to_f32())).collect();
        let before = AutoEncoder::load(&first, &options).unwrap();
        let data = pictures(2, 5);
        let x = Tensor::cat(data.iter().map(|p| p.to_tensor(&Device::flex()).unwrap()).collect(), 0);
        let means = |model: &AutoEncoder| model.moments(x.clone()).unwrap().narrow(1, 0, 16);
        let [mean, deviation] = spread_of_channels(means(&before)).unwrap();
        normalize(&mut weights, &mean, &deviation);
        let tensors = first.tensors().iter().map(|(name, t)| {
            (name.clone(), StoredTensor::from_f32(t.shape().to_vec(), &weights[name]).unwrap())
        });
        let after = AutoEncoder::load(&Checkpoint::from_tensors("x", tensors), &options).unwrap();
        let scaled = means(&after).sub_scalar(SHIFT_FACTOR).mul_scalar(SCALE_FACTOR);
        let [mean, deviation] = spread_of_channels(scaled).unwrap();
        assert!(mean.iter().all(|m| m.abs() < 1e-3) && deviation.iter().all(|d| (d - 1.0).abs() < 1e-3));
        let [a, b] = [&before, &after].map(|model| model.decode_batch(means(model)));
        // The middle of the attention sees the whole picture; the edge's share in it is small.
        let centre = |x: Tensor<4>| x.slice([0..2, 0..3, 48..80, 48..80]);
        assert!((centre(a) - centre(b)).abs().max().into_scalar::<f32>() < 0.2);
    }

    #[test]
    fn the_decoder_learns_alone_on_latents_with_noise() {
        let sizes = Sizes { ae_channels: vec![32, 32, 32, 32], ..Sizes::default() };
        let first = fresh::autoencoder(&sizes, 1);
        let encoder = AutoEncoder::load(&first, &LoadOptions::new(&Device::flex())).unwrap();
        let options = LoadOptions::new(&Device::flex().autodiff()).with_storage(Storage::Expanded);
        let settings = Settings {
            optimizer: AdamWConfig::default(),
            max_norm: 1.0,
            ema_decay: 0.9,
            rates: &[],
            parts: 1,
        };
        let mut trainer = Trainer::new(AutoEncoder::load(&first, &options).unwrap(), settings).unwrap();
        let (data, before) = (pictures(4, 5), trainer.parameters().clone());
        let mut step = |step: u64| {
            let loss =
                |model: &AutoEncoder, _| decoder_loss(model, &encoder, &data, 2, 1, step, &Device::flex());
            trainer.step(2e-3, loss).unwrap().loss
        };
        let first: f64 = (0..3).map(&mut step).sum();
        let last: f64 = (3..15).map(&mut step).skip(9).sum();
        assert!(last < first, "{first} {last}");
        for (name, values) in before.iter() {
            let after = trainer.parameters().get(name).unwrap().data();
            let moved = (values.data() - after).abs().max().into_scalar::<f32>() > 0.0;
            // A few of the decoder's may not move; none of the encoder's may.
            assert!(!(name.starts_with("encoder") && moved), "{name}");
        }
    }
}
