//! Convolution and group norm, computed by strips of rows.
//!
//! A picture of 1024x1024 with 256 channels takes 1 GB, and so would each of its copies: normalized, activated, reordered for
//! the convolution. Here those copies hold a strip of rows. Each number of the result comes from the same operations as if
//! the whole were computed at once.
//!
//! On the CPU in f32, `run` and its kind in [`cpu`] take the place of all that.

mod cpu;

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::module::conv2d;
use burn::tensor::ops::{ConvOptions, PadMode};

use super::strips::{Plan, assemble, put_rows, rows_of, split};
use crate::weights::Weights;

/// Groups of every group norm.
pub(super) const GROUPS: usize = 32;
const EPS: f64 = 1e-6;

/// 2D convolution with bias.
#[derive(Module, Debug)]
pub(super) struct Conv2d {
    /// `[out, in, k, k]`.
    weight: Param<Tensor<4>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl Conv2d {
    /// 3x3.
    pub(super) fn load(w: Weights<'_>, [input, output]: [usize; 2]) -> Self {
        Self { weight: w.param("weight", [output, input, 3, 3]), bias: w.param("bias", [output]) }
    }

    /// 1x1.
    pub(super) fn load_pointwise(w: Weights<'_>, [input, output]: [usize; 2]) -> Self {
        Self { weight: w.param("weight", [output, input, 1, 1]), bias: w.param("bias", [output]) }
    }

    /// Channels before and after.
    fn channels(&self) -> [usize; 2] {
        let [output, input, ..] = self.weight.dims();
        [input, output]
    }

    fn convolve(&self, x: Tensor<4>, stride: usize, padding: [usize; 2]) -> Tensor<4> {
        conv2d(x, self.weight.val(), Some(self.bias.val()), ConvOptions::new([stride; 2], padding, [1, 1], 1))
    }

    /// 3x3 of a whole picture, size kept.
    fn whole(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "flex")]
        if crate::kernels::recorded::is_recorded(&x) {
            return crate::kernels::recorded::convolution::same(x, self.weight.val(), self.bias.val());
        }
        self.convolve(x, 1, [1, 1])
    }

    /// 1x1. `[batch, in, H, W]` -> `[batch, out, H, W]`
    pub(super) fn pointwise(&self, x: Tensor<4>) -> Tensor<4> {
        self.convolve(x, 1, [0, 0])
    }

    /// 3x3, size kept, after `before`. `[batch, in, H, W]` -> `[batch, out, H, W]`
    pub(super) fn same(&self, x: Tensor<4>, before: Option<&Activation>, budget: usize) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let activate = |x| match before {
            Some(before) => before.apply(x),
            None => x,
        };
        let strips = Plan::same(self.channels(), height, width).strips(budget);
        if strips.len() == 1 {
            return self.whole(activate(x));
        }
        let shape = [batch, self.channels()[1], height, width];
        assemble(shape, &x.device(), strips, |rows| {
            let (top, bottom) = (rows.start == 0, rows.end == height);
            let window = rows.start - usize::from(!top)..rows.end + usize::from(!bottom);
            let mut strip = activate(rows_of(&x, window));
            // Zeros where the picture ends, neighbours elsewhere.
            if top || bottom {
                strip = strip.pad((0, 0, top.into(), bottom.into()), PadMode::Constant(0.0));
            }
            self.convolve(strip, 1, [0, 1])
        })
    }

    /// As [`same`](Self::same) with as many channels after as before, plus `add`, all written over `x` if nothing else holds it.
    pub(super) fn same_in_place(
        &self,
        mut x: Tensor<4>,
        before: &Activation,
        budget: usize,
        add: impl Fn(Range<usize>) -> Tensor<4>,
    ) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let strips = Plan::same(self.channels(), height, width).strips(budget);
        if strips.len() == 1 {
            return self.whole(before.apply(x)) + add(0..height);
        }
        let zeros = Tensor::zeros([batch, channels, 1, width], &x.device());
        // The row above a strip is overwritten before the strip is read: it is kept from before.
        let mut above = zeros.clone();
        for rows in strips {
            let end = (rows.end + 1).min(height);
            let mut parts = vec![above, before.apply(rows_of(&x, rows.start..end))];
            if rows.end == height {
                parts.push(zeros.clone());
            }
            above = before.apply(rows_of(&x, rows.end - 1..rows.end));
            let strip = self.convolve(Tensor::cat(parts, 2), 1, [0, 1]) + add(rows.clone());
            x = put_rows(x, rows, strip);
        }
        x
    }

    /// Every pixel becomes 2x2 of its kind, then 3x3 with the size kept. `[batch, C, H, W]` -> `[batch, C, 2 H, 2 W]`
    pub(super) fn doubling(&self, x: Tensor<4>, budget: usize) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let strips = Plan::doubling(channels, height, width).strips(budget);
        if strips.len() == 1 {
            return self.whole(double_size(x));
        }
        let zeros = Tensor::zeros([batch, channels, 1, 2 * width], &x.device());
        let neighbour = |row: Option<usize>| match row.filter(|row| *row < height) {
            Some(row) => double_size(rows_of(&x, row..row + 1)).narrow(2, 0, 1),
            None => zeros.clone(),
        };
        let strips = strips.into_iter().map(|rows| 2 * rows.start..2 * rows.end).collect();
        assemble([batch, channels, 2 * height, 2 * width], &x.device(), strips, |rows| {
            let (start, end) = (rows.start / 2, rows.end / 2);
            let parts = vec![
                neighbour(start.checked_sub(1)),
                double_size(rows_of(&x, start..end)),
                neighbour(Some(end)),
            ];
            self.convolve(Tensor::cat(parts, 2), 1, [0, 1])
        })
    }

    /// 3x3 with stride 2, after a row and a column of zeros on the right and bottom only. `[batch, C, H, W]` ->
    /// `[batch, C, H / 2, W / 2]`
    pub(super) fn halving(&self, x: Tensor<4>, budget: usize) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let halve = |x: Tensor<4>, bottom: usize| {
            self.convolve(x.pad((0, 1, 0, bottom), PadMode::Constant(0.0)), 2, [0, 0])
        };
        let strips = Plan::halving(channels, height, width).strips(budget);
        if strips.len() == 1 {
            return halve(x, 1);
        }
        assemble([batch, channels, height / 2, width / 2], &x.device(), strips, |rows| {
            let end = (2 * rows.end + 1).min(height);
            halve(rows_of(&x, 2 * rows.start..end), 2 * rows.end + 1 - end)
        })
    }
}

/// Every pixel becomes 2x2 of its kind. `[batch, C, H, W]` -> `[batch, C, 2 H, 2 W]`
fn double_size(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch * channels, height, 1, width, 1])
        .expand([batch * channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

/// Group norm with 32 groups.
#[derive(Module, Debug)]
pub(super) struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl GroupNorm {
    pub(super) fn load(w: Weights<'_>, channels: usize) -> Self {
        Self { weight: w.param("weight", [channels]), bias: w.param("bias", [channels]) }
    }

    /// Measures the groups of `x` `[batch, C, H, W]`. The sums do not depend on `budget`, to the last bit.
    fn measure(&self, x: &Tensor<4>, budget: usize) -> Normalization {
        let [batch, channels, height, width] = x.dims();
        let lines = channels / GROUPS * height;
        let groups = x.clone().reshape([batch, GROUPS, lines, width]);
        // Line by line, then over the lines: fewer numbers in a sum, and so less rounding.
        let over_lines = |sums: Tensor<4>| {
            let sums = sums.reshape([batch, GROUPS, lines]).sum_dim(2);
            sums.div_scalar((lines * width) as f64)
        };
        let mean = over_lines(groups.clone().sum_dim(3));
        let line_bytes = 2 * batch * GROUPS * width * size_of::<f32>();
        let squares = split(lines, budget / line_bytes).into_iter().map(|lines| {
            let part = groups.clone().narrow(2, lines.start, lines.len());
            (part - mean.clone().unsqueeze_dim(3)).square().sum_dim(3)
        });
        let variance = over_lines(Tensor::cat(squares.collect(), 2));
        let per_channel =
            |x: Tensor<3>| x.expand([batch, GROUPS, channels / GROUPS]).reshape([batch, channels, 1, 1]);
        let affine = |p: &Param<Tensor<1>>| p.val().reshape([1, channels, 1, 1]);
        Normalization {
            mean: per_channel(mean),
            deviation: per_channel(variance.add_scalar(EPS).sqrt()),
            weight: affine(&self.weight),
            bias: affine(&self.bias),
        }
    }

    /// `[batch, C, H, W]` -> the same.
    pub(super) fn forward(&self, x: Tensor<4>, budget: usize) -> Tensor<4> {
        self.measure(&x, budget).apply(x)
    }

    /// This norm as `x` needs it, then silu; to be applied to any rows of `x`.
    pub(super) fn then_silu(&self, x: &Tensor<4>, budget: usize) -> Activation {
        #[cfg(feature = "flex")]
        if budget == usize::MAX && crate::kernels::recorded::is_recorded(x) {
            return Activation::Recorded(Box::new([self.weight.val(), self.bias.val()]));
        }
        Activation::Measured(Box::new(self.measure(x, budget)))
    }
}

/// A group norm whose statistics are known. `[batch, C, 1, 1]` each, weight and bias `[1, C, 1, 1]`.
pub(super) struct Normalization {
    mean: Tensor<4>,
    deviation: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<4>,
}

impl Normalization {
    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        (x - self.mean.clone()) / self.deviation.clone() * self.weight.clone() + self.bias.clone()
    }
}

/// Group norm and silu, for the rows of one picture.
pub(super) enum Activation {
    Measured(Box<Normalization>),
    /// Weight and bias, for a whole picture whose gradients are recorded on the CPU.
    #[cfg(feature = "flex")]
    Recorded(Box<[Tensor<1>; 2]>),
}

impl Activation {
    /// `[batch, C, any, W]` -> the same.
    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Measured(normalization) => silu(normalization.apply(x)),
            #[cfg(feature = "flex")]
            Self::Recorded(parameters) => {
                let [weight, bias] = (**parameters).clone();
                crate::kernels::recorded::group_norm::group_norm_silu(x, weight, bias, GROUPS, EPS)
            }
        }
    }
}
