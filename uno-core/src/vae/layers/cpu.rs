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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::vae::strips::rows_of;

    const CHANNELS: usize = 64;
    const SIDES: [usize; 2] = [12, 10];

    fn some<const D: usize>(shape: [usize; D], seed: usize, scale: f32, device: &Device) -> Tensor<D> {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
        let numbers = (0..shape.iter().product()).map(|i| scale * number(i)).collect();
        Tensor::from_data(TensorData::new::<f32, _>(numbers, shape), device)
    }

    fn convolution(device: &Device) -> Conv2d {
        Conv2d {
            weight: Param::from_tensor(some([CHANNELS, CHANNELS, 3, 3], 1, 0.07, device)),
            bias: Param::from_tensor(some([CHANNELS], 2, 0.5, device)),
        }
    }

    fn norm(device: &Device) -> GroupNorm {
        GroupNorm {
            weight: Param::from_tensor(some([CHANNELS], 3, 1.0, device)),
            bias: Param::from_tensor(some([CHANNELS], 4, 1.0, device)),
        }
    }

    fn input(device: &Device) -> Tensor<4> {
        some([1, CHANNELS, SIDES[0], SIDES[1]], 5, 2.0, device)
    }

    /// Every layer, of this module and of burn's operations.
    #[test]
    fn burns_operations_agree_in_strips_of_any_height() {
        let (plain, recording) = (Device::flex(), Device::flex().autodiff());
        let (ours, burns) = (convolution(&plain), convolution(&recording));
        let (our_norm, burns_norm) = (norm(&plain), norm(&recording));
        assert!(ours.is_ours_with(&input(&plain)) && !burns.is_ours_with(&input(&recording)));
        let picture = || Picture::from_tensor(input(&plain));
        let activation = our_norm.measured(&picture());
        let mut sum = picture();
        ours.add_same(&picture(), &activation, &mut sum);
        let wanted = [
            ours.run_same(&picture(), None),
            ours.run_same(&picture(), Some(&activation)),
            sum,
            ours.run_doubling(&picture()),
            ours.run_halving(&picture()),
            our_norm.run(&picture()),
        ];
        for budget in [0, 100_000, usize::MAX] {
            let x = || input(&recording);
            let activation = burns_norm.then_silu(&x(), budget);
            let got = [
                burns.same(x(), None, budget),
                burns.same(x(), Some(&activation), budget),
                burns.same_in_place(x(), &activation, budget, |rows| rows_of(&x(), rows)),
                burns.doubling(x(), budget),
                burns.halving(x(), budget),
                burns_norm.forward(x(), budget),
            ];
            for (i, (got, wanted)) in got.into_iter().zip(&wanted).enumerate() {
                assert_eq!(got.dims(), [1, wanted.channels, wanted.height, wanted.width]);
                for (got, wanted) in numbers(got).into_iter().zip(&wanted.numbers) {
                    assert!((got - wanted).abs() < 2e-5, "layer {i}, budget {budget}: {got}, not {wanted}");
                }
            }
        }
    }

    #[test]
    fn gradients_flow_through_burns_operations() {
        let device = Device::flex().autodiff();
        let x = input(&device).require_grad();
        let activation = norm(&device).then_silu(&x, usize::MAX);
        let y = convolution(&device).same(x.clone(), Some(&activation), usize::MAX);
        let gradients = y.square().sum().backward();
        let gradient = numbers(x.grad(&gradients).unwrap());
        assert!(gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|g| g.abs() > 1e-3));
    }
}
