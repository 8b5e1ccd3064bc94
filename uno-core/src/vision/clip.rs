//! CLIP (Radford et al., arXiv 2103.00020): pictures and texts as vectors of the same space.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::vit::{Vit, VitConfig};
use super::{ImageEncoder, Preprocessing, unit};
use crate::error::{Error, Result};
use crate::text::{ClipActivation, ClipTextConfig, ClipTextEncoder, ClipTokenizer};
use crate::weights::{Checkpoint, LoadOptions, Weights, layout, load};

/// Both encoders of a CLIP model.
#[derive(Module, Debug)]
pub struct Clip {
    vision: Vit,
    text: ClipTextEncoder,
    /// `[vision width, features]`.
    visual_projection: Param<Tensor<2>>,
    /// `[text width, features]`.
    text_projection: Param<Tensor<2>>,
    #[module(skip)]
    preprocessing: Preprocessing,
}

impl Clip {
    /// Loads a model in the layout of transformers or of OpenAI (as open_clip writes it). `config_json` are the bytes of its
    /// `config.json`; without, heads are 64 wide and the activation is the quick GELU, as in OpenAI's models.
    ///
    /// # Errors
    ///
    /// Dimensions that do not fit together, and tensors that are missing, left over or of another shape.
    pub fn load(checkpoint: &Checkpoint, config_json: Option<&[u8]>, options: &LoadOptions) -> Result<Self> {
        let checkpoint = layout::clip_of_openai(checkpoint);
        let text = ClipTextConfig::detect(&checkpoint, config_json)?;
        let text_width = text.hidden_size;
        let text = ClipTextEncoder::load_with(&checkpoint, text, options)?;
        let checkpoint = &*checkpoint.arranged(layout::clip_vision);
        let config =
            VitConfig::detect(checkpoint, "visual.", config_json, (ClipActivation::QuickGelu, 1e-5))?;
        let ignore = |key: &str| {
            key.starts_with("text_model.") || key == "logit_scale" || key.ends_with(".position_ids")
        };
        let (vision, visual_projection, text_projection) =
            load(checkpoint, "a CLIP image encoder", options, ignore, |w| {
                let features = w.first_dim("visual_projection.weight").unwrap_or_default();
                let projection = |w: Weights<'_>, name: &str, width: usize| {
                    Param::from_tensor(w.param::<2>(name, [features, width]).val().transpose())
                };
                Ok((
                    w.at("visual", |w| Vit::load(w, &config)),
                    projection(w, "visual_projection.weight", config.hidden_size),
                    projection(w, "text_projection.weight", text_width),
                ))
            })?;
        let preprocessing = Preprocessing::CLIP.with_crop(config.grid * config.patch_size);
        Ok(Self { vision, text, visual_projection, text_projection, preprocessing })
    }

    /// Dimensions of the image encoder.
    pub fn config(&self) -> &VitConfig {
        self.vision.config()
    }

    /// Token ids `[tokens]` to a vector `[1, features]`.
    ///
    /// # Errors
    ///
    /// No ids, more than there are positions, or an id beyond the vocabulary.
    pub fn encode_text(&self, ids: &[u32]) -> Result<Tensor<2>> {
        Ok(self.text.forward(ids)?.matmul(self.text_projection.val()))
    }

    /// The vector of a text, of length 1. What is longer than the encoder takes is cut, and said with `true`.
    ///
    /// # Errors
    ///
    /// What tokenizer and encoder return; [`Error::NonFinite`] for a vector that is not finite or zero.
    pub fn embed_text(&self, tokenizer: &ClipTokenizer, text: &str) -> Result<(Vec<f32>, bool)> {
        let positions = self.text.config().max_position_embeddings;
        let encoding = tokenizer.encode(text, positions)?;
        let vector = unit(crate::tensor_to_vec(self.encode_text(&encoding.ids)?)?)?;
        Ok((vector, encoding.dropped > 0))
    }
}

impl ImageEncoder for Clip {
    fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Sides are those that the model was trained for.
    fn encode(&self, pictures: Tensor<4>) -> Result<Tensor<2>> {
        let [_, _, height, width] = pictures.dims();
        let side = self.preprocessing.crop;
        if [height, width] != [side; 2] {
            return Err(Error::invalid(
                "picture for CLIP",
                format!("{width}x{height}"),
                format!("{side}x{side}"),
            ));
        }
        Ok(self.vision.forward(pictures)?.matmul(self.visual_projection.val()))
    }

    fn device(&self) -> Device {
        self.vision.device()
    }
}
