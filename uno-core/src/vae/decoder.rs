//! From latents to pictures.

use burn::module::Module;
use burn::tensor::Tensor;

use super::AutoEncoderConfig;
use super::blocks::{Mid, ResnetBlock};
use super::layers::{Conv2d, GroupNorm};
use super::picture::Picture;
use crate::weights::Weights;

/// The decoder half of the autoencoder.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid: Mid,
    /// Levels, finest first, as in the checkpoint; they run from the last to the first.
    up: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// One level: residual blocks, then twice the size (except at level 0).
#[derive(Module, Debug)]
struct Up {
    block: Vec<ResnetBlock>,
    upsample: Option<Conv2d>,
}

impl Decoder {
    pub(super) fn load(w: Weights<'_>, config: &AutoEncoderConfig) -> Self {
        let deepest = config.channels.last().copied().unwrap_or(config.base_channels);
        let mut input = deepest;
        let levels = config.channels.iter().enumerate().rev().map(|(level, &output)| {
            w.at(format!("up.{level}"), |w| {
                let block = (0..config.num_res_blocks + 1).map(|i| {
                    w.at(format!("block.{i}"), |w| {
                        ResnetBlock::load(w, [std::mem::replace(&mut input, output), output])
                    })
                });
                Up {
                    block: block.collect(),
                    upsample: (level > 0)
                        .then(|| w.at("upsample.conv", |w| Conv2d::load(w, [output, output]))),
                }
            })
        });
        let mut up: Vec<Up> = levels.collect();
        up.reverse();
        Self {
            conv_in: w.at("conv_in", |w| Conv2d::load(w, [config.latent_channels, deepest])),
            mid: w.at("mid", |w| Mid::load(w, deepest)),
            up,
            norm_out: w.at("norm_out", |w| GroupNorm::load(w, input)),
            conv_out: w.at("conv_out", |w| Conv2d::load(w, [input, 3])),
        }
    }

    /// `[batch, C, h, w]` -> `[batch, 3, h * f, w * f]`, in strips of at most `budget` bytes.
    pub(super) fn forward(&self, z: Tensor<4>, budget: usize) -> Tensor<4> {
        if self.conv_in.is_ours_with(&z) {
            return self.run(Picture::from_tensor(z)).into_tensor();
        }
        let mut h = self.mid.forward(self.conv_in.same(z, None, budget), budget);
        for level in self.up.iter().rev() {
            h = level.block.iter().fold(h, |h, block| block.forward(h, budget));
            if let Some(upsample) = &level.upsample {
                h = upsample.doubling(h, budget);
            }
        }
        let activation = self.norm_out.then_silu(&h, budget);
        self.conv_out.same(h, Some(&activation), budget)
    }

    /// The same on the CPU in f32, of one sample.
    fn run(&self, z: Picture) -> Picture {
        let mut h = self.mid.run(self.conv_in.run_same(&z, None));
        for level in self.up.iter().rev() {
            h = level.block.iter().fold(h, |h, block| block.run(h));
            if let Some(upsample) = &level.upsample {
                h = upsample.run_doubling(&h);
            }
        }
        self.conv_out.run_same(&h, Some(&self.norm_out.measured(&h)))
    }
}
