//! Rotary position embedding over three axes.

use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use crate::nn::float_dtype;

/// Position of a token: (axis 0, row, column). Text tokens are all zero. (FLUX `img_ids`.)
pub type PositionId = [f32; 3];

const THETA: f64 = 10_000.0;

/// Cosines and sines that rotate the queries and keys of a token sequence.
#[derive(Debug, Clone)]
pub struct Rope {
    /// `[1, 1, tokens, D/2, 1]`, f32.
    cos: Tensor<5>,
    /// `[1, 1, tokens, D/2, 1]`, f32.
    sin: Tensor<5>,
    /// The same numbers, for where they are needed as such: `[tokens, D/2]` each.
    numbers: Arc<[Vec<f32>; 2]>,
}

impl Rope {
    /// Widths of the three axes for heads of `head_dim`: `(D/8, 7D/16, 7D/16)`, which is (16, 56, 56) for 128.
    pub fn axes(head_dim: usize) -> [usize; 3] {
        [head_dim / 8, head_dim * 7 / 16, head_dim * 7 / 16]
    }

    /// Angles as (cos, sin) pairs, `[tokens * D/2]` each: computed in f64, rounded to f32 (FLUX `math.py: rope`).
    pub fn angles(ids: &[PositionId], head_dim: usize) -> (Vec<f32>, Vec<f32>) {
        let omegas: Vec<(usize, f64)> = Self::axes(head_dim)
            .iter()
            .enumerate()
            .flat_map(|(axis, &d)| {
                (0..d / 2).map(move |i| (axis, 1.0 / THETA.powf(2.0 * i as f64 / d as f64)))
            })
            .collect();
        ids.iter()
            .flat_map(|id| omegas.iter().map(|&(axis, omega)| f64::from(id[axis]) * omega))
            .map(|angle| (angle.cos() as f32, angle.sin() as f32))
            .unzip()
    }

    /// The rotation for tokens at `ids`, for heads of `head_dim`.
    pub fn new(ids: &[PositionId], head_dim: usize, device: &Device) -> Self {
        let (cos, sin) = Self::angles(ids, head_dim);
        let shape = [1, 1, ids.len(), head_dim / 2, 1];
        let tensor =
            |values: &[f32]| Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32));
        Self { cos: tensor(&cos), sin: tensor(&sin), numbers: Arc::new([cos, sin]) }
    }

    /// The cosines, `[tokens, D/2]`.
    pub(super) fn cos_numbers(&self) -> &[f32] {
        &self.numbers[0]
    }

    /// The sines, `[tokens, D/2]`.
    pub(super) fn sin_numbers(&self) -> &[f32] {
        &self.numbers[1]
    }

    /// Rotates adjacent pairs in f32: `(x0, x1) -> (cos x0 - sin x1, sin x0 + cos x1)`.
    /// `[batch, heads, tokens, D]` -> the same; the tokens may be the first ones only.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, tokens, d] = x.dims();
        #[cfg(feature = "flex")]
        if crate::kernels::recorded::is_recorded(&x) {
            return crate::kernels::recorded::rope::apply(x, &self.numbers);
        }
        let dtype = float_dtype(&x);
        let pairs = x.cast(FloatDType::F32).reshape([batch, heads, tokens, d / 2, 2]);
        let x0 = pairs.clone().narrow(4, 0, 1);
        let x1 = pairs.narrow(4, 1, 1);
        let [cos, sin] = [&self.cos, &self.sin].map(|x| x.clone().narrow(2, 0, tokens));
        let y0 = x0.clone() * cos.clone() - x1.clone() * sin.clone();
        let y1 = x0 * sin + x1 * cos;
        Tensor::cat(vec![y0, y1], 4).reshape([batch, heads, tokens, d]).cast(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_the_full_model_are_16_56_56() {
        assert_eq!(Rope::axes(128), [16, 56, 56]);
        assert_eq!(Rope::axes(32), [4, 14, 14]);
    }

    #[test]
    fn the_origin_is_not_rotated() {
        let (cos, sin) = Rope::angles(&[[0.0; 3]], 32);
        assert_eq!((cos, sin), (vec![1.0; 16], vec![0.0; 16]));
    }
}
