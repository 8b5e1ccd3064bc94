//! Parts that encoder and decoder share.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::module::conv2d;
use burn::tensor::ops::{AttentionModuleOptions, ConvOptions};

use crate::nn::attention;
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
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// 3x3, size kept.
    pub(super) fn same(w: Weights<'_>, [input, output]: [usize; 2]) -> Self {
        Self {
            weight: w.param("weight", [output, input, 3, 3]),
            bias: w.param("bias", [output]),
            stride: 1,
            padding: 1,
        }
    }

    /// 1x1.
    pub(super) fn pointwise(w: Weights<'_>, [input, output]: [usize; 2]) -> Self {
        Self {
            weight: w.param("weight", [output, input, 1, 1]),
            bias: w.param("bias", [output]),
            stride: 1,
            padding: 0,
        }
    }

    /// 3x3 with stride 2 and no padding of its own.
    pub(super) fn halving(w: Weights<'_>, channels: usize) -> Self {
        Self { stride: 2, padding: 0, ..Self::same(w, [channels, channels]) }
    }

    /// `[batch, in, H, W]` -> `[batch, out, H', W']`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        conv2d(x, self.weight.val(), Some(self.bias.val()), ConvOptions::new(stride, padding, [1, 1], 1))
    }
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

    /// `[batch, C, H, W]` -> the same.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let groups = x.reshape([batch, GROUPS, channels / GROUPS * height * width]);
        let (variance, mean) = groups.clone().var_mean_bias(2);
        let normed = (groups - mean).div(variance.add_scalar(EPS).sqrt());
        let affine = |p: &Param<Tensor<1>>| p.val().reshape([1, channels, 1, 1]);
        normed.reshape([batch, channels, height, width]) * affine(&self.weight) + affine(&self.bias)
    }
}

/// Two convolutions around which the input is passed on.
#[derive(Module, Debug)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    nin_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(super) fn load(w: Weights<'_>, [input, output]: [usize; 2]) -> Self {
        Self {
            norm1: w.at("norm1", |w| GroupNorm::load(w, input)),
            conv1: w.at("conv1", |w| Conv2d::same(w, [input, output])),
            norm2: w.at("norm2", |w| GroupNorm::load(w, output)),
            conv2: w.at("conv2", |w| Conv2d::same(w, [output, output])),
            nin_shortcut: (input != output)
                .then(|| w.at("nin_shortcut", |w| Conv2d::pointwise(w, [input, output]))),
        }
    }

    /// `[batch, in, H, W]` -> `[batch, out, H, W]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.conv1.forward(silu(self.norm1.forward(x.clone())));
        let h = self.conv2.forward(silu(self.norm2.forward(h)));
        match &self.nin_shortcut {
            Some(shortcut) => shortcut.forward(x) + h,
            None => x + h,
        }
    }
}

/// Single-head attention over all pixels.
#[derive(Module, Debug)]
struct AttnBlock {
    norm: GroupNorm,
    q: Conv2d,
    k: Conv2d,
    v: Conv2d,
    proj_out: Conv2d,
}

impl AttnBlock {
    fn load(w: Weights<'_>, channels: usize) -> Self {
        let conv = |name: &str| w.at(name, |w| Conv2d::pointwise(w, [channels, channels]));
        Self {
            norm: w.at("norm", |w| GroupNorm::load(w, channels)),
            q: conv("q"),
            k: conv("k"),
            v: conv("v"),
            proj_out: conv("proj_out"),
        }
    }

    /// `[batch, C, H, W]` -> the same.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let normed = self.norm.forward(x.clone());
        // [batch, C, H, W] -> [batch, 1, H * W, C]
        let tokens = |conv: &Conv2d| {
            conv.forward(normed.clone()).reshape([batch, 1, channels, height * width]).swap_dims(2, 3)
        };
        let attended = attention(
            tokens(&self.q),
            tokens(&self.k),
            tokens(&self.v),
            None,
            AttentionModuleOptions::default(),
        );
        let grid = attended.swap_dims(2, 3).reshape([batch, channels, height, width]);
        x + self.proj_out.forward(grid)
    }
}

/// The middle of encoder and decoder: residual block, attention, residual block.
#[derive(Module, Debug)]
pub(super) struct Mid {
    block_1: ResnetBlock,
    attn_1: AttnBlock,
    block_2: ResnetBlock,
}

impl Mid {
    pub(super) fn load(w: Weights<'_>, channels: usize) -> Self {
        Self {
            block_1: w.at("block_1", |w| ResnetBlock::load(w, [channels, channels])),
            attn_1: w.at("attn_1", |w| AttnBlock::load(w, channels)),
            block_2: w.at("block_2", |w| ResnetBlock::load(w, [channels, channels])),
        }
    }

    /// `[batch, C, H, W]` -> the same.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.block_2.forward(self.attn_1.forward(self.block_1.forward(x)))
    }
}
