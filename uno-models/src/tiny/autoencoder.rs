//! Training of the autoencoder.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;
use uno_core::image::Pixels;
use uno_core::vae::AutoEncoder;

use super::world::{Composition, Draw, ReferenceView, Subject};
use crate::error::Result;

/// Pixels per side of a picture.
pub const SIDE: usize = 128;
/// Pixels per side of the pieces that are trained on.
const CROP: usize = 64;
/// Weight of the divergence of latents from a normal distribution.
const DIVERGENCE: f64 = 1e-3;

/// What draws are made for; see [`Draw::stream`].
mod purpose {
    pub(super) const PICTURE: u64 = 100;
    pub(super) const CROP: u64 = 101;
}

/// Pictures to train on, rendered beforehand: three of four are compositions, the others reference views.
pub fn pictures(count: usize, seed: u64) -> Vec<Pixels> {
    let picture = |i: usize| {
        let mut draw = Draw::stream(seed, purpose::PICTURE, i as u64);
        if i % 4 == 3 {
            ReferenceView { subject: Subject::draw(&mut draw, false), seed: draw.bits() }.render(SIDE)
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

/// The loss of one step: absolute differences of pixels and of their slopes, and the divergence of the latents.
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
    let slopes = distance(slope(&y, 2), slope(&x, 2)) + distance(slope(&y, 3), slope(&x, 3));
    Ok(distance(y, x) + slopes + divergence.mul_scalar(DIVERGENCE))
}
