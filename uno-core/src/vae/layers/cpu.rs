//! Convolution and group norm on the CPU in f32, without copies of the picture: what comes before a convolution is done to the
//! few numbers that are being worked on.

use burn::tensor::Tensor;

use super::{Conv2d, EPS, GROUPS, GroupNorm};
use crate::kernels::convolution::winograd::{Source, Winograd};
use crate::kernels::convolution::{Kernel, halving::halving, pointwise};
use crate::kernels::group_norm::Affine;
use crate::kernels::{is_ours, numbers};
use crate::vae::picture::Picture;

impl Conv2d {
    /// Whether one sample `x` and the weights are such that the functions here apply.
    pub(in crate::vae) fn is_ours_with(&self, x: &Tensor<4>) -> bool {
        x.dims()[0] == 1 && is_ours(x) && is_ours(&self.weight.val())
    }

    /// Weights and bias as numbers.
    fn with_kernel<T>(&self, f: impl FnOnce(Kernel<'_>) -> T) -> T {
        let [input, output] = self.channels();
        let (weight, bias) = (numbers(self.weight.val()), numbers(self.bias.val()));
        f(Kernel { weight: &weight, bias: &bias, input, output })
    }

    /// 3x3, size kept, after `before`.
    pub(in crate::vae) fn run_same(&self, x: &Picture, before: Option<&Affine>) -> Picture {
        let convolution = self.with_kernel(|kernel| Winograd::new(kernel, Source::Same));
        let mut out = Picture::new(self.channels()[1], x.height, x.width);
        convolution.run(x.view(), before, &mut out.numbers, false);
        out
    }

    /// The same, added to `to`.
    pub(in crate::vae) fn add_same(&self, x: &Picture, before: &Affine, to: &mut Picture) {
        let convolution = self.with_kernel(|kernel| Winograd::new(kernel, Source::Same));
        convolution.run(x.view(), Some(before), &mut to.numbers, true);
    }

    /// Every pixel becomes 2x2 of its kind, then 3x3 with the size kept.
    pub(in crate::vae) fn run_doubling(&self, x: &Picture) -> Picture {
        let convolution = self.with_kernel(|kernel| Winograd::new(kernel, Source::Doubled));
        let mut out = Picture::new(x.channels, 2 * x.height, 2 * x.width);
        convolution.run(x.view(), None, &mut out.numbers, false);
        out
    }

    /// 3x3 with stride 2, after a row and a column of zeros on the right and bottom only.
    pub(in crate::vae) fn run_halving(&self, x: &Picture) -> Picture {
        let mut out = Picture::new(x.channels, x.height / 2, x.width / 2);
        self.with_kernel(|kernel| halving(x.view(), kernel, &mut out.numbers));
        out
    }

    /// 1x1, over its own input.
    pub(in crate::vae) fn run_pointwise(&self, mut x: Picture) -> Picture {
        let pixels = x.height * x.width;
        self.with_kernel(|kernel| pointwise::in_place(&mut x.numbers, kernel, pixels));
        Picture { channels: self.channels()[1], ..x }
    }

    /// 1x1: `[pixels, out]`.
    pub(in crate::vae) fn run_to_tokens(&self, x: &Picture) -> Vec<f32> {
        self.with_kernel(|kernel| pointwise::to_tokens(&x.numbers, kernel, x.height * x.width))
    }

    /// 1x1 of `x` `[pixels, in]`, added to `to`.
    pub(in crate::vae) fn add_from_tokens(&self, x: &[f32], to: &mut Picture) {
        let pixels = to.height * to.width;
        self.with_kernel(|kernel| pointwise::add_from_tokens(x, kernel, pixels, &mut to.numbers));
    }
}

impl GroupNorm {
    /// This norm as `x` needs it.
    pub(in crate::vae) fn measured(&self, x: &Picture) -> Affine {
        let (weight, bias) = (numbers(self.weight.val()), numbers(self.bias.val()));
        Affine::measure(&x.numbers, GROUPS, &weight, &bias, EPS)
    }

    /// The norm of all of `x`.
    pub(in crate::vae) fn run(&self, x: &Picture) -> Picture {
        let mut numbers = x.numbers.clone();
        self.measured(x).apply(&mut numbers);
        Picture { numbers, ..*x }
    }
}
