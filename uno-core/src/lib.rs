#![doc = include_str!("../README.md")]
//!
//! # Map
//!
//! | module | holds |
//! |---|---|
//! | [`traits`] | what the parts are to each other: text encoder, latent codec, velocity model, observer |
//! | [`flux`] | the diffusion transformer and its rotary position embedding |
//! | [`text`] | T5, CLIP and their tokenizers |
//! | [`vae`] | the autoencoder |
//! | `vision` | image encoders for measuring: DINO, DINOv2, CLIP (feature `vision`) |
//! | [`lora`] | LoRA beside the weights or merged into them |
//! | [`nn`], [`ops`] | layers with weights as stored; what is computed between them |
//! | [`latents`], [`noise`], [`sampling`] | packing, initial noise, schedule and sampler |
//! | [`image`], [`resample`] | pixels; scaled as Pillow does |
//! | [`preview`] | what a latent looks like, without the decoder |
//! | [`approximation`] | what may be approximated to save time; nothing by default |
//! | [`weights`] | checkpoint files and strict loading |
//! | [`device`] | devices by name |

pub mod approximation;
pub mod device;
mod error;
pub mod flux;
pub mod image;
mod kernels;
pub mod latents;
pub mod lora;
pub mod lora_keys;
pub mod nn;
pub mod noise;
pub mod ops;
pub mod preview;
pub mod resample;
pub mod sampling;
pub mod text;
pub mod traits;
pub mod vae;
#[cfg(feature = "vision")]
pub mod vision;
pub mod weights;

pub use error::{Error, Result};

use burn::tensor::Tensor;

/// All numbers of a tensor as f32, outermost dimension first. Waits for the device to finish.
///
/// # Errors
///
/// [`Error::Device`] if the device fails.
pub fn tensor_to_vec<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let name = format!("{:?}", tensor.device());
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|e| Error::Device { name, reason: format!("reading a result back failed: {e:?}") })
}
