//! The operations between matrix products, for models of one's own: on the CPU in f32 our kernels, on other devices, in other
//! formats and where gradients are wanted burn's operations. The results are the same up to rounding.

use burn::tensor::Tensor;
use burn::tensor::ops::AttentionModuleOptions;

pub use crate::kernels::activation::{gelu_tanh, silu};
use crate::kernels::attention::{Bias, attention as attention_in_place};
use crate::kernels::norm::modulate as modulate_into;
use crate::kernels::{View, ViewMut, is_ours, numbers, tensor};
use crate::nn::{self, join_heads, layer_norm_plain, split_heads};

/// `(1 + scale) * layer_norm(x) + shift`, the norm without weight and bias: `x` `[batch, tokens, width]`, `shift` and `scale`
/// `[batch, 1, width]` (adaptive layer norm, Peebles and Xie, arXiv 2212.09748).
pub fn modulate(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, eps: f64) -> Tensor<3> {
    let (shape, [batch, _, width]) = (x.dims(), x.dims());
    let fits = shift.dims() == [batch, 1, width] && scale.dims() == [batch, 1, width];
    if !(fits && is_ours(&x) && is_ours(&shift) && is_ours(&scale)) {
        return layer_norm_plain(x, eps) * scale.add_scalar(1.0) + shift;
    }
    let (x, shift, scale) = (numbers(x), numbers(shift), numbers(scale));
    let row = [batch, 1, width];
    let mut out = vec![0.0; x.len()];
    let (shift, scale) = (View::new(&shift, row), View::new(&scale, row));
    modulate_into(View::new(&x, shape), shift, scale, eps, ViewMut::new(&mut out, shape));
    tensor(out, shape)
}

/// `softmax(q k^T / sqrt(d)) v` for each head, all `[batch, tokens, heads * d]` of the same shape. The matrix of scores is never
/// held, and what is not finite in queries, keys or values is so in the result.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    let shape = q.dims();
    let fits = k.dims() == shape && v.dims() == shape;
    if !(fits && is_ours(&q) && is_ours(&k) && is_ours(&v)) {
        let [q, k, v] = [q, k, v].map(|x| split_heads(x, heads));
        return join_heads(nn::attention(q, k, v, None, AttentionModuleOptions::default()));
    }
    let scale = 1.0 / ((shape[2] / heads.max(1)) as f32).sqrt();
    let (mut q, k, v) = (numbers(q), numbers(k), numbers(v));
    let [k, v] = [View::new(&k, shape), View::new(&v, shape)];
    attention_in_place(ViewMut::new(&mut q, shape), k, v, heads, 0..shape[1], scale, Bias::None);
    tensor(q, shape)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn our_kernels_and_burns_operations_agree() {
        let device = Device::flex();
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let largest = |a: Tensor<3>, b: Tensor<3>| {
            let burns = b.inner();
            (a - burns).abs().max().into_scalar::<f32>()
        };
        // On a device that records gradients burn's operations are taken.
        let theirs = |x: &Tensor<3>| Tensor::<3>::from_inner(x.clone());
        let (x, shift, scale) = (random([2, 7, 64]), random([2, 1, 64]), random([2, 1, 64]));
        let ours = modulate(x.clone(), shift.clone(), scale.clone(), 1e-6);
        let burns = modulate(theirs(&x), theirs(&shift), theirs(&scale), 1e-6);
        assert!(largest(ours, burns) < 1e-5);
        let (q, k, v) = (random([2, 37, 64]), random([2, 37, 64]), random([2, 37, 64]));
        let ours = attention(q.clone(), k.clone(), v.clone(), 4);
        let burns = attention(theirs(&q), theirs(&k), theirs(&v), 4);
        assert!(largest(ours, burns) < 1e-5);
        assert!(largest(gelu_tanh(x.clone()), gelu_tanh(theirs(&x))) < 1e-6);
        assert!(largest(silu(x.clone()), silu(theirs(&x))) < 1e-6);
    }
}
