//! Norms over rows, and what is done to a row along with them.

use burn::tensor::Tensor;

use super::math::sum;
use super::{View, ViewMut, numbers, tensor};

vectorized! {
    /// `(1 + scale) (x - mean) / sqrt(variance + eps) + shift` into `out`.
    fn modulate_row(x: &[f32], shift: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
        let [mean, factor] = measure(x, eps);
        for (((out, x), shift), scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
            *out = ((x - mean) * factor).mul_add(1.0 + scale, *shift);
        }
    }
}

vectorized! {
    /// `weight (x - mean) / sqrt(variance + eps) + bias`, in place.
    fn layer_norm_row(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        let [mean, factor] = measure(x, eps);
        for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
            *x = ((*x - mean) * factor).mul_add(*weight, *bias);
        }
    }
}

/// Mean, and `1 / sqrt(variance + eps)`.
#[inline(always)]
pub(super) fn measure(x: &[f32], eps: f32) -> [f32; 2] {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    [mean, 1.0 / (variance + eps).sqrt()]
}

vectorized! {
    /// `x / sqrt(mean(x^2) + eps) * scale` into `out`.
    fn rms_row(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
        let factor = 1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt();
        for ((out, x), scale) in out.iter_mut().zip(x).zip(scale) {
            *out = x * factor * scale;
        }
    }
}

vectorized! {
    /// `x += gate * y`.
    fn add_gated_row(x: &mut [f32], gate: &[f32], y: &[f32]) {
        for ((x, gate), y) in x.iter_mut().zip(gate).zip(y) {
            *x = gate.mul_add(*y, *x);
        }
    }
}

/// `out = (1 + scale) layer_norm(x) + shift`, with `shift` and `scale` of `[batch, 1, width]`.
pub(crate) fn modulate(x: View<'_>, shift: View<'_>, scale: View<'_>, eps: f64, out: ViewMut<'_>) {
    out.for_each_row(|sample, token, out| {
        modulate_row(x.row(sample, token), shift.row(sample, 0), scale.row(sample, 0), eps as f32, out);
    });
}

/// `x += gate * y`, with `gate` of `[batch, 1, width]`.
pub(crate) fn add_gated(x: ViewMut<'_>, gate: View<'_>, y: View<'_>) {
    x.for_each_row(|sample, token, x| add_gated_row(x, gate.row(sample, 0), y.row(sample, token)));
}

/// Root mean square norm of each row into `out`.
pub(crate) fn rms_norm_into(x: View<'_>, scale: &[f32], eps: f64, out: ViewMut<'_>) {
    out.for_each_row(|sample, token, out| rms_row(x.row(sample, token), scale, eps as f32, out));
}

/// Root mean square norm over the last dimension, for what [`is_ours`](super::is_ours) says yes to.
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, scale: Tensor<1>, eps: f64) -> Tensor<D> {
    let shape = x.dims();
    let (x, scale) = (numbers(x), numbers(scale));
    let rows = [1, x.len() / scale.len().max(1), scale.len()];
    let mut out = vec![0.0; x.len()];
    rms_norm_into(View::new(&x, rows), &scale, eps, ViewMut::new(&mut out, rows));
    tensor(out, shape)
}

/// Layer norm over the last dimension, for what [`is_ours`](super::is_ours) says yes to.
pub(crate) fn layer_norm(x: Tensor<3>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<3> {
    let shape = x.dims();
    let (mut x, weight, bias) = (numbers(x), numbers(weight), numbers(bias));
    ViewMut::new(&mut x, shape).for_each_row(|_, _, row| layer_norm_row(row, &weight, &bias, eps as f32));
    tensor(x, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(width: usize) -> Vec<f32> {
        (0..width).map(|i| ((i * 37 % 101) as f32 - 40.0) * 0.07).collect()
    }

    fn close(got: f32, exact: f64) -> bool {
        (f64::from(got) - exact).abs() <= 2e-6 * (1.0 + exact.abs())
    }

    #[test]
    fn norms_agree_with_f64_at_odd_widths() {
        for width in [1, 3, 64, 100, 257] {
            let x = row(width);
            let exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let n = width as f64;
            let mean = exact.iter().sum::<f64>() / n;
            let deviation = (exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + 1e-6).sqrt();
            let mean_square = (exact.iter().map(|x| x * x).sum::<f64>() / n + 1e-6).sqrt();
            let mut out = vec![0.0; width];
            modulate_row(&x, &vec![0.25; width], &vec![0.5; width], 1e-6, &mut out);
            for (y, x) in out.iter().zip(&exact) {
                assert!(close(*y, 1.5 * (x - mean) / deviation + 0.25), "{width}");
            }
            rms_row(&x, &vec![2.0; width], 1e-6, &mut out);
            for (y, x) in out.iter().zip(&exact) {
                assert!(close(*y, 2.0 * x / mean_square), "{width}");
            }
        }
    }

    #[test]
    fn one_number_that_is_none_spoils_its_row_and_no_other() {
        let mut x = row(200);
        x[3] = f32::NAN;
        let ones = vec![1.0; 100];
        let out = numbers(rms_norm(tensor(x.clone(), [2, 100]), tensor(ones.clone(), [100]), 1e-6));
        assert!(out[..100].iter().all(|x| x.is_nan()) && out[100..].iter().all(|x| x.is_finite()));
        let norm = layer_norm(tensor(x, [1, 2, 100]), tensor(ones.clone(), [100]), tensor(ones, [100]), 1e-6);
        let out = numbers(norm);
        assert!(out[..100].iter().all(|x| x.is_nan()) && out[100..].iter().all(|x| x.is_finite()));
    }
}
