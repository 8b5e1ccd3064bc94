//! From pictures to the mean and log-variance of latents.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::ops::PadMode;

use super::AutoEncoderConfig;
use super::blocks::{Conv2d, GroupNorm, Mid, ResnetBlock};
use crate::weights::Weights;

/// The encoder half of the autoencoder.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    /// Levels, finest first.
    down: Vec<Down>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// One level: residual blocks, then half the size (except at the last).
#[derive(Module, Debug)]
struct Down {
    block: Vec<ResnetBlock>,
    downsample: Option<Conv2d>,
}

impl Encoder {
    pub(super) fn load(w: Weights<'_>, config: &AutoEncoderConfig) -> Self {
        let mut input = config.base_channels;
        let levels = config.channels.len();
        let down = config.channels.iter().enumerate().map(|(level, &output)| {
            w.at(format!("down.{level}"), |w| {
                let block = (0..config.num_res_blocks).map(|i| {
                    w.at(format!("block.{i}"), |w| {
                        ResnetBlock::load(w, [std::mem::replace(&mut input, output), output])
                    })
                });
                Down {
                    block: block.collect(),
                    downsample: (level + 1 < levels)
                        .then(|| w.at("downsample.conv", |w| Conv2d::halving(w, output))),
                }
            })
        });
        let down = down.collect();
        Self {
            conv_in: w.at("conv_in", |w| Conv2d::same(w, [3, config.base_channels])),
            down,
            mid: w.at("mid", |w| Mid::load(w, input)),
            norm_out: w.at("norm_out", |w| GroupNorm::load(w, input)),
            conv_out: w.at("conv_out", |w| Conv2d::same(w, [input, 2 * config.latent_channels])),
        }
    }

    /// `[batch, 3, H, W]` -> `[batch, 2 * C, H / f, W / f]`: mean, then log-variance.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut h = self.conv_in.forward(x);
        for level in &self.down {
            h = level.block.iter().fold(h, |h, block| block.forward(h));
            if let Some(downsample) = &level.downsample {
                // A row and a column of zeros on the right and bottom only.
                h = downsample.forward(h.pad((0, 1, 0, 1), PadMode::Constant(0.0)));
            }
        }
        self.conv_out.forward(silu(self.norm_out.forward(self.mid.forward(h))))
    }
}
