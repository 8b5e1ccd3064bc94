//! The FLUX autoencoder: pictures to 16-channel latents and back, always in f32.
//!
//! After `black-forest-labs/flux` (`modules/autoencoder.py`). Field names equal checkpoint keys.

mod blocks;
mod decoder;
mod encoder;
mod layers;
mod memory;
mod picture;
mod strips;
mod tiles;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};

pub use decoder::Decoder;
pub use encoder::Encoder;

use self::strips::STRIP_BYTES;
use self::tiles::{Scale, run_tiled};
use crate::error::{Error, Result};
use crate::noise::{NoiseSource, latent_noise};
use crate::traits::LatentCodec;
use crate::weights::foreign::{self, Wanted};
use crate::weights::{Checkpoint, LoadOptions, layout, load};

/// Latents are scaled and shifted to about unit variance and zero mean (FLUX `util.py`, all variants).
const SCALE_FACTOR: f64 = 0.3611;
const SHIFT_FACTOR: f64 = 0.1159;
/// FLUX has 4. Each level halves the picture, so that more than a few leave nothing of it.
const MAX_LEVELS: usize = 16;
/// The part of a tile that it shares with its neighbours, as a divisor.
const OVERLAP: usize = 4;

/// Dimensions of an autoencoder, read off its tensors' shapes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AutoEncoderConfig {
    /// Channels at each level, finest first: `ch * ch_mult`; 128, 256, 512, 512 for FLUX.
    pub channels: Vec<usize>,
    /// Channels after the encoder's first convolution; 128 for FLUX.
    pub base_channels: usize,
    /// Residual blocks per level of the encoder; the decoder has one more. 2 for FLUX.
    pub num_res_blocks: usize,
    /// Channels of the latent (z); 16 for FLUX.
    pub latent_channels: usize,
}

impl AutoEncoderConfig {
    /// Reads all dimensions off the shapes in `checkpoint`.
    ///
    /// # Errors
    ///
    /// A tensor that tells a dimension is missing or has another rank, or a width that 32 groups do not divide.
    pub fn detect(checkpoint: &Checkpoint) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::autoencoder);
        foreign::check(checkpoint, Wanted::Autoencoder)?;
        let kernel = |name: &str| -> Result<[usize; 4]> {
            let shape = checkpoint.shape(name).and_then(|s| s.try_into().ok());
            shape.ok_or_else(|| foreign::lacks(checkpoint, Wanted::Autoencoder, name))
        };
        let levels = checkpoint.count("encoder.down.{}.");
        let channels: Vec<usize> = (0..levels)
            .map(|i| Ok(kernel(&format!("encoder.down.{i}.block.0.conv1.weight"))?[0]))
            .collect::<Result<_>>()?;
        let config = Self {
            base_channels: kernel("encoder.conv_in.weight")?[0],
            num_res_blocks: checkpoint.count("encoder.down.0.block.{}."),
            latent_channels: kernel("encoder.conv_out.weight")?[0] / 2,
            channels,
        };
        let odd = |c: &usize| *c == 0 || !c.is_multiple_of(layers::GROUPS);
        if config.channels.is_empty()
            || config.channels.len() > MAX_LEVELS
            || config.latent_channels == 0
            || config.channels.iter().any(odd)
            || odd(&config.base_channels)
        {
            return Err(Error::format(
                checkpoint.path(),
                format!(
                    "dimensions do not fit together: levels of {:?} channels (wanted 1 to {MAX_LEVELS}, each a multiple of {}), \
                     {} latent channels",
                    config.channels,
                    layers::GROUPS,
                    config.latent_channels
                ),
            ));
        }
        Ok(config)
    }

    /// Pixels per latent along each side.
    pub fn downsampling(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

/// The FLUX autoencoder.
#[derive(Module, Debug)]
pub struct AutoEncoder {
    encoder: Encoder,
    decoder: Decoder,
    #[module(skip)]
    config: AutoEncoderConfig,
    #[module(skip)]
    device: Device,
    #[module(skip)]
    tile: Option<usize>,
}

impl AutoEncoder {
    /// Loads the autoencoder from a checkpoint in its original layout; all dimensions come from the tensors' shapes.
    /// It computes in f32 whatever `options` say, as in the official pipeline.
    ///
    /// # Errors
    ///
    /// Dimensions that do not fit together, and tensors that are missing, left over or of another shape.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::autoencoder);
        let config = AutoEncoderConfig::detect(checkpoint)?;
        let options = options.clone().with_dtype(FloatDType::F32);
        load(
            checkpoint,
            "a FLUX autoencoder",
            &options,
            |_| false,
            |w| {
                Ok(Self {
                    encoder: w.at("encoder", |w| Encoder::load(w, &config)),
                    decoder: w.at("decoder", |w| Decoder::load(w, &config)),
                    device: w.device().clone(),
                    config: config.clone(),
                    tile: None,
                })
            },
        )
    }

    /// Dimensions.
    pub fn config(&self) -> &AutoEncoderConfig {
        &self.config
    }

    /// Encodes and decodes by overlapping tiles of so many latents per side (see [`decode_tiled`](Self::decode_tiled), with an
    /// overlap of a quarter) or, with `None`, exactly. A picture that fits in one tile is exact either way.
    ///
    /// # Errors
    ///
    /// A tile of nothing.
    pub fn with_tile(mut self, tile: Option<usize>) -> Result<Self> {
        if tile == Some(0) {
            return Err(Error::invalid("tile (latents per side)", "0", "1 or more"));
        }
        self.tile = tile;
        Ok(self)
    }

    /// Latents per side of a tile, if encoding and decoding go by tiles.
    pub fn tile(&self) -> Option<usize> {
        self.tile
    }

    /// Decodes by tiles of `tile` latents per side, of which each two neighbours share at least `overlap` and fade into each
    /// other. `[batch, C, h, w]` -> `[batch, 3, h * f, w * f]`
    ///
    /// This takes the memory of one tile, and the picture. It is an approximation: a tile's norms and attention do not see the
    /// rest of the picture, so that colours drift a little. If all fits in one tile, the result is that of
    /// [`decode`](LatentCodec::decode).
    ///
    /// # Errors
    ///
    /// Latents of another number of channels, an empty tile, an overlap that is not below it.
    pub fn decode_tiled(&self, latents: Tensor<4>, tile: usize, overlap: usize) -> Result<Tensor<4>> {
        if overlap >= tile {
            return Err(Error::invalid(
                "tile and overlap (latents per side)",
                format!("{tile} and {overlap}"),
                "an overlap below the tile",
            ));
        }
        let scale = Scale { input: 1, output: self.config.downsampling() };
        let z = self.unscaled(latents)?;
        Ok(per_sample(z, |z| run_tiled(z, [tile, overlap], scale, |z| self.decoder.forward(z, STRIP_BYTES))))
    }

    /// Latents as the decoder takes them, on its device.
    fn unscaled(&self, latents: Tensor<4>) -> Result<Tensor<4>> {
        let [_, channels, h, w] = latents.dims();
        if channels != self.config.latent_channels || h == 0 || w == 0 {
            return Err(Error::invalid(
                "latents [batch, C, h, w]",
                format!("{:?}", latents.dims()),
                format!("{} channels, h and w at least 1", self.config.latent_channels),
            ));
        }
        let latents = latents.to_device(&self.device).cast(FloatDType::F32);
        Ok(latents.div_scalar(SCALE_FACTOR).add_scalar(SHIFT_FACTOR))
    }

    /// [`moments`](Self::moments) of a whole batch at once, for training: `[batch, 3, H, W]` -> `[batch, 2 * C, H / f, W / f]`.
    /// H and W have to be positive multiples of the downsampling factor.
    pub fn moments_of_batch(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.encoder.forward(pictures, usize::MAX)
    }

    /// Pictures from latents before scaling, a whole batch at once, for training: `[batch, C, h, w]` -> `[batch, 3, h * f, w * f]`.
    pub fn decode_batch(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decoder.forward(latents, usize::MAX)
    }

    /// Mean and log-variance of the latents before scaling: `[batch, 3, H, W]` -> `[batch, 2 * C, H / f, W / f]`.
    ///
    /// # Errors
    ///
    /// A size that is not a positive multiple of the downsampling factor, or another number of channels.
    pub fn moments(&self, pictures: Tensor<4>) -> Result<Tensor<4>> {
        let [_, channels, height, width] = pictures.dims();
        let f = self.config.downsampling();
        if channels != 3 || height == 0 || width == 0 || height % f != 0 || width % f != 0 {
            return Err(Error::invalid(
                "pictures [batch, 3, H, W]",
                format!("{:?}", pictures.dims()),
                format!("3 channels, H and W positive multiples of {f}"),
            ));
        }
        // One sample at a time: the same values alone and in a batch, and the least memory.
        let encode = |x| self.encoder.forward(x, STRIP_BYTES);
        let x = pictures.to_device(&self.device).cast(FloatDType::F32);
        Ok(match self.tile {
            Some(tile) => {
                let scale = Scale { input: f, output: 1 };
                per_sample(x, |x| run_tiled(x, [tile, tile / OVERLAP], scale, encode))
            }
            None => per_sample(x, encode),
        })
    }
}

fn per_sample(x: Tensor<4>, f: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let batch = x.dims()[0];
    Tensor::cat((0..batch).map(|i| f(x.clone().narrow(0, i, 1))).collect(), 0)
}

impl LatentCodec for AutoEncoder {
    fn encode(&self, pictures: Tensor<4>, seed: Option<u64>) -> Result<Tensor<4>> {
        let [_, _, height, width] = pictures.dims();
        let moments = self.moments(pictures)?;
        let [batch, _, h, w] = moments.dims();
        let z = self.config.latent_channels;
        let mut latent = moments.clone().narrow(1, 0, z);
        if let Some(seed) = seed {
            let std = moments.narrow(1, z, z).mul_scalar(0.5).exp();
            let draw = |i: usize| {
                let seed = seed.wrapping_add(i as u64);
                latent_noise(NoiseSource::TorchCpu, seed, z, [height, width], FloatDType::F32, &self.device)
            };
            let noise = Tensor::cat((0..batch).map(draw).collect::<Result<Vec<_>>>()?, 0);
            latent = latent + std * noise.slice([0..batch, 0..z, 0..h, 0..w]);
        }
        Ok(latent.sub_scalar(SHIFT_FACTOR).mul_scalar(SCALE_FACTOR))
    }

    fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>> {
        if let Some(tile) = self.tile {
            return self.decode_tiled(latents, tile, tile / OVERLAP);
        }
        Ok(per_sample(self.unscaled(latents)?, |z| self.decoder.forward(z, STRIP_BYTES)))
    }

    fn channels(&self) -> usize {
        self.config.latent_channels
    }

    fn downsampling(&self) -> usize {
        self.config.downsampling()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::StorageDtype;

    #[test]
    fn more_levels_than_a_picture_can_have_are_refused() {
        let detected = |levels: usize| {
            let downs = (0..levels).map(|i| format!("encoder.down.{i}.block.0.conv1.weight"));
            let names = ["encoder.conv_in.weight", "encoder.conv_out.weight"].map(str::to_owned);
            let shapes =
                names.into_iter().chain(downs).map(|name| (name, StorageDtype::F32, vec![32, 32, 3, 3]));
            AutoEncoderConfig::detect(&Checkpoint::from_shapes("x", shapes))
        };
        assert_eq!(detected(MAX_LEVELS).unwrap().downsampling(), 1 << 15);
        for levels in [0, MAX_LEVELS + 1, 65] {
            assert!(detected(levels).unwrap_err().to_string().contains("wanted 1 to 16"), "{levels} levels");
        }
    }
}
