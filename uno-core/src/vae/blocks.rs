//! Parts that encoder and decoder share.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::ops::AttentionModuleOptions;

use super::layers::{Conv2d, GroupNorm};
use super::picture::Picture;
use super::strips::rows_of;
use crate::kernels::attention::{Bias, attention as attend};
use crate::kernels::{View, ViewMut};
use crate::nn::attention;
use crate::weights::Weights;

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
            conv1: w.at("conv1", |w| Conv2d::load(w, [input, output])),
            norm2: w.at("norm2", |w| GroupNorm::load(w, output)),
            conv2: w.at("conv2", |w| Conv2d::load(w, [output, output])),
            nin_shortcut: (input != output)
                .then(|| w.at("nin_shortcut", |w| Conv2d::load_pointwise(w, [input, output]))),
        }
    }

    /// `[batch, in, H, W]` -> `[batch, out, H, W]`. At its most, input and output are in memory, and a strip.
    pub(super) fn forward(&self, x: Tensor<4>, budget: usize) -> Tensor<4> {
        let h = self.conv1.same(x.clone(), Some(&self.norm1.then_silu(&x, budget)), budget);
        let activation = self.norm2.then_silu(&h, budget);
        self.conv2.same_in_place(h, &activation, budget, |rows| match &self.nin_shortcut {
            Some(shortcut) => shortcut.pointwise(rows_of(&x, rows)),
            None => rows_of(&x, rows),
        })
    }

    /// The same on the CPU in f32. At its most, two pictures of the wider of input and output are in memory.
    pub(super) fn run(&self, mut x: Picture) -> Picture {
        let h = self.conv1.run_same(&x, Some(&self.norm1.measured(&x)));
        if let Some(shortcut) = &self.nin_shortcut {
            x = shortcut.run_pointwise(x);
        }
        self.conv2.add_same(&h, &self.norm2.measured(&h), &mut x);
        x
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
        let conv = |name: &str| w.at(name, |w| Conv2d::load_pointwise(w, [channels, channels]));
        Self {
            norm: w.at("norm", |w| GroupNorm::load(w, channels)),
            q: conv("q"),
            k: conv("k"),
            v: conv("v"),
            proj_out: conv("proj_out"),
        }
    }

    /// `[batch, C, H, W]` -> the same.
    fn forward(&self, x: Tensor<4>, budget: usize) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let normed = self.norm.forward(x.clone(), budget);
        // [batch, C, H, W] -> [batch, 1, H * W, C]
        let tokens = |conv: &Conv2d, normed: Tensor<4>| {
            conv.pointwise(normed).reshape([batch, 1, channels, height * width]).swap_dims(2, 3)
        };
        let attended = attention(
            tokens(&self.q, normed.clone()),
            tokens(&self.k, normed.clone()),
            tokens(&self.v, normed),
            None,
            AttentionModuleOptions::default(),
        );
        let grid = attended.swap_dims(2, 3).reshape([batch, channels, height, width]);
        x + self.proj_out.pointwise(grid)
    }

    /// The same on the CPU in f32.
    fn run(&self, mut x: Picture) -> Picture {
        let normed = self.norm.run(&x);
        let [mut q, k, v] = [&self.q, &self.k, &self.v].map(|conv| conv.run_to_tokens(&normed));
        drop(normed);
        let (tokens, channels) = (x.height * x.width, x.channels);
        let shape = [1, tokens, channels];
        let scale = 1.0 / (channels as f32).sqrt();
        let [k, v] = [View::new(&k, shape), View::new(&v, shape)];
        attend(ViewMut::new(&mut q, shape), k, v, 1, 0..tokens, scale, Bias::None);
        self.proj_out.add_from_tokens(&q, &mut x);
        x
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
    pub(super) fn forward(&self, x: Tensor<4>, budget: usize) -> Tensor<4> {
        let x = self.attn_1.forward(self.block_1.forward(x, budget), budget);
        self.block_2.forward(x, budget)
    }

    /// The same on the CPU in f32.
    pub(super) fn run(&self, x: Picture) -> Picture {
        self.block_2.run(self.attn_1.run(self.block_1.run(x)))
    }
}
