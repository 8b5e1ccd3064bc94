//! Group norm of pictures `[C, pixels]`: groups are measured once, and every channel then takes a factor and an offset.

use rayon::prelude::*;

use super::activation::silu_of;

/// Numbers that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// What a group norm does to the numbers of each channel: `factor x + offset`.
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    factor: Vec<f32>,
    offset: Vec<f32>,
}

vectorized! {
    /// Sum of the numbers and of their squares, in f64: exact enough to take one from the other.
    fn sums(x: &[f32]) -> [f64; 2] {
        const LANES: usize = 32;
        let (mut sum, mut squares) = ([0.0f64; LANES], [0.0f64; LANES]);
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                let x = f64::from(chunk[i]);
                sum[i] += x;
                squares[i] = x.mul_add(x, squares[i]);
            }
        }
        let rest = |f: fn(f64) -> f64| rest.iter().map(|x| f(f64::from(*x))).sum::<f64>();
        [sum.iter().sum::<f64>() + rest(|x| x), squares.iter().sum::<f64>() + rest(|x| x * x)]
    }
}

vectorized! {
    /// `factor x + offset`.
    fn affine_row(x: &mut [f32], factor: f32, offset: f32) {
        for x in x {
            *x = factor.mul_add(*x, offset);
        }
    }
}

vectorized! {
    /// `silu(factor x + offset)` into `out`.
    fn affine_silu_row(x: &[f32], factor: f32, offset: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = silu_of(factor.mul_add(*x, offset));
        }
    }
}

impl Affine {
    /// The norm of `x` `[C, pixels]` in `groups` of channels, with `weight` and `bias` of `[C]`.
    pub(crate) fn measure(x: &[f32], groups: usize, weight: &[f32], bias: &[f32], eps: f64) -> Self {
        let channels = weight.len().max(1);
        let (pixels, each) = (x.len() / channels, (channels / groups.max(1)).max(1));
        // Channel by channel, so that the sums do not depend on the number of threads.
        let sums: Vec<[f64; 2]> = x.par_chunks(pixels.max(1)).map(sums).collect();
        let mut factor = Vec::with_capacity(channels);
        let mut offset = Vec::with_capacity(channels);
        for ((sums, weight), bias) in sums.chunks(each).zip(weight.chunks(each)).zip(bias.chunks(each)) {
            let count = (each * pixels) as f64;
            let mean = sums.iter().map(|s| s[0]).sum::<f64>() / count;
            let square = sums.iter().map(|s| s[1]).sum::<f64>() / count;
            // Rounding may take it below zero; NaN stays.
            let variance = square - mean * mean;
            let variance = if variance < 0.0 { 0.0 } else { variance };
            for (weight, bias) in weight.iter().zip(bias) {
                let scale = f64::from(*weight) / (variance + eps).sqrt();
                factor.push(scale as f32);
                offset.push((f64::from(*bias) - mean * scale) as f32);
            }
        }
        Self { factor, offset }
    }

    /// The norm of all of `x` `[C, pixels]`, in place.
    pub(crate) fn apply(&self, x: &mut [f32]) {
        let pixels = (x.len() / self.factor.len().max(1)).max(1);
        x.par_chunks_mut(pixels).zip(&self.factor).zip(&self.offset).for_each(|((x, factor), offset)| {
            x.chunks_mut(CHUNK).for_each(|x| affine_row(x, *factor, *offset));
        });
    }

    /// Norm and SiLU of some numbers of one channel.
    pub(crate) fn silu_into(&self, channel: usize, x: &[f32], out: &mut [f32]) {
        affine_silu_row(x, self.factor[channel], self.offset[channel], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_normed_as_defined_even_far_from_zero() {
        for (channels, groups, pixels, away) in [(4, 2, 7, 0.0), (64, 32, 100, 0.5), (8, 4, 1000, 300.0)] {
            let x: Vec<f32> = (0..channels * pixels)
                .map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 3.0 + away)
                .collect();
            let weight: Vec<f32> = (0..channels).map(|i| 1.0 + i as f32 * 0.01).collect();
            let bias: Vec<f32> = (0..channels).map(|i| i as f32 * 0.02 - 0.1).collect();
            let norm = Affine::measure(&x, groups, &weight, &bias, 1e-6);
            let mut got = x.clone();
            norm.apply(&mut got);
            let mut activated = vec![0.0; pixels];
            norm.silu_into(channels - 1, &x[(channels - 1) * pixels..], &mut activated);
            let size = channels / groups * pixels;
            for (i, got) in got.iter().enumerate() {
                let group = &x[i / size * size..][..size];
                let mean = group.iter().map(|&x| f64::from(x)).sum::<f64>() / size as f64;
                let square = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / size as f64;
                let (w, b) = (f64::from(weight[i / pixels]), f64::from(bias[i / pixels]));
                let exact = (f64::from(x[i]) - mean) / (square + 1e-6).sqrt() * w + b;
                assert!((f64::from(*got) - exact).abs() < 1e-6 * (10.0 + f64::from(away)), "{got} {exact}");
                if i / pixels == channels - 1 {
                    let silu = exact / (1.0 + (-exact).exp());
                    let got = f64::from(activated[i % pixels]);
                    assert!((got - silu).abs() < 1e-6 * (10.0 + f64::from(away)), "{got} {silu}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_spoils_its_group_and_no_other() {
        let mut x = vec![0.5; 80];
        x[3] = f32::NAN;
        let norm = Affine::measure(&x, 2, &[1.0; 4], &[0.0; 4], 1e-6);
        norm.apply(&mut x);
        assert!(x[..40].iter().all(|x| x.is_nan()) && x[40..].iter().all(|x| x.is_finite()));
    }
}
