//! Activations, in place.

use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use super::math::exp;
#[cfg(feature = "flex")]
use super::recorded;
use super::{ViewMut, is_ours, numbers, tensor};

/// Numbers that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// `2 sqrt(2 / pi)` and its product with 0.044715.
pub(super) const GELU: [f32; 2] = [1.595_769, 0.071_354_814];

/// `0.5 x (1 + tanh(u)) = x / (1 + e^(-2u))`, `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
#[inline(always)]
pub(super) fn gelu_of(x: f32) -> f32 {
    let twice = x * GELU[1].mul_add(x * x, GELU[0]);
    x / (1.0 + exp(-twice))
}

#[inline(always)]
pub(super) fn silu_of(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

vectorized! {
    /// tanh-GELU of each number.
    fn gelu_slice(x: &mut [f32]) {
        for x in x {
            *x = gelu_of(*x);
        }
    }
}

vectorized! {
    /// SiLU of each number: `x * sigmoid(x)`.
    fn silu_slice(x: &mut [f32]) {
        for x in x {
            *x = silu_of(*x);
        }
    }
}

vectorized! {
    /// `x * sigmoid(1.702 x)`.
    fn quick_gelu_slice(x: &mut [f32]) {
        for x in x {
            *x /= 1.0 + exp(-1.702 * *x);
        }
    }
}

vectorized! {
    /// `gelu(a) * b` into `a`.
    fn gated_gelu_slice(a: &mut [f32], b: &[f32]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a = gelu_of(*a) * b;
        }
    }
}

/// Runs `ours` on the numbers of `x`, or `burns` where it has to.
fn apply<const D: usize>(
    x: Tensor<D>,
    ours: fn(&mut [f32]),
    burns: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    if !is_ours(&x) {
        return burns(x);
    }
    let shape = x.dims();
    let mut x = numbers(x);
    x.par_chunks_mut(CHUNK).for_each(ours);
    tensor(x, shape)
}

/// GELU in its tanh form. Any shape.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if recorded::is_recorded(&x) {
        return recorded::activation::gelu_tanh(x);
    }
    apply(x, gelu_slice, activation::gelu_approximate)
}

/// `x * sigmoid(x)`. Any shape.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if recorded::is_recorded(&x) {
        return recorded::activation::silu(x);
    }
    apply(x, silu_slice, activation::silu)
}

/// `x * sigmoid(1.702 x)`, CLIP's fast approximation of GELU. Any shape.
pub(crate) fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(x, quick_gelu_slice, |x| x.clone() * activation::sigmoid(x.mul_scalar(1.702)))
}

/// `gelu(a) * b` in the tanh form. Any shape.
pub(crate) fn gated_gelu<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if !is_ours(&a) || !is_ours(&b) {
        return activation::gelu_approximate(a) * b;
    }
    let shape = a.dims();
    let (mut a, b) = (numbers(a), numbers(b));
    a.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(a, b)| gated_gelu_slice(a, b));
    tensor(a, shape)
}

/// GELU in its tanh form, of all numbers in view.
pub(crate) fn gelu_in_place(x: ViewMut<'_>) {
    x.for_each_row(|_, _, row| gelu_slice(row));
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn numbers_to_try() -> Vec<f32> {
        let mut x: Vec<f32> = (-40_000..40_000).map(|i| i as f32 * 3.01e-4).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, 1e10, -1e10, 3e38, -3e38]);
        x
    }

    fn check(name: &str, got: &[f32], exact: impl Fn(f64) -> f64) {
        for (x, y) in numbers_to_try().into_iter().zip(got) {
            let exact = exact(f64::from(x));
            let error = (f64::from(*y) - exact).abs();
            // Far out on the left, where the result is next to nothing, rounding of the argument shows.
            assert!(error <= 1e-6 * exact.abs() || error <= 1e-8, "{name}({x}) = {y}, not {exact}");
        }
    }

    #[test]
    fn activations_agree_with_their_definitions_in_f64() {
        let x = || tensor(numbers_to_try(), [numbers_to_try().len()]);
        let ones = || tensor(vec![1.0; numbers_to_try().len()], [numbers_to_try().len()]);
        let gelu = |x: f64| {
            let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-twice).exp())
        };
        check("gelu", &numbers(gelu_tanh(x())), gelu);
        check("gated gelu", &numbers(gated_gelu(x(), ones())), gelu);
        check("silu", &numbers(silu(x())), |x| x / (1.0 + (-x).exp()));
        check("quick gelu", &numbers(quick_gelu(x())), |x| x / (1.0 + (-1.702 * x).exp()));
    }

    #[test]
    fn what_is_no_number_comes_through_as_in_the_definition() {
        let special = || tensor(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY], [3]);
        for f in [gelu_tanh::<1>, silu::<1>, quick_gelu::<1>] {
            let got = numbers(f(special()));
            assert!(got[0].is_nan() && got[1] == f32::INFINITY && got[2].is_nan(), "{got:?}");
        }
    }

    #[test]
    fn gradients_flow_through_burns_operations() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_floats([0.5, -1.0], &device).require_grad();
        let grads = gelu_tanh(x.clone()).sum().backward();
        let got = numbers(x.grad(&grads).unwrap());
        assert!((got[0] - 0.867_4).abs() < 1e-3 && (got[1] + 0.083).abs() < 1e-3, "{got:?}");
    }
}
