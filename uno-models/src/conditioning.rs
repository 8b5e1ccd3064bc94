//! What the model is conditioned on: encoded prompts and reference latents, with their positions.

use burn::tensor::Tensor;
use image::RgbImage;
use uno_core::image::Pixels;
use uno_core::latents::{PATCH, pack};
use uno_core::traits::{Conditioning, LatentCodec, TextEncoding};

use crate::error::Result;
use crate::unope::{Grid, UnoPe, sequence_ids};

/// Encodes a preprocessed reference to a latent `[1, C, h, w]`: its mean, or with `seed` a draw.
///
/// # Errors
///
/// What the codec returns.
pub fn encode_reference(
    codec: &dyn LatentCodec,
    picture: &RgbImage,
    device: &burn::tensor::Device,
    seed: Option<u64>,
) -> Result<Tensor<4>> {
    let pixels = Pixels {
        width: picture.width() as usize,
        height: picture.height() as usize,
        rgb: picture.as_raw().clone(),
    };
    Ok(codec.encode(pixels.to_tensor(device)?, seed)?)
}

/// Joins text and references for a batch. `latent` is the noisy latent's grid in tokens; references `[1, C, h, w]` are the same
/// for every sample.
///
/// # Errors
///
/// A reference latent of odd height or width.
pub fn condition(
    text: TextEncoding,
    references: Vec<Tensor<4>>,
    latent: Grid,
    pe: UnoPe,
) -> Result<Conditioning> {
    let batch = text.txt.dims()[0];
    let grid = |reference: &Tensor<4>| (reference.dims()[2] / PATCH, reference.dims()[3] / PATCH);
    let grids: Vec<Grid> = references.iter().map(grid).collect();
    let repeat = |reference| {
        let tokens = pack(reference)?;
        let [_, count, features] = tokens.dims();
        Ok(tokens.expand([batch, count, features]))
    };
    Ok(Conditioning {
        ids: sequence_ids(pe, text.txt.dims()[1], latent, &grids),
        references: references.into_iter().map(repeat).collect::<Result<_>>()?,
        txt: text.txt,
        vec: text.vec,
    })
}
