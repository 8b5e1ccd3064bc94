//! From pictures to the mean and log-variance of latents.

use burn::module::Module;
use burn::tensor::Tensor;

use super::AutoEncoderConfig;
use super::blocks::{Mid, ResnetBlock};
use super::layers::{Conv2d, GroupNorm};
use super::picture::Picture;
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
                        .then(|| w.at("downsample.conv", |w| Conv2d::load(w, [output, output]))),
                }
            })
        });
        let down = down.collect();
        Self {
            conv_in: w.at("conv_in", |w| Conv2d::load(w, [3, config.base_channels])),
            down,
            mid: w.at("mid", |w| Mid::load(w, input)),
            norm_out: w.at("norm_out", |w| GroupNorm::load(w, input)),
            conv_out: w.at("conv_out", |w| Conv2d::load(w, [input, 2 * config.latent_channels])),
        }
    }

    /// `[batch, 3, H, W]` -> `[batch, 2 * C, H / f, W / f]`: mean, then log-variance, in strips of at most `budget` bytes.
    pub(super) fn forward(&self, x: Tensor<4>, budget: usize) -> Tensor<4> {
        if self.conv_in.is_ours_with(&x) {
            return self.run(Picture::from_tensor(x)).into_tensor();
        }
        let mut h = self.conv_in.same(x, None, budget);
        for level in &self.down {
            h = level.block.iter().fold(h, |h, block| block.forward(h, budget));
            if let Some(downsample) = &level.downsample {
                h = downsample.halving(h, budget);
            }
        }
        let h = self.mid.forward(h, budget);
        let activation = self.norm_out.then_silu(&h, budget);
        self.conv_out.same(h, Some(&activation), budget)
    }

    /// The same on the CPU in f32, of one sample.
    fn run(&self, x: Picture) -> Picture {
        let mut h = self.conv_in.run_same(&x, None);
        drop(x);
        for level in &self.down {
            h = level.block.iter().fold(h, |h, block| block.run(h));
            if let Some(downsample) = &level.downsample {
                h = downsample.run_halving(&h);
            }
        }
        let h = self.mid.run(h);
        self.conv_out.run_same(&h, Some(&self.norm_out.measured(&h)))
    }
}
