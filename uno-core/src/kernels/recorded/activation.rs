//! Activations with their gradients.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::super::activation::{GELU, gelu_of, silu_of};
use super::super::math::exp;
use super::{Function, nothing, record};

/// Numbers that one thread takes at a time.
const CHUNK: usize = 1 << 14;

vectorized! {
    fn gelu_into(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = gelu_of(*x);
        }
    }
}

vectorized! {
    /// The derivative times `y`, into `y`.
    fn gelu_back(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            let twice = x * GELU[1].mul_add(x * x, GELU[0]);
            let sigmoid = 1.0 / (1.0 + exp(-twice));
            let slope = (3.0 * GELU[1]).mul_add(x * x, GELU[0]);
            *y *= (x * slope * (1.0 - sigmoid)).mul_add(sigmoid, sigmoid);
        }
    }
}

vectorized! {
    fn silu_into(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = silu_of(*x);
        }
    }
}

vectorized! {
    /// The derivative times `y`, into `y`.
    fn silu_back(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            let sigmoid = 1.0 / (1.0 + exp(-x));
            *y *= (x * (1.0 - sigmoid)).mul_add(sigmoid, sigmoid);
        }
    }
}

#[derive(Debug)]
struct Activation {
    forward: fn(&[f32], &mut [f32]),
    back: fn(&[f32], &mut [f32]),
}

fn in_chunks(x: &[f32], y: &mut [f32], f: fn(&[f32], &mut [f32])) {
    x.par_chunks(CHUNK).zip(y.par_chunks_mut(CHUNK)).for_each(|(x, y)| f(x, y));
}

impl Function for Activation {
    fn forward(&self, [x, ..]: [&[f32]; 3], _: &[usize]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        in_chunks(x, &mut y, self.forward);
        y
    }

    fn backward(&self, [x, ..]: [&[f32]; 3], _: &[usize], gradient: &[f32], _: [bool; 3]) -> [Vec<f32>; 3] {
        let mut y = gradient.to_vec();
        in_chunks(x, &mut y, self.back);
        [y, Vec::new(), Vec::new()]
    }
}

/// GELU in its tanh form.
pub(crate) fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let nothing = nothing(&x);
    record(Activation { forward: gelu_into, back: gelu_back }, x, nothing.clone(), nothing)
}

/// `x * sigmoid(x)`.
pub(crate) fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let nothing = nothing(&x);
    record(Activation { forward: silu_into, back: silu_back }, x, nothing.clone(), nothing)
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation;

    use super::super::tests::{agree, random};

    #[test]
    fn activations_and_their_gradients_agree_with_burns() {
        let x = random([3, 70, 9]);
        agree(&x, &[], super::gelu_tanh, activation::gelu_approximate);
        agree(&x, &[], super::silu, activation::silu);
    }
}
