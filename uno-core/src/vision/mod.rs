//! Image encoders: what a picture shows, as one vector. For measuring how alike pictures are, and how well they fit a text.
//!
//! | encoder | published checkpoints | for |
//! |---|---|---|
//! | [`Dino`] | DINO ViT-S/16 (arXiv 2104.14294), DINOv2 ViT-S/14 and ViT-B/14 (arXiv 2304.07193) | DreamBench's DINO score; filtering pairs |
//! | [`Clip`] | CLIP ViT-B/32 (arXiv 2103.00020) | CLIP-I and CLIP-T |
//!
//! Weights are read from safetensors in the layouts of timm, transformers and OpenAI (as open_clip writes it).

mod clip;
mod dino;
mod preprocess;
mod vit;

use burn::tensor::Tensor;

pub use clip::Clip;
pub use dino::Dino;
pub use preprocess::Preprocessing;
pub use vit::VitConfig;

use crate::error::{Error, Result};
use crate::image::Pixels;
use crate::tensor_to_vec;

/// Turns pictures into vectors whose angles say how alike the pictures are.
pub trait ImageEncoder: Send + Sync {
    /// How pictures are made ready for it.
    fn preprocessing(&self) -> &Preprocessing;

    /// Pictures `[batch, 3, H, W]`, made ready as [`preprocessing`](Self::preprocessing) says, to vectors `[batch, features]`.
    /// Each picture's vector depends on that picture alone.
    ///
    /// # Errors
    ///
    /// Sides that are no multiples of the patch, or not those that the encoder has positions for.
    fn encode(&self, pictures: Tensor<4>) -> Result<Tensor<2>>;

    /// The vectors of pictures of any sizes, of length 1 each.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode); a picture without pixels; [`Error::NonFinite`] for a vector that is not finite or zero.
    fn embed(&self, pictures: &[Pixels]) -> Result<Vec<Vec<f32>>> {
        let device = self.device();
        pictures
            .iter()
            .map(|picture| {
                let ready = self.preprocessing().apply(picture, &device)?;
                unit(tensor_to_vec(self.encode(ready)?)?)
            })
            .collect()
    }

    /// Where it computes.
    fn device(&self) -> burn::tensor::Device;
}

/// The vector at length 1.
pub(crate) fn unit(vector: Vec<f32>) -> Result<Vec<f32>> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return Err(Error::NonFinite {
            what: "an image or text encoder's vector".into(),
            count: vector.iter().filter(|x| !x.is_finite()).count(),
            total: vector.len(),
            remedy: "its weights are damaged or of another model".into(),
        });
    }
    Ok(vector.iter().map(|x| (f64::from(*x) / length) as f32).collect())
}

/// The cosine of the angle between vectors of length 1, as [`ImageEncoder::embed`] gives them: 1 for the same direction.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
