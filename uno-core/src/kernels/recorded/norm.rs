//! Norms over the last dimension with their gradients.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::super::math::sum;
use super::super::norm::measure;
use super::{Function, record};

/// `(1 + scale) * layer_norm(x) + shift` of `[batch, tokens, width]`, `shift` and `scale` `[batch * width]`.
#[derive(Debug)]
struct Modulate {
    eps: f32,
}

vectorized! {
    /// The rows of one sample.
    fn modulate_rows(x: &[f32], shift: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
        let width = shift.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let [mean, factor] = measure(x, eps);
            for i in 0..width {
                out[i] = ((x[i] - mean) * factor).mul_add(1.0 + scale[i], shift[i]);
            }
        }
    }
}

vectorized! {
    /// Into `out` the gradient of a sample's rows, into `shift` and `by_scale` what belongs to the sample. `out` holds the
    /// result's gradient before.
    fn modulate_back(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32], shift: &mut [f32], by_scale: &mut [f32]) {
        let width = scale.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let [mean, factor] = measure(x, eps);
            for i in 0..width {
                let normed = (x[i] - mean) * factor;
                shift[i] += out[i];
                by_scale[i] = out[i].mul_add(normed, by_scale[i]);
                out[i] *= 1.0 + scale[i];
            }
            let mean_gradient = sum(out, |g| g) / width as f32;
            let mut along = 0.0;
            for i in 0..width {
                along += out[i] * (x[i] - mean);
            }
            let along = along * factor * factor / width as f32;
            for i in 0..width {
                out[i] = factor * (out[i] - mean_gradient - (x[i] - mean) * along);
            }
        }
    }
}

impl Function for Modulate {
    fn forward(&self, [x, shift, scale]: [&[f32]; 3], shape: &[usize]) -> Vec<f32> {
        let (sample, width) = sizes(shape);
        let mut out = vec![0.0; x.len()];
        let rows = x.par_chunks(sample).zip(out.par_chunks_mut(sample));
        let modulations = shift.par_chunks(width).zip(scale.par_chunks(width));
        rows.zip(modulations)
            .for_each(|((x, out), (shift, scale))| modulate_rows(x, shift, scale, self.eps, out));
        out
    }

    fn backward(
        &self,
        [x, _, scale]: [&[f32]; 3],
        shape: &[usize],
        gradient: &[f32],
        _: [bool; 3],
    ) -> [Vec<f32>; 3] {
        let (sample, width) = sizes(shape);
        let mut out = gradient.to_vec();
        let (mut shift, mut by_scale) = (vec![0.0; scale.len()], vec![0.0; scale.len()]);
        let rows = x.par_chunks(sample).zip(out.par_chunks_mut(sample));
        let modulations =
            scale.par_chunks(width).zip(shift.par_chunks_mut(width)).zip(by_scale.par_chunks_mut(width));
        rows.zip(modulations).for_each(|((x, out), ((scale, shift), by_scale))| {
            modulate_back(x, scale, self.eps, out, shift, by_scale);
        });
        [out, shift, by_scale]
    }
}

/// Numbers of a sample, and of a row.
fn sizes(shape: &[usize]) -> (usize, usize) {
    let width = shape.last().copied().unwrap_or(1).max(1);
    (shape.iter().skip(1).product::<usize>().max(1), width)
}

/// `(1 + scale) * layer_norm(x) + shift`, `x` `[batch, tokens, width]`, `shift` and `scale` `[batch, 1, width]`.
pub(crate) fn modulate(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, eps: f64) -> Tensor<3> {
    let flat = |x: Tensor<3>| {
        let [batch, _, width] = x.dims();
        x.reshape([batch * width])
    };
    record(Modulate { eps: eps as f32 }, x, flat(shift), flat(scale))
}

/// `x / sqrt(mean(x^2) + eps) * scale` over the last dimension.
#[derive(Debug)]
struct Rms {
    eps: f32,
}

/// Rows that one thread takes at a time.
const ROWS: usize = 256;

vectorized! {
    fn rms_rows(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
        let width = scale.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let mut square = 0.0;
            for x in x {
                square += x * x;
            }
            let factor = 1.0 / (square / width as f32 + eps).sqrt();
            for i in 0..width {
                out[i] = x[i] * factor * scale[i];
            }
        }
    }
}

vectorized! {
    /// Into `out` (which holds the result's gradient before) the gradient of `x`, into `by_scale` that of the scale.
    fn rms_back(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32], by_scale: &mut [f32]) {
        let width = scale.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let mut square = 0.0;
            for x in x {
                square += x * x;
            }
            let factor = 1.0 / (square / width as f32 + eps).sqrt();
            let mut along = 0.0;
            for i in 0..width {
                by_scale[i] += out[i] * x[i] * factor;
                out[i] *= scale[i];
                along += out[i] * x[i];
            }
            let along = along * factor * factor / width as f32;
            for i in 0..width {
                out[i] = factor * (out[i] - x[i] * along);
            }
        }
    }
}

impl Function for Rms {
    fn forward(&self, [x, scale, _]: [&[f32]; 3], _: &[usize]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        let chunk = ROWS * scale.len().max(1);
        x.par_chunks(chunk)
            .zip(out.par_chunks_mut(chunk))
            .for_each(|(x, out)| rms_rows(x, scale, self.eps, out));
        out
    }

    fn backward(
        &self,
        [x, scale, _]: [&[f32]; 3],
        _: &[usize],
        gradient: &[f32],
        _: [bool; 3],
    ) -> [Vec<f32>; 3] {
        let mut out = gradient.to_vec();
        let chunk = ROWS * scale.len().max(1);
        let parts: Vec<Vec<f32>> = x
            .par_chunks(chunk)
            .zip(out.par_chunks_mut(chunk))
            .map(|(x, out)| {
                let mut by_scale = vec![0.0; scale.len()];
                rms_back(x, scale, self.eps, out, &mut by_scale);
                by_scale
            })
            .collect();
        [out, sum_of(parts, scale.len()), Vec::new()]
    }
}

/// Adds up vectors, in their order.
pub(super) fn sum_of(parts: Vec<Vec<f32>>, length: usize) -> Vec<f32> {
    parts.iter().fold(vec![0.0; length], |mut total, part| {
        total.iter_mut().zip(part).for_each(|(total, x)| *total += x);
        total
    })
}

/// `x / sqrt(mean(x^2) + eps) * scale` over the last dimension.
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, scale: Tensor<1>, eps: f64) -> Tensor<D> {
    let nothing = super::nothing(&x);
    record(Rms { eps: eps as f32 }, x, scale, nothing)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{agree, random};
    use crate::nn::layer_norm_plain;

    #[test]
    fn a_modulated_norm_and_its_gradients_agree_with_burns() {
        let (x, shift, scale) = (random([2, 5, 48]), random([96]), random([96]));
        let row = |x: &burn::tensor::Tensor<1>| x.clone().reshape([2, 1, 48]);
        let others = [shift.clone(), scale.clone()];
        agree(
            &x,
            &others,
            |x| super::modulate(x, row(&shift), row(&scale), 1e-6),
            |x| layer_norm_plain(x, 1e-6) * row(&scale).add_scalar(1.0) + row(&shift),
        );
    }

    #[test]
    fn the_root_mean_square_norm_and_its_gradients_agree_with_burns() {
        let (x, scale) = (random([2, 3, 300, 8]), random([8]));
        agree(
            &x,
            std::slice::from_ref(&scale),
            |x| super::rms_norm(x, scale.clone(), 1e-6),
            |x| {
                let mean_square = x.clone().square().mean_dim(3);
                x / mean_square.add_scalar(1e-6).sqrt() * scale.clone().unsqueeze()
            },
        );
    }
}
