//! Group norm followed by SiLU, with gradients.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::super::math::{exp, sum};
use super::norm::sum_of;
use super::{Function, record};

/// Group norm of `[batch, C, H, W]` with weight and bias `[C]`, then SiLU.
#[derive(Debug)]
struct GroupNormSilu {
    groups: usize,
    eps: f32,
}

vectorized! {
    /// Mean, and `1 / sqrt(variance + eps)`.
    fn measure(x: &[f32], eps: f32) -> [f32; 2] {
        let count = x.len() as f32;
        let mean = sum(x, |x| x) / count;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
        [mean, 1.0 / (variance + eps).sqrt()]
    }
}

vectorized! {
    /// `silu(factor x + offset)` of a channel.
    fn activate(x: &[f32], factor: f32, offset: f32, out: &mut [f32]) {
        for (x, out) in x.iter().zip(out) {
            let u = factor.mul_add(*x, offset);
            *out = u / (1.0 + exp(-u));
        }
    }
}

vectorized! {
    /// Into `out` (which holds the result's gradient before) the gradient before the SiLU of a channel.
    fn activate_back(x: &[f32], factor: f32, offset: f32, out: &mut [f32]) {
        for (x, out) in x.iter().zip(out) {
            let u = factor.mul_add(*x, offset);
            let sigmoid = 1.0 / (1.0 + exp(-u));
            *out *= (u * (1.0 - sigmoid)).mul_add(sigmoid, sigmoid);
        }
    }
}

vectorized! {
    /// Sums of `g` and of `g (x - mean)`.
    fn sums(x: &[f32], g: &[f32], mean: f32) -> [f32; 2] {
        const LANES: usize = 64;
        let (mut all, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
        for (x, g) in x.chunks(LANES).zip(g.chunks(LANES)) {
            for (i, (x, g)) in x.iter().zip(g).enumerate() {
                all[i] += g;
                along[i] = g.mul_add(x - mean, along[i]);
            }
        }
        [all.iter().sum(), along.iter().sum()]
    }
}

vectorized! {
    /// `out = a out + b x + c`.
    fn combine(x: &[f32], out: &mut [f32], by: [f32; 3]) {
        let [a, b, c] = by;
        for (x, out) in x.iter().zip(out) {
            *out = a.mul_add(*out, b.mul_add(*x, c));
        }
    }
}

impl GroupNormSilu {
    /// Channels per group, and pixels.
    fn sizes(&self, shape: &[usize]) -> [usize; 2] {
        [shape.get(1).copied().unwrap_or(1) / self.groups, shape.iter().skip(2).product::<usize>().max(1)]
    }
}

impl Function for GroupNormSilu {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3], shape: &[usize]) -> Vec<f32> {
        let [channels, pixels] = self.sizes(shape);
        let mut out = vec![0.0; x.len()];
        let groups = x.par_chunks(channels * pixels).zip(out.par_chunks_mut(channels * pixels));
        groups.enumerate().for_each(|(group, (x, out))| {
            let [mean, factor] = measure(x, self.eps);
            let first = group % self.groups * channels;
            for (i, (x, out)) in x.chunks(pixels).zip(out.chunks_mut(pixels)).enumerate() {
                let factor = factor * weight[first + i];
                activate(x, factor, bias[first + i] - mean * factor, out);
            }
        });
        out
    }

    fn backward(
        &self,
        [x, weight, bias]: [&[f32]; 3],
        shape: &[usize],
        gradient: &[f32],
        _: [bool; 3],
    ) -> [Vec<f32>; 3] {
        let [channels, pixels] = self.sizes(shape);
        let mut out = gradient.to_vec();
        let groups = x.par_chunks(channels * pixels).zip(out.par_chunks_mut(channels * pixels));
        let parts = groups.enumerate().map(|(group, (x, out))| {
            let [mean, factor] = measure(x, self.eps);
            let first = group % self.groups * channels;
            let (mut by_weight, mut by_bias) = (vec![0.0; channels], vec![0.0; channels]);
            let (mut all, mut along) = (0.0, 0.0);
            for (i, (x, out)) in x.chunks(pixels).zip(out.chunks_mut(pixels)).enumerate() {
                let weight = weight[first + i];
                activate_back(x, factor * weight, bias[first + i] - mean * factor * weight, out);
                let [g, g_x] = sums(x, out, mean);
                (by_bias[i], by_weight[i]) = (g, g_x * factor);
                (all, along) = (all + g * weight, along + g_x * weight);
            }
            let count = x.len() as f32;
            let slope = -factor.powi(3) * along / count;
            for (i, (x, out)) in x.chunks(pixels).zip(out.chunks_mut(pixels)).enumerate() {
                combine(x, out, [factor * weight[first + i], slope, -factor * all / count - slope * mean]);
            }
            (by_weight, by_bias)
        });
        let (by_weight, by_bias): (Vec<Vec<f32>>, Vec<Vec<f32>>) = parts.unzip();
        // The groups of one sample joined are its channels.
        let joined = |parts: Vec<Vec<f32>>| {
            let samples = parts.chunks(self.groups).map(|groups| groups.concat()).collect();
            sum_of(samples, channels * self.groups)
        };
        let (by_weight, by_bias) = (joined(by_weight), joined(by_bias));
        [out, by_weight, by_bias]
    }
}

/// Group norm of `[batch, C, H, W]` with weight and bias `[C]`, then SiLU.
pub(crate) fn group_norm_silu(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    eps: f64,
) -> Tensor<4> {
    record(GroupNormSilu { groups, eps: eps as f32 }, x, weight, bias)
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::silu;

    use super::super::tests::{agree, random};

    #[test]
    fn group_norm_with_silu_and_its_gradients_agree_with_burns() {
        let (x, weight, bias) = (random([2, 6, 5, 7]), random([6]), random([6]));
        let affine = |x: &burn::tensor::Tensor<1>| x.clone().reshape([1, 6, 1, 1]);
        agree(
            &x,
            &[weight.clone(), bias.clone()],
            |x| super::group_norm_silu(x, weight.clone(), bias.clone(), 3, 1e-6),
            |x| {
                let groups = x.reshape([2, 3, 70]);
                let centred = groups.clone() - groups.mean_dim(2);
                let normed = centred.clone() / centred.square().mean_dim(2).add_scalar(1e-6).sqrt();
                silu(normed.reshape([2, 6, 5, 7]) * affine(&weight) + affine(&bias))
            },
        );
    }
}
