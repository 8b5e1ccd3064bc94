//! Rotary position embedding with its gradient, which is the rotation back.

use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{Function, nothing, record};

/// Rotation of pairs, for `[batch, heads, tokens, D]`.
#[derive(Debug)]
struct Rotate {
    /// Cosines and sines, `[tokens, D / 2]` each.
    angles: Arc<[Vec<f32>; 2]>,
}

vectorized! {
    fn rotate(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [f32]) {
        let (x, _) = x.as_chunks::<2>();
        let (out, _) = out.as_chunks_mut::<2>();
        for (((x, out), cos), sin) in x.iter().zip(out).zip(cos).zip(sin) {
            let sin = sign * sin;
            *out = [cos * x[0] - sin * x[1], sin * x[0] + cos * x[1]];
        }
    }
}

impl Rotate {
    fn by(&self, x: &[f32], shape: &[usize], sign: f32) -> Vec<f32> {
        let head = shape.iter().skip(2).product::<usize>().max(1);
        let mut out = vec![0.0; x.len()];
        let [cos, sin] = &*self.angles;
        x.par_chunks(head).zip(out.par_chunks_mut(head)).for_each(|(x, out)| rotate(x, cos, sin, sign, out));
        out
    }
}

impl Function for Rotate {
    fn forward(&self, [x, ..]: [&[f32]; 3], shape: &[usize]) -> Vec<f32> {
        self.by(x, shape, 1.0)
    }

    fn backward(&self, _: [&[f32]; 3], shape: &[usize], gradient: &[f32], _: [bool; 3]) -> [Vec<f32>; 3] {
        [self.by(gradient, shape, -1.0), Vec::new(), Vec::new()]
    }
}

/// Rotates adjacent pairs of `[batch, heads, tokens, D]` by the angles of the first tokens.
pub(crate) fn apply(x: Tensor<4>, angles: &Arc<[Vec<f32>; 2]>) -> Tensor<4> {
    let nothing = nothing(&x);
    record(Rotate { angles: angles.clone() }, x, nothing.clone(), nothing)
}
